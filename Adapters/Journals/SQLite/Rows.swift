import Core
import GRDB
import StateKit

/// Values to rows and back; every call is part of the caller's transaction.
enum Rows {
  // MARK: Runs

  static func insert(_ record: RunRecord, in db: Database) throws {
    let spec = record.spec
    try db.execute(
      sql: "INSERT INTO run (id, kind, title, created, state, spec, head, stores) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
      arguments: [
        spec.id.text, spec.kind.text, spec.title, record.head.createdAt.nanoseconds, record.head.state.rawValue,
        try CanonicalJSON.text(spec), try CanonicalJSON.text(record.head),
        try spec.exclusiveStores.map { try CanonicalJSON.text($0) },
      ])
    for step in spec.steps {
      try db.execute(
        sql: "INSERT INTO step (run, id, kind, service, store, record) VALUES (?, ?, ?, ?, ?, ?)",
        arguments: [
          spec.id.text, step.id.text, step.kind.text, step.service?.text, step.store?.text,
          try CanonicalJSON.text(record.steps[step.id] ?? StepRecord(id: step.id)),
        ])
    }
  }

  static func record(_ run: RunID, in db: Database) throws -> RunRecord? {
    guard let row = try Row.fetchOne(db, sql: "SELECT spec, head FROM run WHERE id = ?", arguments: [run.text]) else {
      return nil
    }
    let spec: RunSpec = try decode(row["spec"])
    let head: RunHead = try decode(row["head"])
    guard spec.id == run, head.id == run, try spec.digest == head.specDigest else {
      throw JournalError.corrupt("the plan of run \(run) is not the one that was recorded")
    }
    let steps = try allSteps(of: run, in: db)
    guard Set(steps.keys) == Set(spec.steps.map(\.id)) else {
      throw JournalError.corrupt("the steps of run \(run) are not those of its plan")
    }
    return RunRecord(spec: spec, head: head, steps: steps)
  }

  static func head(_ run: RunID, in db: Database) throws -> RunHead {
    guard let text = try String.fetchOne(db, sql: "SELECT head FROM run WHERE id = ?", arguments: [run.text]) else {
      throw JournalError.unknownRun(run)
    }
    return try decode(text)
  }

  static func update(_ head: RunHead, in db: Database) throws {
    try db.execute(
      sql: "UPDATE run SET state = ?, head = ? WHERE id = ?",
      arguments: [head.state.rawValue, try CanonicalJSON.text(head), head.id.text])
  }

  static func summaries(_ filter: RunFilter, in db: Database) throws -> [RunSummary] {
    var request = SQLRequest<Row>("SELECT id, kind, title, head FROM run WHERE 1")
    func append(_ sql: SQL) { request = SQLRequest(literal: "\(request) \(sql)") }
    if let kinds = filter.kinds { append("AND kind IN \(kinds.map(\.text).sorted())") }
    if let states = filter.states { append("AND state IN \(states.map(\.rawValue).sorted())") }
    append("ORDER BY created DESC, id DESC LIMIT \(max(0, filter.limit))")
    return try request.fetchAll(db).map { row in
      guard let id = RunID(row["id"] as String), let kind = RunKind(row["kind"] as String) else {
        throw JournalError.corrupt("a run has a name that can't be one")
      }
      return RunSummary(id: id, kind: kind, title: row["title"], head: try decode(row["head"]))
    }
  }

  // MARK: Stores

  /// - Returns: `nil` for a run that has none to itself.
  static func exclusiveStores(of run: RunID, in db: Database) throws -> [StoreName]? {
    let text = try String.fetchOne(db, sql: "SELECT stores FROM run WHERE id = ?", arguments: [run.text])
    return try text.map { try decode($0) }
  }

  /// Forgets leases that have lapsed: from now on nobody can renew one.
  static func use(at now: Timestamp, isGone: @escaping (Holder) -> Bool, in db: Database) throws -> StoreUse {
    let settled = RunState.allCases.filter(\.isSettled).map(\.rawValue)
    let runs = try SQLRequest<String>(
      """
      SELECT id FROM run WHERE stores IS NOT NULL
      AND (state NOT IN \(settled) OR json_extract(head, '$.holder') IS NOT NULL)
      """
    ).fetchAll(db).compactMap { RunID($0) }
    let known: [StoreLease] = try String.fetchAll(db, sql: "SELECT lease FROM store_lease").map { try decode($0) }
    let use = StoreUse(
      leases: known, runs: try runs.compactMap { try record($0, in: db) }, now: now, isGone: isGone)
    for lease in known where !use.leases.contains(lease) { try delete(lease, in: db) }
    return use
  }

  static func insertLease(
    _ stores: Set<StoreName>, _ holder: Holder, _ period: Duration, at now: Timestamp, in db: Database
  ) throws -> StoreLease {
    try db.execute(sql: "INSERT INTO store_lease (lease) VALUES ('')")
    let lease = StoreLease(number: db.lastInsertedRowID, stores: stores, holder: holder, period: period, at: now)
    try update(lease, in: db)
    return lease
  }

  static func hasLease(_ lease: StoreLease, in db: Database) throws -> Bool {
    try Bool.fetchOne(
      db, sql: "SELECT EXISTS (SELECT 1 FROM store_lease WHERE number = ?)", arguments: [lease.number]) ?? false
  }

  static func update(_ lease: StoreLease, in db: Database) throws {
    try db.execute(
      sql: "UPDATE store_lease SET lease = ? WHERE number = ?",
      arguments: [try CanonicalJSON.text(lease), lease.number])
  }

  static func delete(_ lease: StoreLease, in db: Database) throws {
    try db.execute(sql: "DELETE FROM store_lease WHERE number = ?", arguments: [lease.number])
  }

  // MARK: Steps

  static func steps(for change: JournalWrite, of run: RunID, in db: Database) throws -> [StepID: StepRecord] {
    if change.needsEveryStep { return try allSteps(of: run, in: db) }
    guard let id = change.step,
      let text = try String.fetchOne(
        db, sql: "SELECT record FROM step WHERE run = ? AND id = ?", arguments: [run.text, id.text])
    else { return [:] }
    return [id: try decode(text)]
  }

  static func update(_ step: StepRecord, of run: RunID, in db: Database) throws {
    try db.execute(
      sql: "UPDATE step SET record = ? WHERE run = ? AND id = ?",
      arguments: [try CanonicalJSON.text(step), run.text, step.id.text])
  }

  private static func allSteps(of run: RunID, in db: Database) throws -> [StepID: StepRecord] {
    var steps: [StepID: StepRecord] = [:]
    for text in try String.fetchAll(db, sql: "SELECT record FROM step WHERE run = ?", arguments: [run.text]) {
      let step: StepRecord = try decode(text)
      steps[step.id] = step
    }
    return steps
  }

  // MARK: History

  static func insert(_ measurement: Measurement, of step: StepID, in run: RunID, in db: Database) throws {
    try db.execute(
      sql: """
        INSERT INTO history (run, step, kind, service, store, measurement)
        SELECT run, id, kind, service, store, ? FROM step WHERE run = ? AND id = ?
        """, arguments: [try CanonicalJSON.text(measurement), run.text, step.text])
  }

  static func history(_ filter: HistoryFilter, in db: Database) throws -> [HistoryEntry] {
    var request = SQLRequest<Row>("SELECT run, step, kind, service, store, measurement FROM history WHERE 1")
    func append(_ sql: SQL) { request = SQLRequest(literal: "\(request) \(sql)") }
    if let kind = filter.kind { append("AND kind = \(kind.text)") }
    if let service = filter.service { append("AND service = \(service.text)") }
    if let store = filter.store { append("AND store = \(store.text)") }
    append("ORDER BY number DESC LIMIT \(max(0, filter.limit))")
    return try request.fetchAll(db).map { row in
      guard let run = RunID(row["run"] as String), let step = StepID(row["step"] as String),
        let kind = StepKind(row["kind"] as String)
      else { throw JournalError.corrupt("a measurement has a name that can't be one") }
      return HistoryEntry(
        run: run, step: step, kind: kind, service: (row["service"] as String?).flatMap { ServiceName($0) },
        store: (row["store"] as String?).flatMap { StoreName($0) }, measurement: try decode(row["measurement"]))
    }
  }

  // MARK: Audit

  @discardableResult
  static func append(_ draft: AuditDraft, at now: Timestamp, in db: Database) throws -> AuditEntry {
    var last: (sequence: Int64, digest: Digest)?
    if let row = try Row.fetchOne(db, sql: "SELECT sequence, digest FROM audit ORDER BY sequence DESC LIMIT 1") {
      guard let digest = Digest(hex: row["digest"] as String) else {
        throw JournalError.corrupt("the newest audit entry has no digest")
      }
      last = (row["sequence"], digest)
    }
    let entry = try AuditEntry(draft, after: last, at: now)
    try db.execute(
      sql: "INSERT INTO audit (sequence, run, digest, entry) VALUES (?, ?, ?, ?)",
      arguments: [entry.sequence, entry.run?.text, entry.digest.hex, try CanonicalJSON.text(entry)])
    return entry
  }

  static func auditTrail(after sequence: Int64, run: RunID?, limit: Int, in db: Database) throws -> [AuditEntry] {
    let limit = max(0, limit)
    let request: SQLRequest<String> =
      if let run {
        "SELECT entry FROM audit WHERE sequence > \(sequence) AND run = \(run.text) ORDER BY sequence LIMIT \(limit)"
      } else {
        "SELECT entry FROM audit WHERE sequence > \(sequence) ORDER BY sequence LIMIT \(limit)"
      }
    return try request.fetchAll(db).map { try decode($0) }
  }

  private static func decode<T: Decodable>(_ text: String) throws -> T {
    try CanonicalJSON.decode(T.self, from: text.utf8)
  }
}
