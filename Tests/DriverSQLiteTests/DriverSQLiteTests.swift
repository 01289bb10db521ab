import Core
import DriverContract
import DriverKit
import DriverSQLite
import Foundation
import IO
import TestSupport
import Testing

@Suite("SQLite") struct DriverSQLiteTests {
  let contract = DriverContract<SQLiteFixture>()

  /// A session on `driver` that has gone up to its release, for tests that look at the copy.
  private func captured(
    _ driver: any DataStoreDriver, into tree: MemoryTree, whileHeld: () async throws -> Void = {}
  ) async throws -> (result: CaptureResult, heldFor: Duration) {
    let scratch = try TemporaryDirectory("scratch")
    let session = try await driver.capture(CaptureContext(sink: tree, scratch: scratch.path))
    do {
      try await session.prepare()
      let (_, heldFor) = try await SystemTime().measure {
        try await session.hold(limit: .seconds(60))
        try await whileHeld()
        _ = try await session.mark()
        _ = await session.release()
      }
      let result = try await session.finish()
      await session.close()
      return (result, heldFor)
    } catch {
      await session.close()
      throw error
    }
  }

  /// The journal mode is read when the store is asked, and again when the capture begins.
  @Test(.timeLimit(.minutes(10))) func `what was not held is not told to have been`() async throws {
    try await contract.withStore { fixture in
      let driver = try fixture.driver(.usual)
      guard case .held = try await driver.traits().hold else {
        Issue.record("a database in WAL mode can be held")
        return
      }
      let scratch = try TemporaryDirectory("scratch")
      let session = try await driver.capture(CaptureContext(sink: MemoryTree(), scratch: scratch.path))
      try await fixture.run("PRAGMA journal_mode=DELETE")
      do {
        try await session.prepare()
        try await session.hold(limit: .seconds(60))
        _ = try await session.mark()
        let wasHeld = await session.release()
        #expect(!wasHeld)
      } catch {
        await session.close()
        throw error
      }
      await session.close()
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `writers in other processes wait for the hold and no longer`() async throws {
    try await contract.withStore { fixture in
      try await fixture.run("CREATE TABLE beat (writer INTEGER, number INTEGER, at REAL)")
      // A payload that makes the copy take longer than the hold, so that waiting for the copy would show.
      try await fixture.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
          + "INSERT INTO record SELECT 100000 + i, hex(randomblob(500)) FROM n")
      let shells = try (1...2).map { writer in
        try Shell(
          fixture.path,
          "PRAGMA busy_timeout=20000; PRAGMA synchronous=OFF;\n"
            + (1...1500).map { number in
              "INSERT INTO beat VALUES (\(writer), \(number), (julianday('now') - 2440587.5) * 86400);"
            }.joined(separator: "\n"))
      }
      let tree = MemoryTree()
      while try await count(fixture, "beat") < 100 { try await SystemTime().sleep(for: .milliseconds(5)) }
      let before = try await count(fixture, "beat")
      let driver = try fixture.driver(.usual)
      let (result, heldFor) = try await captured(driver, into: tree)
      let after = try await count(fixture, "beat")
      for shell in shells { #expect(try shell.wait() == 0) }

      let gaps = try await BlockingPool.shared.run {
        try User(fixture.path).column(
          "SELECT max(gap) FROM (SELECT at - lag(at) OVER (PARTITION BY writer ORDER BY number) AS gap FROM beat)")
      }
      let longest = try #require(Double(gaps[0]))
      // Others' transactions, the disk and two cores shared with other tests: far less than the copy of everything takes.
      let margin = max(0.25, 3 * heldFor.seconds)
      #expect(longest <= heldFor.seconds + margin, "held for \(heldFor), but a writer waited \(longest) s")
      _ = try await driver.restoreBeside(RestoreRequest(id: "1", source: tree, capture: result))
      try await driver.swapIn(RestoreRequest(id: "1", source: tree, capture: result))
      let restored = try await count(fixture, "beat")
      #expect(restored >= before && restored <= after)
      // What one writer wrote is there without a hole.
      let holes = try await BlockingPool.shared.run {
        try User(fixture.path).column("SELECT writer FROM beat GROUP BY writer HAVING count(*) <> max(number)")
      }
      #expect(holes.isEmpty)
    }
  }

  private func count(_ fixture: SQLiteFixture, _ table: String) async throws -> Int {
    try await BlockingPool.shared.run { Int(try User(fixture.path).column("SELECT count(*) FROM \(table)")[0]) ?? -1 }
  }

  @Test(.timeLimit(.minutes(10)))
  func `several databases are held together from one process`() async throws {
    try await contract.withStore { a in
      try await contract.withStore { b in
        let (treeA, treeB) = (MemoryTree(), MemoryTree())
        let scratch = (try TemporaryDirectory("a"), try TemporaryDirectory("b"))
        let one = try await a.driver(.usual).capture(CaptureContext(sink: treeA, scratch: scratch.0.path))
        let two = try await b.driver(.usual).capture(CaptureContext(sink: treeB, scratch: scratch.1.path))
        // A transfer: first out of one, then into the other. In the point there is never more in `b` than left `a`.
        let log = WriteLog()
        try await withThrowingTaskGroup(of: Void.self) { group in
          group.addTask {
            var number: Int64 = 10
            while !log.isStopped {
              number += 1
              try await a.write(number, payload: "out")
              try await b.write(number, payload: "in")
            }
          }
          while try await b.records().count < 9 { try await SystemTime().sleep(for: .milliseconds(5)) }
          for session in [one, two] { try await session.prepare() }
          for session in [one, two] { try await session.hold(limit: .seconds(60)) }
          try await SystemTime().sleep(for: .milliseconds(50))
          for session in [one, two] { _ = try await session.mark() }
          for session in [one, two] { #expect(await session.release()) }
          try await SystemTime().sleep(for: .milliseconds(100))
          log.stop()
          try await group.waitForAll()
        }
        let results = (try await one.finish(), try await two.finish())
        for session in [one, two] { await session.close() }
        for (fixture, tree, result) in [(a, treeA, results.0), (b, treeB, results.1)] {
          let request = RestoreRequest(id: "together", source: tree, capture: result)
          let driver = try fixture.driver(.usual)
          _ = try await driver.restoreBeside(request)
          try await driver.swapIn(request)
        }
        let (left, arrived) = (try await a.records(), try await b.records())
        #expect(arrived.isSubset(of: left), "arrived but never left: \(arrived.subtracting(left))")
        #expect(left.subtracting(arrived).count <= 1, "one transfer at most is under way")
        #expect(left.count > 8)
      }
    }
  }

  @Test func `a database in another journal mode is outside the cut, and whole`() async throws {
    try await contract.withStore { fixture in
      try await fixture.run("PRAGMA journal_mode=DELETE")
      let driver = try fixture.driver(.usual)
      guard case .outside(let why) = try await driver.traits().hold else {
        Issue.record("a rollback journal can't be held")
        return
      }
      #expect(why.contains("journal_mode=WAL"))
      let before = try await fixture.records()
      let tree = MemoryTree()
      let (result, _) = try await captured(driver, into: tree) {
        // Nobody is held.
        try await fixture.write(90, payload: "x")
      }
      #expect(result.position.kind == "change" && !result.notes.isEmpty)
      let request = RestoreRequest(id: "1", source: tree, capture: result)
      _ = try await driver.restoreBeside(request)
      try await driver.swapIn(request)
      #expect(try await fixture.records() == before.union([90]))
    }
  }

  @Test func `a swap is refused while somebody has the database open`() async throws {
    try await contract.withStore { fixture in
      let captured = try await contract.capture(fixture)
      let driver = try fixture.driver(.usual)
      _ = try await driver.restoreBeside(captured.request())
      let shell = try Shell(fixture.path, "INSERT INTO record VALUES (50, 'x');", staysOpen: true)
      while try await !fixture.records().contains(50) { try await SystemTime().sleep(for: .milliseconds(5)) }
      let error = await #expect(throws: DriverError.self) { try await driver.swapIn(captured.request()) }
      #expect(error?.report.code == "DRIVER-502" && error?.report.summary.contains("sqlite3") == true)
      #expect(try await fixture.records().contains(50))
      shell.end()
      #expect(try shell.wait() == 0)
      try await driver.swapIn(captured.request())
      #expect(try await !fixture.records().contains(50))
    }
  }

  @Test func `a transaction that does not end makes the hold give up in time`() async throws {
    try await contract.withStore { fixture in
      let writer = try User(fixture.path)
      try writer.run("BEGIN IMMEDIATE")
      let scratch = try TemporaryDirectory("scratch")
      let session = try await fixture.driver(.usual).capture(CaptureContext(sink: MemoryTree(), scratch: scratch.path))
      try await session.prepare()
      let (error, took) = await SystemTime().measure {
        await #expect(throws: DriverError.self) { try await session.hold(limit: .milliseconds(200)) }
      }
      #expect(error?.report.code == "DRIVER-301" && took < .seconds(120), "\(String(describing: error)) after \(took)")
      try writer.run("INSERT INTO record VALUES (60, 'x'); COMMIT")
      try await fixture.write(61, payload: "x")
      await session.close()
    }
  }

  @Test func `page for page the copy is the original, and a small change is a small difference`() async throws {
    try await contract.withStore { fixture in
      try await fixture.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) "
          + "INSERT INTO record SELECT 1000 + i, hex(randomblob(200)) FROM n; PRAGMA wal_checkpoint(TRUNCATE)")
      let (one, two) = (MemoryTree(), MemoryTree())
      let driver = try fixture.driver(.usual)
      _ = try await captured(driver, into: one)
      let original = try Files.read(fixture.path)
      let copy = try #require(one.entries["ledger.db"]?.content)
      #expect(one.entries["ledger.db"]?.cutting == .fixed(bytes: 256 << 10))
      #expect(copy.count == original.count)
      #expect(copy[4096...].elementsEqual(original[4096...]), "every page but the first")
      #expect(copy[18..<20].elementsEqual([2, 2]) && copy[40..<44].elementsEqual(original[40..<44]))
      try await fixture.run("UPDATE record SET payload = 'x' WHERE number = 3500")
      _ = try await captured(driver, into: two)
      let later = try #require(two.entries["ledger.db"]?.content)
      let changed = stride(from: 0, to: copy.count, by: 4096).filter { copy[$0..<$0 + 4096] != later[$0..<$0 + 4096] }
      #expect(!changed.isEmpty && changed.count <= 3, "of \(copy.count / 4096) pages \(changed.count) changed")
    }
  }

  @Test func `shadow tables, odd names and types are in the digest`() async throws {
    try await contract.withStore { fixture in
      try await fixture.run(
        """
        CREATE VIRTUAL TABLE words USING fts5(text); INSERT INTO words VALUES ('one two');
        CREATE TABLE odd ("rowid" TEXT, "_rowid_" TEXT, oid TEXT); INSERT INTO odd VALUES ('b', 1, 2), ('a', NULL, x'00');
        CREATE TABLE "qu""ote's" (a INTEGER PRIMARY KEY AUTOINCREMENT, b GENERATED ALWAYS AS (a * 2)); 
        INSERT INTO "qu""ote's" VALUES (5);
        """)
      let first = try #require(try await contract.capture(fixture).result.contentDigest)
      #expect(first.scheme == "sqlite-rows-v1")
      #expect(first.parts["table:words"] == nil && first.parts["table:words_content"]?.count == 1)
      #expect(first.parts["table:odd"]?.count == 2 && first.parts["table:qu\"ote's"]?.count == 1)
      #expect(first.parts["table:sqlite_sequence"] != nil && first.parts["schema"] != nil)
      try await fixture.run(
        "UPDATE odd SET oid = '2' WHERE oid = 2; UPDATE odd SET oid = CAST('2' AS BLOB) WHERE oid = '2'")
      let second = try #require(try await contract.capture(fixture).result.contentDigest)
      #expect(second.differences(from: first) == ["table:odd"], "the same bytes in another type differ")
      try await fixture.run("CREATE INDEX later ON odd (oid)")
      let third = try #require(try await contract.capture(fixture).result.contentDigest)
      #expect(third.differences(from: second) == ["schema"])
    }
  }

  @Test func `the captured file is a database for the stock shell`() async throws {
    try await contract.withStore { fixture in
      let captured = try await contract.capture(fixture)
      let directory = try TemporaryDirectory("door")
      try await captured.tree.materialise(TreePath(), at: directory.file("out")) { _ in }
      let file = directory.file("out/ledger.db")
      let script = "PRAGMA integrity_check; PRAGMA journal_mode; SELECT count(*) FROM record;"
      let shell = try Shell(file, script)
      #expect(try shell.wait() == 0)
      #expect(shell.output.split(separator: "\n") == ["ok", "wal", "5"])
    }
  }

  @Test func `snapshots from a hostile hand are refused`() async throws {
    try await contract.withStore { fixture in
      let captured = try await contract.capture(fixture)
      let driver = try fixture.driver(.usual)
      for (fact, value) in [("file", "../ledger.db"), ("file", ""), ("sha256", "00"), ("file", "other")] {
        var request = captured.request()
        request.capture.facts[fact] = value
        await #expect(throws: DriverError.self, "\(fact) \(value)") { try await driver.restoreBeside(request) }
      }
      // A file that is no database, with a digest that fits.
      let tree = MemoryTree()
      let bytes = [UInt8](repeating: 65, count: 8192)
      let metadata = FileMetadata(kind: .regular, permissions: 0o600, modified: Timestamp(seconds: 1))
      _ = try await tree.add("ledger.db", metadata, cutting: .content) { MemorySource(bytes) }
      var request = captured.request(from: tree)
      request.capture.facts["sha256"] = Digest.of(bytes).hex
      let error = await #expect(throws: DriverError.self) { try await driver.restoreBeside(request) }
      #expect(error?.report.code == "DRIVER-401")
    }
  }

  @Test func `a query that takes too long ends`() async throws {
    try await contract.withStore { fixture in
      let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
      let driver = try fixture.driver(.usual)
      let error = await #expect(throws: DriverError.self) {
        try await driver.query(endless, limit: QueryLimit(timeout: .milliseconds(100)))
      }
      #expect(error?.report.code == "DRIVER-503")
      let typed = try await driver.query("SELECT 1, 'a', NULL, x'ff', 0.5", limit: QueryLimit())
      #expect(typed.rows == [["1", "a", nil, "ff", "0.5"]])
    }
  }

  @Test func `options are checked`() throws {
    for options: [String: JSONValue] in [[:], ["path": "x.db"], ["path": "/"], ["path": "/a", "holdPoll": "soon"]] {
      #expect(throws: DriverError.self) {
        try SQLiteDriverFactory.make(StoreConfiguration(name: "x", options: options), in: .live)
      }
    }
  }
}

/// The `sqlite3` shell on a database, as another process.
final class Shell: Sendable {
  private let process: PipedProcess

  init(_ path: String, _ script: String, staysOpen: Bool = false) throws {
    process = try PipedProcess(["sqlite3", "-bail", path])
    process.write(Array((script + "\n").utf8))
    if !staysOpen { end() }
  }

  func end() { process.end() }

  func wait() throws -> Int32 { process.wait() }

  /// Everything it said; blocks until it has ended.
  var output: String {
    process.wait()
    return String(decoding: process.output, as: UTF8.self)
  }
}
