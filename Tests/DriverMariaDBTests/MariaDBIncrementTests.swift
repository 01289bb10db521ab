import Core
import DriverContract
import DriverKit
import IO
import TestSupport
import Testing

@testable import DriverMariaDB

/// Copies that lean on the one before: what they take from the server, and that they are the same as if they had taken everything.
@Suite("MariaDB increments") struct MariaDBIncrementTests {
  /// A whole copy, and what it leans on.
  struct Copy: Sendable {
    var tree: MemoryTree
    var result: CaptureResult

    var readBytes: Int64 { result.facts["readBytes"].flatMap { Int64($0) } ?? -1 }
    /// Everything up to there was on disk when the copy began.
    var checkpoint: UInt64 { result.facts["checkpoint"].flatMap { UInt64($0) } ?? 0 }
    /// Why nothing was taken over; `nil` if something was.
    var refusal: String? { result.notes.first { $0.hasPrefix("read in full") } }
    var isIncrement: Bool { result.notes.contains { $0.contains("what changed since InnoDB's") } }
  }

  static func withServer<T>(
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

  /// - Parameter during: Runs beside the copying, and must have ended before the hold.
  static func copy(
    _ fixture: MariaDBFixture, after earlier: Copy? = nil, from tree: (any EarlierTree)? = nil,
    during: @escaping @Sendable () async throws -> Void = {}
  ) async throws -> Copy {
    let sink = MemoryTree(limitBytes: 1 << 30, after: earlier?.tree)
    let scratch = try TemporaryDirectory("scratch", in: MariaDBServer.place)
    let context = CaptureContext(
      sink: sink, scratch: scratch.path,
      earlier: { () throws(AnyFailure) in
        earlier.map { EarlierCapture(result: $0.result, tree: tree ?? $0.tree) }
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
      #expect(try Files.names(in: scratch.path).isEmpty, "nothing is left in scratch")
      return Copy(tree: sink, result: result)
    } catch {
      await session.close()
      throw error
    }
  }

  private static func failure(_ body: () async throws -> Void) async throws -> DriverError {
    do { try await body() } catch let error as DriverError { return error }
    throw ContractBroken("nothing was thrown")
  }

  /// Pages of a copy that differ from the live ones although those did not change since the copy began, and files that one
  /// has and the other has not.
  static func strays(_ copy: Copy, _ fixture: MariaDBFixture, isQuiet: Bool = true) async throws -> [String] {
    let data = fixture.server.data
    var found: [String] = []
    var names: Set<String> = []
    for (path, entry) in copy.tree.entries.sorted(by: { $0.key < $1.key }) where entry.metadata.kind == .regular {
      let parts = path.components.map(\.lossyText)
      guard parts.first == "data", let name = parts.last, InnoDBFile.isTablespace(name) else { continue }
      names.insert(parts.dropFirst().joined(separator: "/"))
      guard let live = try? Files.read(([data] + parts.dropFirst()).joined(separator: "/")) else { continue }
      // Short enough for every format: of a longer page, the rest goes with its first piece.
      let pageBytes = Self.pageBytes(of: live)
      let space: UInt32 = live.withUnsafeBytes { InnoDBPage.number($0, at: InnoDBPage.spaceOffset) }
      let own: UInt32 = entry.content.withUnsafeBytes { InnoDBPage.number($0, at: InnoDBPage.spaceOffset) }
      // Made anew since.
      if space != own { continue }
      if isQuiet, live.count != entry.content.count, !name.hasPrefix("undo") {
        found.append("\(path) is \(entry.content.count) bytes, and the live one \(live.count)")
      }
      for at in stride(from: 0, to: min(live.count, entry.content.count) - pageBytes + 1, by: pageBytes) {
        let (page, kept) = (live[at..<at + pageBytes], entry.content[at..<at + pageBytes])
        if page == kept { continue }
        let isExplained = page.withUnsafeBytes {
          InnoDBPage.position(of: $0) > copy.checkpoint || InnoDBPage.isZero($0)
        }
        if !isExplained { found.append("\(path), page \(at / pageBytes)") }
      }
    }
    if isQuiet {
      let live = try await PostgreSQLServer.command(
        "find", [data, "-name", "*.ibd", "-printf", "%P\\n"], asOwner: false
      ).split(separator: "\n").map(String.init)
      for name in live
      where !names.contains(name)
        && !copy.tree.entries.keys.contains(where: {
          $0.description == "data/" + name.dropLast(4) + ".new"
        })
      { found.append("\(name) is missing") }
      for name in names where name.hasSuffix(".ibd") && !live.contains(name) { found.append("\(name) is gone") }
    }
    return found
  }

  /// The length of a file's pages, by their numbers.
  static func pageBytes(of file: [UInt8]) -> Int {
    file.withUnsafeBytes { raw in
      for length in [1 << 10, 2 << 10, 4 << 10, 8 << 10] where raw.count > 3 * length {
        let numbers: [UInt32] = (1...2).map { InnoDBPage.number(raw, at: $0 * length + 4) }
        if numbers == [1, 2] { return length }
      }
      return 16 << 10
    }
  }

  /// Brings a copy back beside: the server's own program readies it, every table is checked, every row counted.
  static func prove(_ copy: Copy, _ fixture: MariaDBFixture) async throws {
    let driver = try fixture.driver(.usual)
    let request = RestoreRequest(id: "proof", source: copy.tree, capture: copy.result)
    let state = try await driver.restoreBeside(request)
    #expect(state.proofs.contains { $0.contains("CHECK TABLE") })
    let digest = try await driver.digestBeside(request)
    #expect(digest != nil)
    #expect(
      digest == copy.result.contentDigest, "\(digest?.differences(from: copy.result.contentDigest ?? digest!) ?? [])")
    try await driver.discardKept(request)
  }

  // MARK: What is taken

  @Test(.timeLimit(.minutes(10))) func `a copy takes what changed`() async throws {
    try await Self.withServer { fixture in
      try await fixture.run("CREATE TABLE shop.wide (n INT PRIMARY KEY, note VARCHAR(300))")
      try await fixture.run("INSERT INTO shop.wide SELECT seq, REPEAT(MD5(seq), 7) FROM shop.seq_1_to_300000")
      let first = try await Self.copy(fixture)
      #expect(!first.isIncrement)
      #expect(first.readBytes > 70 << 20)
      // About 60 rows in a page: one page of a hundred.
      try await fixture.run("UPDATE shop.wide SET note = REVERSE(note) WHERE n % 6000 = 7")
      let second = try await Self.copy(fixture, after: first)
      #expect(second.isIncrement, "\(second.result.notes)")
      let share = Double(second.readBytes) / Double(second.result.sizeBytes)
      #expect(share < 0.2, "\(second.result.notes)")
      #expect(try await Self.strays(second, fixture) == [])
      // What mariadb-backup says of it is what it says of a whole one.
      let words = String(
        decoding: try await second.tree.contents(of: "data/xtrabackup_checkpoints", limitBytes: 1 << 16), as: UTF8.self)
      #expect(words.contains("backup_type = full-backuped\nfrom_lsn = 0\n"))
      try await Self.prove(second, fixture)
      let third = try await Self.copy(fixture, after: second)
      #expect(third.isIncrement)
      #expect(Set(third.tree.entries.keys.map(\.description)) == Set(first.tree.entries.keys.map(\.description)))
    }
  }

  @Test(.timeLimit(.minutes(10))) func `a table is found again under another name, and not under the same`()
    async throws
  {
    try await Self.withServer { fixture in
      for table in ["stays", "moves", "again"] {
        try await fixture.run("CREATE TABLE shop.\(table) (n INT PRIMARY KEY, note VARCHAR(300))")
        try await fixture.run("INSERT INTO shop.\(table) SELECT seq, REPEAT('\(table)', 40) FROM shop.seq_1_to_40000")
      }
      let first = try await Self.copy(fixture)
      try await fixture.run("CREATE DATABASE annex")
      try await fixture.run("RENAME TABLE shop.moves TO annex.moved")
      try await fixture.run("DROP TABLE shop.again")
      try await fixture.run("CREATE TABLE shop.again (n INT PRIMARY KEY, note VARCHAR(300))")
      try await fixture.run("INSERT INTO shop.again SELECT seq, REPEAT('other', 40) FROM shop.seq_1_to_9000")
      let second = try await Self.copy(fixture, after: first)
      #expect(second.isIncrement, "\(second.result.notes)")
      // The one that moved is among what was taken over.
      let share = Double(second.readBytes) / Double(second.result.sizeBytes)
      #expect(share < 0.3, "\(second.result.notes)")
      #expect(try await Self.strays(second, fixture) == [])
      try await Self.prove(second, fixture)
    }
  }

  // MARK: What is not certain is read

  /// A copy, something that happens, and a copy that must not lean on the first.
  private func refusal(
    _ settings: [String] = [], isLogged: Bool = true, changing change: (inout Copy) -> Void = { _ in },
    when happening: (MariaDBFixture) async throws -> Void = { _ in }
  ) async throws -> String {
    try await Self.withServer(settings, isLogged: isLogged) { fixture in
      try await fixture.run("CREATE TABLE shop.t (n INT PRIMARY KEY, note VARCHAR(300))")
      try await fixture.run("INSERT INTO shop.t SELECT seq, REPEAT('t', 200) FROM shop.seq_1_to_20000")
      var first = try await Self.copy(fixture)
      try await happening(fixture)
      change(&first)
      let second = try await Self.copy(fixture, after: first)
      #expect(!second.isIncrement)
      #expect(second.readBytes == second.result.sizeBytes - Self.besides(second))
      #expect(try await Self.strays(second, fixture) == [])
      if isLogged { try await Self.prove(second, fixture) }
      return second.refusal ?? "none: \(second.result.notes)"
    }
  }

  /// What of a copy does not come from the data directory.
  private static func besides(_ copy: Copy) -> Int64 {
    copy.tree.entries.filter { $0.key.components.first != "data" }.reduce(0) { $0 + Int64($1.value.content.count) }
  }

  @Test(.timeLimit(.minutes(10))) func `a copy that says nothing is none to lean on`() async throws {
    let silent = try await refusal(changing: { copy in
      for name in ["checkpoint", "files", "trail", "trailDigest", "partBytes"] { copy.result.facts[name] = nil }
    })
    #expect(silent.contains("does not say what a later one can begin with"), "\(silent)")
    let version = try await refusal(changing: { $0.result.facts["version"] = "10.11.1" })
    #expect(version.contains("is of 10.11.1"), "\(version)")
    let ahead = try await refusal(changing: { $0.result.facts["lsn"] = "99999999999999" })
    #expect(ahead.contains("was at 99999999999999"), "\(ahead)")
    let unlogged = try await refusal(isLogged: false)
    #expect(unlogged.contains("without a binary log"), "\(unlogged)")
    let scrubbed = try await refusal(["innodb-immediate-scrub-data-uncompressed=ON"])
    #expect(scrubbed.contains("empties pages"), "\(scrubbed)")
  }

  @Test(.timeLimit(.minutes(10))) func `files that were made anew are others`() async throws {
    let resized = try await refusal(when: { fixture in
      try await fixture.run("SET GLOBAL innodb_log_file_size = 8388608")
    })
    #expect(resized.contains("log was made anew"), "\(resized)")
    let copied = try await refusal(when: { fixture in
      let data = fixture.server.data
      try await fixture.server.stop()
      try await PostgreSQLServer.command("cp", ["-a", data, data + ".new"], asOwner: false)
      try Files.removeTree(data)
      try Files.rename(data + ".new", to: data)
      try await fixture.server.start()
    })
    #expect(copied.contains("files were replaced"), "\(copied)")
    let forgotten = try await refusal(when: { fixture in try await fixture.run("RESET MASTER") })
    #expect(forgotten.contains("set back") || forgotten.contains("does not reach"), "\(forgotten)")
  }

  /// The same files in the same places, with what was in them before; and then more log than there was.
  @Test(.timeLimit(.minutes(10))) func `a machine that was set back is noticed`() async throws {
    try await Self.withServer { fixture in
      let (server, data) = (fixture.server, fixture.server.data)
      try await fixture.run("CREATE TABLE shop.t (n INT PRIMARY KEY, note VARCHAR(300))")
      try await fixture.run("INSERT INTO shop.t SELECT seq, REPEAT('t', 200) FROM shop.seq_1_to_20000")
      try await server.stop()
      let kept = data + ".kept"
      try await PostgreSQLServer.command("cp", ["-a", data, kept], asOwner: false)
      try await server.start()
      try await fixture.run("UPDATE shop.t SET note = REPEAT('a', 200) WHERE n < 5000")
      let first = try await Self.copy(fixture)
      try await server.stop()
      // Into the same files, as a disk that is set back; what is younger goes.
      let script = """
        cd "$1" && find . -type f | while read -r name; do [ -e "$0/$name" ] || rm "$name"; done
        cd "$0" && find . -type f | while read -r name; do cat "$name" > "$1/$name"; done
        """
      try await PostgreSQLServer.command("sh", ["-c", script, kept, data], asOwner: false)
      try await server.start()
      for _ in 1...6 { try await fixture.run("UPDATE shop.t SET note = CONCAT(note, 'b') WHERE n > 10000") }
      let second = try await Self.copy(fixture, after: first)
      #expect(second.refusal?.contains("set back") == true, "\(second.result.notes)")
      #expect(try await Self.strays(second, fixture) == [])
      try await Self.prove(second, fixture)
      try Files.removeTree(kept)
    }
  }

  @Test(.timeLimit(.minutes(10))) func `a restore in between is noticed`() async throws {
    try await Self.withServer { fixture in
      try await fixture.run("CREATE TABLE shop.t (n INT PRIMARY KEY, note VARCHAR(300))")
      try await fixture.run("INSERT INTO shop.t SELECT seq, REPEAT('t', 200) FROM shop.seq_1_to_20000")
      let old = try await Self.copy(fixture)
      try await fixture.run("UPDATE shop.t SET note = REPEAT('a', 200) WHERE n < 5000")
      let newest = try await Self.copy(fixture, after: old)
      #expect(newest.isIncrement, "\(newest.result.notes)")
      let driver = try fixture.driver(.usual)
      let request = RestoreRequest(id: "back", source: old.tree, capture: old.result)
      _ = try await driver.restoreBeside(request)
      try await driver.stop()
      try await driver.swapIn(request)
      try await driver.start()
      for _ in 1...6 { try await fixture.run("UPDATE shop.t SET note = CONCAT(note, 'b') WHERE n > 10000") }
      let after = try await Self.copy(fixture, after: newest)
      #expect(after.refusal != nil, "\(after.result.notes)")
      #expect(try await Self.strays(after, fixture) == [])
      try await Self.prove(after, fixture)
    }
  }

  /// The tablespace keeps its number, and its pages say that they are older than everything.
  @Test(.timeLimit(.minutes(10))) func `an imported tablespace is read`() async throws {
    try await Self.withServer { fixture in
      let schedule = MariaDBSchedule(seed: 1, fixture: fixture)
      try await fixture.run("CREATE TABLE shop.t (n INT PRIMARY KEY, note VARCHAR(300))")
      try await fixture.run("INSERT INTO shop.t SELECT seq, REPEAT('t', 200) FROM shop.seq_1_to_20000")
      try await fixture.run("CREATE TABLE shop.u LIKE shop.t")
      try await fixture.run("INSERT INTO shop.u SELECT seq, REPEAT('u', 200) FROM shop.seq_1_to_20000")
      let first = try await Self.copy(fixture)
      try await schedule.move("shop.u", to: "shop.t")
      // mariadb-backup itself would leave it out, and is not believed.
      let early = try await Self.failure { _ = try await Self.copy(fixture, after: first) }
      guard case .engineFailed(let what, _) = early else { throw ContractBroken("\(early)") }
      #expect(what.contains("left out shop/t"))
      try await schedule.settle()
      let second = try await Self.copy(fixture, after: first)
      #expect(second.refusal?.contains("imported") == true, "\(second.result.notes)")
      #expect(try await Self.strays(second, fixture) == [])
      try await Self.prove(second, fixture)
      #expect(try await fixture.run("SELECT DISTINCT LEFT(note, 1) FROM shop.t").rows == [["u"]])
      // From then on it is like any other.
      let third = try await Self.copy(fixture, after: second)
      #expect(third.isIncrement, "\(third.result.notes)")
      #expect(try await Self.strays(third, fixture) == [])
      try await Self.prove(third, fixture)
    }
  }

  @Test(.timeLimit(.minutes(10))) func `a change that no position names is found by looking`() async throws {
    try await Self.withServer { fixture in
      try await fixture.run("CREATE TABLE shop.t (n INT PRIMARY KEY, note VARCHAR(300))")
      try await fixture.run("INSERT INTO shop.t SELECT seq, REPEAT('t', 200) FROM shop.seq_1_to_30000")
      try await fixture.server.stop()
      try await fixture.server.start()
      let first = try await Self.copy(fixture)
      try await fixture.server.stop()
      // Somebody rewrites pages behind the server's back, checksums and all.
      let path = fixture.server.data + "/shop/t.ibd"
      var bytes = try Files.read(path)
      let page = 16 << 10
      for at in stride(from: 8 * page, to: bytes.count, by: page) where bytes[at + 24] == 0x45 && bytes[at + 25] == 0xbf
      {
        bytes[at + page / 2] ^= 1
        let sum = CRC32C.of(bytes[at..<at + page - 4])
        for index in 0..<4 { bytes[at + page - 4 + index] = UInt8(truncatingIfNeeded: sum >> (24 - 8 * UInt32(index))) }
      }
      let file = try File(path, 1)
      try bytes.withUnsafeBytes { try file.write($0, at: 0) }
      try await fixture.server.start()
      let second = try await Self.copy(fixture, after: first)
      #expect(second.refusal?.contains("says that it did not change") == true, "\(second.result.notes)")
    }
  }

  /// Whatever the repository can't give is read from the server.
  @Test(.timeLimit(.minutes(10))) func `a repository that lacks something is no reason to fail`() async throws {
    try await Self.withServer { fixture in
      try await fixture.run("CREATE TABLE shop.t (n INT PRIMARY KEY, note VARCHAR(300))")
      try await fixture.run("INSERT INTO shop.t SELECT seq, REPEAT('t', 200) FROM shop.seq_1_to_20000")
      let first = try await Self.copy(fixture)
      for broken in LossyTree.Loss.allCases {
        try await fixture.run("UPDATE shop.t SET note = CONCAT(note, 'x') WHERE n % 1000 = 1")
        let second = try await Self.copy(fixture, after: first, from: LossyTree(tree: first.tree, loss: broken))
        #expect(second.refusal != nil, "\(broken): \(second.result.notes)")
        #expect(second.readBytes > 10 << 20)
        #expect(try await Self.strays(second, fixture) == [])
        try await Self.prove(second, fixture)
      }
    }
  }

  // MARK: Schedules

  /// `SALVOR_INCREMENTS` is how many, `SALVOR_SEED` the first one's seed.
  @Test(.timeLimit(.minutes(600)), arguments: MariaDBSchedule.seeds)
  func `whatever happens in between, nothing changed is taken over`(_ seed: UInt64) async throws {
    try await Self.withServer(MariaDBSchedule.settings(seed)) { fixture in
      var schedule = MariaDBSchedule(seed: seed, fixture: fixture)
      try await schedule.run()
    }
  }
}

/// A tree of which something can't be had.
private struct LossyTree: EarlierTree {
  enum Loss: CaseIterable { case list, table, parts }
  var tree: MemoryTree
  var loss: Loss

  private func lost() -> AnyFailure { AnyFailure(ContractBroken("lost")) }

  func file(_ path: TreePath, cutEvery bytes: Int) async throws(AnyFailure) -> EarlierFile? {
    loss == .table && path == "data/shop/t.ibd" ? nil : try await tree.file(path, cutEvery: bytes)
  }

  func read(
    _ parts: [Digest], each: @escaping @Sendable (Digest, [UInt8]) async throws(AnyFailure) -> Void
  ) async throws(AnyFailure) {
    if loss == .parts { throw lost() }
    try await tree.read(parts, each: each)
  }

  func entries(below root: TreePath) async throws(AnyFailure) -> [TreeEntry] { try await tree.entries(below: root) }

  func contents(of path: TreePath, limitBytes: Int) async throws(AnyFailure) -> [UInt8] {
    if loss == .list, path.components.first == "pages" { throw lost() }
    return try await tree.contents(of: path, limitBytes: limitBytes)
  }

  func materialise(
    _ root: TreePath, at directory: String, first: [String], progress: @escaping @Sendable (_ doneBytes: Int64) -> Void
  ) async throws(AnyFailure) {
    try await tree.materialise(root, at: directory, first: first, progress: progress)
  }
}

/// The checksum of InnoDB's pages.
private enum CRC32C {
  private static let table: [UInt32] = (0..<256).map { index in
    (0..<8).reduce(UInt32(index)) { value, _ in value & 1 == 1 ? value >> 1 ^ 0x82f6_3b78 : value >> 1 }
  }

  static func of(_ bytes: ArraySlice<UInt8>) -> UInt32 {
    ~bytes.reduce(UInt32.max) { $0 >> 8 ^ table[Int(($0 ^ UInt32($1)) & 255)] }
  }
}
