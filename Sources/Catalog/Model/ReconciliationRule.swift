import Core

/// How two stores are compared by key, which of them is right where they differ, and how the other is corrected.
package struct ReconciliationRule: Sendable, Equatable, Codable {
  /// Whose word counts.
  package enum Truth: String, Sendable, Codable, CaseIterable {
    case left, right
    /// Nobody's: differences are listed, and nothing is proposed.
    case none
  }

  /// What can be wrong with a key.
  package enum Kind: String, Sendable, Codable, CaseIterable {
    /// A row refers to something that is not there.
    case brokenLink = "broken-link"
    /// A row that belongs to nothing.
    case orphan
    /// What ought to be there is not.
    case missing
    /// Both have it, and say different things.
    case changed
    /// One side has it more than once.
    case duplicate
  }

  /// One of the two that are compared, and how its rows are found again to be corrected.
  package struct Side: Sendable, Equatable, Codable {
    package var store: StoreName
    package var query: String
    /// Names of the answer's columns; `nil` as the engine names them.
    package var columns: [String]?
    /// The table whose columns the answer's are; for stores that speak SQL.
    package var table: String?
    /// The name of a key, with columns in braces; for Redis.
    package var entry: String?
    /// The field of the hash at `entry` that holds `value`; `nil` if the key itself does.
    package var field: String?
    /// The column that holds what is stored at `entry`.
    package var value: String?
    /// The path of a file, with columns in braces; for files.
    package var file: String?

    package init(store: StoreName, query: String) { (self.store, self.query) = (store, query) }
  }

  package var name: CheckName
  package var description: String?
  package var left: Side
  package var right: Side
  /// Columns by which rows of both sides are the same; never empty.
  package var key: [String]
  /// The column, of either side, that says when a row came about.
  package var time: String?
  /// What is this near to the edge of a window may be under way, and is no finding.
  package var skew: Duration
  package var truth: Truth
  /// Left rows refer to right ones: without its right row one is a broken link, not missing state.
  package var isLink: Bool
  /// Rows that only the side has whose word does not count are wrong too.
  package var isExact: Bool
  /// Run once per finding of a kind, in place of a change of ours.
  package var compensations: [Kind: Command]

  package init(name: CheckName, left: Side, right: Side, key: [String]) {
    (self.name, self.left, self.right, self.key) = (name, left, right, key)
    (skew, truth, isLink, isExact, compensations) = (.seconds(5), .left, false, true, [:])
  }

  package var stores: [StoreName] { left.store == right.store ? [left.store] : [left.store, right.store].sorted() }

  private enum CodingKeys: String, CodingKey {
    case name, description, left, right, key, time, skew, truth, isLink, isExact, compensations
  }

  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    name = try container.decode(CheckName.self, forKey: .name)
    description = try container.decodeIfPresent(String.self, forKey: .description)
    left = try container.decode(Side.self, forKey: .left)
    right = try container.decode(Side.self, forKey: .right)
    key = try container.decode([String].self, forKey: .key)
    time = try container.decodeIfPresent(String.self, forKey: .time)
    skew = try container.decode(Duration.self, forKey: .skew)
    truth = try container.decode(Truth.self, forKey: .truth)
    isLink = try container.decode(Bool.self, forKey: .isLink)
    isExact = try container.decode(Bool.self, forKey: .isExact)
    let commands = try container.decode([String: Command].self, forKey: .compensations)
    compensations = Dictionary(
      commands.compactMap { name, command in Kind(rawValue: name).map { ($0, command) } },
      uniquingKeysWith: { a, _ in a })
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    try container.encode(name, forKey: .name)
    try container.encodeIfPresent(description, forKey: .description)
    try container.encode(left, forKey: .left)
    try container.encode(right, forKey: .right)
    try container.encode(key, forKey: .key)
    try container.encodeIfPresent(time, forKey: .time)
    try container.encode(skew, forKey: .skew)
    try container.encode(truth, forKey: .truth)
    try container.encode(isLink, forKey: .isLink)
    try container.encode(isExact, forKey: .isExact)
    try container.encode(
      Dictionary(compensations.map { ($0.key.rawValue, $0.value) }, uniquingKeysWith: { a, _ in a }),
      forKey: .compensations)
  }
}
