import Core

/// What runs, what ran, and who may act: the engine's only memory.
///
/// Each call is one transaction, on stable storage when it returns. Nothing assumes one process: any number of
/// controllers may share a journal, and every write about a run carries the writer's ``Lease``; one whose fence is
/// not the newest is refused with ``JournalError/fenced(_:presented:current:)`` and changes nothing. Each write also
/// puts an entry on the audit chain, in the same transaction.
///
/// After ``JournalError/unavailable(_:)`` a write may or may not have got through; repeating it is safe.
package protocol RunJournal: Sendable {
  /// Writes a run down. A run of that id and digest that is already there is returned as it stands.
  ///
  /// One that is new, and has ``RunSpec/exclusiveStores``, is refused while others use one of them; see
  /// ``StoreUse/requireFree(_:for:)``.
  ///
  /// - Throws: ``JournalError/specMismatch(_:recorded:given:)``, ``JournalError/badSpec(_:why:)``,
  ///   ``JournalError/storesTaken(_:by:)``, ``JournalError/storesRead(_:by:until:)``.
  @discardableResult
  func create(_ spec: RunSpec) async throws(JournalError) -> RunRecord

  func load(_ run: RunID) async throws(JournalError) -> RunRecord

  /// Newest first, by creation and then id.
  func list(_ filter: RunFilter) async throws(JournalError) -> [RunSummary]

  /// Takes a run over, with a fence higher than any before. Of two who claim at once, one gets it. A run's stores must be
  /// free of others at work; see ``StoreUse/requireIdle(_:for:)``.
  ///
  /// - Throws: ``JournalError/leaseHeld(_:by:until:)`` while somebody else's claim lasts.
  func claim(_ run: RunID, as holder: Holder, for period: Duration) async throws(JournalError) -> Lease

  /// - Throws: ``JournalError/fenced(_:presented:current:)`` once somebody else has claimed the run.
  func renew(_ lease: Lease) async throws(JournalError) -> Lease

  /// Keeps runs that replace one of `stores` out for as long as the lease lasts, if none is at work or half done.
  ///
  /// - Throws: ``JournalError/storesTaken(_:by:)``; see ``StoreUse/requireWhole(_:)``.
  func reserve(_ stores: Set<StoreName>, as holder: Holder, for period: Duration) async throws(JournalError)
    -> StoreLease

  /// - Throws: ``JournalError/storesLost(_:)`` if it lapsed and somebody has taken note of that.
  func renew(_ lease: StoreLease) async throws(JournalError) -> StoreLease

  /// Fine if it has lapsed.
  func release(_ lease: StoreLease) async throws(JournalError)

  /// Changes a run. What may follow what is decided by ``RunLedger/apply(_:under:at:)``, the same in every journal:
  /// intents count their attempts from 1 without a hole, across crashes too; success needs no intent if the probe found
  /// the step done; a skip needs that there never was one; compensation needs a run that is ``RunState/rollingBack``.
  ///
  /// Repeating a write whose answer was lost is safe: an outcome, a state or a compensation that is there already
  /// changes nothing.
  func write(_ change: JournalWrite, under lease: Lease) async throws(JournalError)

  /// Puts something on record that isn't about a run's progress, or, with a lease, is.
  @discardableResult
  func append(_ draft: AuditDraft, under lease: Lease?) async throws(JournalError) -> AuditEntry

  /// Ascending by sequence, from the one after `sequence`.
  func auditTrail(after sequence: Int64, run: RunID?, limit: Int) async throws(JournalError) -> [AuditEntry]

  /// What was measured when steps succeeded, newest first; steps that were found done are not in it.
  func history(_ filter: HistoryFilter) async throws(JournalError) -> [HistoryEntry]
}

package struct RunFilter: Sendable, Equatable {
  /// `nil` is any.
  package var kinds: Set<RunKind>?
  package var states: Set<RunState>?
  package var limit: Int

  package init(kinds: Set<RunKind>? = nil, states: Set<RunState>? = nil, limit: Int = 100) {
    (self.kinds, self.states, self.limit) = (kinds, states, limit)
  }

  package func matches(kind: RunKind, state: RunState) -> Bool {
    (kinds?.contains(kind) ?? true) && (states?.contains(state) ?? true)
  }
}

/// A run in one line.
package struct RunSummary: Sendable, Equatable, Codable, Identifiable {
  package var id: RunID
  package var kind: RunKind
  package var title: String
  package var head: RunHead

  package init(id: RunID, kind: RunKind, title: String, head: RunHead) {
    (self.id, self.kind, self.title, self.head) = (id, kind, title, head)
  }
}

package struct HistoryFilter: Sendable, Equatable {
  /// `nil` is any.
  package var kind: StepKind?
  package var service: ServiceName?
  package var store: StoreName?
  package var limit: Int

  package init(kind: StepKind? = nil, service: ServiceName? = nil, store: StoreName? = nil, limit: Int = 50) {
    (self.kind, self.service, self.store, self.limit) = (kind, service, store, limit)
  }

  package func matches(_ entry: HistoryEntry) -> Bool {
    (kind == nil || kind == entry.kind) && (service == nil || service == entry.service)
      && (store == nil || store == entry.store)
  }
}
