import Core
import GRDB
import IO
import StateKit

#if canImport(Glibc)
  import Glibc
#endif

/// The tables, their versions, and how a file becomes a journal.
///
/// Records are JSON in text columns, beside the few columns that are searched by: the values' own types are the schema.
enum JournalSchema {
  static func open(_ path: String, busyTimeout: Duration, limitBytes: Int64) throws(JournalError) -> DatabaseQueue {
    do throws(SystemFailure) {
      let isNew = !Files.exists(path)
      // SQLite gives its -wal and -shm files the mode of the main one.
      let file = try File(path, O_RDWR | O_CREAT, mode: 0o600)
      guard fchmod(file.descriptor, 0o600) == 0 else { throw SystemFailure("chmod", path: path) }
      if isNew { try Files.synchronizeDirectory(Files.parent(of: path)) }
    } catch {
      throw JournalError(system: error, path: path)
    }
    var configuration = Configuration()
    configuration.journalMode = .wal
    configuration.busyMode = .timeout(busyTimeout.seconds)
    configuration.label = "salvor.journal"
    configuration.prepareDatabase { db in
      try db.execute(sql: "PRAGMA synchronous = FULL")
      let pageBytes = try Int64.fetchOne(db, sql: "PRAGMA page_size") ?? 4096
      try db.execute(sql: "PRAGMA max_page_count = \(max(1, limitBytes / max(512, pageBytes)))")
    }
    do {
      do {
        try refuseNewer(path, busyTimeout: busyTimeout)
      } catch let error as DatabaseError where unrecovered.contains(error.extendedResultCode) {
        try recover(path, busyTimeout: busyTimeout)
        try refuseNewer(path, busyTimeout: busyTimeout)
      }
      let database = try DatabaseQueue(path: path, configuration: configuration)
      try migrator.migrate(database)
      return database
    } catch {
      throw JournalError(sqlite: error, path: path)
    }
  }

  /// Looks without changing anything: opening for writing already does.
  private static func refuseNewer(_ path: String, busyTimeout: Duration) throws {
    var configuration = Configuration()
    configuration.readonly = true
    configuration.busyMode = .timeout(busyTimeout.seconds)
    let database = try DatabaseQueue(path: path, configuration: configuration)
    let newer = try database.read { db in
      try migrator.hasBeenSuperseded(db) ? try migrator.appliedIdentifiers(db).max() ?? "?" : nil
    }
    try database.close()
    if let newer { throw JournalError.newerSchema(path: path, found: newer) }
  }

  /// What a look without the right to write says of a file that a crash left with a transaction to roll back or redo.
  private static let unrecovered: [ResultCode] = [
    .SQLITE_READONLY_ROLLBACK, .SQLITE_READONLY_RECOVERY, .SQLITE_READONLY_CANTINIT,
  ]

  /// Lets SQLite finish or undo what a crash interrupted; nothing else in the file changes.
  private static func recover(_ path: String, busyTimeout: Duration) throws {
    var configuration = Configuration()
    configuration.busyMode = .timeout(busyTimeout.seconds)
    let database = try DatabaseQueue(path: path, configuration: configuration)
    _ = try database.read { db in try Int.fetchOne(db, sql: "SELECT count(*) FROM sqlite_schema") }
    try database.close()
  }

  private static var migrator: DatabaseMigrator {
    var migrator = DatabaseMigrator()
    migrator.registerMigration("v1") { db in
      try db.execute(
        sql: """
          CREATE TABLE run (
            id TEXT PRIMARY KEY NOT NULL,
            kind TEXT NOT NULL,
            title TEXT NOT NULL,
            created INTEGER NOT NULL, -- nanoseconds since 1970
            state TEXT NOT NULL,
            spec TEXT NOT NULL,
            head TEXT NOT NULL
          ) STRICT, WITHOUT ROWID;
          CREATE INDEX run_by_age ON run (created, id);
          CREATE TABLE step (
            run TEXT NOT NULL REFERENCES run (id),
            id TEXT NOT NULL,
            kind TEXT NOT NULL,
            service TEXT,
            store TEXT,
            record TEXT NOT NULL,
            PRIMARY KEY (run, id)
          ) STRICT, WITHOUT ROWID;
          CREATE TABLE history (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            run TEXT NOT NULL,
            step TEXT NOT NULL,
            kind TEXT NOT NULL,
            service TEXT,
            store TEXT,
            measurement TEXT NOT NULL
          ) STRICT;
          CREATE INDEX history_by_kind ON history (kind, number);
          CREATE TABLE audit (
            sequence INTEGER PRIMARY KEY NOT NULL,
            run TEXT,
            digest TEXT NOT NULL,
            entry TEXT NOT NULL
          ) STRICT;
          CREATE INDEX audit_by_run ON audit (run, sequence);
          """)
    }
    migrator.registerMigration("v2") { db in
      try db.execute(
        sql: """
          -- A JSON list of the stores a run has to itself.
          ALTER TABLE run ADD COLUMN stores TEXT;
          CREATE TABLE store_lease (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            lease TEXT NOT NULL
          ) STRICT;
          """)
    }
    return migrator
  }
}

extension JournalError {
  init(system error: SystemFailure, path: String) {
    self =
      switch error.number {
      case ENOSPC, EDQUOT: .full(path)
      case EACCES, EPERM, EROFS: .permissionDenied(path)
      default: .unavailable(error.report.summary)
      }
  }

  init(sqlite error: any Error, path: String) {
    switch error {
    case let error as JournalError: self = error
    case let error as DatabaseError:
      let message = error.message ?? "error \(error.resultCode.rawValue)"
      self =
        switch error.resultCode {
        case .SQLITE_BUSY, .SQLITE_LOCKED: .busy(path)
        case .SQLITE_CORRUPT, .SQLITE_NOTADB: .corrupt("\(path): \(message)")
        case .SQLITE_FULL: .full(path)
        case .SQLITE_PERM, .SQLITE_READONLY, .SQLITE_AUTH, .SQLITE_CANTOPEN: .permissionDenied(path)
        default: .unavailable("\(path): \(message)")
        }
    case is DecodingError: self = .corrupt("\(path): a record can't be read: \(error)")
    default: self = .unavailable("\(path): \(error)")
    }
  }
}
