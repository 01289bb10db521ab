import Core
import DriverContract
import DriverKit
import IO
import TestSupport
import Testing

@testable import DriverPostgreSQL

/// Copies of a standby's files, while writers are held where they are.
@Suite("PostgreSQL standbys") struct StandbyTests {
  /// A primary, a standby, and a fixture that writes to the one and copies the other.
  private func withPair(
    _ body: (_ fixture: PostgreSQLFixture, _ standby: PostgreSQLServer) async throws -> Void
  ) async throws {
    let primary = try await PostgreSQLServer.start(
      settings: ["wal_keep_size = 1GB", "autovacuum = off", "wal_log_hints = on"])
    let result: Result<Void, any Error>
    do {
      try await primary.sql(
        "CREATE TABLE records (number bigint PRIMARY KEY, payload text NOT NULL)",
        "INSERT INTO records SELECT n, 'before the standby' FROM generate_series(1, 20) AS n")
      let standby = try await primary.standby()
      let inner: Result<Void, any Error>
      do {
        inner = .success(try await body(PostgreSQLFixture(server: primary, always: copying(standby)), standby))
      } catch {
        inner = .failure(error)
      }
      await standby.shutDown()
      result = inner
    } catch { result = .failure(error) }
    await primary.shutDown()
    try result.get()
  }

  private func copying(_ standby: PostgreSQLServer) -> [String: JSONValue] {
    [
      "standby": "127.0.0.1", "standbyPort": .integer(Int64(standby.port)), "dataDirectory": .string(standby.data),
    ]
  }

  private func withSession<T>(
    _ fixture: PostgreSQLFixture, _ tree: MemoryTree, _ body: (any CaptureSession) async throws -> T
  ) async throws -> T {
    let scratch = try TemporaryDirectory("scratch")
    let session = try await fixture.driver([:]).capture(CaptureContext(sink: tree, scratch: scratch.path))
    let result: Result<T, any Error>
    do { result = .success(try await body(session)) } catch { result = .failure(error) }
    await session.close()
    return try result.get()
  }

  /// What the primary has acknowledged under the hold is in the copy, and nothing later.
  @Test(.timeLimit(.minutes(10))) func `a copy of a standby is the primary's, at the mark`() async throws {
    try await withPair { fixture, standby in
      // What the standby has not replayed is in its log all the same.
      try await standby.sql("SELECT pg_wal_replay_pause()")
      let tree = MemoryTree()
      let stop = Interruption()
      async let writing: Void = withThrowingTaskGroup(of: Void.self) { group in
        for writer in 0..<3 {
          group.addTask {
            var number = Int64(1000 * (writer + 1))
            while !stop.isSet {
              number += 1
              try await fixture.write(number, payload: "by writer \(writer)")
            }
          }
        }
        try await group.waitForAll()
      }
      let outcome: Result<(Set<Int64>, CaptureResult), any Error>
      do {
        let taken = try await withSession(fixture, tree) { session -> (Set<Int64>, CaptureResult) in
          try await session.prepare()
          try await session.hold(limit: .seconds(60))
          let held = try await fixture.records()
          _ = try await session.mark()
          let wasHeld = await session.release()
          #expect(wasHeld)
          return (held, try await session.finish())
        }
        outcome = .success(taken)
      } catch { outcome = .failure(error) }
      stop.set()
      try await writing
      let (held, result) = try outcome.get()
      #expect(held.count > 20)
      #expect(result.notes.contains { $0.hasPrefix("copied from the standby") })
      #expect(!tree.entries.keys.contains { $0.description.hasSuffix("standby.signal") })
      let request = RestoreRequest(id: "test-1", source: tree, capture: result)
      let driver = try fixture.driver([:])
      _ = try await driver.restoreBeside(request)
      let expected = try #require(result.contentDigest)
      #expect(expected.parts["postgres.public.records"]?.count == Int64(held.count))
      #expect(try await driver.digestBeside(request)?.differences(from: expected) == [])
      // It is nobody's place to be restored into.
      let findings = try await driver.precheck(request)
      #expect(findings.contains { $0.report.summary.contains("restore where the primary is") }, "\(findings)")
      await #expect(throws: DriverError.self) { try await driver.swapIn(request) }
      await #expect(throws: DriverError.self) { try await driver.stop() }
      #expect(try await standby.sql("SELECT pg_is_in_recovery()") == "t")
    }
  }

  /// Copies of both lean on each other: it is one history.
  @Test(.timeLimit(.minutes(10)), arguments: [1, 2] as [UInt64])
  func `copies of standbys take over what did not change`(seed: UInt64) async throws {
    try await withPair { fixture, standby in
      let direct = PostgreSQLFixture(server: fixture.server)
      // A tablespace has one place, and both servers are on this machine.
      // Sequences are up to 32 ahead on a standby, as after a crash.
      let operations = Schedule.quiet.filter { ![.moveDatabase, .moveTable, .sequence].contains($0) }
      var schedule = Schedule(seed: seed, fixture: direct)
      var copy: IncrementTests.Copy?
      for round in 0..<6 {
        for _ in 0..<4 { try await schedule.step(operations) }
        // Else a standby's copy begins where the one before did.
        try await fixture.server.sql("CHECKPOINT")
        let next = try await IncrementTests.copy([2, 3].contains(round) ? direct : fixture, after: copy)
        #expect(next.refusal == nil, "round \(round): \(next.result.notes)")
        if round > 0 { #expect(next.readBytes < next.result.sizeBytes, "round \(round)") }
        copy = next
      }
      try await Schedule.prove(try #require(copy), direct)
    }
  }

  @Test(.timeLimit(.minutes(10))) func `a delayed standby's copy comes back at once`() async throws {
    try await withPair { fixture, standby in
      try await standby.sql("ALTER SYSTEM SET recovery_min_apply_delay = '8h'", "SELECT pg_reload_conf()")
      let tree = MemoryTree()
      let result = try await withSession(fixture, tree) { session -> CaptureResult in
        try await session.prepare()
        // Commits after what the standby has replayed are what would be waited for.
        for number in Int64(500)...520 { try await fixture.write(number, payload: "late") }
        try await session.hold(limit: .seconds(60))
        _ = try await session.mark()
        _ = await session.release()
        return try await session.finish()
      }
      let request = RestoreRequest(id: "test-1", source: tree, capture: result)
      // Its start may take 30 s.
      _ = try await fixture.driver([:]).restoreBeside(request)
      #expect(result.contentDigest?.parts["postgres.public.records"]?.count == 41)
      // No restartpoint has been made since.
      let second = try await IncrementTests.copy(fixture, after: .init(tree: tree, result: result))
      #expect(second.refusal?.contains("no restartpoint") == true, "\(second.result.notes)")
    }
  }

  @Test(.timeLimit(.minutes(10))) func `a standby that is promoted meanwhile is no source`() async throws {
    try await withPair { fixture, standby in
      let failure = await #expect(throws: DriverError.self) {
        try await withSession(fixture, MemoryTree()) { session in
          try await session.prepare()
          try await session.hold(limit: .seconds(60))
          try await standby.sql("SELECT pg_promote(true, 60)")
          _ = try await session.mark()
          _ = await session.release()
          _ = try await session.finish()
        }
      }
      #expect(failure?.report.summary.contains("promoted") == true, "\(String(describing: failure))")
      // And from now on it says so at once.
      let later = await #expect(throws: DriverError.self) { try await fixture.driver([:]).traits() }
      #expect(later?.report.summary.contains("isn't a standby") == true, "\(String(describing: later))")
    }
  }

  @Test(.timeLimit(.minutes(10))) func `what is no standby of the primary is refused`() async throws {
    try await withPair { fixture, standby in
      let port = JSONValue.integer(Int64(fixture.server.port))
      let another = try await PostgreSQLServer.start()
      do {
        let other = await #expect(throws: DriverError.self) {
          try await fixture.driver(copying(another)).traits()
        }
        // Test clusters are copies of one, so they all have its identifier.
        #expect(other?.report.summary.contains("isn't a standby") == true, "\(String(describing: other))")
        // Files of the one, and the address of the other.
        let mixed = await #expect(throws: DriverError.self) {
          try await withSession(
            PostgreSQLFixture(
              server: fixture.server, always: copying(standby).merging(["dataDirectory": .string(another.data)]) { $1 }),
            MemoryTree()
          ) { try await $0.prepare() }
        }
        #expect(mixed?.report.summary.contains("does not run on") == true, "\(String(describing: mixed))")
      }
      await another.shutDown()
      // Turned round: where writers are held must be the primary.
      let turned = await #expect(throws: DriverError.self) {
        try await fixture.driver(["port": .integer(Int64(standby.port)), "standbyPort": port]).traits()
      }
      #expect(turned?.report.summary.contains("name the primary as host") == true, "\(String(describing: turned))")
      for changes: [String: JSONValue] in [
        ["standbyPort": port], ["standby": .null], ["archiveDirectory": "/tmp/answers"], ["standbyPort": 0],
      ] {
        #expect(throws: DriverError.self, "\(changes)") { _ = try fixture.driver(changes) }
      }
      try await fixture.server.sql("ALTER SYSTEM SET full_page_writes = off", "SELECT pg_reload_conf()")
      while try await fixture.server.sql("SHOW full_page_writes") != "off" {
        try await SystemTime().sleep(for: .milliseconds(20))
      }
      let torn = await #expect(throws: DriverError.self) { try await fixture.driver([:]).traits() }
      #expect(torn?.report.summary.contains("full_page_writes") == true, "\(String(describing: torn))")
    }
  }
}
