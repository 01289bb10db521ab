/// What keeps a failover from doing harm. All of them, always; a simulation takes one away to see what it was for.
package struct Protections: OptionSet, Sendable {
  package let rawValue: Int

  package init(rawValue: Int) { self.rawValue = rawValue }

  package static let fenceBeforePromote = Protections(rawValue: 1 << 0)
  package static let fenceQuorum = Protections(rawValue: 1 << 1)
  package static let positionsAfterDetach = Protections(rawValue: 1 << 2)
  package static let epochCheck = Protections(rawValue: 1 << 3)
  package static let epochOnDisk = Protections(rawValue: 1 << 4)
  package static let recordUnderLease = Protections(rawValue: 1 << 5)
  package static let selfStop = Protections(rawValue: 1 << 6)
  package static let doubt = Protections(rawValue: 1 << 7)
  package static let dwell = Protections(rawValue: 1 << 8)
  package static let observers = Protections(rawValue: 1 << 9)
  package static let peers = Protections(rawValue: 1 << 10)
  package static let mostComplete = Protections(rawValue: 1 << 11)

  package static let votersRecorded = Protections(rawValue: 1 << 12)
  package static let votersCaughtUp = Protections(rawValue: 1 << 13)
  package static let watchdog = Protections(rawValue: 1 << 14)

  package static let all = Protections(rawValue: (1 << 15) - 1)

  /// By the name a command takes.
  package static let names: [(name: String, protection: Protections)] = [
    ("fence-before-promote", .fenceBeforePromote), ("fence-quorum", .fenceQuorum),
    ("positions-after-detach", .positionsAfterDetach), ("epoch-check", .epochCheck), ("epoch-on-disk", .epochOnDisk),
    ("record-under-lease", .recordUnderLease), ("self-stop", .selfStop), ("doubt", .doubt), ("dwell", .dwell),
    ("observers", .observers), ("peers", .peers), ("most-complete", .mostComplete),
    ("voters-recorded", .votersRecorded), ("voters-caught-up", .votersCaughtUp),
    ("watchdog", .watchdog),
  ]
}
