import Foundation
import Testing

/// The project's pages and sources, as the tests of the documentation read them.
enum Pages {
  static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()

  static func text(_ path: String) throws -> String {
    try String(contentsOf: root.appending(path: path), encoding: .utf8)
  }

  static func exists(_ path: String) -> Bool { FileManager.default.fileExists(atPath: root.appending(path: path).path) }

  /// Files below `folder` with this ending, as paths from the root; sorted.
  static func files(_ folder: String, ending: String) throws -> [String] {
    let walker = try #require(FileManager.default.enumerator(atPath: root.appending(path: folder).path))
    return walker.compactMap { $0 as? String }.filter { $0.hasSuffix(ending) }.map { "\(folder)/\($0)" }.sorted()
  }

  /// Every page a reader may come to.
  static func all() throws -> [String] { ["README.md"] + (try files("docs", ending: ".md")) }

  /// Swift sources that are part of Salvor or of its demo.
  static func sources() throws -> [String] {
    try files("Sources", ending: ".swift") + files("Adapters", ending: ".swift")
  }

  /// The `sh` blocks of a page that stand right after the marker `<!-- test: NAME -->`, in order.
  static func blocks(of page: String, marked name: String) throws -> [String] {
    var blocks: [String] = []
    var lines = try text(page).components(separatedBy: "\n")[...]
    while let line = lines.popFirst() {
      guard line == "<!-- test: \(name) -->" else { continue }
      try #require(lines.popFirst() == "```sh", "\(page): a marker is not followed by a block of sh")
      let body = lines.prefix { $0 != "```" }
      lines = lines.dropFirst(body.count + 1)
      blocks.append(body.joined(separator: "\n"))
    }
    return blocks
  }

  /// A page without its fenced blocks.
  static func prose(_ page: String) throws -> [String] {
    var isCode = false
    return try text(page).components(separatedBy: "\n").filter { line in
      if line.hasPrefix("```") {
        isCode.toggle()
        return false
      }
      return !isCode
    }
  }

  /// The anchors of a page's headings, as code forges make them.
  static func anchors(of page: String) throws -> Set<String> {
    Set(
      try prose(page).filter { $0.hasPrefix("#") }.map { heading in
        heading.drop { $0 == "#" || $0 == " " }.lowercased().compactMap { character -> String? in
          if character == " " { return "-" }
          return character.isLetter || character.isNumber || character == "-" || character == "_"
            ? String(character) : nil
        }.joined()
      })
  }
}
