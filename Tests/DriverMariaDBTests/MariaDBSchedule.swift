import Core
import DriverContract
import DriverKit
import Foundation
import IO
import TestSupport
import Testing

@testable import DriverMariaDB

/// What an operator, an application and bad luck do to a server between two copies, by a seed.
struct MariaDBSchedule: Sendable {
  /// The first seed, and those after it.
  static let seeds: [UInt64] = {
    let environment = ProcessInfo.processInfo.environment
    let first = environment["SALVOR_SEED"].flatMap { UInt64($0) } ?? 1
    let count = environment["SALVOR_INCREMENTS"].flatMap { UInt64($0) } ?? 2
    return (0..<max(1, count)).map { first &+ $0 }
  }()

  enum Operation: CaseIterable {
    case insert, fill, update, delete, touch, blobs, truncate, instant, rebuild, optimize, rename, exchange, again
    case compressed, pageCompressed, index, partition, schema, dropSchema, importSpace, plain, rollback, settle
    case restart, crash
  }

  /// Server settings by seed: where undo is, and whether pages are short.
  static func settings(_ seed: UInt64) -> [String] {
    // Enough that mariadb-backup keeps up with it.
    ["innodb-log-file-size=64M"] + layout(seed)
  }

  private static func layout(_ seed: UInt64) -> [String] {
    switch seed % 3 {
    case 0: ["innodb-undo-tablespaces=3", "innodb-undo-log-truncate=ON", "innodb-max-undo-log-size=10M"]
    case 1: []
    default: ["innodb-file-per-table=OFF", "innodb-checksum-algorithm=crc32"]
    }
  }

  private let seed: UInt64
  private let fixture: MariaDBFixture
  private let chance: SeededRandomness
  private var tables = ["shop.a", "shop.b", "shop.c"]
  private var schemas = ["shop"]
  private var made = 0
  private(set) var done: [String] = []

  init(seed: UInt64, fixture: MariaDBFixture) {
    (self.seed, self.fixture, chance) = (seed, fixture, SeededRandomness(seed: seed))
  }

  /// - Parameter rounds: How many copies, the first of which is a full one.
  mutating func run(rounds: Int = 4) async throws {
    for table in tables { try await create(table) }
    var copy: MariaDBIncrementTests.Copy?
    for round in 0..<rounds {
      let steps = 3 + chance.below(6)
      for _ in 0..<steps { try await step() }
      let load = chance.chance(0.5)
      // One that no step needs, so that whatever is done to it is done beside the copying.
      let fixture = fixture
      let during: @Sendable () async throws -> Void = {
        guard load else { return }
        for number in 1...6 {
          try await fixture.run("CREATE TABLE shop.d\(number) (n INT PRIMARY KEY, s TEXT)")
          try await fixture.run("INSERT INTO shop.d\(number) SELECT seq, REPEAT('d', 500) FROM shop.seq_1_to_2000")
          try await fixture.run("UPDATE shop.records SET payload = CONCAT('during ', \(number)) WHERE number < 10")
          try await fixture.run("RENAME TABLE shop.d\(number) TO shop.e\(number)")
          if number % 2 == 0 { try await fixture.run("DROP TABLE shop.e\(number)") }
          if number % 3 == 0 { try await fixture.run("OPTIMIZE TABLE shop.records") }
        }
        for number in [1, 3, 5] { try await fixture.run("DROP TABLE shop.e\(number)") }
      }
      let next = try await take(after: copy, during: during)
      let story = "seed \(seed), round \(round): \(done.joined(separator: ", "))"
      // An import is the one thing here after which everything is read.
      // Nor can what comes and goes beside the copy always be looked at.
      let excuses = ["mariadb-backup failed", "before it could be looked at"]
      let isCertain = !load || !excuses.contains { next.refusal?.contains($0) == true }
      if isCertain, !done.suffix(steps).contains(where: { $0.hasPrefix("importSpace") }) {
        #expect(next.refusal == nil && next.isIncrement == (copy != nil), "\(story): \(next.result.notes)")
      }
      let strays = try await MariaDBIncrementTests.strays(next, fixture, isQuiet: !load)
      #expect(strays == [], "\(story)")
      do { try await MariaDBIncrementTests.prove(next, fixture) } catch {
        Issue.record("\(story): \(error)")
        return
      }
      if !strays.isEmpty { return }
      copy = next
    }
  }

  /// mariadb-backup gives up when a table goes while it makes its list: taken again then, without the load.
  private func take(
    after copy: MariaDBIncrementTests.Copy?, during: @escaping @Sendable () async throws -> Void
  ) async throws -> MariaDBIncrementTests.Copy {
    do {
      return try await MariaDBIncrementTests.copy(fixture, after: copy, during: during)
    } catch let error as DriverError {
      guard case .engineFailed(let what, _) = error, what.contains("mariadb-backup failed") else { throw error }
      for number in 1...6 {
        for letter in ["d", "e"] { try await fixture.run("DROP TABLE IF EXISTS shop.\(letter)\(number)") }
      }
      return try await MariaDBIncrementTests.copy(fixture, after: copy)
    }
  }

  // MARK: One thing

  mutating func step() async throws {
    let operation = Operation.allCases[chance.below(Operation.allCases.count)]
    let index = chance.below(tables.count)
    let table = tables[index]
    done.append("\(operation) \(table)")
    // In the system tablespace there is neither.
    if [.compressed, .pageCompressed].contains(operation), seed % 3 == 2 { return }
    let (low, count) = (chance.below(8000), 1 + chance.below(3000))
    switch operation {
    case .insert:
      try await fixture.run(
        "REPLACE INTO \(table) (n, note) SELECT seq, REPEAT(MD5(seq), 8) FROM shop.seq_\(low)_to_\(low + count)")
    case .fill:
      // Into an empty table rows go page by page.
      try await fixture.run("TRUNCATE TABLE \(table)")
      try await fixture.run(
        "INSERT INTO \(table) (n, note) SELECT seq, REPEAT('f', 250) FROM shop.seq_1_to_\(3000 + count)")
    case .update:
      try await fixture.run(
        "UPDATE \(table) SET note = CONCAT(note, 'u') WHERE n BETWEEN \(low) AND \(low + count / 10)")
    case .delete: try await fixture.run("DELETE FROM \(table) WHERE n BETWEEN \(low) AND \(low + count)")
    case .touch:
      try await fixture.run("SELECT COUNT(*) FROM \(table) WHERE note LIKE '%1%'")
      try await fixture.run("ANALYZE TABLE \(table)")
    case .blobs:
      try await fixture.run(
        "REPLACE INTO \(table) (n, note, body) SELECT seq, 'blob', REPEAT(CHAR(seq % 256), 90000) FROM shop.seq_\(low)_to_\(low + 20)"
      )
      if chance.chance(0.5) { try await fixture.run("UPDATE \(table) SET body = NULL WHERE n % 3 = 0") }
    case .truncate: try await fixture.run("TRUNCATE TABLE \(table)")
    case .instant:
      made += 1
      try await fixture.run("ALTER TABLE \(table) ADD COLUMN x\(made) INT DEFAULT 7, ALGORITHM = INSTANT")
    case .rebuild: try await fixture.run("ALTER TABLE \(table) FORCE")
    case .optimize: try await fixture.run("OPTIMIZE TABLE \(table)")
    case .rename:
      made += 1
      let name = "\(table.prefix { $0 != "." }).r\(made)"
      try await fixture.run("RENAME TABLE \(table) TO \(name)")
      tables[index] = name
    case .exchange:
      let other = tables[(index + 1) % tables.count]
      guard other != table else { return }
      try await fixture.run("RENAME TABLE \(table) TO shop.xx, \(other) TO \(table), shop.xx TO \(other)")
    case .again:
      // The same name, and another tablespace.
      try await fixture.run("DROP TABLE \(table)")
      try await create(table)
    case .compressed:
      try await fixture.run(
        "SET STATEMENT innodb_strict_mode = OFF FOR ALTER TABLE \(table) ROW_FORMAT = COMPRESSED KEY_BLOCK_SIZE = \(1 << chance.below(4))"
      )
    case .pageCompressed:
      try await fixture.run(
        "SET STATEMENT innodb_strict_mode = OFF FOR ALTER TABLE \(table) ROW_FORMAT = DYNAMIC KEY_BLOCK_SIZE = 0 PAGE_COMPRESSED = 1"
      )
    case .index:
      try await fixture.run("ALTER TABLE \(table) DROP INDEX IF EXISTS by_note")
      try await fixture.run("ALTER TABLE \(table) ADD INDEX by_note (note(20))")
    case .partition:
      made += 1
      let name = "shop.p\(made)"
      try await fixture.run("CREATE TABLE \(name) (n INT PRIMARY KEY, note TEXT) PARTITION BY HASH (n) PARTITIONS 3")
      try await fixture.run("INSERT INTO \(name) SELECT seq, REPEAT('p', 100) FROM shop.seq_1_to_\(count)")
    case .schema:
      made += 1
      let name = "s\(made)"
      try await fixture.run("CREATE DATABASE \(name)")
      schemas.append(name)
      tables.append("\(name).t")
      try await create("\(name).t")
    case .dropSchema:
      guard schemas.count > 1 else { return }
      let gone = schemas.removeLast()
      tables.removeAll { $0.hasPrefix(gone + ".") }
      try await fixture.run("DROP DATABASE \(gone)")
    case .importSpace:
      guard try await isAlone(table) else { return }
      try await move(table, to: table)
      try await settle()
    case .plain:
      try await fixture.run(
        "INSERT INTO shop.plain SELECT seq, 'p' FROM shop.seq_\(low + 100_000 * (done.count))_to_\(low + 100_000 * (done.count) + 200)"
      )
      try await fixture.run(
        "INSERT INTO shop.safe SELECT seq, 's' FROM shop.seq_\(low + 100_000 * (done.count))_to_\(low + 100_000 * (done.count) + 200)"
      )
    case .rollback:
      let connection = try await fixture.connect()
      try await connection.run("START TRANSACTION")
      try await connection.run("UPDATE \(table) SET note = REPEAT('r', 300) WHERE n BETWEEN \(low) AND \(low + count)")
      try await connection.run("ROLLBACK")
      await connection.close()
    case .settle:
      try await settle()
    case .restart:
      try await fixture.server.stop()
      try await fixture.server.start()
    case .crash:
      try await fixture.server.stop(SIGKILL)
      try await fixture.server.start()
    }
  }

  /// Everything on disk, and a checkpoint that says so.
  func settle() async throws {
    func number(_ name: String) async throws -> UInt64 {
      try await fixture.run("SHOW GLOBAL STATUS LIKE '\(name)'").rows.first?[1].flatMap { UInt64($0) } ?? 0
    }
    let end = try await number("Innodb_lsn_current")
    try await fixture.run("SET GLOBAL innodb_max_dirty_pages_pct = 0")
    while try await number("Innodb_lsn_last_checkpoint") < end {
      try await fixture.run("UPDATE shop.records SET payload = UUID() WHERE number = 20")
      try await SystemTime().sleep(for: .milliseconds(200))
    }
    try await fixture.run("SET GLOBAL innodb_max_dirty_pages_pct = 90")
  }

  private func create(_ table: String) async throws {
    try await fixture.run(
      "CREATE TABLE \(table) (n INT PRIMARY KEY, note VARCHAR(4000), body LONGBLOB) ENGINE = InnoDB")
    try await fixture.run("INSERT INTO \(table) (n, note) SELECT seq, REPEAT(MD5(seq), 6) FROM shop.seq_1_to_4000")
  }

  /// Whether the table has a file of its own that can be moved.
  private func isAlone(_ table: String) async throws -> Bool {
    let path = fixture.server.data + "/" + table.replacingOccurrences(of: ".", with: "/") + ".ibd"
    return Files.exists(path)
  }

  /// Puts a table's file in the place of its own or another one's: pages that nobody logged.
  func move(_ table: String, to other: String) async throws {
    func base(_ name: String) -> String { fixture.server.data + "/" + name.replacingOccurrences(of: ".", with: "/") }
    let aside = try TemporaryDirectory("aside", in: MariaDBServer.place)
    let connection = try await fixture.connect()
    try await connection.run("FLUSH TABLES \(table) FOR EXPORT")
    for suffix in [".ibd", ".cfg"] {
      try await PostgreSQLServer.command("cp", ["-a", base(table) + suffix, aside.file("t" + suffix)], asOwner: false)
    }
    try await connection.run("UNLOCK TABLES")
    try await connection.run("ALTER TABLE \(other) DISCARD TABLESPACE")
    for suffix in [".ibd", ".cfg"] {
      try await PostgreSQLServer.command("cp", ["-a", aside.file("t" + suffix), base(other) + suffix], asOwner: false)
    }
    try await connection.run("ALTER TABLE \(other) IMPORT TABLESPACE")
    await connection.close()
  }
}
