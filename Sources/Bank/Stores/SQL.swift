/// A value bound to a parameter.
enum SQLValue: Sendable {
  case text(String)
  case integer(Int64)
}

/// A connection to an engine that speaks SQL; used by one thread at a time.
///
/// Statements number their parameters `$1`, `$2`, … in the order in which they first appear: that is what SQLite and
/// PostgreSQL both understand, and what ``MariaDBConnection`` fills in.
protocol SQLConnection: AnyObject {
  var isCurrent: Bool { get }
  /// Starts a transaction that writes.
  static var beginStatement: String { get }

  /// - Returns: The rows, as text; `nil` is NULL.
  @discardableResult
  func run(_ statement: String, _ parameters: [SQLValue]) throws(BankError) -> [[String?]]
}

extension SQLConnection {
  @discardableResult
  func run(_ statement: String, _ parameters: SQLValue...) throws(BankError) -> [[String?]] {
    try run(statement, parameters)
  }
}

/// A connection, and whether what runs on it is a transaction.
struct SQLSession: StoreConnection {
  let sql: any SQLConnection
  let writes: Bool

  var isCurrent: Bool { sql.isCurrent }

  func begin() throws(BankError) { if writes { try sql.run(type(of: sql).beginStatement, []) } }

  func commit() throws(BankError) { if writes { try sql.run("COMMIT", []) } }

  func rollback() { if writes { _ = try? sql.run("ROLLBACK", []) } }

  /// The rows of one statement whose columns all are numbers and not NULL.
  func numbers(_ statement: String, _ parameters: SQLValue...) throws(BankError) -> [Int64] {
    guard let row = try sql.run(statement, parameters).first else { throw .storeRefused("no row from: \(statement)") }
    var result: [Int64] = []
    for field in row {
      guard let field, let number = Int64(field) else { throw .storeRefused("not a number from: \(statement)") }
      result.append(number)
    }
    return result
  }
}

/// A store that speaks SQL: one lane for writes, one for reads, so that reads pass while writers are held.
struct SQLStore: Sendable {
  let writes: Lane<SQLSession>
  let reads: Lane<SQLSession>

  init(_ settings: StoreSettings) throws(BankError) {
    switch settings.kind {
    case .sqlite:
      let path = try settings.requirePath()
      writes = Lane { () throws(BankError) in SQLSession(sql: try SQLiteConnection(path), writes: true) }
      reads = Lane { () throws(BankError) in SQLSession(sql: try SQLiteConnection(path), writes: false) }
    case .postgresql:
      _ = try settings.requireAddress()
      writes = Lane { () throws(BankError) in SQLSession(sql: try PostgreSQLConnection(settings), writes: true) }
      reads = Lane { () throws(BankError) in SQLSession(sql: try PostgreSQLConnection(settings), writes: false) }
    case .mariadb:
      _ = try settings.requireAddress()
      writes = Lane { () throws(BankError) in SQLSession(sql: try MariaDBConnection(settings), writes: true) }
      reads = Lane { () throws(BankError) in SQLSession(sql: try MariaDBConnection(settings), writes: false) }
    case .files, .redis, .nats: throw Self.notSQL(settings)
    }
  }

  private static func notSQL(_ settings: StoreSettings) -> BankError {
    .configuration("store.kind must be sqlite, postgresql or mariadb here, not \(settings.kind)")
  }

  /// Opens the store for `init`, creating what is missing.
  static func create(_ settings: StoreSettings) throws(BankError) -> SQLSession {
    switch settings.kind {
    case .sqlite: SQLSession(sql: try SQLiteConnection(settings.requirePath(), creating: true), writes: true)
    case .postgresql: SQLSession(sql: try PostgreSQLConnection(settings), writes: true)
    case .mariadb: SQLSession(sql: try MariaDBConnection(settings), writes: true)
    case .files, .redis, .nats: throw notSQL(settings)
    }
  }

  /// Throws unless the store answers.
  func ping() async throws(BankError) {
    _ = try await reads.submit { session throws(BankError) in try session.numbers("SELECT 1") }
  }
}
