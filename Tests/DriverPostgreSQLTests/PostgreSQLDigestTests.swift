import Core
import DriverContract
import DriverKit
import IO
import Synchronization
import TestSupport
import Testing

@testable import DriverPostgreSQL

#if canImport(Glibc)
  import Glibc
#endif

/// The digest is read after writers were let go, while others alter, empty and drop what is being read.
@Suite("PostgreSQL: the digest among other users") struct PostgreSQLDigestTests {
  private let contract = DriverContract<PostgreSQLFixture>()

  /// One capture; the hooks run where their names say. The session is closed whatever happened.
  private func capture(
    _ fixture: PostgreSQLFixture, prepared: () async throws -> Void = {}, held: () async throws -> Void = {},
    marked: () async throws -> Void = {}, released: (any CaptureSession) async throws -> CaptureResult
  ) async throws -> (MemoryTree, CaptureResult) {
    let tree = MemoryTree()
    let scratch = try TemporaryDirectory("scratch")
    let session = try await fixture.driver(.usual).capture(CaptureContext(sink: tree, scratch: scratch.path))
    do {
      try await session.prepare()
      try await prepared()
      try await session.hold(limit: .seconds(60))
      try await held()
      _ = try await session.mark()
      try await marked()
      let wasHeld = await session.release()
      #expect(wasHeld)
      let result = try await released(session)
      await session.close()
      return (tree, result)
    } catch {
      await session.close()
      throw error
    }
  }

  /// Restores beside and compares as a restore does.
  private func expectRestorable(
    _ fixture: PostgreSQLFixture, _ captured: (tree: MemoryTree, result: CaptureResult)
  ) async throws {
    let request = RestoreRequest(id: "test-1", source: captured.tree, capture: captured.result)
    let driver = try fixture.driver(.usual)
    _ = try await driver.restoreBeside(request)
    let expected = try #require(captured.result.contentDigest)
    let found = try #require(try await driver.digestBeside(request))
    #expect(found.differences(from: expected).isEmpty)
  }

  /// Waits until a statement that begins like this waits for a lock, or `isDone`.
  private func untilWaiting(
    _ fixture: PostgreSQLFixture, _ statement: String, or isDone: @Sendable () -> Bool = { false }
  ) async throws {
    while !isDone() {
      let waiting = try await fixture.server.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '\(statement.prefix(12))%'"
      )
      if waiting != "0" { return }
      try await SystemTime().sleep(for: .milliseconds(20))
    }
  }

  private final class Done: Sendable {
    private let value = Mutex(false)
    func set() { value.withLock { $0 = true } }
    var isSet: Bool { value.withLock { $0 } }
  }

  @Test(
    .timeLimit(.minutes(10)),
    arguments: ["TRUNCATE records", "DROP TABLE records", "ALTER TABLE records ADD COLUMN more text DEFAULT 'later'"])
  func `what changes a table's files after the release does not spoil the point`(_ statement: String) async throws {
    try await contract.withStore { fixture in
      try await fixture.server.sql("CREATE TABLE other (n int)", "INSERT INTO other SELECT generate_series(1, 10)")
      let captured = try await capture(fixture) { session in
        try await withThrowingTaskGroup(of: Void.self) { group in
          let done = Done()
          group.addTask {
            try await fixture.server.sql(statement)
            done.set()
          }
          try await untilWaiting(fixture, statement, or: { done.isSet })
          let result = try await session.finish()
          // Before the session is closed: who waited is let through by then.
          try await group.waitForAll()
          return result
        }
      }
      #expect(captured.1.contentDigest?.parts["postgres.public.other"]?.count == 10)
      try await expectRestorable(fixture, captured)
    }
  }

  /// It waits for the hold's own lock, and comes before any that is asked for later.
  @Test(.timeLimit(.minutes(10))) func `a TRUNCATE that waits for the release costs its table's digest, not the point`()
    async throws
  {
    try await contract.withStore { fixture in
      try await fixture.server.sql("CREATE TABLE other (n int)", "INSERT INTO other SELECT generate_series(1, 10)")
      let captured = try await withThrowingTaskGroup(of: Void.self) { group in
        let captured = try await capture(
          fixture,
          held: {
            group.addTask { try await fixture.server.sql("TRUNCATE records") }
            try await untilWaiting(fixture, "TRUNCATE records")
          },
          released: { session in
            try await group.waitForAll()
            return try await session.finish()
          })
        return captured
      }
      let parts = try #require(captured.1.contentDigest?.parts)
      #expect(parts["postgres.public.records"] == nil && parts["postgres.public.other"]?.count == 10)
      #expect(captured.1.notes.contains { $0.contains("postgres.public.records") }, "\(captured.1.notes)")
      try await expectRestorable(fixture, captured)
    }
  }

  /// A table that takes seconds to read must not make everybody who uses it wait behind an `ALTER TABLE`.
  @Test(.timeLimit(.minutes(10))) func `who waits for a table is let through though it is being read`() async throws {
    try await contract.withStore { fixture in
      try await fixture.server.sql(
        "CREATE TABLE large AS SELECT n, repeat('x', 30000000) AS t FROM generate_series(1, 16) AS n")
      let captured = try await capture(fixture) { session in
        try await withThrowingTaskGroup(of: Void.self) { group in
          group.addTask {
            // In one session: starting another may take longer than the table is being read.
            try await fixture.server.sql(
              """
              DO $$ BEGIN LOOP
                PERFORM pg_stat_clear_snapshot();
                EXIT WHEN EXISTS (SELECT FROM pg_stat_activity WHERE state = 'active'
                  AND query LIKE '%ONLY public.large%' AND application_name = 'salvor');
                PERFORM pg_sleep(0.002);
              END LOOP; END $$;
              TRUNCATE large
              """)
          }
          let result = try await session.finish()
          try await group.waitForAll()
          return result
        }
      }
      let parts = try #require(captured.1.contentDigest?.parts)
      #expect(parts["postgres.public.large"] == nil && parts["postgres.public.records"]?.count == 20)
      try await expectRestorable(fixture, captured)
    }
  }

  @Test(.timeLimit(.minutes(10))) func `a database made after the preparation is held, and digested`() async throws {
    try await contract.withStore { fixture in
      let captured = try await capture(
        fixture,
        prepared: {
          try await fixture.server.sql("CREATE DATABASE late TEMPLATE template0")
          try await fixture.server.sql("CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)", database: "late")
        },
        held: {
          let held = try await fixture.server.sql(
            "SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock' AND granted AND relation = 't'::regclass",
            database: "late")
          #expect(held == "1")
        }, released: { try await $0.finish() })
      #expect(captured.1.contentDigest?.parts["late.public.t"]?.count == 1)
      try await expectRestorable(fixture, captured)
    }
  }

  @Test(.timeLimit(.minutes(10))) func `tables made while writers wait are no difference`() async throws {
    try await contract.withStore { fixture in
      let captured = try await capture(
        fixture, held: { try await fixture.server.sql("CREATE TABLE early AS SELECT 1 AS n") },
        marked: { try await fixture.server.sql("CREATE TABLE late AS SELECT 1 AS n") },
        released: { try await $0.finish() })
      try await expectRestorable(fixture, captured)
    }
  }

  @Test(.timeLimit(.minutes(10))) func `a database made while writers wait puts the store outside the cut`()
    async throws
  {
    try await contract.withStore { fixture in
      let scratch = try TemporaryDirectory("scratch")
      let session = try await fixture.driver(.usual).capture(CaptureContext(sink: MemoryTree(), scratch: scratch.path))
      do {
        try await session.prepare()
        try await session.hold(limit: .seconds(60))
        try await fixture.server.sql("CREATE DATABASE late TEMPLATE template0")
        _ = try await session.mark()
        let wasHeld = await session.release()
        #expect(!wasHeld)
        #expect(try await session.finish().notes.contains { $0.contains("late") })
      } catch {
        await session.close()
        throw error
      }
      await session.close()
    }
  }

  /// As when another store of the group could not be held, and a fuzzy point is taken instead.
  @Test(.timeLimit(.minutes(10))) func `a mark that nobody held for has no digest`() async throws {
    try await contract.withStore { fixture in
      let scratch = try TemporaryDirectory("scratch")
      let session = try await fixture.driver(.usual).capture(CaptureContext(sink: MemoryTree(), scratch: scratch.path))
      do {
        try await session.prepare()
        try await session.hold(limit: .seconds(60))
        _ = await session.release()
        _ = try await session.mark()
        #expect(try await session.finish().contentDigest == nil)
      } catch {
        await session.close()
        throw error
      }
      await session.close()
    }
  }

  // MARK: What else was promised

  /// As when Salvor is stopped, and not ended, while another database is still being locked.
  @Test(.timeLimit(.minutes(10))) func `a hold that nobody goes on taking ends by itself`() async throws {
    try await contract.withStore { fixture in
      let driver = try #require(try fixture.driver(.usual) as? PostgreSQLDriver)
      let control = try await driver.connect()
      var hold = TableHold(control: control, time: SystemTime(), deadlockTimeout: .seconds(1)) {
        database throws(DriverError) in try await driver.enter(database)
      }
      try await hold.enterDatabases()
      let isLocked = try await hold.lock(hold.members[0], .seconds(10), within: .milliseconds(200))
      #expect(isLocked)
      let (_, took) = try await SystemTime().measure {
        try await fixture.server.sql("SET lock_timeout = '30s'", "INSERT INTO records VALUES (8500, 'waits')")
      }
      #expect(took > .seconds(1), "it was locked")
      let wasHeld = await hold.release()
      #expect(!wasHeld)
      for member in hold.members {
        await member.locks.close()
        await member.reader.close()
      }
      await control.close()
    }
  }

  /// A tablespace's location is often a mount point that an administrator made anew, and empty, after a loss.
  @Test(.timeLimit(.minutes(10)), .enabled(if: PostgreSQLServer.owner != nil), arguments: [false, true])
  func `an empty location is given to the server, one that holds anything else is not`(_ holdsElse: Bool) async throws {
    try await contract.withStore { fixture in
      let place = try fixture.server.ownDirectory("fast disk")
      try await fixture.server.sql(
        "CREATE TABLESPACE fast LOCATION '\(place)'", "CREATE TABLE spaced (n int PRIMARY KEY) TABLESPACE fast",
        "INSERT INTO spaced SELECT generate_series(1, 100)")
      let captured = try await capture(fixture) { try await $0.finish() }
      await fixture.server.shutDown()
      try await fixture.destroyLive()
      try Files.removeTree(place)
      try Files.createDirectory(place, mode: 0o700)
      #expect(chown(place, 0, 0) == 0)
      if holdsElse { try Files.replace(place + "/payroll", with: [1]) }
      let request = RestoreRequest(id: "test-1", source: captured.0, capture: captured.1)
      let driver = try fixture.driver(.usual)
      func owner() throws -> UInt32 { try File(place, O_RDONLY | O_DIRECTORY).status().st_uid }
      if holdsElse {
        await #expect(throws: DriverError.self) { try await driver.restoreBeside(request) }
        #expect(try owner() == 0, "a directory with somebody's files stays theirs")
      } else {
        _ = try await driver.restoreBeside(request)
        #expect(try owner() == PostgreSQLServer.owner?.userID)
        try await driver.swapIn(request)
        try await driver.start()
        #expect(try await fixture.server.sql("SELECT count(*) FROM spaced") == "100")
      }
    }
  }
}
