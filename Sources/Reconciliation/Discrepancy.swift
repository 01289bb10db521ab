import Catalog
import Core

/// A row of an answer, as text.
package typealias Row = [String?]

/// The left or the right of two that are compared.
package enum Place: String, Sendable, Codable, CaseIterable {
  case left, right
  package var other: Place { self == .left ? .right : .left }
}

/// A key about which two stores disagree.
package struct Discrepancy: Sendable, Codable, Hashable {
  package var rule: CheckName
  package var kind: ReconciliationRule.Kind
  /// Where the row is that is wrong, or where it is that one is missing.
  package var place: Place
  package var key: [String]
  /// The rows either side has under the key, at most ``rowLimit`` of them.
  package var left: [Row]
  package var right: [Row]
  /// How many there are.
  package var leftCount: Int64
  package var rightCount: Int64

  package static let rowLimit = 16

  package init(
    rule: CheckName, kind: ReconciliationRule.Kind, place: Place, key: [String], left: [Row], right: [Row],
    leftCount: Int64, rightCount: Int64
  ) {
    (self.rule, self.kind, self.place, self.key) = (rule, kind, place, key)
    (self.left, self.right, self.leftCount, self.rightCount) = (left, right, leftCount, rightCount)
  }

  package func rows(_ place: Place) -> [Row] { place == .left ? left : right }
  package func count(_ place: Place) -> Int64 { place == .left ? leftCount : rightCount }

  /// What it is about, whatever the rows say by now.
  package var identity: Identity { Identity(rule: rule, kind: kind, place: place, key: key) }

  package struct Identity: Hashable, Sendable, Codable {
    package var rule: CheckName
    package var kind: ReconciliationRule.Kind
    package var place: Place
    package var key: [String]
  }
}

/// What was compared under one rule.
package struct RuleReport: Sendable, Codable, Hashable {
  package var rule: CheckName
  package var leftStore: StoreName
  package var rightStore: StoreName
  package var leftColumns: [String]
  package var rightColumns: [String]
  package var leftRows: Int64 = 0
  package var rightRows: Int64 = 0
  /// By kind, every one, also those that are not listed.
  package var counts: [String: Int64] = [:]
  /// Discrepancies that may be under way, by their time.
  package var inFlight: Int64 = 0
  /// Keys outside of the window.
  package var outside: Int64 = 0
  /// Keys whose time is not known, where a window was asked for.
  package var undated: Int64 = 0
  /// Rows with a NULL in their key, which is no key.
  package var withoutKey: Int64 = 0
  /// There are more discrepancies than are listed.
  package var isCut = false

  package init(_ rule: CheckName, left: StoreName, right: StoreName) {
    (self.rule, leftStore, rightStore) = (rule, left, right)
    (leftColumns, rightColumns) = ([], [])
  }

  package var found: Int64 { counts.values.reduce(0, +) }
}

/// A stretch of time; `to` is not in it.
package struct Window: Sendable, Codable, Hashable {
  package var from: Timestamp?
  package var to: Timestamp?

  package init(from: Timestamp? = nil, to: Timestamp? = nil) { (self.from, self.to) = (from, to) }

  package enum Standing: Hashable, Sendable { case inside, atEdge, outside }

  /// - Parameter skew: How far clocks and ways of data may be apart.
  package func standing(of time: Timestamp, skew: Duration) -> Standing {
    if let from, time < from { return .outside }
    if let to, time >= to { return .outside }
    if let from, time - from < skew { return .atEdge }
    if let to, to - time <= skew { return .atEdge }
    return .inside
  }
}

/// What was found when stores were compared, as it is kept.
package struct ReconciliationReport: Sendable, Codable, Hashable {
  package var id: String
  package var at: Timestamp
  /// `live`, or the point whose copies were compared.
  package var source: String
  package var catalogDigest: String
  package var window: Window?
  package var rules: [RuleReport]
  package var findings: [Discrepancy]

  package init(
    id: String, at: Timestamp, source: String, catalogDigest: String, window: Window?, rules: [RuleReport],
    findings: [Discrepancy]
  ) {
    (self.id, self.at, self.source, self.catalogDigest) = (id, at, source, catalogDigest)
    (self.window, self.rules, self.findings) = (window, rules, findings)
  }

  package static let live = "live"

  package var isLive: Bool { source == Self.live }
  package var found: Int64 { rules.reduce(0) { $0 + $1.found } }

  package func digest() throws -> Digest { try CanonicalJSON.digest(self) }
}
