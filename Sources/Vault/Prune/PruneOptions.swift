import Core

/// How far a prune goes.
package struct PruneOptions: Sendable {
  /// How much of what nobody uses may stay in packs that hold something in use as well.
  package enum UnusedLimit: Hashable, Sendable {
    case bytes(Int)
    /// Of all that is stored afterwards; 0 to 1.
    case share(Double)
    case unlimited

    func bytes(used: Int) -> Int {
      switch self {
      case .bytes(let bytes): return bytes
      case .share(let share) where share < 1: return Int(share * Double(used) / (1 - share))
      case .share, .unlimited: return .max
      }
    }
  }

  package var maxUnused = UnusedLimit.share(0.05)
  /// Bytes that are read and written again, at most.
  package var maxRepackBytes = Int.max
  /// Compresses what a version 1 of the repository stored without; wants version 2.
  package var repackUncompressed = false
  /// Gathers packs below a quarter of the usual size.
  package var repackSmall = false
  /// Looks, and changes nothing.
  package var isDryRun = false

  package init() {}
}

/// What a prune did, or would do. Bytes are as stored.
package struct PruneReport: Hashable, Sendable, Codable {
  package struct Amount: Hashable, Sendable, Codable {
    package var blobs = 0
    package var bytes = 0

    static func += (a: inout Amount, b: PackedBlob) {
      a.blobs += 1
      a.bytes += b.length
    }

    static func += (a: inout Amount, b: Amount) {
      a.blobs += b.blobs
      a.bytes += b.bytes
    }
  }

  package var snapshots = 0
  package var used = Amount()
  /// In no snapshot.
  package var unused = Amount()
  /// Further copies of what is in use.
  package var duplicates = Amount()
  package var packs = 0
  package var packsRemoved = 0
  package var packsRepacked = 0
  /// In no index: left behind by whoever was interrupted.
  package var packsUnindexed = 0
  /// Taken out of packs that are written again.
  package var repackedBytes = 0
  package var freedBytes = 0
  /// What nobody uses and stays.
  package var unusedLeftBytes = 0
  /// Would go, but are locked in the store, or named by an index that is.
  package var packsLocked = 0
  package var lockedBytes = 0
  package var indexesWritten = 0
  package var indexesRemoved = 0
}

/// How far a prune is.
package struct PruneProgress: Hashable, Sendable {
  package enum Phase: String, Hashable, Sendable { case trees, packs, repack, index, delete, lock }
  package var phase: Phase
  package var done: Int
  /// 0 while it isn't known.
  package var total: Int
}
