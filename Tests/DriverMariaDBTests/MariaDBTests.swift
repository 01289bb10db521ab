import Core
import DriverContract
import DriverKit
import Foundation
import IO
import Synchronization
import TestSupport
import Testing

@testable import DriverMariaDB

@Suite("MariaDB") struct MariaDBTests {
  private struct Taken {
    var tree: MemoryTree
    var result: CaptureResult
    func request(from other: MemoryTree? = nil) -> RestoreRequest {
      RestoreRequest(id: "test-1", source: other ?? tree, capture: result)
    }
  }

  private func withServer<T>(
    _ settings: [String] = [], isLogged: Bool = true, _ body: (MariaDBFixture) async throws -> T
  ) async throws -> T {
    let fixture = try await MariaDBFixture.start(settings: settings, isLogged: isLogged)
    do {
      let value = try await body(fixture)
      await fixture.shutDown()
      return value
    } catch {
      await fixture.shutDown()
      throw error
    }
  }

  /// Runs `body` with a session, closed whatever happened.
  private func withSession<T>(
    _ driver: any DataStoreDriver, _ tree: any TreeSink, _ body: (any CaptureSession) async throws -> T
  ) async throws -> T {
    let scratch = try TemporaryDirectory("scratch")
    let session = try await driver.capture(CaptureContext(sink: tree, scratch: scratch.path))
    do {
      let value = try await body(session)
      await session.close()
      #expect(try Files.names(in: scratch.path).isEmpty, "nothing is left in scratch")
      return value
    } catch {
      await session.close()
      throw error
    }
  }

  /// A whole capture, with something done between the copy and the hold, and between release and the end.
  private func capture(
    _ fixture: MariaDBFixture, ahead: () async throws -> Void = {}, behind: () async throws -> Void = {}
  ) async throws -> Taken {
    let tree = MemoryTree()
    let result = try await withSession(fixture.driver(.usual), tree) { session in
      try await session.prepare()
      try await ahead()
      try await session.hold(limit: .seconds(60))
      _ = try await session.mark()
      let wasHeld = await session.release()
      #expect(wasHeld)
      try await behind()
      return try await session.finish()
    }
    return Taken(tree: tree, result: result)
  }

  private func restore(_ taken: Taken, _ fixture: MariaDBFixture) async throws -> RestoredState {
    let driver = try fixture.driver(.usual)
    let state = try await driver.restoreBeside(taken.request())
    #expect(try await driver.digestBeside(taken.request()) == taken.result.contentDigest)
    try await driver.stop()
    try await driver.swapIn(taken.request())
    try await driver.start()
    return state
  }

  private func failure(_ body: () async throws -> Void) async throws -> DriverError {
    do {
      try await body()
    } catch let error as DriverError { return error }
    throw ContractBroken("nothing was thrown")
  }

  // MARK: What is in the point

  @Test(.timeLimit(.minutes(10)))
  func `every kind of change before the mark is in the point, and none after it`() async throws {
    try await withServer { fixture in
      let taken = try await capture(fixture) {
        for statement in [
          "INSERT INTO shop.records VALUES (100, 'ahead')", "DELETE FROM shop.records WHERE number = 3",
          "INSERT INTO shop.plain VALUES (100, 'ahead')", "INSERT INTO shop.safe VALUES (100, 'ahead')",
          "CREATE TABLE shop.late (number BIGINT PRIMARY KEY, payload BLOB)", "FLUSH BINARY LOGS",
          "INSERT INTO shop.late SELECT seq, REPEAT(CHAR(seq % 256), 60000) FROM shop.seq_1_to_20",
          "SELECT NEXTVAL(shop.numbers)", "CREATE USER teller@localhost IDENTIFIED BY 'x'",
          "GRANT SELECT ON shop.* TO teller@localhost", "CREATE DATABASE annex",
          "CREATE TRIGGER shop.follow AFTER INSERT ON shop.late FOR EACH ROW INSERT INTO shop.safe VALUES (NEW.number, 't')",
          "INSERT INTO shop.late VALUES (500, 'x')", "ALTER TABLE shop.records ADD COLUMN note VARCHAR(20) DEFAULT 'n'",
        ] { try await fixture.run(statement) }
        let other = try await fixture.connect()
        for statement in [
          "XA START 'a'", "INSERT INTO shop.records (number, payload) VALUES (300, 'prepared')", "XA END 'a'",
          "XA PREPARE 'a'",
        ] { try await other.run(statement) }
        await other.close()
      } behind: {
        for statement in [
          "INSERT INTO shop.plain VALUES (200, 'behind')", "INSERT INTO shop.safe VALUES (200, 'behind')",
          "DROP TABLE shop.late", "CREATE TABLE shop.after (number INT)", "DROP USER teller@localhost",
          "SELECT NEXTVAL(shop.numbers)", "FLUSH BINARY LOGS", "XA COMMIT 'a'",
          "INSERT INTO shop.records (number, payload) VALUES (200, 'behind')",
        ] { try await fixture.run(statement) }
      }
      #expect(taken.result.facts["binlogFiles"] == "bin.000001 bin.000002")
      let state = try await restore(taken, fixture)
      #expect(state.proofs.contains { $0.contains("mariadb-backup --prepare") })
      #expect(state.proofs.contains { $0.contains("GTID \(taken.result.position.details["gtid"] ?? "?")") })
      #expect(state.proofs.contains { $0.contains("CHECK TABLE") })
      #expect(try await fixture.records() == Set((1...20).filter { $0 != 3 } + [100]))
      #expect(try await fixture.records("plain") == [100])
      #expect(try await fixture.records("safe") == [100, 500])
      #expect(try await fixture.records("late") == Set((1...20) + [500]))
      #expect(try await fixture.run("SELECT note FROM shop.records WHERE number = 1").rows == [["n"]])
      #expect(try await fixture.run("SHOW TABLES FROM shop LIKE 'after'").rows.isEmpty)
      #expect(try await fixture.run("SHOW GRANTS FOR teller@localhost").rows.count == 2)
      #expect(try await fixture.run("XA RECOVER").rows.count == 1, "what was prepared is prepared")
      #expect(
        try await fixture.run("SELECT NEXTVAL(shop.numbers)").rows == [["1001"]],
        "a sequence starts at its next reserve")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `the binary log's numbering goes on where the point ends`() async throws {
    try await withServer { fixture in
      let taken = try await capture(fixture) { try await fixture.write(100, payload: "ahead") }
      let gtid = try #require(taken.result.position.details["gtid"])
      _ = try await restore(taken, fixture)
      #expect(try await fixture.run("SELECT @@GLOBAL.gtid_binlog_pos, @@GLOBAL.gtid_slave_pos").rows == [[gtid, ""]])
      try await fixture.write(101, payload: "next")
      let number = try #require(gtid.split(separator: "-").last.flatMap { Int($0) })
      #expect(try await fixture.run("SELECT @@GLOBAL.gtid_binlog_pos").rows == [["0-1-\(number + 1)"]])
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `logs the server removes meanwhile are missed only when they are needed`() async throws {
    try await withServer { fixture in
      // The first is open since the copy was made.
      let taken = try await capture(fixture) {
        try await fixture.write(100, payload: "ahead")
        try await fixture.run("FLUSH BINARY LOGS")
        try await fixture.write(101, payload: "ahead")
        try await purge(fixture)
      }
      _ = try await restore(taken, fixture)
      #expect(try await fixture.records().isSuperset(of: [100, 101]))
      let error = try await failure {
        _ = try await capture(fixture) {
          for number in Int64(200)...202 {
            try await fixture.run("FLUSH BINARY LOGS")
            try await fixture.write(number, payload: "ahead")
          }
        } behind: {
          try await purge(fixture)
        }
      }
      guard case .logGap = error else { throw ContractBroken("\(error)") }
    }
  }

  /// Until none but the last is there: the server keeps a log for as long as InnoDB has not flushed what is in it.
  private func purge(_ fixture: MariaDBFixture) async throws {
    for _ in 0..<100 {
      let logs = try await fixture.run("SHOW BINARY LOGS").rows
      if logs.count == 1 { return }
      try await fixture.run("PURGE BINARY LOGS TO '\(logs.last?[0] ?? "")'")
      try await SystemTime().sleep(for: .milliseconds(100))
    }
    throw ContractBroken("the server keeps its logs")
  }

  @Test(.timeLimit(.minutes(10)))
  func `a bit flipped in the binary log is found`() async throws {
    try await withServer { fixture in
      let taken = try await capture(fixture) { try await fixture.write(100, payload: Payload.of(424_242)) }
      let place = try #require(taken.tree.firstOccurrence(of: Array(Payload.of(424_242).utf8)))
      #expect(place.path.description.hasPrefix("binlog/"))
      let driver = try fixture.driver(.usual)
      let damaged = try taken.tree.damaged(at: place.path, offset: place.offset)
      let error = try await failure { _ = try await driver.restoreBeside(taken.request(from: damaged)) }
      guard case .corrupt = error else { throw ContractBroken("\(error)") }
      // The next try begins anew.
      _ = try await driver.restoreBeside(taken.request())
      try await driver.discardKept(taken.request())
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a log that ends too early, or too late, is found`() async throws {
    try await withServer { fixture in
      let taken = try await capture(fixture) { try await fixture.write(100, payload: "ahead") }
      let driver = try fixture.driver(.usual)
      for gtid in ["0-1-1", "0-1-999", "7-1-1"] {
        var request = taken.request()
        request.capture.facts["markGTID"] = gtid
        let error = try await failure { _ = try await driver.restoreBeside(request) }
        guard case .logGap = error else { throw ContractBroken("\(error)") }
      }
      for (fact, value) in [
        ("binlogFiles", "../../etc/passwd"), ("binlogFiles", ""), ("markGTID", "x'; DROP TABLE a"), ("mark", "a"),
        ("logBaseName", "../x"), ("variable.default_storage_engine", "x y"),
      ] {
        var request = taken.request()
        request.capture.facts[fact] = value
        let error = try await failure { _ = try await driver.restoreBeside(request) }
        guard case .corrupt = error else { throw ContractBroken("\(fact)=\(value): \(error)") }
      }
      try await driver.discardKept(taken.request())
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `an interrupted restore leaves nothing that the next one minds`() async throws {
    try await withServer { fixture in
      let taken = try await capture(fixture) { try await fixture.write(100, payload: "ahead") }
      let driver = try fixture.driver(.usual)
      for delay in [100, 400, 900, 1500] {
        try await withThrowingTaskGroup(of: Void.self) { group in
          group.addTask { _ = try? await driver.restoreBeside(taken.request()) }
          try await SystemTime().sleep(for: .milliseconds(delay))
          group.cancelAll()
        }
        #expect(fixture.server.processes().count == 1, "no server is left beside")
      }
      _ = try await restore(taken, fixture)
      #expect(try await fixture.records().contains(100))
      try await driver.discardKept(taken.request())
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a server left beside by a crash is ended by the next try`() async throws {
    try await withServer { fixture in
      let taken = try await capture(fixture)
      let driver = try fixture.driver(.usual)
      _ = try await driver.restoreBeside(taken.request())
      let workspace = taken.request().workspace(beside: fixture.server.data)
      // As if this process had died while the server was being examined.
      try Files.rename(workspace + "/beside", to: workspace + "/incomplete")
      try await PostgreSQLServer.command(
        "setsid",
        ["--fork"] + MariaDBServer.asOwner
          + [
            "sh", "-c",
            "exec /usr/sbin/mariadbd --no-defaults --skip-networking --datadir=\"$0\" --socket=s.sock >/dev/null 2>&1",
            workspace + "/incomplete",
          ], asOwner: false)
      while fixture.server.processes().count < 2 { try await SystemTime().sleep(for: .milliseconds(20)) }
      _ = try await driver.restoreBeside(taken.request())
      #expect(fixture.server.processes().count == 1)
      try await driver.discardKept(taken.request())
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `events are as they were at the mark, though a replay disables what it defines`() async throws {
    try await withServer { fixture in
      try await fixture.run("CREATE EVENT shop.old ON SCHEDULE EVERY 1 DAY DO SELECT 1")
      try await fixture.run("CREATE EVENT shop.changed ON SCHEDULE EVERY 1 DAY DO SELECT 1")
      let taken = try await capture(fixture) {
        try await fixture.run("CREATE EVENT shop.tick ON SCHEDULE EVERY 1 DAY DO SELECT 1")
        try await fixture.run("CREATE EVENT shop.rest ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 1")
        try await fixture.run("ALTER EVENT shop.changed DISABLE")
      } behind: {
        try await fixture.run("CREATE EVENT shop.late ON SCHEDULE EVERY 1 DAY DO SELECT 1")
      }
      #expect(taken.result.facts["events"] == "4")
      _ = try await restore(taken, fixture)
      #expect(
        try await fixture.run("SELECT name, status FROM mysql.event ORDER BY name").rows == [
          ["changed", "DISABLED"], ["old", "ENABLED"], ["rest", "DISABLED"], ["tick", "ENABLED"],
        ])
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `users known by a plugin that was installed are replayed`() async throws {
    try await withServer { fixture in
      try await fixture.run("INSTALL SONAME 'auth_ed25519'")
      let taken = try await capture(fixture) {
        try await fixture.run("CREATE USER curve@localhost IDENTIFIED VIA ed25519 USING PASSWORD('x')")
      }
      #expect(taken.result.facts["authentication"] == "ed25519=auth_ed25519.so")
      _ = try await restore(taken, fixture)
      #expect(try await fixture.run("SHOW GRANTS FOR curve@localhost").rows.count == 1)
      var request = taken.request()
      request.capture.facts["authentication"] = "a=../b.so"
      let error = try await failure { _ = try await fixture.driver(.usual).restoreBeside(request) }
      guard case .corrupt = error else { throw ContractBroken("\(error)") }
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `transactions that came from other servers are in nobody's way`() async throws {
    try await withServer { fixture in
      for (domain, server) in [(0, 7), (3, 8), (0, 1)] {
        let other = try await fixture.connect()
        try await other.run("SET SESSION gtid_domain_id = \(domain), server_id = \(server)")
        try await other.run("INSERT INTO shop.records VALUES (\(100 + domain * 10 + server), 'theirs')")
        await other.close()
      }
      let taken = try await capture(fixture) { try await fixture.write(200, payload: "ahead") }
      _ = try await restore(taken, fixture)
      #expect(try await fixture.records() == Set((1...20) + [101, 107, 138, 200]))
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a digest is of one moment, whatever the server's isolation is`() async throws {
    try await withServer(["transaction-isolation=READ-COMMITTED"]) { fixture in
      let taken = try await capture(fixture) {
      } behind: {
        try await fixture.write(100, payload: "behind")
      }
      #expect(taken.result.contentDigest?.parts["shop.records"]?.count == 20)
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `what is computed is in no digest`() async throws {
    try await withServer { fixture in
      try await fixture.run(
        "CREATE TABLE shop.dated (n INT PRIMARY KEY, kept INT AS (n + 1) PERSISTENT, today DATE AS (CURDATE()) VIRTUAL)"
      )
      let connection = try await fixture.connect()
      let table = RowDigest.Table(schema: "shop", name: "dated", isVersioned: false)
      #expect(try await RowDigest.columns(connection, table).map { $0[0] } == ["n", "kept"])
      await connection.close()
    }
  }

  @Test func `one of a cluster whose log lacks what others write is outside`() {
    var facts = ServerFacts(
      version: "10.11.19",
      variables: ["log_bin": "ON", "binlog_format": "ROW", "log_slave_updates": "OFF", "wsrep_on": "ON"], engines: [:],
      binlogFilters: false)
    guard case .outside(let why) = facts.hold, why.contains("Galera") else {
      Issue.record("\(facts.hold)")
      return
    }
    facts.variables["log_slave_updates"] = "ON"
    #expect(facts.isHeld)
  }

  @Test func `plugins for compression are loaded beside, and no others`() throws {
    let place = try TemporaryDirectory("layout")
    func layout(_ line: String) throws -> [String: String] {
      try Files.replace(place.file("backup-my.cnf"), with: Array("[mysqld]\ninnodb_page_size=16384\n\(line)\n".utf8))
      return try BesideServer.layout(in: place.path)
    }
    #expect(
      try layout("plugin_load=;provider_lz4=provider_lz4.so;provider_lzo=provider_lzo.so") == [
        "innodb_page_size": "16384", "plugin_load_add": "provider_lz4=provider_lz4.so;provider_lzo=provider_lzo.so",
      ])
    #expect(try layout("plugin_load=") == ["innodb_page_size": "16384"])
    for bad in ["file_key_management=x.so", "provider_lz4=../x.so", "provider_lz4=provider_lzo.so"] {
      #expect(throws: DriverError.self, "\(bad)") { try layout("plugin_load=\(bad)") }
    }
    let server = BesideServer(
      data: "/a", control: "/b", variables: ["ft_min_word_len": "2"], authentication: ["e=f.so"])
    let arguments = server.arguments([:])
    for wanted in ["--slave-ddl-exec-mode=STRICT", "--plugin-load-add=e=f.so", "--ft-min-word-len=2"] {
      #expect(arguments.contains(wanted))
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a restore that failed leaves no directory where sockets go`() async throws {
    try await withServer { fixture in
      let taken = try await capture(fixture) { try await fixture.write(100, payload: "ahead") }
      var request = taken.request()
      // So deep that a socket has no room there.
      request.id = "test-" + String(repeating: "x", count: 100)
      let control = RestoreLayout(request, dataDirectory: fixture.server.data).control
      let place = BesideServer(data: "", control: control, variables: [:]).socketDirectory
      try #require(place.hasPrefix("/tmp/.salvor-"))
      request.capture.facts["markGTID"] = "0-1-999"
      let driver = try fixture.driver(.usual)
      let error = try await failure { _ = try await driver.restoreBeside(request) }
      guard case .logGap = error else { throw ContractBroken("\(error)") }
      #expect(!Files.exists(place))
      try await driver.discardKept(request)
    }
  }

  // MARK: What is held

  @Test(.timeLimit(.minutes(10)))
  func `a limit is that of all stages together`() async throws {
    try await withServer { fixture in
      let (backup, mine) = (try await fixture.connect(), try await fixture.connect())
      try await backup.run("BACKUP STAGE START")
      try await withStatementUnderWay(fixture, into: "plain") {
        let began = SystemTime().monotonicNanoseconds()
        let error = try await failure {
          try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
              try await SystemTime().sleep(for: .seconds(5))
              try await backup.run("BACKUP STAGE END")
            }
            group.addTask { try await CommitHold(mine).take(limit: .seconds(6), time: SystemTime()) }
            try await group.waitForAll()
          }
        }
        guard case .holdTimeout = error else { throw ContractBroken("\(error)") }
        let waited = SystemTime().monotonicNanoseconds() - began
        #expect(waited < 10_000_000_000, "\(waited) ns")
      }
      await backup.close()
      await mine.close()
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `while held nothing of any kind is acknowledged`() async throws {
    try await withServer { fixture in
      try await fixture.run("CREATE USER other@localhost")
      try await withSession(try fixture.driver(.usual), MemoryTree()) { session in
        try await session.prepare()
        try await session.hold(limit: .seconds(60))
        let before = try await session.mark()
        let statements = [
          "INSERT INTO shop.records VALUES (100, 'x')", "INSERT INTO shop.plain VALUES (100, 'x')",
          "INSERT INTO shop.safe VALUES (100, 'x')", "CREATE TABLE shop.new (n INT)", "SELECT NEXTVAL(shop.numbers)",
          "GRANT SELECT ON *.* TO other@localhost", "SET PASSWORD FOR other@localhost = PASSWORD('x')",
          "CREATE VIEW shop.look AS SELECT 1", "OPTIMIZE TABLE shop.records",
        ]
        let done = try await withThrowingTaskGroup(of: String.self) { group in
          for statement in statements {
            group.addTask {
              try await fixture.run(statement)
              return statement
            }
          }
          // Reading goes on.
          #expect(try await fixture.records().count == 20)
          try await SystemTime().sleep(for: .seconds(1))
          let after = try await session.mark()
          #expect(after == before, "nothing came into the log")
          let wasHeld = await session.release()
          #expect(wasHeld)
          return try await group.reduce(into: []) { $0.append($1) }
        }
        #expect(Set(done) == Set(statements))
      }
    }
  }

  /// Runs `body` while an insert into `table` is under way: it waits for a lock of no table, which somebody has.
  private func withStatementUnderWay<T>(
    _ fixture: MariaDBFixture, into table: String, _ body: () async throws -> T
  ) async throws -> T {
    let (owner, busy) = (try await fixture.connect(), try await fixture.connect())
    try await owner.run("SELECT GET_LOCK('salvor-test', 0)")
    return try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { try await busy.run("INSERT INTO shop.\(table) SELECT 900, GET_LOCK('salvor-test', 100)") }
      while try await fixture.run("SELECT 1 FROM information_schema.PROCESSLIST WHERE STATE = 'User lock'").rows.isEmpty
      {
        try await SystemTime().sleep(for: .milliseconds(20))
      }
      let result: Result<T, any Error>
      do { result = .success(try await body()) } catch { result = .failure(error) }
      // Closing it gives the lock back, and the statement goes on.
      await owner.close()
      try await group.waitForAll()
      await busy.close()
      return try result.get()
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `open transactions and statements under way are in nobody's way`() async throws {
    try await withServer { fixture in
      let open = try await fixture.connect()
      try await open.run("BEGIN")
      try await open.run("UPDATE shop.records SET payload = 'open' WHERE number = 1")
      let taken = try await withStatementUnderWay(fixture, into: "records") { try await capture(fixture) }
      try await open.run("COMMIT")
      await open.close()
      #expect(try await fixture.records().contains(900), "it went on afterwards")
      _ = try await restore(taken, fixture)
      #expect(
        try await fixture.run("SELECT payload FROM shop.records WHERE number = 1").rows
          == [["salvor-record-1-of-the-contract"]])
      #expect(try await fixture.records() == Set(1...20))
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `whoever can't be waited for makes the hold fail, and nobody waits after it`() async throws {
    try await withServer { fixture in
      try await withSession(try fixture.driver(.usual), MemoryTree()) { session in
        try await session.prepare()
        try await withStatementUnderWay(fixture, into: "plain") {
          let error = try await failure { try await session.hold(limit: .milliseconds(500)) }
          guard case .holdTimeout(.milliseconds(500)) = error else { throw ContractBroken("\(error)") }
          // Which they could not, were anything still held: the statement ends after them.
          try await fixture.write(100, payload: "x")
          try await fixture.run("CREATE TABLE shop.new (n INT)")
          // Nor does another backup.
          let backup = try await fixture.connect()
          for statement in ["SET SESSION max_statement_time = 20", "BACKUP STAGE START", "BACKUP STAGE END"] {
            try await backup.run(statement)
          }
          await backup.close()
        }
      }
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a hold whose connection dies lets go at once, and says so`() async throws {
    try await withServer { fixture in
      let connection = try await fixture.connect()
      let hold = CommitHold(connection)
      try await hold.take(limit: .seconds(90), time: SystemTime())
      let began = SystemTime().monotonicNanoseconds()
      // What the kernel does for a process that is killed.
      connection.interrupt()
      try await fixture.write(100, payload: "x")
      #expect(SystemTime().monotonicNanoseconds() - began < 30_000_000_000)
      let wasHeld = await hold.release()
      #expect(!wasHeld)
      await connection.close()
    }
  }

  /// A stopped process, or a machine that is gone, closes no connection.
  @Test(.timeLimit(.minutes(10)))
  func `the server itself lets go of a hold nobody ends`() async throws {
    try await withServer { fixture in
      let connection = try await fixture.connect()
      for statement in ["BACKUP STAGE START", "BACKUP STAGE BLOCK_COMMIT"] { try await connection.run(statement) }
      // From here on: a write that comes late finds less to wait for.
      let began = SystemTime().monotonicNanoseconds()
      try await connection.run("SET SESSION wait_timeout = 2")
      try await fixture.write(100, payload: "x")
      let waited = SystemTime().monotonicNanoseconds() - began
      #expect(waited > 1_500_000_000 && waited < 60_000_000_000)
      await connection.close()
      // And a hold has set that limit on its connection.
      let other = try await fixture.connect()
      let hold = CommitHold(other)
      try await hold.take(limit: .seconds(5), time: SystemTime())
      let patience = try other.runBlocking("SELECT @@SESSION.wait_timeout").rows
      #expect(patience == [["6"]])
      _ = await hold.release()
      await other.close()
    }
  }

  // MARK: Outside the cut

  @Test(.timeLimit(.minutes(10)))
  func `without a binary log a store is outside the cut, and comes back all the same`() async throws {
    try await withServer(isLogged: false) { fixture in
      let driver = try fixture.driver(.usual)
      guard case .outside(let why) = try await driver.traits().hold else { throw ContractBroken("held") }
      #expect(why.contains("log_bin"))
      let tree = MemoryTree()
      let result = try await withSession(driver, tree) { session in
        try await session.prepare()
        try await session.hold(limit: .seconds(1))
        let position = try await session.mark()
        #expect(position.kind == "lsn")
        let wasHeld = await session.release()
        #expect(!wasHeld)
        return try await session.finish()
      }
      #expect(result.contentDigest == nil)
      let taken = Taken(tree: tree, result: result)
      try await fixture.write(100, payload: "x")
      _ = try await restore(taken, fixture)
      #expect(try await fixture.records() == Set(1...20))
    }
  }

  @Test(
    .timeLimit(.minutes(10)),
    arguments: [
      ("binlog-format=MIXED", "", "binlog_format"), ("binlog-format=STATEMENT", "", "binlog_format"),
      ("binlog-ignore-db=scratch", "", "binlog_ignore_db"),
      ("server-id=2", "CREATE TABLE shop.cache (n INT) ENGINE = MEMORY", "MEMORY"),
      ("log-slave-updates=0", "SET GLOBAL gtid_slave_pos = '3-3-3'", "log_slave_updates"),
    ])
  func `a log that does not tell everything puts a store outside`(
    _ setting: String, _ statement: String, _ word: String
  ) async throws {
    try await withServer([setting]) { fixture in
      if !statement.isEmpty { try await fixture.run(statement) }
      guard case .outside(let why) = try await fixture.driver(.usual).traits().hold else {
        throw ContractBroken("\(setting) can be held")
      }
      #expect(why.contains(word))
    }
  }

  // MARK: Digest

  @Test(.timeLimit(.minutes(10)))
  func `a digest sees every kind of value, and only InnoDB's tables`() async throws {
    try await withServer { fixture in
      try await fixture.run(
        """
        CREATE TABLE shop.kinds (n INT PRIMARY KEY, g GEOMETRY, b BIT(5), d DOUBLE, f FLOAT, j JSON, t TIMESTAMP NULL,
        hidden INT INVISIBLE, twice INT AS (n * 2) VIRTUAL, x VARBINARY(20), c CHAR(5) CHARACTER SET latin1,
        e ENUM('a', 'b'), i INET6, u UUID, m DECIMAL(30, 10), y YEAR, z TIME(6), `a``b.c` TEXT)
        """)
      try await fixture.run(
        "CREATE TABLE shop.history (n INT PRIMARY KEY, v INT) WITH SYSTEM VERSIONING")
      try await fixture.run("INSERT INTO shop.history VALUES (1, 1)")
      try await fixture.run("UPDATE shop.history SET v = 2")
      try await fixture.run("CREATE DATABASE `odd.name`")
      try await fixture.run("CREATE TABLE `odd.name`.`ta``ble` (n INT PRIMARY KEY)")
      try await fixture.run("INSERT INTO shop.kinds (n) VALUES (1)")
      var seen: [ContentDigest.Part] = []
      let first = try await capture(fixture)
      let digest = try #require(first.result.contentDigest)
      #expect(
        Set(digest.parts.keys) == ["shop.records", "shop.kinds", "shop.history", "`odd.name`.`ta``ble`"],
        "tables of MyISAM and Aria, and sequences, keep no snapshot")
      #expect(digest.parts["shop.history"]?.count == 2, "with what was")
      #expect(digest.scheme == "mariadb-rows-v1")
      // The same whoever reads it, in whatever order.
      let connection = try await fixture.connect()
      try await connection.run(RowDigest.settings)
      for change in [
        "g = POINT(1, 2)", "b = b'101'", "d = 0.1", "f = 0.5", "j = '{}'", "t = '2020-01-01 00:00:00'", "hidden = 0",
        "x = x'00'", "x = x''", "c = 'é'", "e = 'b'", "i = '::1'", "u = UUID()", "m = 0.0000000001", "y = 2020",
        "z = '00:00:00.000001'", "`a``b.c` = '-'",
      ] {
        try await fixture.run("UPDATE shop.kinds SET \(change)")
        let part = try #require(
          try await part(connection, "kinds"))
        #expect(!seen.contains(part), "\(change) is seen")
        seen.append(part)
      }
      await connection.close()
      _ = try await restore(try await capture(fixture), fixture)
    }
  }

  private func part(_ connection: Connection, _ name: String) async throws -> ContentDigest.Part? {
    var table = RowDigest.Table(schema: "shop", name: name, isVersioned: false)
    table.columns = try await RowDigest.columns(connection, table)
    return try await RowDigest.part(connection, table)
  }

  /// The scheme is documented: anybody can compute it.
  @Test(.timeLimit(.minutes(10)))
  func `mariadb-rows-v1 stays what it is`() async throws {
    try await withServer { fixture in
      try await fixture.run("CREATE TABLE shop.fixed (n INT PRIMARY KEY, t TEXT)")
      try await fixture.run("INSERT INTO shop.fixed VALUES (1, 'one'), (2, NULL), (3, '')")
      let connection = try await fixture.connect()
      try await connection.run(RowDigest.settings)
      let part = try await part(connection, "fixed")
      #expect(part == ContentDigest.Part(digest: Self.fixedDigest, count: 3))
      await connection.close()
    }
  }

  static let fixedDigest = "d1b24f7426491f053bfa952d1bab33366901d6e76c94d15abeca32fcb680856d"

  @Test(.timeLimit(.minutes(10)))
  func `a table changed while digests are read has none, and that is said`() async throws {
    try await withServer { fixture in
      try await fixture.run("CREATE TABLE shop.gone (n INT PRIMARY KEY)")
      try await fixture.run("CREATE TABLE shop.wide (n INT PRIMARY KEY)")
      try await fixture.run("CREATE TABLE shop.empty (n INT PRIMARY KEY)")
      try await fixture.run("INSERT INTO shop.empty VALUES (1)")
      let taken = try await capture(fixture) {
      } behind: {
        try await fixture.run("DROP TABLE shop.gone")
        try await fixture.run("ALTER TABLE shop.wide ADD COLUMN m INT DEFAULT 5")
        try await fixture.run("TRUNCATE TABLE shop.empty")
        try await fixture.run("CREATE TABLE shop.later (n INT PRIMARY KEY)")
      }
      #expect(taken.result.contentDigest.map { Set($0.parts.keys) } == ["shop.records"])
      #expect(taken.result.notes.contains { $0.contains("shop.wide") })
      let state = try await restore(taken, fixture)
      #expect(state.proofs.contains { $0.contains("not compared") && $0.contains("3 tables") })
    }
  }

  // MARK: Refusals

  @Test(.timeLimit(.minutes(10)))
  func `doors that are shut are told as such`() async throws {
    try await withServer { fixture in
      let wrong = fixture.server.directoryPath + "/wrong"
      try Files.replace(wrong, with: Array("wrong\n".utf8))
      let denied = try await failure { _ = try await fixture.driver(["password": .string("file:" + wrong)]).traits() }
      guard case .authenticationFailed = denied else { throw ContractBroken("\(denied)") }
      let nobody = try await failure { _ = try await fixture.driver(["port": 1]).traits() }
      guard case .unreachable = nobody else { throw ContractBroken("\(nobody)") }
      // Every grant the page asks for is needed.
      for grant in MariaDBServer.grants.split(separator: ",").map({ $0.filter { $0 != " " } }) {
        let name = ["LOCKTABLES": "LOCK TABLES", "BINLOGMONITOR": "BINLOG MONITOR"][grant] ?? grant
        try await fixture.run("REVOKE \(name) ON *.* FROM 'salvor'@'127.0.0.1'")
        if grant == "LOCKTABLES" {
          try await fixture.run("GRANT \(name) ON *.* TO 'salvor'@'127.0.0.1'")
          continue
        }
        let error = try await failure { _ = try await capture(fixture) }
        guard case .permissionDenied = error else { throw ContractBroken("without \(name): \(error)") }
        try await fixture.run("GRANT \(name) ON *.* TO 'salvor'@'127.0.0.1'")
      }
      _ = try await capture(fixture)
      let elsewhere = try await failure {
        let driver = try fixture.driver(["dataDirectory": .string(fixture.server.directoryPath)])
        try await withSession(driver, MemoryTree()) { try await $0.prepare() }
      }
      guard case .unsupported = elsewhere else { throw ContractBroken("\(elsewhere)") }
    }
  }

  @Test func `options that can't be right are refused`() throws {
    let good: [String: JSONValue] = ["dataDirectory": "/srv/data"]
    func make(_ changes: [String: JSONValue]) throws {
      _ = try MariaDBDriverFactory.make(
        StoreConfiguration(name: "a", options: good.merging(changes) { _, new in new }.filter { $0.value != .null }),
        in: .live)
    }
    try make([:])
    try make(["socket": "/run/mysqld/mysqld.sock"])
    let bad: [[String: JSONValue]] = [
      ["dataDirectory": .null], ["dataDirectory": "data"], ["dataDirectory": "/"], ["port": 0], ["port": 70_000],
      ["password": "plain"], ["startTimeout": "soon"], ["socket": "run/s.sock"],
      ["socket": "/run/s.sock", "host": "db"], ["socket": "/run/s.sock", "port": 3306], ["user": ""],
      ["socket": .string("/" + String(repeating: "a", count: 200))], ["user": "a\nb"], ["configFile": "my.cnf"],
    ]
    for options in bad { #expect(throws: DriverError.self, "\(options)") { try make(options) } }
  }

  @Test(.timeLimit(.minutes(10)))
  func `the password is in no argument and no file that stays`() async throws {
    try await withServer { fixture in
      let secret = MariaDBServer.password
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask {
          while !Task.isCancelled {
            for name in try Files.names(in: "/proc") where Int32(name.lossyText) != nil {
              let line = (try? Files.read("/proc/\(name.lossyText)/cmdline", limitBytes: 1 << 20)) ?? []
              try promise(!String(decoding: line, as: UTF8.self).contains(secret), "a password in an argument")
            }
            try? await SystemTime().sleep(for: .milliseconds(20))
          }
        }
        let taken = try await capture(fixture)
        group.cancelAll()
        try await group.waitForAll()
        for (path, entry) in taken.tree.entries {
          try promise(
            !String(decoding: entry.content.prefix(1 << 20), as: UTF8.self).contains(secret),
            "the password is in \(path)")
        }
      }
    }
  }

  // MARK: The whole way

  @Test(.timeLimit(.minutes(10))) func `a server comes back through the command line, and again by a rollback`()
    async throws
  {
    try await withServer { fixture in
      let place = try TemporaryDirectory("maria-system")
      let options = try await system(fixture, in: place)
      try await CommandRun([salvor, "backup"] + options).succeeded()
      try await fixture.write(100, payload: "late")
      try await CommandRun([salvor, "restore", "--yes"] + options).succeeded()
      #expect(try await fixture.records() == Set(1...20))
      let runs = try await CommandRun([salvor, "runs", "-o", "json"] + options).succeeded().output
      let run = try #require(runs.firstMatch(of: /recovery-[0-9a-f]+/)).output
      try await CommandRun([salvor, "run", "rollback", String(run), "--yes"] + options).succeeded()
      #expect(try await fixture.records() == Set((1...20) + [100]))
    }
  }

  private var salvor: String { (try? CommandRun.product("salvor")) ?? "salvor" }

  /// A repository and a catalog with the server in it.
  ///
  /// - Parameter more: Further stores of the service, as lines.
  /// - Returns: Options for commands.
  private func system(
    _ fixture: MariaDBFixture, in place: TemporaryDirectory, more: String = ""
  ) async throws -> [String] {
    try await CommandRun([
      salvor, "init", "--file", place.file("first.yaml"), "--repository", place.file("vault"), "--password-file",
      place.file("password"),
    ]).succeeded()
    try Files.replace(
      place.file("salvor.yaml"),
      with: Array(
        """
        apiVersion: salvor.dev/v1
        kind: Repository
        metadata: {name: main}
        spec: {location: "local:\(place.file("vault"))", password: "file:\(place.file("password"))"}
        ---
        apiVersion: salvor.dev/v1
        kind: ConsistencyGroup
        metadata: {name: all}
        spec: {services: [shop], holdBudget: 60s}
        ---
        apiVersion: salvor.dev/v1
        kind: Service
        metadata: {name: shop}
        spec:
          stores:
            - name: goods
              mariadb:
                socket: "\(fixture.server.socket)"
                password: "file:\(fixture.server.passwordFile)"
                dataDirectory: "\(fixture.server.data)"
                configFile: "\(fixture.server.configFile)"
        \(more)
        ---
        apiVersion: salvor.dev/v1
        kind: Invariant
        metadata: {name: every-record-has-text}
        spec:
          constant: {store: goods, query: "SELECT COUNT(*) FROM shop.records WHERE payload = ''", equals: "0"}
        """.utf8))
    return ["--catalog", place.file("salvor.yaml"), "--state", place.file("state")]
  }

  /// Killed while it restores beside, proves, stops, swaps or starts: whoever resumes finds a way from there.
  @Test(.timeLimit(.minutes(10)), arguments: [700, 1400, 2100, 2800, 3500, 4200])
  func `a restore that was killed is resumed`(_ milliseconds: Int) async throws {
    try await withServer { fixture in
      let place = try TemporaryDirectory("maria-killed")
      let options = try await system(fixture, in: place)
      try await CommandRun([salvor, "backup"] + options).succeeded()
      try await fixture.write(100, payload: "late")
      let restore = try PipedProcess([salvor, "restore", "--yes"] + options)
      try await SystemTime().sleep(for: .milliseconds(milliseconds))
      restore.kill()
      let runs = try await CommandRun([salvor, "runs", "-o", "json"] + options).succeeded().output
      if let run = runs.firstMatch(of: /recovery-[0-9a-f]+/) {
        let resumed = try await CommandRun([salvor, "run", "resume", String(run.output)] + options)
        #expect(resumed.status == 0 || resumed.errors.contains("ended"), "\(resumed.output) \(resumed.errors)")
      } else {
        try await CommandRun([salvor, "restore", "--yes"] + options).succeeded()
      }
      #expect(try await fixture.records() == Set(1...20))
      #expect(fixture.server.processes().count == 1, "one server is left: the live one")
    }
  }

  /// While another store of the group still takes its time to be held.
  @Test(.timeLimit(.minutes(10))) func `a hold lapses when Salvor is killed`() async throws {
    try await withServer { fixture in
      let place = try TemporaryDirectory("maria-held")
      let root = Files.parent(of: Files.parent(of: Files.parent(of: Self.page)))
      let text = String(decoding: try Files.read(root + "/examples/drivers/journal.sh"), as: UTF8.self)
      let slow = text.replacingOccurrences(of: "capture.hold) take_hold", with: "capture.hold) sleep 20; take_hold")
      try #require(slow != text)
      try Files.replace(place.file("slow.sh"), with: Array(slow.utf8), mode: 0o755)
      try Files.createDirectory(place.file("slow"))
      for name in ["entries", "lock"] { try Files.replace(place.file("slow/" + name), with: Array("1 a\n".utf8)) }
      let options = try await system(
        fixture, in: place,
        more: """
              - name: slow
                exec: {command: "sh \(place.file("slow.sh"))", state: "\(place.file("slow"))"}
          """)
      let backup = try PipedProcess([salvor, "backup", "all"] + options)
      try await withThrowingTaskGroup(of: Void.self) { group in
        let shared = Shared()
        group.addTask {
          while !Task.isCancelled {
            let number = shared.last.withLock { $0.number + 1 }
            try await fixture.write(number, payload: "x")
            shared.last.withLock { $0 = (number, SystemTime().monotonicNanoseconds()) }
          }
        }
        func silence() -> Int64 { SystemTime().monotonicNanoseconds() - shared.last.withLock { $0.at } }
        for _ in 0..<800 where silence() < 3_000_000_000 {
          try await SystemTime().sleep(for: .milliseconds(50))
          try #require(backup.isRunning, "\(backup.errors)")
        }
        #expect(silence() >= 3_000_000_000, "writers were never held")
        backup.kill()
        // The budget is a minute.
        for _ in 0..<400 where silence() > 1_000_000_000 { try await SystemTime().sleep(for: .milliseconds(50)) }
        #expect(silence() <= 1_000_000_000, "the hold outlived Salvor")
        group.cancelAll()
        try? await group.waitForAll()
      }
    }
  }

  private final class Shared: Sendable {
    /// The last write that was acknowledged, and when.
    let last = Mutex<(number: Int64, at: Int64)>((1000, SystemTime().monotonicNanoseconds()))
  }

  // MARK: The exit door

  /// The page's own words.
  @Test(.timeLimit(.minutes(10)))
  func `stock tools bring a copy to the mark`() async throws {
    try await withServer { fixture in
      let taken = try await capture(fixture) {
        try await fixture.write(100, payload: "ahead")
        try await fixture.run("FLUSH BINARY LOGS")
        try await fixture.run("INSERT INTO shop.plain VALUES (100, 'ahead')")
      } behind: {
        for number in Int64(8000)...8050 { try await fixture.write(number, payload: "late") }
      }
      let place = try TemporaryDirectory("exit-door", in: MariaDBServer.place)
      try await taken.tree.materialise(TreePath(), at: place.file("tree")) { _ in }
      let page = String(decoding: try Files.read(Self.page), as: UTF8.self)
      let section = try #require(page.components(separatedBy: "## The exit door").last)
      let block = try #require(
        section.components(separatedBy: "```sh\n").dropFirst().first?.components(separatedBy: "```").first)
      try await PostgreSQLServer.command("chmod", ["711", place.path], asOwner: false)
      // Without restic: the tree is there.
      let script = block.split(separator: "\n").filter { !$0.hasPrefix("restic ") }.joined(separator: "\n")
      defer { for process in leftovers(place.path) { kill(process, SIGKILL) } }
      try await PostgreSQLServer.command(
        "setsid", ["--wait", "bash", "-euo", "pipefail", "-c", script], asOwner: false,
        environment: ["TREE": place.file("tree"), "DESTINATION": place.file("back")])
      let numbers = try await PostgreSQLServer.command(
        "mariadb",
        [
          "--no-defaults", "-N", "-uroot", "--socket=\(place.file("back"))/exit-door.sock", "-e",
          "SELECT number FROM shop.records UNION ALL SELECT number FROM shop.plain; SELECT @@gtid_binlog_pos",
        ], asOwner: false)
      #expect(numbers.split(separator: "\n").compactMap { Int64($0) }.sorted() == Array(1...20) + [100, 100])
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `a mark that held nobody is of a moment too, and nothing is said of its rows`() async throws {
    try await withServer { fixture in
      let tree = MemoryTree()
      let result = try await withSession(fixture.driver(.usual), tree) { session in
        try await session.prepare()
        for number in Int64(21)...30 { try await fixture.write(number, payload: "before the mark") }
        _ = try await session.mark()
        for number in Int64(31)...40 { try await fixture.write(number, payload: "after it") }
        return try await session.finish()
      }
      #expect(result.contentDigest == nil)
      _ = try await restore(Taken(tree: tree, result: result), fixture)
      #expect(try await fixture.records() == Set(1...30))
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `a session that marks again and again outlives the server's limit on a hold`() async throws {
    try await withServer { fixture in
      let session = try #require(try fixture.driver(.usual).marking())
      // Long enough for a mark on a machine that is busy with the other tests.
      let limit = Duration.seconds(30)
      do {
        try await session.prepare()
        for round in 1...2 {
          // The server ends a connection that holds, and says nothing for the limit and a second more.
          if round == 2 { try await SystemTime().sleep(for: limit + .seconds(3)) }
          try await session.hold(limit: limit)
          _ = try await session.mark()
          #expect(await session.release())
        }
        await session.close()
      } catch {
        await session.close()
        throw error
      }
    }
  }

  static let page: String = {
    var parts = #filePath.split(separator: "/").map(String.init)
    parts.removeLast(3)
    return "/" + parts.joined(separator: "/") + "/docs/drivers/mariadb.md"
  }()

  private func leftovers(_ directory: String) -> [pid_t] {
    ["back"].compactMap { serverProcess("\(directory)/\($0)") }
  }
}

#if canImport(Glibc)
  import Glibc
#endif
