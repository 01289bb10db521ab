import Core
import DriverContract
import DriverKit
import DriverSQLite
import GRDBSQLite
import IO
import TestSupport

/// A WAL database with one table; every read and write is a connection of its own, as of another process.
struct SQLiteFixture: DriverFixture {
  let directory: TemporaryDirectory
  var path: String { directory.file("ledger.db") }
  var livePaths: [String] { ["", "-wal", "-shm"].map { path + $0 } }

  static func start() async throws -> SQLiteFixture {
    let fixture = SQLiteFixture(directory: try TemporaryDirectory("sqlite"))
    try await fixture.run(
      """
      PRAGMA journal_mode=WAL; CREATE TABLE record (number INTEGER PRIMARY KEY, payload TEXT);
      CREATE TABLE note (word TEXT PRIMARY KEY, more BLOB, weight REAL) WITHOUT ROWID;
      INSERT INTO note VALUES ('a', x'00ff', 1.5), ('b', NULL, -0.0);
      """)
    for number in Int64(1)...5 { try await fixture.write(number, payload: Payload.of(number)) }
    return fixture
  }

  func driver(_ variant: DriverVariant) throws -> any DataStoreDriver {
    var path = path
    if case .liveState(let directory) = variant { path = "\(directory)/ledger.db" }
    return try Self.driver(path)
  }

  static func driver(_ path: String) throws -> any DataStoreDriver {
    try SQLiteDriverFactory.make(StoreConfiguration(name: "ledger", options: ["path": .string(path)]), in: .live)
  }

  func run(_ sql: String) async throws {
    let path = path
    try await BlockingPool.shared.run {
      let user = try User(path)
      try user.run(sql)
    }
  }

  func write(_ number: Int64, payload: String) async throws {
    try await run("INSERT INTO record VALUES (\(number), '\(payload)')")
  }

  func records() async throws -> Set<Int64> {
    let path = path
    return try await BlockingPool.shared.run { try User(path).records() }
  }

  func destroyLive() async throws {
    for path in livePaths { try Files.removeTree(path) }
  }

  func shutDown() async {}
}

/// What uses the database: a plain connection with a busy timeout.
final class User: @unchecked Sendable {
  private let handle: OpaquePointer

  init(_ path: String) throws {
    var handle: OpaquePointer?
    guard
      sqlite3_open_v2(path, &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nil)
        == SQLITE_OK,
      let handle
    else { throw ContractBroken("can't open \(path)") }
    sqlite3_busy_timeout(handle, 30_000)
    self.handle = handle
  }

  deinit { sqlite3_close_v2(handle) }

  func run(_ sql: String) throws {
    guard sqlite3_exec(handle, sql, nil, nil, nil) == SQLITE_OK else {
      throw ContractBroken("\(String(cString: sqlite3_errmsg(handle))): \(sql)")
    }
  }

  func column(_ sql: String) throws -> [String] {
    var statement: OpaquePointer?
    guard sqlite3_prepare_v2(handle, sql, -1, &statement, nil) == SQLITE_OK else {
      throw ContractBroken("\(String(cString: sqlite3_errmsg(handle))): \(sql)")
    }
    defer { sqlite3_finalize(statement) }
    var result: [String] = []
    while true {
      switch sqlite3_step(statement) {
      case SQLITE_ROW: result.append(sqlite3_column_text(statement, 0).map { String(cString: $0) } ?? "NULL")
      case SQLITE_DONE: return result
      default: throw ContractBroken("\(String(cString: sqlite3_errmsg(handle))): \(sql)")
      }
    }
  }

  func records() throws -> Set<Int64> { Set(try column("SELECT number FROM record").compactMap { Int64($0) }) }
}
