import Core

/// A change to a store that says what the store must look like for it to be made.
///
/// Each is idempotent: where it was made already, or the state is no longer what was seen, nothing is done.
package enum StoreChange: Hashable, Sendable, Codable {
  /// One statement of the engine's language, with its guard in its WHERE clause.
  case statement(String)
  /// Commands that are run in one transaction, if each of the others still answers what was seen.
  case commands(expecting: [ExpectedAnswer], run: [[String]])
  /// Moves a file out of the store's tree to a place beside it, if its content is still what was seen.
  case setAside(path: String, sizeBytes: Int64, sha256: String?)
}

/// What a command answered when it was looked at; `nil` is the engine's null.
package struct ExpectedAnswer: Hashable, Sendable, Codable {
  package var command: [String]
  package var answer: String?

  package init(_ command: [String], _ answer: String?) { (self.command, self.answer) = (command, answer) }
}

/// What became of a change.
package enum ChangeEffect: Hashable, Sendable, Codable {
  /// So many rows, keys or files were changed.
  case changed(Int64)
  /// The guard did not hold: it was made before, or the state is another by now.
  case left(String)
  /// The engine refused it; nothing was changed by it.
  case refused(String)
}

/// Makes changes that somebody reviewed.
package protocol StoreCorrector: Sendable {
  /// Makes one change, durably once it returns; again is fine.
  ///
  /// - Throws: ``DriverError`` if nobody knows what became of it.
  func make(_ change: StoreChange) async throws(DriverError) -> ChangeEffect
}

extension StoreChange {
  /// - Throws: ``DriverError/unsupported(_:)``.
  package static func isNone(of kind: String) -> DriverError { .unsupported("this store takes \(kind) only") }
}
