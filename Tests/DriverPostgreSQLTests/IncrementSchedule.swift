import Core
import DriverContract
import DriverKit
import Foundation
import IO
import TestSupport
import Testing

@testable import DriverPostgreSQL

/// What an operator, an application and bad luck do to a cluster between two copies, by a seed.
struct Schedule: Sendable {
  /// The first seed, and those after it.
  static let seeds: [UInt64] = {
    let environment = ProcessInfo.processInfo.environment
    let first = environment["SALVOR_SEED"].flatMap { UInt64($0) } ?? 1
    let count = environment["SALVOR_INCREMENTS"].flatMap { UInt64($0) } ?? 2
    return (0..<max(1, count)).map { first &+ $0 }
  }()

  enum Operation: CaseIterable {
    case insert, update, delete, touch, truncate, shorten, vacuum, vacuumFull, cluster, reindex, index, rewrite
    case copyDatabase, logDatabase, dropDatabase, moveDatabase, moveTable, unlogged, sequence, largeObject, crowd
    case checkpoint, switchLog, restart, crash, promote
  }

  /// Those that leave the server running, and its timeline.
  static let quiet = Operation.allCases.filter { ![.restart, .crash, .promote].contains($0) }

  private let seed: UInt64
  private let fixture: PostgreSQLFixture
  private let chance: SeededRandomness
  private var databases = ["postgres"]
  private var made = 0
  private var hasSpace = false
  private var isPrepared = false
  private(set) var done: [String] = []

  init(seed: UInt64, fixture: PostgreSQLFixture) {
    (self.seed, self.fixture, chance) = (seed, fixture, SeededRandomness(seed: seed))
  }

  mutating func run() async throws {
    var copy: IncrementTests.Copy?
    for round in 0..<4 {
      for _ in 0..<(2 + chance.below(5)) { try await step(Operation.allCases) }
      let (server, load) = (fixture.server, chance.chance(0.5))
      let database = databases[chance.below(databases.count)]
      let during: @Sendable () async throws -> Void = {
        guard load else { return }
        try await server.sql(
          "UPDATE a SET note = note || 'd' WHERE n % 3 = 1",
          "INSERT INTO b SELECT n, 'during' FROM generate_series(1, 3000) AS n", "DELETE FROM b WHERE n > 2000",
          "VACUUM b", "TRUNCATE c", database: database)
      }
      let next = try await IncrementTests.copy(fixture, after: copy, during: during)
      let story = "seed \(seed), round \(round): \(done.joined(separator: ", "))"
      #expect(next.refusal == nil, "\(story): \(next.result.notes)")
      let strays = try await IncrementTests.strays(next, fixture, isQuiet: !load)
      #expect(strays == [], "\(story)")
      if !strays.isEmpty { return }
      copy = next
    }
    let last = try #require(copy)
    do { try await Self.prove(last, fixture) } catch {
      Issue.record("seed \(seed): \(done.joined(separator: ", ")): \(error)")
    }
  }

  // MARK: One thing

  mutating func step(_ operations: [Operation]) async throws {
    if !isPrepared {
      isPrepared = true
      try await prepare("postgres")
    }
    let operation = operations[chance.below(operations.count)]
    let database = databases[chance.below(databases.count)]
    let table = ["a", "b", "c"][chance.below(3)]
    done.append("\(operation) \(table) in \(database)")
    let server = fixture.server
    func sql(_ text: String...) async throws {
      for statement in text { try await server.sql(statement, database: database) }
    }
    let (low, count) = (chance.below(8000), 1 + chance.below(3000))
    switch operation {
    case .insert:
      try await sql("INSERT INTO \(table) SELECT n, md5(n::text) FROM generate_series(\(low), \(low + count)) AS n")
    case .update: try await sql("UPDATE \(table) SET note = note || 'u' WHERE n BETWEEN \(low) AND \(low + count / 10)")
    case .delete: try await sql("DELETE FROM \(table) WHERE n BETWEEN \(low) AND \(low + count)")
    // Reading sets hints.
    case .touch: try await sql("SELECT count(*) FROM \(table)", "SELECT sum(n) FROM \(table) WHERE n < \(count)")
    case .truncate: try await sql("TRUNCATE \(table)")
    case .shorten:
      // The file's end goes, and comes again with something else, or as pages that nobody has filled yet.
      try await sql(
        "DELETE FROM \(table) WHERE ctid >= '(5,0)'", "VACUUM (TRUNCATE) \(table)",
        "INSERT INTO \(table) SELECT n, 'again' FROM generate_series(1, \(count)) AS n")
    case .vacuum: try await sql("VACUUM (FREEZE, ANALYZE) \(table)")
    case .vacuumFull: try await sql("VACUUM FULL \(table)")
    case .cluster: try await sql("CLUSTER \(table) USING \(table)_n")
    case .reindex: try await sql("REINDEX TABLE \(table)")
    case .index:
      try await sql(
        "DROP INDEX IF EXISTS \(table)_note",
        "CREATE INDEX \(table)_note ON \(table) USING gin (to_tsvector('simple', note))")
    case .rewrite:
      made += 1
      try await sql(
        "ALTER TABLE \(table) ADD COLUMN x\(made) float DEFAULT random()", "ALTER TABLE \(table) DROP COLUMN x\(made)")
    case .copyDatabase, .logDatabase:
      guard databases.count < 4 else { return }
      made += 1
      let name = "d\(made)"
      try await server.sql(
        "CREATE DATABASE \(name) TEMPLATE template0 STRATEGY \(operation == .copyDatabase ? "file_copy" : "wal_log")")
      databases.append(name)
      try await prepare(name)
    case .dropDatabase:
      guard databases.count > 1 else { return }
      let gone = databases.remove(at: 1 + chance.below(databases.count - 1))
      try await server.sql("DROP DATABASE \(gone) WITH (FORCE)")
    case .moveDatabase:
      try await space()
      guard databases.count > 1 else { return }
      let moved = databases[1 + chance.below(databases.count - 1)]
      try await server.sql("ALTER DATABASE \(moved) SET TABLESPACE apart")
      guard chance.chance(0.7) else { return }
      // There, changed, and back: the same names again, with what no record of theirs tells.
      try await server.sql("UPDATE a SET note = 'moved' WHERE n % 50 = 1", database: moved)
      try await server.sql("ALTER DATABASE \(moved) SET TABLESPACE pg_default")
    case .moveTable:
      try await space()
      try await sql("ALTER TABLE \(table) SET TABLESPACE \(chance.chance(0.5) ? "apart" : "pg_default")")
    case .unlogged:
      try await sql(
        "ALTER TABLE \(table) SET UNLOGGED", "UPDATE \(table) SET note = 'w' WHERE n < 50",
        "ALTER TABLE \(table) SET LOGGED")
    case .sequence: try await sql("SELECT nextval('s') FROM generate_series(1, 100)")
    case .largeObject: try await sql("SELECT lo_from_bytea(0, decode(repeat('ab', \(count)), 'hex'))")
    case .crowd:
      // Several at a time make a file longer by pages that no record names until they are filled.
      let script = try TemporaryDirectory("crowd")
      try Files.replace(
        script.file("script"),
        with: Array("INSERT INTO \(table) SELECT n, 'crowd' FROM generate_series(1, 300) AS n;\n".utf8))
      try await PostgreSQLServer.command(
        PostgreSQLServer.program("pgbench"),
        [
          "-h", "127.0.0.1", "-p", "\(server.port)", "-U", "postgres", "-n", "-c", "6", "-t", "4", "-f",
          script.file("script"), database,
        ],
        asOwner: false, environment: ["PGPASSWORD": PostgreSQLServer.password])
    case .checkpoint: try await sql("CHECKPOINT")
    case .switchLog: try await sql("SELECT pg_switch_wal()")
    case .restart:
      try await server.stop()
      try await server.start()
    case .crash:
      try await server.stop(mode: "immediate")
      try await server.start()
    case .promote:
      // A standby of nobody's: it replays what it has, and goes on on a timeline of its own.
      try await server.stop(mode: chance.chance(0.5) ? "fast" : "immediate")
      try Files.replace(server.data + "/standby.signal", with: [], mode: 0o644)
      try await server.start()
      try await server.sql("SELECT pg_promote(true, 60)")
    }
  }

  private func prepare(_ database: String) async throws {
    for table in ["a", "b", "c"] {
      try await fixture.server.sql(
        "CREATE TABLE \(table) (n int, note text)",
        "INSERT INTO \(table) SELECT n, md5(n::text) FROM generate_series(1, 4000) AS n",
        "CREATE INDEX \(table)_n ON \(table) (n)", database: database)
    }
    try await fixture.server.sql("CREATE SEQUENCE s", database: database)
  }

  private mutating func space() async throws {
    guard !hasSpace else { return }
    hasSpace = true
    let place = try fixture.server.ownDirectory("apart")
    try await fixture.server.sql("CREATE TABLESPACE apart LOCATION '\(place)'")
  }

  // MARK: Proof

  /// Brings a copy back with nothing but the server, and compares it with the live cluster, which nobody has changed since.
  static func prove(_ copy: IncrementTests.Copy, _ fixture: PostgreSQLFixture) async throws {
    let place = try TemporaryDirectory("proof", in: "/tmp")
    let data = place.file("data")
    try await copy.tree.materialise("data", at: data) { _ in }
    let map = data + "/tablespace_map"
    if Files.exists(map) {
      var lines: [String] = []
      for line in String(decoding: try Files.read(map), as: UTF8.self).split(separator: "\n") {
        guard let number = line.split(separator: " ").first else { continue }
        let space = place.file("space-\(number)")
        try await copy.tree.materialise(TreePath("tablespaces/\(number)"), at: space) { _ in }
        lines.append("\(number) \(space)\n")
      }
      try Files.replace(map, with: Array(lines.joined().utf8))
    }
    try await PostgreSQLServer.command("chmod", ["700", data], asOwner: false)
    if PostgreSQLServer.owner != nil {
      try await PostgreSQLServer.command("chown", ["-R", "postgres", place.path], asOwner: false)
    }
    let port = try freePort()
    let control = try PostgreSQLServer.program("pg_ctl")
    try await PostgreSQLServer.command(
      control, ["-D", data, "-l", place.file("log"), "-w", "-t", "60", "-o", "-p \(port)", "start"], asOwner: true)
    let outcome: Result<Void, any Error>
    do {
      func run(_ program: String, _ arguments: [String], port: UInt16) async throws -> String {
        try await PostgreSQLServer.command(
          PostgreSQLServer.program(program), ["-h", "127.0.0.1", "-p", "\(port)", "-U", "postgres"] + arguments,
          asOwner: false, environment: ["PGPASSWORD": PostgreSQLServer.password])
      }
      _ = try await run("pg_amcheck", ["--all", "--install-missing", "--heapallindexed"], port: port)
      _ = try await run("pg_dumpall", ["--no-role-passwords", "-f", place.file("restored")], port: port)
      _ = try await run("pg_amcheck", ["--all", "--install-missing"], port: fixture.server.port)
      _ = try await run("pg_dumpall", ["--no-role-passwords", "-f", place.file("live")], port: fixture.server.port)
      func comparable(_ name: String) throws -> [Substring] {
        String(decoding: try Files.read(place.file(name)), as: UTF8.self).split(separator: "\n").filter {
          !$0.hasPrefix("CREATE TABLESPACE") && !$0.hasPrefix("\\restrict") && !$0.hasPrefix("\\unrestrict")
        }
      }
      let (restored, live) = (try comparable("restored"), try comparable("live"))
      if let difference = zip(restored, live).first(where: { $0 != $1 }) {
        Issue.record("restored: \(difference.0)\nlive: \(difference.1)")
      }
      #expect(restored.count == live.count)
      outcome = .success(())
    } catch { outcome = .failure(error) }
    try await PostgreSQLServer.command(control, ["-D", data, "-m", "immediate", "-w", "stop"], asOwner: true)
    try outcome.get()
  }
}
