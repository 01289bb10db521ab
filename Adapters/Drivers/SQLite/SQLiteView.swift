import Core
import DriverKit
import GRDBSQLite
import IO

extension SQLiteDriver {
  func liveView() async throws(DriverError) -> (any StoreView)? { SQLiteView(driver: self) }

  func openBeside(_ request: RestoreRequest) async throws(DriverError) -> (any DisposableCopy)? {
    let swap = swap(request)
    let isThere = try await pool.run { () throws(DriverError) -> Bool in
      let isSwapped = try swap.isSwapped()
      return try swap.isComplete() && !isSwapped
    }
    guard isThere else { throw .unsupported("nothing is restored beside \(path) under this id") }
    return SQLiteView(driver: SQLiteDriver(path: swap.beside, holdPoll: holdPoll, environment: environment))
  }
}

/// A database file, asked over a connection for each question: a file in WAL mode keeps nobody waiting.
struct SQLiteView: DisposableCopy {
  let driver: SQLiteDriver

  var environment: [String: String] { ["SALVOR_COPY": driver.path] }

  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    try await driver.query(text, limit: limit)
  }

  func contentDigest() async throws(DriverError) -> ContentDigest {
    try await with(.readOnly) { (database) throws(DriverError) in try database.rowsDigest() }
  }

  func schema() async throws(DriverError) -> StoreSchema {
    try await with(.readOnly) { (database) throws(DriverError) in try database.schema() }
  }

  func apply(_ script: StoreScript) async throws(DriverError) -> ScriptFailure? {
    try await with(.readWrite) { (database) throws(DriverError) in try database.apply(script) }
  }

  func close() async {}

  private func with<T: Sendable>(
    _ mode: Connection.Mode, _ body: @escaping @Sendable (Connection) throws(DriverError) -> T
  ) async throws(DriverError) -> T {
    let (path, pool) = (driver.path, driver.pool)
    let database = try await pool.run { () throws(DriverError) -> Connection in try Connection(path, mode) }
    let result: Result<T, DriverError>
    do throws(DriverError) { result = .success(try await database.run(on: pool, body)) } catch {
      result = .failure(error)
    }
    await pool.run { database.close() }
    return try result.get()
  }
}

extension Connection {
  /// What SQLite keeps of each table, index, view and trigger; blanks and quotes, which changes leave behind, mean nothing.
  fileprivate func schema() throws(DriverError) -> StoreSchema {
    let statement = try Statement(
      self, "SELECT type || ' ' || name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%'")
    var parts: [String: String] = [:]
    while try statement.step() {
      let words = (statement.text(1) ?? "").replacing("\"", with: "").replacing(",", with: " , ")
        .replacing("(", with: " ( ").replacing(")", with: " ) ").split(whereSeparator: \.isWhitespace)
      parts[statement.text(0) ?? ""] = words.joined(separator: " ")
    }
    return StoreSchema(parts: parts)
  }

  /// SQLite itself says where a statement ends: triggers have semicolons inside.
  fileprivate func apply(_ script: StoreScript) throws(DriverError) -> ScriptFailure? {
    if script.isTransaction { try execute("BEGIN IMMEDIATE") }
    var failure = try refused(script.text)
    if failure == nil, let last = script.last {
      failure = try refused(last)
      failure?.line = nil
    }
    guard script.isTransaction, sqlite3_get_autocommit(try handle()) == 0 else { return failure }
    if let failure {
      try? execute("ROLLBACK")
      return failure
    }
    do throws(DriverError) { try execute("COMMIT") } catch {
      if case .cancelled = error { throw error }
      let message = sqlite3_errmsg(try handle()).map { String(cString: $0) } ?? error.report.summary
      try? execute("ROLLBACK")
      return ScriptFailure(line: nil, message: message)
    }
    return nil
  }

  /// The first statement of a text that fails.
  private func refused(_ text: String) throws(DriverError) -> ScriptFailure? {
    let handle = try handle()
    var bytes = Array(text.utf8CString)
    var offset = 0
    let failed = bytes.withUnsafeMutableBufferPointer { buffer -> (offset: Int, message: String, code: Int32)? in
      guard let start = buffer.baseAddress else { return nil }
      while buffer[offset] != 0 {
        var statement: OpaquePointer?
        var tail: UnsafePointer<CChar>?
        var code = sqlite3_prepare_v2(handle, start + offset, -1, &statement, &tail)
        if code == SQLITE_OK, let statement {
          repeat { code = sqlite3_step(statement) } while code == SQLITE_ROW
          if code == SQLITE_DONE { code = SQLITE_OK }
        }
        let message = code == SQLITE_OK ? "" : sqlite3_errmsg(handle).map { String(cString: $0) } ?? ""
        sqlite3_finalize(statement)
        guard code == SQLITE_OK else { return (offset, message, code) }
        guard let tail, tail > start + offset else { return nil }
        offset = tail - UnsafePointer(start)
      }
      return nil
    }
    guard let failed else { return nil }
    if failed.code & 0xff == SQLITE_INTERRUPT { throw .cancelled }
    return ScriptFailure(line: Self.line(of: Array(text.utf8), from: failed.offset), message: failed.message)
  }

  /// The line of the first word at or after `offset`, comments passed over.
  private static func line(of text: [UInt8], from offset: Int) -> Int {
    var position = offset
    while position < text.count {
      if text[position] <= 32 || text[position] == UInt8(ascii: ";") {
        position += 1
      } else if text[position...].starts(with: "--".utf8) {
        position = text[position...].firstIndex(of: 10) ?? text.count
      } else if text[position...].starts(with: "/*".utf8) {
        position += 2
        while position < text.count, !text[position...].starts(with: "*/".utf8) { position += 1 }
        position += 2
      } else {
        break
      }
    }
    return 1 + text.prefix(min(position, text.count)).count { $0 == 10 }
  }
}
