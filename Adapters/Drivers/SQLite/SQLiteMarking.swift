import Core
import DriverKit
import GRDBSQLite
import IO

/// Takes a database's write lock and names its last frame, again and again, over connections that stay.
actor SQLiteMarking: MarkSession {
  private let driver: SQLiteDriver
  private var writer: Connection?
  private var reader: Connection?
  private var isWAL = false
  private var keeper: HoldKeeper?

  init(_ driver: SQLiteDriver) { self.driver = driver }

  private var pool: BlockingPool { driver.environment.pool }

  func prepare() async throws(DriverError) {
    let path = driver.path
    let (writer, reader, isWAL) = try await pool.run { () throws(DriverError) -> (Connection, Connection, Bool) in
      let writer = try Connection(path, .readWrite)
      let reader = try Connection(path, .readOnly)
      _ = try reader.integer("SELECT count(*) FROM sqlite_schema")
      return (writer, reader, try writer.text("PRAGMA journal_mode") == "wal")
    }
    (self.writer, self.reader, self.isWAL) = (writer, reader, isWAL)
  }

  func hold(limit: Duration) async throws(DriverError) {
    guard let writer else { throw .holdImpossible("the session is not prepared") }
    guard isWAL else { return }
    let keeper = HoldKeeper()
    self.keeper = keeper
    try await keeper.holdWriters(writer, limit: limit, retryEvery: driver.holdPoll)
  }

  func mark() async throws(DriverError) -> LogPosition {
    guard let reader else { throw .holdImpossible("the session is not prepared") }
    return try await reader.run(on: pool) { (reader) throws(DriverError) -> LogPosition in
      let position = try reader.pin()
      // Kept, it would keep the WAL from beginning anew.
      try reader.execute("ROLLBACK")
      return position
    }
  }

  func release() async -> Bool {
    let held = keeper
    keeper = nil
    return await held?.release() ?? false
  }

  func close() async {
    _ = await release()
    let (writer, reader) = (writer, reader)
    (self.writer, self.reader) = (nil, nil)
    await pool.run {
      reader?.close()
      writer?.close()
    }
  }
}

extension SQLiteDriver {
  func marking() -> (any MarkSession)? { SQLiteMarking(self) }
}

extension HoldKeeper {
  /// The write lock of a database in WAL mode: readers go on, writers wait for it as for any other writer.
  func holdWriters(_ writer: Connection, limit: Duration, retryEvery: Duration) async throws(DriverError) {
    try await hold(limit: limit, retryEvery: retryEvery) { () throws(DriverError) -> Bool in
      let handle = try writer.handle()
      sqlite3_busy_timeout(handle, 0)
      let code = sqlite3_exec(handle, "BEGIN IMMEDIATE", nil, nil, nil)
      if Connection.isBusy(code) { return false }
      guard code == SQLITE_OK else { throw Connection.error(code, handle, writer.path) }
      return true
    } letGo: {
      // Nothing was written: this only unlocks. If even that fails, closing does it.
      do throws(DriverError) { try writer.execute("ROLLBACK") } catch { writer.close() }
    }
  }
}
