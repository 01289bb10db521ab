import Catalog
import Core
import Drills
import IO

extension DrillRoom {
  /// Options that say where a store's state lies, of every driver there is.
  static let stateOptions = ["path", "dataDirectory", "storeDirectory", "state", "workspace"]

  /// The room in which a drill of this catalog can take place. Looks at directories, touches nothing. Blocks.
  ///
  /// - Parameters:
  ///   - directory: The drill's own, which exists.
  ///   - small: A store whose disk is full, and how many bytes it has.
  init(
    for catalog: Catalog, _ drill: Drill, in directory: String, small: (store: StoreName, bytes: Int64)?
  ) throws(DrillError) {
    do throws(SystemFailure) { outside = try Self.namespacesHere() } catch {
      throw .notIsolated(error.report.summary)
    }
    self.directory = directory
    // By the directory that is copied: what is emptied in it, and how much may be written.
    var emptied: [String: Set<String>] = [:]
    var limits: [String: Int64] = [:]
    for store in catalog.stores {
      for option in Self.stateOptions {
        guard let path = store.options[option]?.string, path.hasPrefix("/"), path != "/" else { continue }
        let (parent, name) = (Files.parent(of: path), Files.last(of: path))
        guard Files.isDirectory(parent) else {
          // Nothing is there to be covered, and the drill could not make it either.
          throw .cannotCover(parent, why: "there is no such directory")
        }
        emptied[parent, default: []].formUnion(Self.names(of: name, in: parent))
        if small?.store == store.name { limits[parent] = small?.bytes }
      }
    }
    for place in drill.places + ["/run", "/tmp", "/var/tmp"] where Files.isDirectory(place) {
      // A directory can't be covered by what lies in it.
      if directory.hasPrefix(place + "/"), !drill.places.contains(place) { continue }
      emptied[place, default: []].formUnion([])
    }
    // What lies below another is covered with it.
    places = []
    for path in emptied.keys.sorted() {
      guard !path.contains(where: { [",", ":", "\\"].contains($0) }) else {
        throw .cannotCover(path, why: "its name has a comma, a colon or a backslash")
      }
      guard path != "/" else { throw .cannotCover(path, why: "a store lies at the top of the file system") }
      guard !directory.hasPrefix(path + "/"), directory != path else {
        throw .cannotCover(path, why: "the drill's own directory \(directory) lies in it")
      }
      if let above = places.firstIndex(where: { path.hasPrefix($0.path + "/") }) {
        let relative = String(path.dropFirst(places[above].path.count + 1))
        places[above].emptied += (emptied[path] ?? []).map { "\(relative)/\($0)" }
        if let limit = limits[path] { places[above].limitBytes = limit }
      } else {
        places.append(Place(path: path, emptied: (emptied[path] ?? []).sorted(), limitBytes: limits[path]))
      }
    }
    hidden =
      drill.level == .region
      ? catalog.repositories.compactMap { if case .local(let path) = $0.location { path } else { nil } } : []
    doors = Self.doors(of: catalog)
  }

  /// A store's state and what lies beside it: logs of a database, what earlier restores kept.
  private static func names(of name: String, in parent: String) -> Set<String> {
    let there = ((try? Files.names(in: parent)) ?? []).map(\.lossyText)
    return Set(
      there.filter {
        $0 == name || $0.hasPrefix(name + "-") || $0.hasPrefix(".salvor-\(name)-") || $0.hasPrefix(name + ".salvor")
      })
  }

  /// Every address the catalog names.
  private static func doors(of catalog: Catalog) -> [Door] {
    var doors: [Door] = []
    func add(_ door: Door?) { if let door, !doors.contains(door) { doors.append(door) } }
    func page(_ url: String) -> Door? {
      let isSecure = url.hasPrefix("https://")
      let rest = url.dropFirst(isSecure ? 8 : 7).prefix { !"/?#".contains($0) }
      let text = String(rest)
      let colon = text.hasSuffix("]") ? nil : text.lastIndex(of: ":")
      let host = text[..<(colon ?? text.endIndex)].filter { $0 != "[" && $0 != "]" }
      let port = colon.flatMap { UInt16(text[text.index(after: $0)...]) } ?? (isSecure ? 443 : 80)
      return host.isEmpty ? nil : Door(port: port, host: String(host))
    }
    for store in catalog.stores {
      let host = store.options["host"]?.string ?? "127.0.0.1"
      if host.hasPrefix("/") {
        add(Door(port: nil, host: host))
      } else if let port = store.options["port"]?.integer, let number = UInt16(exactly: port) {
        add(Door(port: number, host: host))
      }
      if let socket = store.options["socket"]?.string { add(Door(port: nil, host: socket)) }
      if let endpoint = store.options["endpoint"]?.string { add(page(endpoint)) }
    }
    for service in catalog.services {
      for probe in service.ready {
        switch probe.question {
        case .tcp(let host, let port): add(Door(port: port, host: host))
        case .http(let url, _): add(page(url))
        case .exec, .sql: break
        }
      }
      for validator in service.validators {
        switch validator.question {
        case .http(let url): add(page(url))
        case .workflow(let name):
          for step in catalog.workflow(name)?.steps ?? [] {
            // What is filled in stands behind host and port.
            if case .http(let request) = step.action { add(page(request.url)) }
          }
        case .exec, .sql: break
        }
      }
    }
    // Whoever listens on a socket in the file system is reached through any network namespace.
    let text = (try? Files.read("/proc/net/unix", limitBytes: 16 << 20)).map { String(decoding: $0, as: UTF8.self) }
    for line in (text ?? "").split(separator: "\n").dropFirst() {
      let words = line.split(separator: " ", maxSplits: 7)
      // The flag of those that listen. Source: proc(5), __SO_ACCEPTCON in the kernel's net.h.
      guard words.count == 8, words[3] == "00010000", words[7].hasPrefix("/") else { continue }
      add(Door(port: nil, host: String(words[7])))
    }
    return doors
  }
}
