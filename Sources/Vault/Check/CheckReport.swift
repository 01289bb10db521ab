import Core

/// Something a check came across.
package enum CheckFinding: Hashable, Sendable {
  /// Something can't be restored, or won't be found.
  case damage(Report, snapshot: Digest?)
  /// Harmless: what an interrupted run leaves, and what a prune tidies up.
  case note(Report)

  init(_ error: VaultError, snapshot: Digest? = nil) { self = .damage(error.report, snapshot: snapshot) }

  package var report: Report {
    switch self {
    case .damage(let report, _), .note(let report): report
    }
  }

  package var isDamage: Bool { if case .damage = self { true } else { false } }

  static func unindexedPack(_ id: Digest, bytes: Int) -> CheckFinding {
    .note(
      Report("VAULT-141", "pack \(id.short) with \(bytes) bytes is in no index", retry: .never)
        .remedy(
          "an interrupted run left it: `salvor vault prune` removes it, `salvor vault repair index` makes it known"))
  }

  static func packListedTwice(_ id: Digest) -> CheckFinding {
    .note(
      Report("VAULT-142", "pack \(id.short) is listed by more than one index", retry: .never)
        .remedy("nothing is lost; `salvor vault prune` or `salvor vault repair index` tidies it up"))
  }

  static func mixedPack(_ id: Digest) -> CheckFinding {
    .note(
      Report("VAULT-143", "pack \(id.short) holds data and trees side by side", retry: .never)
        .remedy("nothing is lost; it was written by an old program, and a prune sorts it"))
  }
}

extension Report: Hashable {
  package func hash(into hasher: inout Hasher) {
    hasher.combine(code)
    hasher.combine(summary)
  }
}

/// What a check looked at, and what it came across.
package struct CheckReport: Sendable {
  package var findings: [CheckFinding] = []
  package var snapshots = 0
  package var indexes = 0
  package var packs = 0
  package var blobs = 0
  package var trees = 0
  /// Whether every byte was read.
  package var readData = false
  package var readBytes = 0
  /// How many packs were read whole.
  package var readPacks = 0
  /// Packs that are there and as long as the indexes imply, ascending by name.
  package var wholePacks: [(id: Digest, sizeBytes: Int)] = []

  /// Everything every snapshot needs is there and, as far as it was read, right.
  package var isSound: Bool { !findings.contains(where: \.isDamage) }

  package var damage: [CheckFinding] { findings.filter(\.isDamage) }
}

/// How far a check is.
package struct CheckProgress: Hashable, Sendable {
  package enum Phase: Hashable, Sendable { case metadata, packs, trees, data }
  package var phase: Phase
  package var done: Int
  /// 0 while it isn't known.
  package var total: Int
}
