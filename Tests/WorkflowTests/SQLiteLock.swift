import GRDB
import TestSupport

/// Holds the write lock of a database, as another process in the middle of a transaction does.
final class SQLiteLock {
  private let database: DatabaseQueue

  init(_ path: String) throws {
    var configuration = Configuration()
    configuration.allowsUnsafeTransactions = true
    database = try DatabaseQueue(path: path, configuration: configuration)
    try database.writeWithoutTransaction { try $0.execute(sql: "BEGIN IMMEDIATE") }
  }

  func release() throws { try database.writeWithoutTransaction { try $0.execute(sql: "ROLLBACK") } }
}
