import Core
import GRDB
import IO
import StateKit

/// The journal in one SQLite file, shared by any number of processes of one machine.
///
/// Write-ahead log, `synchronous=FULL`: a write that returned survives power loss. Every transaction is immediate, so two
/// processes never decide on the same state. Calls block, and run on the pool; cancelling a task does not interrupt one,
/// for a record of what was done matters most to who is being stopped.
package final class SQLiteJournal: RunJournal {
  let database: DatabaseQueue
  let path: String
  private let time: any Timekeeper
  private let pool: BlockingPool
  private let isGone: @Sendable (Holder) -> Bool

  private init(
    database: DatabaseQueue, path: String, time: any Timekeeper, pool: BlockingPool,
    isGone: @escaping @Sendable (Holder) -> Bool
  ) {
    (self.database, self.path, self.time, self.pool, self.isGone) = (database, path, time, pool, isGone)
  }

  /// Opens the journal at `path`, or makes one, readable by its owner alone.
  ///
  /// - Parameters:
  ///   - busyTimeout: How long to wait for another process that is writing.
  ///   - limitBytes: The file doesn't grow beyond it; ``JournalError/full(_:)`` then.
  ///   - isGone: Whether a holder is known to be dead; its claim then counts as lapsed. By default: a process of this
  ///     machine that no longer runs.
  package static func open(
    _ path: String, time: any Timekeeper, pool: BlockingPool = .shared, busyTimeout: Duration = .seconds(10),
    limitBytes: Int64 = 1 << 40,
    isGone: @escaping @Sendable (Holder) -> Bool = { ProcessIdentity($0.text)?.isGone ?? false }
  ) async throws(JournalError) -> SQLiteJournal {
    try await pool.run { () throws(JournalError) in
      let database = try JournalSchema.open(path, busyTimeout: busyTimeout, limitBytes: limitBytes)
      return SQLiteJournal(database: database, path: path, time: time, pool: pool, isGone: isGone)
    }
  }

  /// Lets go of the file; the journal can't be used afterwards.
  package func close() async throws(JournalError) {
    let (database, path) = (database, path)
    try await pool.run { () throws(JournalError) in
      do { try database.close() } catch { throw JournalError(sqlite: error, path: path) }
    }
  }

  // MARK: Runs

  @discardableResult
  package func create(_ spec: RunSpec) async throws(JournalError) -> RunRecord {
    let (now, isGone) = (time.now(), isGone)
    let fresh = try RunRecord(creating: spec, at: now)
    return try await transaction { db in
      if let known = try Rows.record(spec.id, in: db) {
        guard known.head.specDigest == fresh.head.specDigest else {
          throw JournalError.specMismatch(spec.id, recorded: known.head.specDigest, given: fresh.head.specDigest)
        }
        return known
      }
      if let stores = spec.exclusiveStores {
        try Rows.use(at: now, isGone: isGone, in: db).requireFree(stores, for: spec.id)
      }
      try Rows.insert(fresh, in: db)
      try Rows.append(.created(spec, digest: fresh.head.specDigest), at: now, in: db)
      return fresh
    }
  }

  package func load(_ run: RunID) async throws(JournalError) -> RunRecord {
    try await reading { db in
      guard let record = try Rows.record(run, in: db) else { throw JournalError.unknownRun(run) }
      return record
    }
  }

  package func list(_ filter: RunFilter) async throws(JournalError) -> [RunSummary] {
    try await reading { db in try Rows.summaries(filter, in: db) }
  }

  // MARK: Leases

  package func claim(_ run: RunID, as holder: Holder, for period: Duration) async throws(JournalError) -> Lease {
    let (now, isGone) = (time.now(), isGone)
    return try await transaction { db in
      var head = try Rows.head(run, in: db)
      if let stores = try Rows.exclusiveStores(of: run, in: db) {
        try Rows.use(at: now, isGone: isGone, in: db).requireIdle(stores, for: run)
      }
      let lease = try head.claim(by: holder, for: period, at: now, isGone: isGone)
      try Rows.update(head, in: db)
      try Rows.append(.claimed(lease), at: now, in: db)
      return lease
    }
  }

  package func renew(_ lease: Lease) async throws(JournalError) -> Lease {
    let now = time.now()
    return try await transaction { db in
      var head = try Rows.head(lease.run, in: db)
      let renewed = try head.renew(lease, at: now)
      try Rows.update(head, in: db)
      return renewed
    }
  }

  package func reserve(
    _ stores: Set<StoreName>, as holder: Holder, for period: Duration
  ) async throws(JournalError) -> StoreLease {
    let (now, isGone) = (time.now(), isGone)
    return try await transaction { db in
      try Rows.use(at: now, isGone: isGone, in: db).requireWhole(stores)
      let lease = try Rows.insertLease(stores, holder, period, at: now, in: db)
      try Rows.append(.reserved(lease), at: now, in: db)
      return lease
    }
  }

  package func renew(_ lease: StoreLease) async throws(JournalError) -> StoreLease {
    let now = time.now()
    return try await transaction { db in
      guard try Rows.hasLease(lease, in: db) else { throw JournalError.storesLost(lease.stores) }
      let renewed = lease.renewed(at: now)
      try Rows.update(renewed, in: db)
      return renewed
    }
  }

  package func release(_ lease: StoreLease) async throws(JournalError) {
    let now = time.now()
    try await transaction { db in
      guard try Rows.hasLease(lease, in: db) else { return }
      try Rows.delete(lease, in: db)
      try Rows.append(.released(lease), at: now, in: db)
    }
  }

  // MARK: Writes

  package func write(_ change: JournalWrite, under lease: Lease) async throws(JournalError) {
    let now = time.now()
    try await transaction { db in
      var ledger = RunLedger(
        head: try Rows.head(lease.run, in: db), steps: try Rows.steps(for: change, of: lease.run, in: db))
      let before = ledger.steps
      guard let draft = try ledger.apply(change, under: lease, at: now) else { return }
      try Rows.update(ledger.head, in: db)
      for (id, step) in ledger.steps where step != before[id] { try Rows.update(step, of: lease.run, in: db) }
      if case .outcome(let step, .succeeded(_, let measurement)) = change, !measurement.wasFoundDone {
        try Rows.insert(measurement, of: step, in: lease.run, in: db)
      }
      try Rows.append(draft, at: now, in: db)
    }
  }

  @discardableResult
  package func append(_ draft: AuditDraft, under lease: Lease?) async throws(JournalError) -> AuditEntry {
    let now = time.now()
    return try await transaction { db in
      if let lease { try Rows.head(lease.run, in: db).require(lease) }
      return try Rows.append(draft, at: now, in: db)
    }
  }

  package func auditTrail(after sequence: Int64, run: RunID?, limit: Int) async throws(JournalError) -> [AuditEntry] {
    try await reading { db in try Rows.auditTrail(after: sequence, run: run, limit: limit, in: db) }
  }

  package func history(_ filter: HistoryFilter) async throws(JournalError) -> [HistoryEntry] {
    try await reading { db in try Rows.history(filter, in: db) }
  }

  // MARK: Transactions

  private func transaction<T: Sendable>(_ body: @escaping @Sendable (Database) throws -> T) async throws(JournalError)
    -> T
  {
    let (database, path) = (database, path)
    return try await pool.run { () throws(JournalError) in
      do {
        var result: T?
        try database.writeWithoutTransaction { db in
          try db.inTransaction(.immediate) {
            result = try body(db)
            return .commit
          }
        }
        guard let result else { throw JournalError.unavailable("\(path): a transaction ended without a result") }
        return result
      } catch {
        throw JournalError(sqlite: error, path: path)
      }
    }
  }

  private func reading<T: Sendable>(_ body: @escaping @Sendable (Database) throws -> T) async throws(JournalError) -> T
  {
    let (database, path) = (database, path)
    return try await pool.run { () throws(JournalError) in
      do { return try database.read(body) } catch { throw JournalError(sqlite: error, path: path) }
    }
  }
}
