import Core
import DriverKit

/// Holds a cluster and names its position, again and again, over connections that stay.
actor PostgreSQLMarking: MarkSession {
  private let driver: PostgreSQLDriver
  private var control: Connection?
  private var cluster: ClusterFacts?
  private var tables: TableHold?
  private var isHeld = false
  /// Databases that were made while writers waited.
  private var uncovered: [String] = []

  init(_ driver: PostgreSQLDriver) { self.driver = driver }

  func prepare() async throws(DriverError) {
    let control = try await driver.connect()
    self.control = control
    let cluster = try await ClusterFacts.read(control)
    try cluster.requireCapturable()
    self.cluster = cluster
    tables = try await driver.tableHold(control, cluster)
  }

  func hold(limit: Duration) async throws(DriverError) {
    guard var tables else { throw .holdImpossible("the session is not prepared") }
    let result: Result<Void, DriverError>
    do throws(DriverError) { result = .success(try await tables.take(limit: limit)) } catch { result = .failure(error) }
    // With the connections that were opened meanwhile, to be closed whatever happened.
    self.tables = tables
    try result.get()
    isHeld = true
  }

  func mark() async throws(DriverError) -> LogPosition {
    guard let control, let tables, let cluster else { throw .holdImpossible("the session is not prepared") }
    do throws(StatementFailure) {
      let standing = try await Standing.read(control)
      uncovered = isHeld ? tables.uncovered(of: standing.databases) : []
      return standing.logPosition(cluster)
    } catch { throw error.driverError("naming the position") }
  }

  func release() async -> Bool {
    guard let tables, let control else { return false }
    let wasHeld = await tables.release() && isHeld
    isHeld = false
    // A server that is silent now would keep the mark's own bytes to itself. If it can't be asked, the next mark does it.
    _ = try? await Standing.flush(control)
    return wasHeld && uncovered.isEmpty
  }

  func close() async {
    for member in tables?.members ?? [] {
      await member.locks.close()
      await member.reader.close()
    }
    tables = nil
    await control?.close()
    control = nil
  }
}

/// Where a cluster stands.
struct Standing: Sendable {
  var position: LogSequenceNumber
  var timeline: UInt32
  /// Those a hold must cover.
  var databases: [String] = []

  static func read(_ control: Connection) async throws(StatementFailure) -> Standing {
    let row =
      try await control.run(
        """
        SELECT lsn, pg_walfile_name(lsn), (SELECT json_agg(datname)::text FROM (\(TableHold.databases)) AS held)
        FROM (SELECT pg_current_wal_insert_lsn() AS lsn) AS now
        """
      ).rows.first ?? []
    guard row.count == 3, let lsn = row[0].flatMap({ LogSequenceNumber($0) }),
      let timeline = row[1].flatMap({ UInt32($0.prefix(8), radix: 16) }),
      let databases = row[2].flatMap({ try? CanonicalJSON.decode([String].self, from: Array($0.utf8)) })
    else { throw StatementFailure(code: "XX000", message: "the server did not name its position") }
    return Standing(position: lsn, timeline: timeline, databases: databases)
  }

  func logPosition(_ cluster: ClusterFacts) -> LogPosition {
    LogPosition(
      kind: "lsn", value: position.description,
      details: ["timeline": String(timeline), "systemIdentifier": cluster.systemIdentifier])
  }

  /// A commit of our own makes the server flush all that came before it. Not further than the local disk: a standby that
  /// hangs must not hang us.
  static func flush(_ control: Connection) async throws(StatementFailure) {
    _ = try await control.run(
      "BEGIN READ WRITE; SET LOCAL synchronous_commit = local; SELECT pg_logical_emit_message(true, 'salvor', 'mark'); COMMIT"
    )
  }
}

extension PostgreSQLDriver {
  func marking() -> (any MarkSession)? { PostgreSQLMarking(self) }

  /// Connected to every database there is now; nothing is locked yet.
  func tableHold(_ control: Connection, _ cluster: ClusterFacts) async throws(DriverError) -> TableHold {
    let timeout = cluster.settings["deadlock_timeout"].flatMap { Int64($0) } ?? 1000
    let driver = self
    var hold = TableHold(
      control: control, time: environment.time, deadlockTimeout: .milliseconds(timeout)
    ) { database throws(DriverError) in try await driver.enter(database) }
    try await hold.enterDatabases()
    return hold
  }
}

extension TableHold {
  /// Databases that the hold does not cover, since they were made after it had been taken.
  func uncovered(of databases: [String]) -> [String] {
    Set(databases).subtracting(members.map(\.database)).sorted()
  }
}
