/// Where something stands in a file; both from 1, columns in Unicode scalars.
struct Mark: Sendable, Equatable {
  var line: Int32
  var column: Int32

  static let start = Mark(line: 1, column: 1)
}

/// A YAML value, and where it was written. Aliases are replaced by what they stand for.
struct YAMLNode: Sendable {
  enum Content: Sendable {
    /// `isPlain`: written without quotes, so that `true` and `1` may be more than text.
    case scalar(String, isPlain: Bool)
    case sequence([YAMLNode])
    case mapping([Member])
  }

  struct Member: Sendable {
    var key: String
    var keyMark: Mark
    var value: YAMLNode
  }

  var content: Content
  var mark: Mark

  /// What it is, for "expected …, found …".
  var kind: String {
    switch content {
    case .scalar: isNull ? "nothing" : "a single value"
    case .sequence: "a list"
    case .mapping: "a mapping"
    }
  }

  /// YAML's core schema: nothing, `~` or `null`, unquoted.
  var isNull: Bool {
    guard case .scalar(let text, isPlain: true) = content else { return false }
    return text.isEmpty || text == "~" || text == "null" || text == "Null" || text == "NULL"
  }
}
