import Core

/// The right to read stores undisturbed: while it lasts, no run that replaces one of them begins or goes on.
///
/// Any number of readers may have one of the same store. It lapses unless renewed, and at once if its holder is known to
/// be dead.
package struct StoreLease: Sendable, Equatable, Codable {
  /// Unique in its journal, never given out twice.
  package var number: Int64
  /// Ascending.
  package var stores: [StoreName]
  package var holder: Holder
  package var periodNanoseconds: Int64
  package var expiresAt: Timestamp

  package init(number: Int64, stores: Set<StoreName>, holder: Holder, period: Duration, at now: Timestamp) {
    (self.number, self.stores, self.holder) = (number, stores.sorted(), holder)
    periodNanoseconds = period.wholeNanoseconds
    expiresAt = now + period
  }

  package var period: Duration { .nanoseconds(periodNanoseconds) }

  package func stands(at now: Timestamp, isGone: (Holder) -> Bool) -> Bool { now < expiresAt && !isGone(holder) }

  package func renewed(at now: Timestamp) -> StoreLease {
    var copy = self
    copy.expiresAt = now + period
    return copy
  }
}

/// Who reads stores and who replaces them, as a journal finds it within one transaction. The rules every journal keeps.
package struct StoreUse {
  /// Those that stand.
  package var leases: [StoreLease]
  /// Runs with ``RunSpec/exclusiveStores``, as far as they are not settled or somebody holds them.
  package var runs: [RunRecord]
  package var now: Timestamp
  package var isGone: (Holder) -> Bool

  /// How long a run that was written down counts as about to begin, though nobody has claimed it yet.
  package static let startPeriod = Duration.seconds(15)

  package init(leases: [StoreLease], runs: [RunRecord], now: Timestamp, isGone: @escaping (Holder) -> Bool) {
    self.leases = leases.filter { $0.stands(at: now, isGone: isGone) }
    (self.runs, self.now, self.isGone) = (runs, now, isGone)
  }

  /// For a new run that replaces stores: nobody reads them, and every other run that replaces one has come to its end.
  ///
  /// - Throws: ``JournalError/storesTaken(_:by:)``, ``JournalError/storesRead(_:by:until:)``.
  package func requireFree(_ stores: [StoreName], for run: RunID) throws(JournalError) {
    try require(stores, of: run) { !$0.state.isSettled || isHeld($0) }
  }

  /// For a run that is taken up, or given up: nobody reads its stores, and no other run is at work on one. One that was
  /// interrupted is no hindrance: giving up an old state may be what makes room for it to go on.
  ///
  /// - Throws: As ``requireFree(_:for:)``.
  package func requireIdle(_ stores: [StoreName], for run: RunID) throws(JournalError) {
    try require(stores, of: run) { isHeld($0) || isAboutToBegin($0) }
  }

  private func require(
    _ stores: [StoreName], of run: RunID, unless isInTheWay: (RunRecord) -> Bool
  ) throws(JournalError) {
    let wanted = Set(stores)
    for other in runs where other.spec.id != run && isInTheWay(other) {
      let both = other.spec.exclusive.intersection(wanted)
      if !both.isEmpty { throw .storesTaken(both.sorted(), by: other.spec.id) }
    }
    for lease in leases {
      let both = wanted.intersection(lease.stores)
      if !both.isEmpty { throw .storesRead(both.sorted(), by: lease.holder, until: lease.expiresAt) }
    }
  }

  /// For who reads stores: nobody replaces one, and nothing of a run that was interrupted is left half done. A run that
  /// was interrupted before it touched anything is in nobody's way.
  ///
  /// - Throws: ``JournalError/storesTaken(_:by:)``.
  package func requireWhole(_ stores: Set<StoreName>) throws(JournalError) {
    for run in runs where isHeld(run) || isAboutToBegin(run) || isHalfDone(run) {
      let both = run.spec.exclusive.intersection(stores)
      if !both.isEmpty { throw .storesTaken(both.sorted(), by: run.spec.id) }
    }
  }

  private func isHeld(_ run: RunRecord) -> Bool {
    guard let holder = run.head.holder else { return false }
    return run.head.isHeld(at: now) && !isGone(holder)
  }

  private func isAboutToBegin(_ run: RunRecord) -> Bool {
    run.state == .pending && now < run.head.createdAt + Self.startPeriod
  }

  private func isHalfDone(_ run: RunRecord) -> Bool {
    !run.state.isSettled
      && run.spec.steps.contains { step in
        guard step.compensates, let record = run.steps[step.id] else { return false }
        return record.mayHaveActed && record.state != .compensated
      }
  }
}

extension RunSpec {
  fileprivate var exclusive: Set<StoreName> { Set(exclusiveStores ?? []) }
}

extension AuditDraft {
  package static func reserved(_ lease: StoreLease) -> AuditDraft { lease.audit("stores.reserved") }

  package static func released(_ lease: StoreLease) -> AuditDraft { lease.audit("stores.released") }
}

extension StoreLease {
  fileprivate func audit(_ action: String) -> AuditDraft {
    AuditDraft(
      actor: holder.text, action: action, subject: stores.map(\.text).joined(separator: ","),
      details: ["number": .integer(number)])
  }
}
