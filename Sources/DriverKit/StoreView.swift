import Core

/// A store, opened to be looked at as a whole, at one moment: the live one, or a copy restored beside.
///
/// Used by one caller at a time. Nothing it does waits for writers, or makes them wait.
package protocol StoreView: Sendable {
  /// As ``DataStoreDriver/query(_:limit:)``.
  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult

  /// Reads every row; comparable with ``CaptureResult/contentDigest``.
  func contentDigest() async throws(DriverError) -> ContentDigest

  func schema() async throws(DriverError) -> StoreSchema

  /// Frees everything. Safe to call twice.
  func close() async
}

/// A copy that is there to be changed, and thrown away: it is reached by us alone, and has no effect on anything else.
package protocol DisposableCopy: StoreView {
  /// Runs statements one after the other, in a transaction where the engine's own statements allow that.
  ///
  /// - Returns: The first that the engine refused, with nothing of the transaction left; `nil` if all ran.
  func apply(_ script: StoreScript) async throws(DriverError) -> ScriptFailure?

  /// Where programs find it, as variables they know: `PGHOST`, `SALVOR_COPY`.
  var environment: [String: String] { get }
}

/// How a store's content is laid out: the same text for the same layout.
package struct StoreSchema: Hashable, Sendable, Codable {
  /// Per table, index, view, sequence and the like, what it is made of.
  package var parts: [String: String]

  package init(parts: [String: String]) { self.parts = parts }

  /// The names of what differs, or is on one side only; sorted.
  package func differences(from other: StoreSchema) -> [String] {
    Set(parts.keys).union(other.parts.keys).filter { parts[$0] != other.parts[$0] }.sorted()
  }

  /// Names the layout.
  package var digest: Digest {
    var text = ""
    for (name, part) in parts.sorted(by: { $0.key < $1.key }) { text += "\(name)\0\(part)\0" }
    return Digest.of(text)
  }
}

package struct StoreScript: Sendable, Equatable {
  package var text: String
  /// A statement run at the end, in the same transaction.
  package var last: String?

  package init(_ text: String, last: String? = nil) { (self.text, self.last) = (text, last) }

  /// A script begins with this line if its statements can't be in a transaction.
  package static let outsideMark = "-- salvor: no transaction"

  package var isTransaction: Bool { !text.hasPrefix(Self.outsideMark) }
}

/// A statement that an engine refused.
package struct ScriptFailure: Sendable, Equatable, Codable {
  /// Of the statement's first word in the script, from 1; `nil` for what isn't in it.
  package var line: Int?
  /// What the server said.
  package var message: String

  package init(line: Int?, message: String) { (self.line, self.message) = (line, message) }
}
