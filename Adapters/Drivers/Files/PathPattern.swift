import Glibc
import IO

/// A shell pattern for paths below a root.
///
/// `*`, `?` and `[…]` stay within a name (fnmatch(3)), a name that is `**` stands for any number of directories, none
/// included. A pattern without `/` fits the last name at any depth; one with `/` fits from the root.
struct PathPattern: Sendable, Equatable {
  let text: String
  private let components: [String]

  /// - Returns: `nil` for a pattern that can fit nothing.
  init?(_ text: some StringProtocol) {
    let names = text.split { $0 == "/" }.map { String($0) }
    guard !names.isEmpty, names.count < 256, !text.utf8.contains(0), !names.contains("."), !names.contains("..") else {
      return nil
    }
    self.text = String(text)
    components = text.contains("/") ? names : ["**", names[0]]
  }

  func fits(_ path: TreePath) -> Bool {
    // Row by row: which prefixes of the path the first patterns can cover. No backtracking, so no pattern is slow.
    var reached = [Bool](repeating: false, count: path.components.count + 1)
    reached[0] = true
    for pattern in components {
      var next = [Bool](repeating: false, count: reached.count)
      for index in reached.indices {
        if pattern == "**" {
          next[index] = reached[index] || (index > 0 && next[index - 1])
        } else if index > 0, reached[index - 1] {
          next[index] = path.components[index - 1].withCString { name in fnmatch(pattern, name, 0) == 0 }
        }
      }
      reached = next
    }
    return reached[path.components.count]
  }
}
