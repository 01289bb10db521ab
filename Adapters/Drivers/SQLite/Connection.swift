import Core
import DriverKit
import GRDBSQLite
import IO
import Synchronization

/// One connection to one database. Every call blocks.
///
/// Serialised by SQLite itself (`SQLITE_OPEN_FULLMUTEX`), so it may move between threads; ``interrupt()`` may
/// come from any at any time before ``close()`` returns.
final class Connection: Sendable {
  enum Mode {
    case readOnly
    case readWrite
    /// For a file nobody writes to: no locks, no `-wal`, no `-shm`.
    case immutable
  }

  private struct State {
    var handle: OpaquePointer?
    var isInterrupted = false
  }

  // Guards the pointer against a close while an interrupt is on its way; SQLite guards the rest.
  private let state: Mutex<UnsafeSendable<State>>
  let path: String

  private struct UnsafeSendable<T>: @unchecked Sendable { var value: T }

  static var version: String { String(cString: sqlite3_libversion()) }

  init(_ path: String, _ mode: Mode) throws(DriverError) {
    self.path = path
    var flags = SQLITE_OPEN_FULLMUTEX
    var name = path
    switch mode {
    case .readOnly: flags |= SQLITE_OPEN_READONLY
    case .readWrite: flags |= SQLITE_OPEN_READWRITE
    case .immutable:
      flags |= SQLITE_OPEN_READONLY | SQLITE_OPEN_URI
      name = "file:\(Self.percentEncoded(path))?immutable=1"
    }
    var handle: OpaquePointer?
    let code = sqlite3_open_v2(name, &handle, flags, nil)
    state = Mutex(UnsafeSendable(value: State(handle: handle)))
    guard code == SQLITE_OK, let handle else {
      let error = Self.error(code, handle, path)
      sqlite3_close_v2(handle)
      state.withLock { $0.value.handle = nil }
      throw error
    }
    sqlite3_extended_result_codes(handle, 1)
    sqlite3_busy_timeout(handle, 2000)
  }

  deinit { close() }

  /// Rolls back what is open and closes. Safe to call twice.
  func close() {
    let handle = state.withLock { state in
      defer { state.value.handle = nil }
      return UnsafeSendable(value: state.value.handle)
    }
    if let handle = handle.value { sqlite3_close_v2(handle) }
  }

  /// Ends what runs now and all that would run later on this connection with ``DriverKit/DriverError/cancelled``.
  func interrupt() {
    state.withLock { state in
      state.value.isInterrupted = true
      if let handle = state.value.handle { sqlite3_interrupt(handle) }
    }
  }

  var isInterrupted: Bool { state.withLock { $0.value.isInterrupted } }

  func handle() throws(DriverError) -> OpaquePointer {
    let (handle, isInterrupted) = state.withLock { (UnsafeSendable(value: $0.value.handle), $0.value.isInterrupted) }
    if isInterrupted { throw .cancelled }
    guard let handle = handle.value else { throw .unreachable("\(path): the connection is closed") }
    return handle
  }

  /// Runs `body` on the pool; a cancellation of the task interrupts it within moments.
  func run<T: Sendable>(
    on pool: BlockingPool, _ body: @escaping @Sendable (Connection) throws(DriverError) -> T
  ) async throws(DriverError) -> T {
    let result = await withTaskCancellationHandler {
      await pool.run { () -> Result<T, DriverError> in
        do throws(DriverError) { return .success(try body(self)) } catch { return .failure(error) }
      }
    } onCancel: {
      interrupt()
    }
    return try result.get()
  }

  // MARK: Statements

  func execute(_ sql: String) throws(DriverError) {
    let handle = try handle()
    let code = sqlite3_exec(handle, sql, nil, nil, nil)
    guard code == SQLITE_OK else { throw Self.error(code, handle, path) }
  }

  /// The first column of the first row as text; `nil` without a row or for NULL.
  func text(_ sql: String) throws(DriverError) -> String? {
    let statement = try Statement(self, sql)
    return try statement.step() ? statement.text(0) : nil
  }

  func integer(_ sql: String) throws(DriverError) -> Int64? {
    let statement = try Statement(self, sql)
    return try statement.step() ? statement.integer(0) : nil
  }

  func sizeBytes() throws(DriverError) -> Int64 {
    let pages = try integer("PRAGMA page_count") ?? 0
    let (bytes, overflow) = pages.multipliedReportingOverflow(by: try integer("PRAGMA page_size") ?? 0)
    return overflow ? .max : bytes
  }

  // MARK: Errors

  static func isBusy(_ code: Int32) -> Bool { code & 0xff == SQLITE_BUSY || code & 0xff == SQLITE_LOCKED }

  static func error(_ code: Int32, _ handle: OpaquePointer?, _ path: String) -> DriverError {
    let message =
      handle.flatMap { sqlite3_errmsg($0) }.map { String(cString: $0) } ?? String(cString: sqlite3_errstr(code))
    switch code & 0xff {
    case SQLITE_INTERRUPT: return .cancelled
    case SQLITE_CANTOPEN: return .unreachable("\(path): \(message)")
    case SQLITE_PERM, SQLITE_READONLY, SQLITE_AUTH:
      return .permissionDenied("\(path): \(message)", needs: "read and write access to the file and its directory")
    case SQLITE_CORRUPT, SQLITE_NOTADB: return .corrupt("\(path): \(message)")
    case SQLITE_FULL: return .system(.init(SystemFailure("write", path: path, number: ENOSPC).report))
    case SQLITE_BUSY, SQLITE_LOCKED: return .engineFailed("\(path) is locked by somebody else", log: message)
    default: return .engineFailed("SQLite error \(code) on \(path)", log: message)
    }
  }

  private static func percentEncoded(_ path: String) -> String {
    path.utf8.reduce(into: "") { text, byte in
      let isPlain =
        (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
        || [45, 46, 47, 95].contains(byte)
      text += isPlain ? String(UnicodeScalar(byte)) : "%" + Hex.encode([byte])
    }
  }
}

/// One prepared statement; ends with its owner.
final class Statement {
  private let connection: Connection
  private let handle: OpaquePointer
  /// What follows the statement in the text it was made from.
  let tail: String

  init(_ connection: Connection, _ sql: String) throws(DriverError) {
    self.connection = connection
    let database = try connection.handle()
    var statement: OpaquePointer?
    var rest = ""
    let code = sql.withCString { text in
      var tail: UnsafePointer<CChar>?
      let code = sqlite3_prepare_v2(database, text, -1, &statement, &tail)
      if let tail { rest = String(cString: tail) }
      return code
    }
    guard code == SQLITE_OK else { throw Connection.error(code, database, connection.path) }
    guard let statement else { throw .queryFailed("there is no statement in '\(sql)'") }
    (handle, tail) = (statement, rest)
  }

  deinit { sqlite3_finalize(handle) }

  /// - Returns: Whether there is a row.
  func step() throws(DriverError) -> Bool {
    let database = try connection.handle()
    switch sqlite3_step(handle) {
    case SQLITE_ROW: return true
    case SQLITE_DONE: return false
    case let code: throw Connection.error(code, database, connection.path)
    }
  }

  var isReadOnly: Bool { sqlite3_stmt_readonly(handle) != 0 }

  var columnCount: Int32 { sqlite3_column_count(handle) }

  func columnName(_ index: Int32) -> String { sqlite3_column_name(handle, index).map { String(cString: $0) } ?? "" }

  func integer(_ index: Int32) -> Int64 { sqlite3_column_int64(handle, index) }

  func type(_ index: Int32) -> Int32 { sqlite3_column_type(handle, index) }

  func real(_ index: Int32) -> Double { sqlite3_column_double(handle, index) }

  /// As SQLite prints it; a blob as hexadecimal; `nil` for NULL.
  func text(_ index: Int32) -> String? {
    switch type(index) {
    case SQLITE_NULL: return nil
    case SQLITE_BLOB: return withBlob(index) { Hex.encode($0) }
    default:
      guard let bytes = sqlite3_column_text(handle, index) else { return nil }
      let count = Int(sqlite3_column_bytes(handle, index))
      return String(decoding: UnsafeBufferPointer(start: bytes, count: count), as: UTF8.self)
    }
  }

  /// A text's or a blob's bytes; text in UTF-8 whatever the database's encoding.
  func withBlob<T>(_ index: Int32, _ body: (UnsafeRawBufferPointer) -> T) -> T {
    let start: UnsafeRawPointer? =
      type(index) == SQLITE_BLOB
      ? sqlite3_column_blob(handle, index) : UnsafeRawPointer(sqlite3_column_text(handle, index))
    return body(
      UnsafeRawBufferPointer(start: start, count: start == nil ? 0 : Int(sqlite3_column_bytes(handle, index))))
  }
}

#if canImport(Glibc)
  import Glibc
#endif
