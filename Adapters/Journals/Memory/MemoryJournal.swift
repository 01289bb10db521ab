import Core
import StateKit
import Synchronization

/// A journal that forgets everything with the process; for simulations, tests and previews.
///
/// Stricter than the real thing: after every write it checks the whole audit chain's newest link and that fences and
/// sequences only grew.
package final class MemoryJournal: RunJournal {
  private struct State {
    var runs: [RunID: RunRecord] = [:]
    var audit: [AuditEntry] = []
    var history: [HistoryEntry] = []
    var leases: [StoreLease] = []
    var lastLease: Int64 = 0
  }

  private let state = Mutex(State())
  private let time: any Timekeeper
  private let isGone: @Sendable (Holder) -> Bool

  /// - Parameter isGone: Whether a holder is known to be dead; its claim then counts as lapsed.
  package init(time: any Timekeeper, isGone: @escaping @Sendable (Holder) -> Bool = { _ in false }) {
    (self.time, self.isGone) = (time, isGone)
  }

  @discardableResult
  package func create(_ spec: RunSpec) async throws(JournalError) -> RunRecord {
    let now = time.now()
    let fresh = try RunRecord(creating: spec, at: now)
    return try transaction { (state) throws(JournalError) in
      if let known = state.runs[spec.id] {
        guard known.head.specDigest == fresh.head.specDigest else {
          throw .specMismatch(spec.id, recorded: known.head.specDigest, given: fresh.head.specDigest)
        }
        return known
      }
      if let stores = spec.exclusiveStores { try use(of: &state, at: now).requireFree(stores, for: spec.id) }
      state.runs[spec.id] = fresh
      try Self.append(.created(spec, digest: fresh.head.specDigest), to: &state, at: now)
      return fresh
    }
  }

  package func load(_ run: RunID) async throws(JournalError) -> RunRecord {
    try transaction { (state) throws(JournalError) in try Self.find(run, in: state) }
  }

  package func list(_ filter: RunFilter) async throws(JournalError) -> [RunSummary] {
    state.withLock { state in
      state.runs.values.filter { filter.matches(kind: $0.spec.kind, state: $0.state) }
        .sorted { ($0.head.createdAt, $0.spec.id) > ($1.head.createdAt, $1.spec.id) }
        .prefix(max(0, filter.limit))
        .map { RunSummary(id: $0.spec.id, kind: $0.spec.kind, title: $0.spec.title, head: $0.head) }
    }
  }

  package func claim(_ run: RunID, as holder: Holder, for period: Duration) async throws(JournalError) -> Lease {
    let now = time.now()
    return try transaction { (state) throws(JournalError) in
      var record = try Self.find(run, in: state)
      if let stores = record.spec.exclusiveStores { try use(of: &state, at: now).requireIdle(stores, for: run) }
      let lease = try record.head.claim(by: holder, for: period, at: now, isGone: isGone)
      state.runs[run] = record
      try Self.append(.claimed(lease), to: &state, at: now)
      return lease
    }
  }

  package func renew(_ lease: Lease) async throws(JournalError) -> Lease {
    let now = time.now()
    return try transaction { (state) throws(JournalError) in
      var record = try Self.find(lease.run, in: state)
      let renewed = try record.head.renew(lease, at: now)
      state.runs[lease.run] = record
      return renewed
    }
  }

  package func reserve(
    _ stores: Set<StoreName>, as holder: Holder, for period: Duration
  ) async throws(JournalError) -> StoreLease {
    let now = time.now()
    return try transaction { (state) throws(JournalError) in
      try use(of: &state, at: now).requireWhole(stores)
      state.lastLease += 1
      let lease = StoreLease(number: state.lastLease, stores: stores, holder: holder, period: period, at: now)
      state.leases.append(lease)
      try Self.append(.reserved(lease), to: &state, at: now)
      return lease
    }
  }

  package func renew(_ lease: StoreLease) async throws(JournalError) -> StoreLease {
    let now = time.now()
    return try transaction { (state) throws(JournalError) in
      guard let index = state.leases.firstIndex(where: { $0.number == lease.number }) else {
        throw .storesLost(lease.stores)
      }
      state.leases[index] = lease.renewed(at: now)
      return state.leases[index]
    }
  }

  package func release(_ lease: StoreLease) async throws(JournalError) {
    let now = time.now()
    try transaction { (state) throws(JournalError) in
      guard let index = state.leases.firstIndex(where: { $0.number == lease.number }) else { return }
      state.leases.remove(at: index)
      try Self.append(.released(lease), to: &state, at: now)
    }
  }

  package func write(_ change: JournalWrite, under lease: Lease) async throws(JournalError) {
    let now = time.now()
    try transaction { (state) throws(JournalError) in
      var record = try Self.find(lease.run, in: state)
      let before = record.head
      var ledger = RunLedger(head: record.head, steps: record.steps)
      guard let draft = try ledger.apply(change, under: lease, at: now) else { return }
      precondition(ledger.head.fence >= before.fence, "a fence went back")
      precondition(ledger.head.sequence == before.sequence + 1, "a change was not counted once")
      (record.head, record.steps) = (ledger.head, ledger.steps)
      state.runs[lease.run] = record
      if case .outcome(let step, .succeeded(_, let measurement)) = change, !measurement.wasFoundDone,
        let spec = record.spec.step(step)
      {
        state.history.append(
          HistoryEntry(
            run: lease.run, step: step, kind: spec.kind, service: spec.service, store: spec.store,
            measurement: measurement))
      }
      try Self.append(draft, to: &state, at: now)
    }
  }

  @discardableResult
  package func append(_ draft: AuditDraft, under lease: Lease?) async throws(JournalError) -> AuditEntry {
    let now = time.now()
    return try transaction { (state) throws(JournalError) in
      if let lease { try Self.find(lease.run, in: state).head.require(lease) }
      return try Self.append(draft, to: &state, at: now)
    }
  }

  package func auditTrail(after sequence: Int64, run: RunID?, limit: Int) async throws(JournalError) -> [AuditEntry] {
    state.withLock { state in
      Array(
        state.audit.lazy.filter { $0.sequence > sequence && (run == nil || $0.run == run) }.prefix(max(0, limit)))
    }
  }

  package func history(_ filter: HistoryFilter) async throws(JournalError) -> [HistoryEntry] {
    state.withLock { Array($0.history.reversed().lazy.filter(filter.matches).prefix(max(0, filter.limit))) }
  }

  // MARK: Inside a transaction

  private func transaction<T>(_ body: (inout State) throws(JournalError) -> T) throws(JournalError) -> T {
    let result = state.withLock { state -> Result<T, JournalError> in
      var copy = state
      do throws(JournalError) {
        let value = try body(&copy)
        state = copy
        return .success(value)
      } catch {
        return .failure(error)
      }
    }
    return try result.get()
  }

  /// Forgets leases that have lapsed: from now on nobody can renew one.
  private func use(of state: inout State, at now: Timestamp) -> StoreUse {
    let use = StoreUse(
      leases: state.leases,
      runs: state.runs.values.filter {
        $0.spec.exclusiveStores != nil && (!$0.state.isSettled || $0.head.holder != nil)
      },
      now: now, isGone: isGone)
    state.leases = use.leases
    return use
  }

  private static func find(_ run: RunID, in state: State) throws(JournalError) -> RunRecord {
    guard let record = state.runs[run] else { throw .unknownRun(run) }
    return record
  }

  @discardableResult
  private static func append(
    _ draft: AuditDraft, to state: inout State, at now: Timestamp
  ) throws(JournalError) -> AuditEntry {
    let last = state.audit.last.map { (sequence: $0.sequence, digest: $0.digest) }
    let entry = try AuditEntry(draft, after: last, at: now)
    try AuditChain.verify([entry], after: last)
    state.audit.append(entry)
    return entry
  }
}
