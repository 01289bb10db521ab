import Core
import IO

/// `docs/exit-door.md`, by its blocks: those a comment names.
struct Page {
  var blocks: [String: String] = [:]
  /// Shell blocks that no comment names: nobody tests them.
  var unnamed: [String] = []

  /// - Parameter source: This file, as the compiler knows it.
  init(source: String = #filePath) throws {
    let root = Files.parent(of: Files.parent(of: Files.parent(of: source)))
    self.init(text: String(decoding: try Files.read(root + "/docs/exit-door.md"), as: UTF8.self))
  }

  init(text: String) {
    var name: String?
    var block: [Substring]?
    for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
      if let lines = block {
        guard line == "```" else {
          block?.append(line)
          continue
        }
        let script = lines.joined(separator: "\n")
        if let name { blocks[name, default: ""] += script + "\n" } else { unnamed.append(script) }
        (name, block) = (nil, nil)
      } else if line == "```sh" {
        block = []
      } else if line.hasPrefix("<!-- exit-door: "), line.hasSuffix(" -->") {
        name = String(line.dropFirst(16).dropLast(4))
      } else {
        name = nil
      }
    }
  }
}
