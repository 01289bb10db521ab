import Core
import IO

/// One store's part of a restore.
package struct RestoreRequest: Sendable {
  /// Names this restore; derived from the run, so that a second try finds the first one's work.
  package var id: String
  /// The captured tree, rooted where the driver's own paths begin.
  package var source: any TreeSource
  package var capture: CaptureResult
  /// A directory of this restore's own, on the same file system as the live state where that is possible. The driver
  /// makes it (``RestoreRequest/workspace(beside:id:)``) and ``DataStoreDriver/discardKept(_:)`` removes it.
  package var progress: @Sendable (_ doneBytes: Int64) -> Void
  /// The record says that ``DataStoreDriver/swapIn(_:)`` was begun. Then ``DataStoreDriver/swapOut(_:)`` must find the kept
  /// state, or that it is back already; finding no trace of either is an error.
  package var isSwapRecorded = false
  /// The log to go on with from the copy's mark; `nil` ends at the mark.
  package var replay: LogReplay?

  package init(
    id: String, source: any TreeSource, capture: CaptureResult,
    progress: @escaping @Sendable (_ doneBytes: Int64) -> Void = { _ in }
  ) {
    (self.id, self.source, self.capture, self.progress) = (id, source, capture, progress)
  }

  /// The workspace for this restore next to `livePath`: `<parent>/.salvor-<name>-<id>`.
  package func workspace(beside livePath: String) -> String {
    "\(Files.parent(of: livePath))/.salvor-\(Files.last(of: livePath))-\(id)"
  }
}

/// What stands beside, ready to be swapped in.
package struct RestoredState: Sendable, Equatable, Codable {
  /// Where the engine says it ended up; must be the capture's position, unless it went on from there.
  package var position: LogPosition
  package var sizeBytes: Int64
  /// The engine's own checks that ran and passed, such as `integrity_check` or `recovered to 0/3000148`.
  package var proofs: [String]

  package init(position: LogPosition, sizeBytes: Int64, proofs: [String]) {
    (self.position, self.sizeBytes, self.proofs) = (position, sizeBytes, proofs)
  }
}
