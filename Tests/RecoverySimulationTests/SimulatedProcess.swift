import Core
import StateKit
import Synchronization

/// At which boundaries the process that passes them is killed; counted over all processes.
///
/// A boundary is the moment before and the moment after each call to the journal, a driver or a service.
final class CrashPlan: Sendable {
  private let crashes: Set<Int>
  private let count = Mutex(0)

  init(_ crashes: Set<Int>) { self.crashes = crashes }

  var boundariesPassed: Int { count.withLock { $0 } }

  func isHit() -> Bool {
    count.withLock { count in
      defer { count += 1 }
      return crashes.contains(count)
    }
  }
}

/// One process of Salvor from its start to its end or death: nothing a dead one still tries has any effect.
final class SimulatedProcess: Sendable {
  struct Killed: Error {}

  let world: World
  private let plan: CrashPlan
  private let dead = Mutex(false)

  init(world: World, plan: CrashPlan) { (self.world, self.plan) = (world, plan) }

  func boundary() throws {
    try dead.withLock { dead in
      if dead { throw Killed() }
      if plan.isHit() {
        dead = true
        throw Killed()
      }
    }
  }

  func effect<T>(_ body: () async throws -> T) async throws -> T {
    try boundary()
    let result = try await body()
    try boundary()
    return result
  }
}

/// The journal as one process sees it.
struct ProcessJournal: RunJournal {
  let inner: any RunJournal
  let process: SimulatedProcess

  private func call<T: Sendable>(_ body: () async throws(JournalError) -> T) async throws(JournalError) -> T {
    do { try process.boundary() } catch { throw .unavailable("the process is gone") }
    let result = try await body()
    do { try process.boundary() } catch { throw .unavailable("the process is gone") }
    return result
  }

  func create(_ spec: RunSpec) async throws(JournalError) -> RunRecord {
    try await call { () throws(JournalError) in try await inner.create(spec) }
  }

  func load(_ run: RunID) async throws(JournalError) -> RunRecord {
    try await call { () throws(JournalError) in try await inner.load(run) }
  }

  func list(_ filter: RunFilter) async throws(JournalError) -> [RunSummary] { try await inner.list(filter) }

  func claim(_ run: RunID, as holder: Holder, for period: Duration) async throws(JournalError) -> Lease {
    try await call { () throws(JournalError) in try await inner.claim(run, as: holder, for: period) }
  }

  func renew(_ lease: Lease) async throws(JournalError) -> Lease {
    try await call { () throws(JournalError) in try await inner.renew(lease) }
  }

  func reserve(
    _ stores: Set<StoreName>, as holder: Holder, for period: Duration
  ) async throws(JournalError) -> StoreLease {
    try await inner.reserve(stores, as: holder, for: period)
  }

  func renew(_ lease: StoreLease) async throws(JournalError) -> StoreLease { try await inner.renew(lease) }

  func release(_ lease: StoreLease) async throws(JournalError) { try await inner.release(lease) }

  func write(_ change: JournalWrite, under lease: Lease) async throws(JournalError) {
    try await call { () throws(JournalError) in try await inner.write(change, under: lease) }
  }

  func append(_ draft: AuditDraft, under lease: Lease?) async throws(JournalError) -> AuditEntry {
    try await call { () throws(JournalError) in try await inner.append(draft, under: lease) }
  }

  func auditTrail(after sequence: Int64, run: RunID?, limit: Int) async throws(JournalError) -> [AuditEntry] {
    try await inner.auditTrail(after: sequence, run: run, limit: limit)
  }

  func history(_ filter: HistoryFilter) async throws(JournalError) -> [HistoryEntry] { try await inner.history(filter) }
}
