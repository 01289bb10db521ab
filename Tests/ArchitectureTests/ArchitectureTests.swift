import Core
import Foundation
import IO
import Testing

/// The map in `docs/ARCHITECTURE.md` is the code: these tests read both.
@Suite struct ArchitectureTests {
  let project = Project()

  @Test func `every module of the package stands in exactly one layer of the map`() throws {
    let layers = try project.layers()
    let onMap = layers.flatMap(\.modules)
    #expect(Set(onMap).count == onMap.count, "a module stands in two layers")
    #expect(Set(onMap) == Set(try project.modules().keys))
  }

  @Test func `imports point down`() throws {
    let layers = try project.layers()
    var depth: [String: Int] = [:]
    for (index, layer) in layers.enumerated() { for module in layer.modules { depth[module] = index } }
    for (module, dependencies) in try project.modules() {
      let own = try #require(depth[module])
      for dependency in dependencies {
        guard let other = depth[dependency] else { continue }  // An outside package.
        let sideways = own == other && (dependency == "Core" || layers[own].name == "Doors")
        #expect(
          own < other || sideways, "\(module) (\(layers[own].name)) imports \(dependency) (\(layers[other].name))")
      }
      if layers[own].name == "Adapters" {
        #expect(Set(dependencies).isDisjoint(with: layers.first { $0.name == "Acts" }?.modules ?? []))
      }
    }
  }

  @Test func `every adapter is listed in the registry`() throws {
    let registry = try project.text("Sources/Runtime/Registry.swift")
    let adapters = try #require(try project.layers().first { $0.name == "Adapters" }).modules
    for adapter in adapters { #expect(registry.contains("import \(adapter)\n"), "\(adapter) is not in the registry") }
    var folders = 0
    for kind in try Files.names(in: project.root + "/Adapters") {
      for folder in try Files.names(in: "\(project.root)/Adapters/\(kind)") {
        folders += 1
        #expect(
          try project.text("Package.swift").contains("\"Adapters/\(kind)/\(folder)\""),
          "Adapters/\(kind)/\(folder) is in no module")
      }
    }
    #expect(folders == adapters.count)
  }

  @Test func `time, chance, threads and loose tasks stay in their rooms`() throws {
    let rooms = try project.rooms()
    let banned: [(thing: String, patterns: [String])] = [
      (
        "clocks, sleep",
        [
          "Date()", "Date.now", "Task.sleep", "usleep(", "nanosleep(", "Thread.sleep", "clock_gettime(",
          "ContinuousClock", "SuspendingClock", "DispatchTime", "gettimeofday(",
        ]
      ),
      (
        "random sources",
        [
          "SystemRandomNumberGenerator", ".random(in", "arc4random", "getrandom(", "UUID()", "RAND_bytes", "shuffled()",
          ".randomElement()",
        ]
      ),
      ("threads", ["Thread {", "Thread(", "pthread_create", "DispatchQueue"]),
      ("unstructured tasks", ["Task {", "Task.detached", "Task<"]),
    ]
    for (path, text) in try project.sources() {
      for (thing, patterns) in banned {
        let room = try #require(rooms[thing], "the map names no room for \(thing)")
        if room.contains(path) { continue }
        for (number, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
          let code = line.firstRange(of: "//").map { line[..<$0.lowerBound] } ?? line
          for pattern in patterns where contains(String(code), pattern) {
            Issue.record("\(path):\(number + 1): \(pattern) outside \(room.sorted().joined(separator: ", "))")
          }
        }
      }
    }
  }

  /// Whether `code` holds `pattern` not as the tail of a longer word, such as `SimulatedTask {`.
  private func contains(_ code: String, _ pattern: String) -> Bool {
    guard let range = code.range(of: pattern) else { return false }
    guard let first = pattern.first, first.isLetter, range.lowerBound > code.startIndex else { return true }
    let before = code[code.index(before: range.lowerBound)]
    return !(before.isLetter || before.isNumber || before == "_")
  }

  @Test func `the lint finds what it looks for`() {
    #expect(contains("let x = Date()", "Date()"))
    #expect(contains("  Task {", "Task {"))
    #expect(!contains("SubTask {", "Task {"))
    #expect(!contains("let update = Update()", "Date()"))
  }
}

/// The checkout the tests were built from.
struct Project {
  struct Layer {
    var name: String
    var modules: [String]
  }

  let root: String = {
    var path = #filePath
    for _ in 0..<3 { path = Files.parent(of: path) }
    return path
  }()

  func text(_ path: String) throws -> String { String(decoding: try Files.read("\(root)/\(path)"), as: UTF8.self) }

  func layers() throws -> [Layer] {
    let page = try text("docs/ARCHITECTURE.md")
    let block = page.components(separatedBy: "<!-- map:")[1].components(separatedBy: "```")[1]
    return block.split(separator: "\n").map { line in
      let words = line.split(separator: " ").map(String.init)
      return Layer(name: words[0], modules: Array(words.dropFirst()))
    }
  }

  func rooms() throws -> [String: Set<String>] {
    let page = try text("docs/ARCHITECTURE.md").components(separatedBy: "<!-- rooms:")[1].components(
      separatedBy: "\n\n")[0]
    var result: [String: Set<String>] = [:]
    for line in page.split(separator: "\n") where line.hasPrefix("| ") && line.contains("`") {
      let cells = line.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
      let paths = cells[1].split(separator: "`").map(String.init).filter { $0.contains("/") }
      result[cells[0]] = Set(paths)
    }
    return result
  }

  /// Modules and what they may import, as `Package.swift` says.
  func modules() throws -> [String: [String]] {
    let package = try text("Package.swift")
    let body = package.components(separatedBy: "// MARK: C libraries")[1].components(separatedBy: "// MARK: Tests")[0]
    var result: [String: [String]] = [:]
    let pattern = /(module|system)\(\s*"([^"]+)"|\.(?:target|executableTarget)\(\s*name: "([^"]+)"/
    let starts = body.matches(of: pattern)
    for (index, match) in starts.enumerated() {
      let name = String(match.2 ?? match.3 ?? "")
      let end = index + 1 < starts.count ? starts[index + 1].range.lowerBound : body.endIndex
      let declaration = body[match.range.upperBound..<end]
      var names: [String] = []
      if match.1 == "system" {
        result[name] = []
        continue
      }
      let list = declaration.drop { $0 != "[" }.prefix { $0 != "]" }
      for word in list.matches(of: /"([^"]+)"/) { names.append(String(word.1)) }
      if declaration.contains("+ adapterNames") { names += try adapterNames(in: package) }
      result[name] = names
    }
    return result
  }

  private func adapterNames(in package: String) throws -> [String] {
    let body = package.components(separatedBy: "let adapters: [Target] = [")[1].components(separatedBy: "\n]")[0]
    return body.matches(of: /module\("([^"]+)"/).map { String($0.1) }
  }

  /// Swift files below Sources and Adapters, the bank excepted.
  func sources() throws -> [(path: String, text: String)] {
    var result: [(String, String)] = []
    func walk(_ path: String) throws {
      for name in try Files.names(in: "\(root)/\(path)") {
        let child = "\(path)/\(name)"
        if Files.isDirectory("\(root)/\(child)") {
          if child != "Sources/Bank" { try walk(child) }
        } else if child.hasSuffix(".swift") {
          result.append((child, try text(child)))
        }
      }
    }
    try walk("Sources")
    try walk("Adapters")
    return result
  }
}
