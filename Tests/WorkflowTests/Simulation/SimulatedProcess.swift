import Core
import StateKit
import Synchronization

/// What goes wrong, by number of the boundary at which it does; boundaries are counted over all processes.
///
/// A boundary is the moment before and the moment after each journal call and each effect on the world.
final class FaultPlan: Sendable {
  enum Fault: Sendable {
    /// The process is gone: nothing it still tries has any effect.
    case crash
    /// The process stands still, all of it, and then goes on as if nothing had been.
    case stall(Duration)
  }

  private let faults: [Int: Fault]
  private let count = Mutex(0)

  init(_ faults: [Int: Fault] = [:]) { self.faults = faults }

  var boundariesPassed: Int { count.withLock { $0 } }

  func next() -> Fault? {
    count.withLock { count in
      defer { count += 1 }
      return faults[count]
    }
  }
}

/// One controller process from its start to its end or crash.
final class SimulatedProcess: Sendable {
  struct Crashed: Error {}

  private struct State {
    var isDead = false
    var stalledUntil: Timestamp?
  }

  let name: String
  let world: SimulatedWorld
  let time: SimulatedTime
  private let plan: FaultPlan
  private let state = Mutex(State())

  init(_ name: String, world: SimulatedWorld, time: SimulatedTime, plan: FaultPlan) {
    (self.name, self.world, self.time, self.plan) = (name, world, time, plan)
  }

  var isDead: Bool { state.withLock { $0.isDead } }

  func boundary(_ label: String) async throws {
    if isDead { throw Crashed() }
    world.note("\(time.monotonicNanoseconds()) \(name) \(label)")
    switch plan.next() {
    case .crash:
      state.withLock { $0.isDead = true }
      world.note("\(name) crashes")
    case .stall(let duration):
      let until = time.now() + duration
      state.withLock { $0.stalledUntil = until }
      world.note("\(name) stalls until \(until)")
    case nil: break
    }
    while let until = state.withLock({ $0.stalledUntil }), time.now() < until, !Task.isCancelled {
      try? await time.sleep(for: until - time.now())
    }
    if isDead { throw Crashed() }
  }

  /// An effect: both of its moments are boundaries.
  func effect<T>(_ label: String, _ body: () throws -> T) async throws -> T {
    try await boundary("before \(label)")
    let result = try body()
    try await boundary("after \(label)")
    return result
  }
}

/// The journal as one process sees it.
struct ProcessJournal: RunJournal {
  let inner: any RunJournal
  let process: SimulatedProcess
  /// As a journal would be that takes any fence for the newest.
  var ignoresFences = false

  private func call<T: Sendable>(
    _ label: String, _ body: () async throws(JournalError) -> T
  ) async throws(JournalError) -> T {
    do { try await process.boundary("before \(label)") } catch { throw .unavailable("the process is gone") }
    let result = try await body()
    do { try await process.boundary("after \(label)") } catch { throw .unavailable("the process is gone") }
    return result
  }

  private func current(_ lease: Lease) async throws(JournalError) -> Lease {
    guard ignoresFences else { return lease }
    let head = try await inner.load(lease.run).head
    var forged = lease
    forged.fence = head.fence
    forged.holder = head.holder ?? lease.holder
    return forged
  }

  func create(_ spec: RunSpec) async throws(JournalError) -> RunRecord {
    try await call("create") { () throws(JournalError) in try await inner.create(spec) }
  }

  func load(_ run: RunID) async throws(JournalError) -> RunRecord {
    try await call("load") { () throws(JournalError) in try await inner.load(run) }
  }

  func list(_ filter: RunFilter) async throws(JournalError) -> [RunSummary] { try await inner.list(filter) }

  func claim(_ run: RunID, as holder: Holder, for period: Duration) async throws(JournalError) -> Lease {
    try await call("claim") { () throws(JournalError) in try await inner.claim(run, as: holder, for: period) }
  }

  func renew(_ lease: Lease) async throws(JournalError) -> Lease {
    try await call("renew") { () throws(JournalError) in
      ignoresFences ? lease : try await inner.renew(lease)
    }
  }

  func reserve(
    _ stores: Set<StoreName>, as holder: Holder, for period: Duration
  ) async throws(JournalError) -> StoreLease {
    try await inner.reserve(stores, as: holder, for: period)
  }

  func renew(_ lease: StoreLease) async throws(JournalError) -> StoreLease { try await inner.renew(lease) }

  func release(_ lease: StoreLease) async throws(JournalError) { try await inner.release(lease) }

  func write(_ change: JournalWrite, under lease: Lease) async throws(JournalError) {
    try await call("write \(label(of: change))") { () throws(JournalError) in
      try await inner.write(change, under: try await current(lease))
    }
  }

  func append(_ draft: AuditDraft, under lease: Lease?) async throws(JournalError) -> AuditEntry {
    try await call("append") { () throws(JournalError) in try await inner.append(draft, under: lease) }
  }

  func auditTrail(after sequence: Int64, run: RunID?, limit: Int) async throws(JournalError) -> [AuditEntry] {
    try await inner.auditTrail(after: sequence, run: run, limit: limit)
  }

  func history(_ filter: HistoryFilter) async throws(JournalError) -> [HistoryEntry] { try await inner.history(filter) }

  private func label(of change: JournalWrite) -> String {
    switch change {
    case .intent(let step, let attempt): "intent \(step) \(attempt)"
    case .outcome(let step, .succeeded): "success \(step)"
    case .outcome(let step, .failed): "failure \(step)"
    case .outcome(let step, .skipped): "skip \(step)"
    case .compensation(let step, _): "compensation \(step)"
    case .state(let state, _): "state \(state.rawValue)"
    case .reopen: "reopen"
    case .release: "release"
    }
  }
}
