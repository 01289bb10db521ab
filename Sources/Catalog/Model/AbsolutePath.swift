/// Paths as text: nothing here asks the file system, so a symbolic link is not seen through.
package enum AbsolutePath {
  /// Without `.`, `..` and doubled slashes.
  ///
  /// - Returns: `nil` unless `path` begins with `/` and has no NUL.
  package static func normalized(_ path: some StringProtocol) -> String? {
    guard path.utf8.first == 47, !path.utf8.contains(0) else { return nil }
    var parts: [Substring] = []
    for part in String(path).split(separator: "/") where part != "." {
      if part == ".." { _ = parts.popLast() } else { parts.append(part) }
    }
    return "/" + parts.joined(separator: "/")
  }

  /// `path` is `directory` or lies somewhere below it; both normalized.
  package static func contains(_ directory: String, _ path: String) -> Bool {
    directory == "/" || path == directory || path.hasPrefix(directory + "/")
  }

  /// `path` itself and every directory above it, nearest first.
  static func parents(of path: String) -> [String] {
    var result = [path]
    var rest = path[...]
    while let slash = rest.lastIndex(of: "/"), rest != "/" {
      rest = slash == rest.startIndex ? "/" : rest[..<slash]
      result.append(String(rest))
    }
    return result
  }
}
