import Core

/// A pack that was damaged or missing, and what became of it.
package struct PackRepair: Sendable {
  package enum Outcome: Hashable, Sendable {
    /// The very file is back.
    case restored(from: String)
    /// What could be had of it lies in new packs.
    case salvaged
    /// In no index, and not to be brought back: it is left as it is.
    case left
  }

  package let pack: Digest
  package let damage: Report
  package var outcome: Outcome = .left
  /// Blobs that were still whole in the damaged file.
  package var kept = 0
  /// Blobs that another repository gave.
  package var fetched = 0
  /// Blobs that lie whole in another pack of this repository.
  package var elsewhere = 0
  /// Blobs that are nowhere.
  package var lost: [LostBlob] = []
}

/// A blob that could not be brought back.
package struct LostBlob: Hashable, Sendable {
  package let kind: BlobKind
  package let id: BlobID
}

/// What a repair of packs looked at and did.
package struct PackRepairReport: Sendable {
  /// Packs that were read to see whether they are whole.
  package var packs = 0
  package var repairs: [PackRepair] = []

  package var lost: Int { repairs.reduce(0) { $0 + $1.lost.count } }
}

package struct PackRepairOptions: Sendable {
  /// Packs to look at; all of them if empty.
  package var packs: [Digest] = []
  package var isDryRun = false
  /// Repositories with other keys and packs that may hold the same blobs; opened, with their indexes loaded.
  package var others: [any BlobReader] = []
  /// Takes a damaged file that could not be brought back whole, before it goes; durable when it returns.
  package var keep: @Sendable (Digest, [UInt8]) async throws -> Void = { _, _ in }
  package var progress: @Sendable (_ done: Int, _ total: Int) -> Void = { _, _ in }

  package init() {}
}
