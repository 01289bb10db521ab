import Core
import DriverContract
import DriverKit
import IO
import TestSupport
import Testing

@testable import DriverPostgreSQL

@Suite("PostgreSQL") struct PostgreSQLTests {
  private let contract = DriverContract<PostgreSQLFixture>()

  private struct Taken {
    var tree: MemoryTree
    var result: CaptureResult
    func request() -> RestoreRequest { RestoreRequest(id: "test-1", source: tree, capture: result) }
  }

  private func whole(_ session: any CaptureSession) async throws -> CaptureResult {
    try await session.prepare()
    try await session.hold(limit: .seconds(60))
    _ = try await session.mark()
    let wasHeld = await session.release()
    #expect(wasHeld)
    return try await session.finish()
  }

  /// Runs `body` with a session, closed whatever happened.
  private func withSession<T>(
    _ fixture: PostgreSQLFixture, _ tree: any TreeSink, _ body: (any CaptureSession) async throws -> T
  ) async throws -> T {
    let scratch = try TemporaryDirectory("scratch")
    let session = try await fixture.driver(.usual).capture(CaptureContext(sink: tree, scratch: scratch.path))
    do {
      let value = try await body(session)
      await session.close()
      return value
    } catch {
      await session.close()
      throw error
    }
  }

  private func capture(_ fixture: PostgreSQLFixture) async throws -> Taken {
    let tree = MemoryTree()
    let result = try await withSession(fixture, tree) { try await whole($0) }
    return Taken(tree: tree, result: result)
  }

  private func withReader<T>(_ fixture: PostgreSQLFixture, _ body: (Connection) async throws -> T) async throws -> T {
    let connection = try await fixture.connect()
    do {
      let value = try await body(connection)
      await connection.close()
      return value
    } catch {
      await connection.close()
      throw error
    }
  }

  // MARK: The exit door

  /// What docs/drivers/postgresql.md says to do by hand, with stock programs only, and nothing of the driver's.
  @Test(.timeLimit(.minutes(10)), arguments: [false, true])
  func `a copy recovers to the mark by itself`(_ ontoNewTimeline: Bool) async throws {
    try await contract.withStore { fixture in
      try await fixture.server.sql("CREATE EXTENSION amcheck")
      let tree = MemoryTree()
      let (before, result) = try await withSession(fixture, tree) { session in
        try await session.prepare()
        try await session.hold(limit: .seconds(60))
        _ = try await session.mark()
        _ = await session.release()
        let before = try await fixture.records()
        // In the same segment as the mark, and never in the copy.
        for number in Int64(8000)...8050 { try await fixture.write(number, payload: "late") }
        return (before, try await session.finish())
      }
      let place = try TemporaryDirectory("exit-door")
      let data = place.file("data")
      try await tree.materialise("data", at: data) { _ in }
      if ontoNewTimeline {
        try Files.replace(data + "/recovery.signal", with: [])
        let file = data + "/postgresql.auto.conf"
        try Files.replace(file, with: try Files.read(file) + Array("restore_command = 'false'\n".utf8))
      }
      try await PostgreSQLServer.command("chmod", ["700", data], asOwner: false)
      if PostgreSQLServer.owner != nil {
        try await PostgreSQLServer.command("chown", ["-R", "postgres", place.path], asOwner: false)
      }
      let port = try freePort()
      let control = try PostgreSQLServer.program("pg_ctl")
      try await PostgreSQLServer.command(
        control, ["-D", data, "-l", place.file("log"), "-w", "-o", "-p \(port)", "start"], asOwner: true)
      let connection = "host=127.0.0.1 port=\(port) user=postgres dbname=postgres"
      let outcome: Result<(String, String), any Error>
      do {
        let numbers = try await PostgreSQLServer.command(
          PostgreSQLServer.program("psql"), ["-XAtqc", "SELECT number FROM records", connection], asOwner: false,
          environment: ["PGPASSWORD": PostgreSQLServer.password])
        try await PostgreSQLServer.command(
          PostgreSQLServer.program("pg_amcheck"),
          ["-h", "127.0.0.1", "-p", "\(port)", "-U", "postgres", "-d", "postgres", "--heapallindexed"], asOwner: false,
          environment: ["PGPASSWORD": PostgreSQLServer.password])
        let timeline = try await PostgreSQLServer.command(
          PostgreSQLServer.program("psql"),
          ["-XAtqc", "SELECT pg_walfile_name(pg_current_wal_lsn())", connection], asOwner: false,
          environment: ["PGPASSWORD": PostgreSQLServer.password])
        outcome = .success((numbers, timeline))
      } catch { outcome = .failure(error) }
      try await PostgreSQLServer.command(control, ["-D", data, "-m", "immediate", "-w", "stop"], asOwner: true)
      let (numbers, timeline) = try outcome.get()
      #expect(Set(numbers.split(separator: "\n").compactMap { Int64($0) }) == before)
      #expect(timeline.hasPrefix(ontoNewTimeline ? "00000002" : "00000001"))
      #expect(result.facts["markLSN"] == result.position.value)
    }
  }

  // MARK: What is copied

  @Test(.timeLimit(.minutes(10))) func `tablespaces go along, beside, in and out`() async throws {
    try await contract.withStore { fixture in
      let place = try fixture.server.ownDirectory("fast disk")
      try await fixture.server.sql(
        "CREATE TABLESPACE fast LOCATION '\(place)'", "CREATE TABLE spaced (n int PRIMARY KEY) TABLESPACE fast",
        "INSERT INTO spaced SELECT generate_series(1, 1000)", "CREATE UNLOGGED TABLE fleeting (n int)",
        "INSERT INTO fleeting SELECT generate_series(1, 1000)")
      let captured = try await capture(fixture)
      #expect(captured.tree.entries.keys.contains { $0.description.hasPrefix("tablespaces/") })
      try await fixture.server.sql("DELETE FROM spaced WHERE n > 10")
      let driver = try fixture.driver(.usual)
      let request = captured.request()
      #expect(try await driver.precheck(request).isEmpty)
      _ = try await driver.restoreBeside(request)
      #expect(try await driver.digestBeside(request) == captured.result.contentDigest)
      #expect(try await fixture.server.sql("SELECT count(*) FROM spaced") == "10", "the live state is as it was")
      try await driver.stop()
      for _ in 1...2 { try await driver.swapIn(request) }
      try await driver.start()
      #expect(try await fixture.server.sql("SELECT count(*) FROM spaced") == "1000")
      #expect(try await fixture.server.sql("SELECT count(*) FROM fleeting") == "0", "unlogged tables come back empty")
      try await driver.stop()
      for _ in 1...2 { try await driver.swapOut(request) }
      try await driver.start()
      #expect(try await fixture.server.sql("SELECT count(*) FROM spaced") == "10")
      #expect(try await fixture.server.sql("SELECT count(*) FROM fleeting") == "1000")
      try await driver.stop()
      try await driver.swapIn(request)
      try await driver.discardKept(request)
      try await driver.start()
      #expect(try await fixture.server.sql("SELECT count(*) FROM spaced") == "1000")
      let left = try Files.names(in: place).map(\.lossyText).filter { $0.hasPrefix(".salvor") }
      #expect(left.isEmpty)
    }
  }

  /// Tables grow, shrink, come and go while they are copied; what is restored equals what was read under the hold.
  @Test(.timeLimit(.minutes(10))) func `a busy cluster`() async throws {
    try await contract.withStore { fixture in
      let server = fixture.server
      let target = "host=127.0.0.1 port=\(server.port) user=postgres dbname=busy"
      let password: [String: String] = ["PGPASSWORD": PostgreSQLServer.password]
      try await server.sql("CREATE DATABASE busy TEMPLATE template0")
      try await server.sql("CREATE EXTENSION amcheck", database: "busy")
      let pgbench = try PostgreSQLServer.program("pgbench")
      try await PostgreSQLServer.command(pgbench, ["-iq", "-s", "1", target], asOwner: false, environment: password)
      let captured = try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask {
          try await PostgreSQLServer.command(
            pgbench, ["-n", "-c", "3", "-T", "2", target], asOwner: false, environment: password)
        }
        group.addTask {
          for round in 1...6 {
            try await server.sql(
              "CREATE TABLE brief AS SELECT generate_series(1, 20000) AS n", "TRUNCATE brief", "DROP TABLE brief",
              "DELETE FROM pgbench_history WHERE ctid < '(20,0)'", "VACUUM pgbench_history", "CHECKPOINT",
              "CREATE TABLE round\(round) AS SELECT generate_series(1, 5000) AS n", database: "busy")
          }
        }
        let captured = try await capture(fixture)
        try await group.waitForAll()
        return captured
      }
      let driver = try fixture.driver(.usual)
      let state = try await driver.restoreBeside(captured.request())
      let digest = try #require(try await driver.digestBeside(captured.request()))
      let expected = try #require(captured.result.contentDigest)
      #expect(digest.differences(from: expected).isEmpty)
      #expect(expected.parts["busy.public.pgbench_accounts"]?.count == 100_000)
      #expect(state.proofs.contains("pg_amcheck of busy") && state.proofs.contains("pg_checksums of every page"))
    }
  }

  // MARK: Damage

  @Test(.timeLimit(.minutes(10))) func `a damaged page in the live cluster is named`() async throws {
    try await contract.withStore { fixture in
      let path = try await fixture.server.sql("SELECT pg_relation_filepath('records')")
      try await fixture.server.stop()
      let file = try File(fixture.server.data + "/" + path, O_RDWR)
      var byte: [UInt8] = [0]
      _ = try byte.withUnsafeMutableBytes { try file.read(at: 8000, into: $0) }
      byte[0] ^= 1
      try byte.withUnsafeBytes { try file.write($0, at: 8000) }
      try await fixture.server.start()
      let error = await #expect(throws: DriverError.self) {
        try await withSession(fixture, MemoryTree()) { try await $0.prepare() }
      }
      guard case .corrupt(let what) = error else {
        Issue.record("damage is told as damage, not as \(String(describing: error))")
        return
      }
      #expect(what.contains(path) && what.contains("block 0"))
    }
  }

  @Test(.timeLimit(.minutes(10))) func `a segment of the log that went missing is a gap`() async throws {
    try await contract.withStore { fixture in
      let error = await #expect(throws: DriverError.self) {
        try await withSession(fixture, MemoryTree()) { session in
          try await session.prepare()
          try await session.hold(limit: .seconds(60))
          let mark = try await session.mark()
          _ = await session.release()
          // The backup's end switched segments, so it lies in the one before the mark's.
          let segment = try await fixture.server.sql("SELECT pg_walfile_name(pg_lsn '\(mark.value)' - 1048576)")
          #expect(Files.exists(fixture.server.data + "/pg_wal/" + segment))
          try Files.removeTree(fixture.server.data + "/pg_wal/" + segment)
          _ = try await session.finish()
        }
      }
      guard case .logGap = error else {
        Issue.record("a gap is told as a gap, not as \(String(describing: error))")
        return
      }
    }
  }

  /// The log in the tree ends before the mark: recovery must not pass for complete.
  @Test(.timeLimit(.minutes(10))) func `a log that ends early is a gap`() async throws {
    try await contract.withStore { fixture in
      let captured = try await capture(fixture)
      for number in Int64(1)...30 { try await fixture.write(8100 + number, payload: "more") }
      let later = try await capture(fixture)
      var request = captured.request()
      // The first capture's files under the second one's promise.
      request.capture = later.result
      let driver = try fixture.driver(.usual)
      let error = await #expect(throws: DriverError.self) { try await driver.restoreBeside(request) }
      guard case .logGap = error else {
        Issue.record("a gap is told as a gap, not as \(String(describing: error))")
        return
      }
      try await driver.discardKept(request)
    }
  }

  // MARK: Refusals

  @Test(.timeLimit(.minutes(10))) func `who can't connect is told why`() async throws {
    try await contract.withStore { fixture in
      let directory = try TemporaryDirectory("password")
      try Files.replace(directory.file("wrong"), with: Array("wrong".utf8))
      let wrong = await #expect(throws: DriverError.self) {
        try await fixture.driver(["password": .string("file:" + directory.file("wrong"))]).traits()
      }
      guard case .authenticationFailed(let what) = wrong else {
        Issue.record("\(String(describing: wrong))")
        return
      }
      #expect(!what.contains("wrong"), "no secret in an error")
      let nobody = await #expect(throws: DriverError.self) {
        try await fixture.driver(["port": .integer(Int64(try freePort()))]).traits()
      }
      guard case .unreachable = nobody else {
        Issue.record("\(String(describing: nobody))")
        return
      }
      let other = try fixture.server.ownDirectory("other")
      let elsewhere = await #expect(throws: DriverError.self) {
        let scratch = try TemporaryDirectory("scratch")
        let session = try await fixture.driver(["dataDirectory": .string(other)])
          .capture(CaptureContext(sink: MemoryTree(), scratch: scratch.path))
        do { try await session.prepare() } catch {
          await session.close()
          throw error
        }
      }
      #expect(elsewhere != nil, "a directory that isn't the server's")
    }
  }

  @Test(.timeLimit(.minutes(10))) func `wal_level minimal is unsupported, with a remedy`() async throws {
    let server = try await PostgreSQLServer.start(settings: ["wal_level = minimal", "max_wal_senders = 0"])
    let fixture = PostgreSQLFixture(server: server)
    let error = await #expect(throws: DriverError.self) { try await fixture.driver(.usual).traits() }
    await server.shutDown()
    guard case .unsupported(let what) = error else {
      Issue.record("\(String(describing: error))")
      return
    }
    #expect(what.contains("wal_level = replica"))
  }

  @Test(.timeLimit(.minutes(10))) func `a role with grants is enough`() async throws {
    try await contract.withStore { fixture in
      try await fixture.server.sql(
        "CREATE ROLE keeper LOGIN REPLICATION PASSWORD '\(PostgreSQLServer.password)'",
        "GRANT pg_read_all_data, pg_write_all_data, pg_monitor TO keeper",
        "GRANT EXECUTE ON FUNCTION pg_backup_start, pg_backup_stop TO keeper")
      let driver = try fixture.driver(["user": "keeper"])
      #expect(try await driver.traits().notes.contains { $0.contains("no superuser") })
      let tree = MemoryTree()
      let scratch = try TemporaryDirectory("scratch")
      let session = try await driver.capture(CaptureContext(sink: tree, scratch: scratch.path))
      let result = try await whole(session)
      await session.close()
      let request = Taken(tree: tree, result: result).request()
      _ = try await driver.restoreBeside(request)
      #expect(try await driver.digestBeside(request) == result.contentDigest)
    }
  }

  // MARK: The hold

  @Test(.timeLimit(.minutes(10))) func `a writer that doesn't end makes the hold give up, in time and without a trace`()
    async throws
  {
    try await contract.withStore { fixture in
      try await withReader(fixture) { writer in
        _ = try await writer.run("BEGIN; INSERT INTO records VALUES (8200, 'open')")
        try await withSession(fixture, MemoryTree()) { session in
          try await session.prepare()
          let (error, took) = await SystemTime().measure {
            await #expect(throws: DriverError.self) { try await session.hold(limit: .milliseconds(500)) }
          }
          guard case .holdTimeout(.milliseconds(500)) = error else {
            Issue.record("\(String(describing: error))")
            return
          }
          #expect(took < .seconds(120), "500 ms were allowed, on a machine that may be busy")
          try await fixture.write(8201, payload: "nobody waits")
        }
        _ = try await writer.run("COMMIT")
      }
      #expect(try await fixture.records().isSuperset(of: [8200, 8201]))
    }
  }

  /// A transaction that wants our locks in the other order would be a deadlock, and the server could end either.
  @Test(.timeLimit(.minutes(10))) func `a hold never costs an application its transaction`() async throws {
    try await contract.withStore { fixture in
      try await fixture.server.sql("CREATE TABLE second (n int)")
      try await withReader(fixture) { writer in
        _ = try await writer.run("BEGIN; INSERT INTO second VALUES (1)")
        try await withSession(fixture, MemoryTree()) { session in
          try await session.prepare()
          try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await session.hold(limit: .seconds(60)) }
            try await SystemTime().sleep(for: .milliseconds(200))
            // `records` is locked by now or soon; this waits until the hold backs off, and isn't ended.
            _ = try await writer.run("INSERT INTO records VALUES (8300, 'crossing')")
            _ = try await writer.run("COMMIT")
            try await group.waitForAll()
          }
          let wasHeld = await session.release()
          #expect(wasHeld)
        }
      }
      #expect(try await fixture.records().contains(8300))
    }
  }

  /// As when Salvor is killed or its machine vanishes: the session ends, and the locks with it.
  @Test(.timeLimit(.minutes(10))) func `a hold whose session died is told as lapsed, and writers go on`() async throws {
    try await contract.withStore { fixture in
      try await withSession(fixture, MemoryTree()) { session in
        try await session.prepare()
        try await session.hold(limit: .seconds(30))
        let ended = try await fixture.server.sql(
          "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'salvor' AND state = 'idle in transaction'"
        )
        #expect(ended == "1")
        try await fixture.write(8400, payload: "nobody waits")
        let wasHeld = await session.release()
        #expect(!wasHeld)
      }
      #expect(
        try await fixture.server.sql("SELECT count(*) FROM pg_replication_slots") == "0", "nothing is left behind")
    }
  }
}

#if canImport(Glibc)
  import Glibc
#endif
