import Core
import DriverContract
import DriverKit
import IO
import TestSupport
import Testing

@testable import DriverPostgreSQL

/// Copies that lean on the one before: what they read, and that they are the same as if they had read everything.
@Suite("PostgreSQL increments") struct IncrementTests {
  /// A whole copy, and what it leans on.
  struct Copy: Sendable {
    var tree: MemoryTree
    var result: CaptureResult

    var readBytes: Int64 { result.facts["readBytes"].flatMap { Int64($0) } ?? -1 }
    var start: LogSequenceNumber { result.facts["startLSN"].flatMap { LogSequenceNumber($0) } ?? LogSequenceNumber(0) }
    /// Why nothing was taken over; `nil` if something was.
    var refusal: String? { result.notes.first { $0.hasPrefix("read in full") } }
  }

  static func withServer<T>(
    _ settings: [String] = ["wal_keep_size = 1GB", "autovacuum = off"], _ body: (PostgreSQLFixture) async throws -> T
  ) async throws -> T {
    let fixture = PostgreSQLFixture(server: try await .start(settings: settings))
    do {
      let value = try await body(fixture)
      await fixture.shutDown()
      return value
    } catch {
      await fixture.shutDown()
      throw error
    }
  }

  /// - Parameter during: Runs beside the copying, and must have ended before the hold.
  static func copy(
    _ fixture: PostgreSQLFixture, after earlier: Copy? = nil,
    log: @escaping @Sendable (LogPosition) async throws(AnyFailure) -> (any LogSource)? = { _ throws(AnyFailure) in nil
    },
    during: @escaping @Sendable () async throws -> Void = {}
  ) async throws -> Copy {
    let tree = MemoryTree(limitBytes: 1 << 30, after: earlier?.tree)
    let scratch = try TemporaryDirectory("scratch")
    let context = CaptureContext(
      sink: tree, scratch: scratch.path, wantsContentDigest: false,
      earlier: { () throws(AnyFailure) in
        earlier.map { EarlierCapture(result: $0.result, tree: $0.tree, log: log) }
      })
    let session = try await fixture.driver([:]).capture(context)
    do {
      async let beside: Void = during()
      try await session.prepare()
      try await beside
      try await session.hold(limit: .seconds(60))
      _ = try await session.mark()
      _ = await session.release()
      let result = try await session.finish()
      await session.close()
      return Copy(tree: tree, result: result)
    } catch {
      await session.close()
      throw error
    }
  }

  /// Pages of a copy's main forks that differ from the live ones although nothing was logged since the copy began.
  ///
  /// Checksums are on, so hints are logged: such a page must be the same to the byte. So must visibility maps be, where
  /// nobody has written since.
  static func strays(_ copy: Copy, _ fixture: PostgreSQLFixture, isQuiet: Bool = true) async throws -> [String] {
    try await fixture.server.sql("CHECKPOINT")
    var found: [String] = []
    for (path, entry) in copy.tree.entries.sorted(by: { $0.key < $1.key }) where entry.metadata.kind == .regular {
      guard let place = RelationPlace(path), place.name.fork != "fsm", isQuiet || place.name.fork != "vm"
      else { continue }
      let names = path.components.map(\.lossyText)
      let live =
        names[0] == "data"
        ? ([fixture.server.data] + names.dropFirst()).joined(separator: "/")
        : ([fixture.server.data, "pg_tblspc"] + names.dropFirst()).joined(separator: "/")
      guard let bytes = try? Files.read(live) else { continue }
      let page = DataPage.bytes
      for at in stride(from: 0, to: min(bytes.count, entry.content.count) - page + 1, by: page) {
        let position = bytes[at..<at + page].withUnsafeBytes { DataPage.position(of: $0) }
        if position >= copy.start { continue }
        if bytes[at..<at + page] != entry.content[at..<at + page] { found.append("\(path), block \(at / page)") }
      }
    }
    return found
  }

  // MARK: What is read

  @Test(.timeLimit(.minutes(10))) func `a copy reads what changed`() async throws {
    try await Self.withServer { fixture in
      try await fixture.server.sql(
        "CREATE TABLE wide (n int PRIMARY KEY, note text) WITH (fillfactor = 80)",
        "INSERT INTO wide SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, 250000) AS n", "VACUUM wide",
        "CHECKPOINT")
      let first = try await Self.copy(fixture)
      #expect(first.readBytes > 70 << 20)
      // About 25 rows in a page: one page of a hundred.
      try await fixture.server.sql("UPDATE wide SET note = reverse(note) WHERE n % 2500 = 7")
      let second = try await Self.copy(fixture, after: first)
      #expect(second.refusal == nil)
      let share = Double(second.readBytes) / Double(second.result.sizeBytes)
      #expect(share < 0.05, "read \(second.readBytes) of \(second.result.sizeBytes): \(second.result.notes)")
      #expect(try await Self.strays(second, fixture) == [])
      let third = try await Self.copy(fixture, after: second)
      #expect(Double(third.readBytes) / Double(third.result.sizeBytes) < 0.02, "\(third.result.notes)")
      try await Schedule.prove(third, fixture)
    }
  }

  /// PostgreSQL's own program reads the same records.
  @Test(.timeLimit(.minutes(10))) func `the log is read as pg_waldump reads it`() async throws {
    try await Self.withServer { fixture in
      let server = fixture.server
      let cluster = try await ClusterFacts.read(fixture.connect())
      func place() async throws -> LogSequenceNumber {
        // Where a checkpoint begins, a record does.
        try await server.sql("CHECKPOINT")
        let text = try await server.sql("SELECT redo_lsn FROM pg_control_checkpoint()")
        return try #require(LogSequenceNumber(text))
      }
      let from = try await place()
      var chance = Schedule(seed: 7, fixture: fixture)
      for _ in 0..<12 { try await chance.step(Schedule.quiet) }
      let to = try await place()
      let pass = LogPass(
        cluster.geometry, of: try #require(UInt64(cluster.systemIdentifier)), from: from, digested: from, to: to,
        into: ChangedBlocks(segmentBlocks: cluster.segmentBlocks, partBlocks: 4))
      for segment in cluster.geometry.segment(of: from)...cluster.geometry.segment(of: to) {
        try pass.read(segment, at: server.data + "/pg_wal/" + cluster.geometry.fileName(timeline: 1, segment: segment))
      }
      let found = try pass.finish().changes
      let text = try await PostgreSQLServer.command(
        PostgreSQLServer.program("pg_waldump"),
        ["-p", server.data + "/pg_wal", "-s", from.description, "-e", to.description], asOwner: true)
      var parts: [ChangedBlocks.Segment: Set<UInt32>] = [:]
      for reference in text.split(separator: "blkref #").dropFirst() {
        // `0: rel 1663/5/1259 fork vm blk 3, …`
        let words = reference.prefix { $0 != "," && $0 != "\n" }.split(separator: " ")
        let numbers = words[2].split(separator: "/").compactMap { UInt32($0) }
        guard words[3] == "blk", numbers.count == 3, let block = UInt32(words[4]) else { continue }
        let relation = ChangedBlocks.Relation(tablespace: numbers[0], database: numbers[1], number: numbers[2])
        parts[ChangedBlocks.Segment(relation: relation, number: block / 131_072), default: []].insert(
          block % 131_072 / 4)
      }
      #expect(parts.count > 20)
      #expect(found.parts == parts)
      let creations = text.split(separator: "\n").filter { $0.contains("desc: CREATE base/") && !$0.contains("_") }
      #expect(found.limits.count { $0.value == 0 } >= creations.count / 2)
    }
  }

  /// No record names the files of a database that was copied, nor the pages behind a file's former end.
  @Test(.timeLimit(.minutes(10))) func `what comes back under the same name is read`() async throws {
    try await Self.withServer { fixture in
      let server = fixture.server
      let place = try server.ownDirectory("apart")
      try await server.sql(
        "CREATE TABLESPACE apart LOCATION '\(place)'", "CREATE DATABASE moved TEMPLATE template0",
        "CREATE TABLE cut AS SELECT n, repeat('x', 90) AS note FROM generate_series(1, 30000) AS n")
      try await server.sql(
        "CREATE TABLE t AS SELECT n, repeat('x', 90) AS note FROM generate_series(1, 30000) AS n", database: "moved")
      // What is to be cut off is empty, and nothing else will be logged of it.
      try await server.sql("DELETE FROM cut WHERE ctid >= '(40,0)'", "VACUUM (TRUNCATE false) cut")
      let first = try await Self.copy(fixture)

      try await server.sql("ALTER DATABASE moved SET TABLESPACE apart")
      try await server.sql("UPDATE t SET note = 'there' WHERE n % 3 = 0", database: "moved")
      try await server.sql("ALTER DATABASE moved SET TABLESPACE pg_default")

      let path = try await server.sql("SELECT pg_relation_filepath('cut')")
      let file = try File(server.data + "/" + path, 2)
      let size = Int64(try file.status().st_size)
      try await server.sql("VACUUM (TRUNCATE) cut", "CHECKPOINT")
      #expect(Int64(try file.status().st_size) < size)
      // A crash leaves this behind: the file has grown again, and nothing of it was logged yet.
      try await server.stop(mode: "immediate")
      try file.truncate(to: size)
      try await server.start()

      let second = try await Self.copy(fixture, after: first)
      #expect(second.refusal == nil, "\(second.result.notes)")
      #expect(try await Self.strays(second, fixture) == [])
    }
  }

  // MARK: What is not certain is read

  @Test(.timeLimit(.minutes(10))) func `without the log everything is read, and the copy says so`() async throws {
    try await Self.withServer(["wal_keep_size = 0"]) { fixture in
      let first = try await Self.copy(fixture)
      for _ in 1...4 { try await fixture.server.sql("SELECT pg_switch_wal()", "CHECKPOINT") }
      for _ in 1...12 {
        try await fixture.server.sql("SELECT pg_switch_wal()", "CREATE TABLE t (n int)", "DROP TABLE t")
      }
      try await fixture.server.sql("CHECKPOINT", "CHECKPOINT")
      let second = try await Self.copy(fixture, after: first)
      #expect(
        second.refusal?.contains("has it not") == true, "\(second.refusal ?? "no refusal") \(second.result.notes)")
      #expect(second.readBytes >= first.readBytes)
    }
  }

  @Test(.timeLimit(.minutes(10))) func `a copy of another history is none to lean on`() async throws {
    try await Self.withServer { fixture in
      try await fixture.server.sql("CREATE TABLE t (n int)", "INSERT INTO t SELECT generate_series(1, 10000)")
      var first = try await Self.copy(fixture)
      // The same positions, and another log in between.
      first.result.facts["logDigest"] = Digest.of("another").hex
      let second = try await Self.copy(fixture, after: first)
      #expect(second.refusal?.contains("not this cluster's") == true, "\(second.result.notes)")
      first.result.facts["systemIdentifier"] = "1"
      let third = try await Self.copy(fixture, after: first)
      #expect(third.refusal?.contains("another cluster's") == true, "\(third.result.notes)")
    }
  }

  @Test(.timeLimit(.minutes(10))) func `a change that no log names is found by looking`() async throws {
    try await Self.withServer { fixture in
      try await fixture.server.sql(
        "CREATE TABLE t (n int)", "INSERT INTO t SELECT generate_series(1, 500000)", "CHECKPOINT")
      let first = try await Self.copy(fixture)
      let path = try await fixture.server.sql("SELECT pg_relation_filepath('t')")
      try await fixture.server.stop()
      // Somebody rewrites pages behind the server's back, checksums and all: no log knows.
      let file = fixture.server.data + "/" + path
      var bytes = try Files.read(file)
      for at in stride(from: 0, to: bytes.count, by: DataPage.bytes) {
        bytes[at + DataPage.bytes - 1] ^= 1
        bytes.withUnsafeMutableBytes { raw in
          let page = UnsafeMutableRawBufferPointer(rebasing: raw[at..<at + DataPage.bytes])
          let sum = DataPage.checksum(of: UnsafeRawBufferPointer(page), block: UInt32(at / DataPage.bytes))
          page.storeBytes(of: sum, toByteOffset: 8, as: UInt16.self)
        }
      }
      let handle = try File(file, 1)
      try bytes.withUnsafeBytes { try handle.write($0, at: 0) }
      try await fixture.server.start()
      let second = try await Self.copy(fixture, after: first)
      #expect(second.refusal?.contains("others than they were") == true, "\(second.result.notes)")
    }
  }

  // MARK: Schedules

  /// `SALVOR_INCREMENTS` is how many, `SALVOR_SEED` the first one's seed.
  @Test(.timeLimit(.minutes(600)), arguments: Schedule.seeds)
  func `whatever happens in between, nothing changed is taken over`(_ seed: UInt64) async throws {
    try await Self.withServer { fixture in
      var schedule = Schedule(seed: seed, fixture: fixture)
      try await schedule.run()
    }
  }
}
