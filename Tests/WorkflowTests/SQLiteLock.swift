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

/// A database in the middle of a transaction whose pages have reached the file already, beside a rollback journal.
final class HalfWrittenDatabase {
  private let database: DatabaseQueue

  init(_ path: String) throws {
    var configuration = Configuration()
    configuration.allowsUnsafeTransactions = true
    database = try DatabaseQueue(path: path, configuration: configuration)
    try database.writeWithoutTransaction { db in
      try db.execute(
        sql: """
          PRAGMA cache_size = 2;
          BEGIN IMMEDIATE;
          CREATE TABLE filling (bytes BLOB);
          INSERT INTO filling
            WITH RECURSIVE row (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM row LIMIT 100) SELECT zeroblob(3000) FROM row;
          """)
    }
  }

  func giveUp() throws { try database.writeWithoutTransaction { try $0.execute(sql: "ROLLBACK") } }
}
