import Core
import DriverKit
import GRDBSQLite
import IO

extension SQLiteDriver {
  /// Runs one `SELECT` (or `PRAGMA` that only reads) on a connection that can't write.
  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    let path = path
    let database = try await pool.run { () throws(DriverError) -> Connection in try Connection(path, .readOnly) }
    let result: Result<QueryResult, DriverError>
    do throws(DriverError) {
      result = .success(
        try await database.run(on: pool) { (database) throws(DriverError) in try database.rows(text, limit) })
    } catch {
      result = .failure(error)
    }
    await pool.run { database.close() }
    return try result.get()
  }
}

/// When a statement must have ended; SQLite's progress handler looks at it.
private final class Deadline {
  private let time = SystemTime()
  private let end: Int64
  private(set) var hasPassed = false

  init(_ limit: Duration) {
    let (sum, overflow) = SystemTime().monotonicNanoseconds().addingReportingOverflow(limit.wholeNanoseconds)
    end = overflow ? .max : sum
  }

  func look() -> Bool {
    if time.monotonicNanoseconds() >= end { hasPassed = true }
    return hasPassed
  }
}

extension Connection {
  func rows(_ sql: String, _ limit: QueryLimit) throws(DriverError) -> QueryResult {
    let handle = try handle()
    try execute("PRAGMA query_only=ON")
    // No other file may be opened, and no pragma changed.
    sqlite3_set_authorizer(
      handle,
      { _, action, first, second, _, _ in
        switch action {
        case SQLITE_ATTACH, SQLITE_DETACH: SQLITE_DENY
        case SQLITE_PRAGMA: second == nil || isReadingPragma(first) ? SQLITE_OK : SQLITE_DENY
        default: SQLITE_OK
        }
      }, nil)
    let deadline = Deadline(limit.timeout)
    sqlite3_progress_handler(
      handle, 1000, { Unmanaged<Deadline>.fromOpaque($0!).takeUnretainedValue().look() ? 1 : 0 },
      Unmanaged.passUnretained(deadline).toOpaque())
    defer {
      sqlite3_progress_handler(handle, 0, nil, nil)
      withExtendedLifetime(deadline) {}
    }
    do throws(DriverError) {
      return try read(sql, limit.rows)
    } catch {
      if deadline.hasPassed { throw .queryFailed("it took longer than \(limit.timeout.brief)") }
      if isInterrupted { throw .cancelled }
      switch error {
      case .corrupt, .cancelled: throw error
      case .engineFailed(_, let log): throw .queryFailed(log)
      default: throw .queryFailed(error.report.summary)
      }
    }
  }

  private func read(_ sql: String, _ limit: Int) throws(DriverError) -> QueryResult {
    let statement = try Statement(self, sql)
    guard statement.tail.allSatisfy({ $0.isWhitespace || $0 == ";" }) else {
      throw .queryFailed("only one statement at a time")
    }
    guard statement.isReadOnly, statement.columnCount > 0 else {
      throw .queryFailed("only statements that read are run")
    }
    var result = QueryResult(columns: (0..<statement.columnCount).map { statement.columnName($0) }, rows: [])
    while try statement.step() {
      guard result.rows.count < limit else {
        result.isTruncated = true
        break
      }
      result.rows.append((0..<statement.columnCount).map { statement.text($0) })
    }
    return result
  }
}

/// Pragmas whose argument names what to look at, not a value to set.
private func isReadingPragma(_ name: UnsafePointer<CChar>?) -> Bool {
  guard let name else { return false }
  return [
    "table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list",
    "foreign_key_check", "integrity_check", "quick_check",
  ].contains(String(cString: name).lowercased())
}
