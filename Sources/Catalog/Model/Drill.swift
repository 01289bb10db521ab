import Core

/// A drill.
package struct DrillName: Name {
  package let text: String
  package init(unchecked text: String) { self.text = text }
}

/// A restore that is practised: how much of the system, from which point, how often, and what is broken on purpose.
package struct Drill: Sendable, Equatable, Codable {
  /// How much is brought back; each level holds all that the one before it does.
  package enum Level: String, Sendable, Codable, CaseIterable, Comparable {
    /// The plan is read, and timed by history; nothing is restored.
    case tabletop
    /// Stores are restored, opened by their engines, and compared.
    case store
    /// Services and what they depend on come back, and are asked.
    case service
    /// Everything comes back.
    case system
    /// Everything comes back from a mirror and the key: no primary repository, no host, no state.
    case region

    package var rank: Int { Self.allCases.firstIndex(of: self) ?? 0 }
    package static func < (a: Self, b: Self) -> Bool { a.rank < b.rank }
  }

  /// Which recovery point is practised with.
  package enum Choice: String, Sendable, Codable, CaseIterable {
    case latest, random
    /// The oldest that is kept.
    case oldest
  }

  /// What is broken on purpose.
  package enum FaultKind: String, Sendable, Codable, CaseIterable {
    case flippedByte = "flipped-byte"
    case missingLog = "missing-log"
    case revokedKey = "revoked-key"
    case wrongClock = "wrong-clock"
    case lostObject = "lost-object"
    case staleSchema = "stale-schema"
    case slowStore = "slow-store"
    case fullDisk = "full-disk"
    case deniedPermission = "denied-permission"
  }

  package struct Fault: Sendable, Equatable, Codable {
    package var kind: FaultKind
    /// `nil`: chosen by the drill's seed among its stores, where the fault is about a store.
    package var store: StoreName?
    /// Makes the restored schema an old one; for ``FaultKind/staleSchema``.
    package var run: Command?

    package init(kind: FaultKind, store: StoreName? = nil, run: Command? = nil) {
      (self.kind, self.store, self.run) = (kind, store, run)
    }
  }

  package var name: DrillName
  package var level: Level
  /// Whose restore is practised; sorted, never empty.
  package var services: [ServiceName]
  /// Sorted; for ``Level/store`` those that are restored.
  package var stores: [StoreName]
  package var point: Choice
  /// How old a point taken by ``Choice/random`` may be.
  package var window: Duration?
  /// `nil`: only when somebody asks.
  package var schedule: BackupPolicy.Schedule?
  /// By how much a drill is put off at most, so that not all begin at once.
  package var jitter: Duration
  /// How long a pass is evidence; then what it showed is unproven again.
  package var proves: Duration
  /// How long it may take at most.
  package var deadline: Duration
  package var faults: [Fault]
  /// Directories, beside those of the stores, that programs of the drill may write to; copies of what is there.
  package var places: [String]
}
