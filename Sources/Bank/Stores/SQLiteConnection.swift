import Core
import GRDBSQLite
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// One connection to a SQLite file in WAL mode, durable at every commit.
///
/// A file that was replaced or removed under the connection counts as away: writing on into an unlinked file would
/// acknowledge what nobody can ever read.
final class SQLiteConnection: SQLConnection {
  static let beginStatement = "BEGIN IMMEDIATE"
  /// Longer than any hold: a hold delays, and never fails, a write.
  private static let busyTimeoutMilliseconds: Int32 = 15_000

  private let handle: OpaquePointer
  private let path: String
  private let identity: Identity?
  private var prepared: [String: OpaquePointer] = [:]

  private struct Identity: Equatable {
    var device: dev_t
    var inode: ino_t

    init?(_ path: String) {
      var result = stat()
      guard stat(path, &result) == 0 else { return nil }
      (device, inode) = (result.st_dev, result.st_ino)
    }
  }

  init(_ path: String, creating: Bool = false) throws(BankError) {
    if creating {
      do { try Files.createDirectory(Files.parent(of: path)) } catch { throw .storeAway(error.report.summary) }
    }
    var opened: OpaquePointer?
    let flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | (creating ? SQLITE_OPEN_CREATE : 0)
    let code = sqlite3_open_v2(path, &opened, flags, nil)
    guard code == SQLITE_OK, let opened else {
      let message = opened.map { String(cString: sqlite3_errmsg($0)) } ?? "out of memory"
      sqlite3_close_v2(opened)
      throw .storeAway("\(path): \(message)")
    }
    handle = opened
    self.path = path
    identity = Identity(path)
    sqlite3_busy_timeout(handle, Self.busyTimeoutMilliseconds)
    _ = try run("PRAGMA journal_mode = WAL", [])
    _ = try run("PRAGMA synchronous = FULL", [])
  }

  deinit {
    for statement in prepared.values { sqlite3_finalize(statement) }
    sqlite3_close_v2(handle)
  }

  var isCurrent: Bool { identity != nil && Identity(path) == identity }

  func run(_ text: String, _ parameters: [SQLValue]) throws(BankError) -> [[String?]] {
    let statement = try prepare(text)
    defer { sqlite3_reset(statement) }
    for (offset, parameter) in parameters.enumerated() {
      let index = Int32(offset + 1)
      let code =
        switch parameter {
        case .integer(let value): sqlite3_bind_int64(statement, index, value)
        // SQLITE_TRANSIENT: SQLite keeps its own copy.
        case .text(let value):
          sqlite3_bind_text(statement, index, value, -1, unsafeBitCast(-1, to: sqlite3_destructor_type.self))
        }
      guard code == SQLITE_OK else { throw failure(code) }
    }
    var rows: [[String?]] = []
    while true {
      let code = sqlite3_step(statement)
      if code == SQLITE_DONE { return rows }
      guard code == SQLITE_ROW else { throw failure(code) }
      rows.append(
        (0..<sqlite3_column_count(statement)).map { column in
          sqlite3_column_text(statement, column).map { String(cString: $0) }
        })
    }
  }

  private func prepare(_ text: String) throws(BankError) -> OpaquePointer {
    if let known = prepared[text] { return known }
    var statement: OpaquePointer?
    let code = sqlite3_prepare_v3(handle, text, -1, UInt32(SQLITE_PREPARE_PERSISTENT), &statement, nil)
    guard code == SQLITE_OK, let statement else { throw failure(code) }
    prepared[text] = statement
    return statement
  }

  private func failure(_ code: Int32) -> BankError {
    let message = "\(path): \(String(cString: sqlite3_errmsg(handle)))"
    return switch code & 0xff {
    case SQLITE_BUSY, SQLITE_LOCKED, SQLITE_IOERR, SQLITE_CORRUPT, SQLITE_NOTADB, SQLITE_CANTOPEN, SQLITE_READONLY,
      SQLITE_FULL, SQLITE_PROTOCOL:
      .storeAway(message)
    default: .storeRefused(message)
    }
  }
}
