import Core
import DriverKit
import Foundation
import IO
import Synchronization
import TestSupport
import Testing

@testable import DriverSQLite

/// A database in WAL mode beside a ``LogSite`` that follows it.
final class SQLiteSite: @unchecked Sendable {
  // Used by one task at a time.
  let site: LogSite
  let path: String
  private var writers: [SQLiteWriter] = []

  private init() async throws {
    site = try await LogSite { "sqlite: {path: \"\($0.file("live/shop.db"))\"}" }
    path = site.home.file("live/shop.db")
    try Files.createDirectory(site.home.file("live"))
    try await run(
      """
      PRAGMA journal_mode=WAL;
      CREATE TABLE history (n INTEGER PRIMARY KEY, filler TEXT DEFAULT (hex(randomblob(200))));
      CREATE TABLE counter (value INTEGER); INSERT INTO counter VALUES (0);
      CREATE TRIGGER counted AFTER INSERT ON history BEGIN UPDATE counter SET value = value + 1; END;
      """)
  }

  /// Ends everything, whatever happened.
  static func with(_ body: (SQLiteSite) async throws -> Void) async throws {
    let site = try await SQLiteSite()
    do { try await body(site) } catch {
      print(site.site.said)
      site.end()
      throw error
    }
    site.end()
  }

  private func end() {
    site.killFollower()
    for writer in writers { writer.kill() }
  }

  /// Runs statements in a process of their own.
  @discardableResult
  func run(_ sql: String) async throws -> String {
    let ran = try await CommandRun(["sqlite3", "-cmd", ".timeout 20000", path, sql])
    try ran.succeeded()
    return ran.output
  }

  func count() async throws -> Int {
    let text = try await run("SELECT count(*) FROM history")
    #expect(try await run("SELECT value FROM counter") == text, "a transaction came back whole or not at all")
    return Int(text.filter(\.isNumber)) ?? -1
  }

  /// Where the WAL stands.
  func position() async throws -> String {
    let path = path
    return try await BlockingPool.shared.run {
      let connection = try Connection(path, .readOnly)
      defer { connection.close() }
      _ = try connection.integer("SELECT count(*) FROM history")
      return try connection.position().value
    }
  }

  /// Waits until all that was committed is durable.
  func settle() async throws {
    try await run(
      "INSERT INTO history (n) VALUES (-1); DELETE FROM history WHERE n = -1; UPDATE counter SET value = value - 1")
    let target = try await position()
    try await site.until("\(target) is durable") { site.newestDurable == target }
  }

  /// - Parameter more: A statement after each row.
  func startWriting(more: String = "") throws { writers.append(try SQLiteWriter(path, more)) }

  var acknowledged: [SQLiteWriter.Row] { writers.flatMap(\.rows).sorted { $0.number < $1.number } }

  func killWriters() { for writer in writers { writer.kill() } }

  /// As when the machine is lost with its disk.
  func loseDatabase() throws { try Files.removeTree(site.home.file("live")) }

  func makeRoom() throws { try Files.createDirectory(site.home.file("live")) }
}

/// A process that inserts row after row; each that was acknowledged is written down with its time.
final class SQLiteWriter: @unchecked Sendable {
  struct Row: Equatable, Sendable {
    var number: Int64
    var seconds: Double
  }

  private let process: PipedProcess
  private let isOver = Mutex(false)
  private let hasEnded = Mutex(false)

  init(_ path: String, _ more: String) throws {
    let process = try PipedProcess(["stdbuf", "-oL", "sqlite3", "-cmd", ".timeout 20000", path])
    self.process = process
    let thread = Thread { [self] in
      let statement = """
        INSERT INTO history DEFAULT VALUES;
        SELECT last_insert_rowid(), (julianday('now') - 2440587.5) * 86400.0; \(more)

        """
      while !isOver.withLock({ $0 }) {
        process.write(Array(statement.utf8))
        usleep(2000)
      }
      hasEnded.withLock { $0 = true }
    }
    thread.start()
  }

  var rows: [Row] {
    String(decoding: process.output, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false).dropLast()
      .compactMap { line in
        let fields = line.split(separator: "|")
        guard fields.count == 2, let number = Int64(fields[0]), let seconds = Double(fields[1]), seconds > 1e9 else {
          return nil
        }
        return Row(number: number, seconds: seconds)
      }
  }

  func kill() {
    process.kill()
    isOver.withLock { $0 = true }
    for _ in 0..<1000 where !hasEnded.withLock({ $0 }) { usleep(10_000) }
  }
}

#if canImport(Glibc)
  import Glibc
#endif
