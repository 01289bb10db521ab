import Core
import IO
import JournalContract
import JournalSQLite
import StateKit
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

@Suite("Journal file")
struct SQLiteJournalTests {
  private let directory: TemporaryDirectory
  private let time = SimulatedTime()

  init() throws { directory = try TemporaryDirectory("journal") }

  private var path: String { directory.file("journal.db") }

  private func expect(_ code: String, _ body: () async throws -> Void) async {
    do {
      try await body()
      Issue.record("\(code) was expected")
    } catch {
      let report = AnyFailure(error).report
      #expect(report.code == code, "\(report)")
      #expect(report.remedy != nil)
    }
  }

  @Test func `is readable by its owner alone`() async throws {
    umask(0)
    defer { umask(0o022) }
    let journal = try await SQLiteJournal.open(path, time: time)
    try await journal.create(sampleSpec())
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
      var status = stat()
      #expect(stat(directory.file(name), &status) == 0)
      #expect(status.st_mode & 0o777 == 0o600, "\(name)")
    }
  }

  @Test func `what was written is there for the next process`() async throws {
    let first = try await SQLiteJournal.open(path, time: time)
    try await first.create(sampleSpec())
    let lease = try await first.claim("recovery-0001", as: "a", for: .seconds(15))
    try await first.setState(.running, under: lease)
    try await first.recordIntent("copy", attempt: 1, under: lease)
    let record = try await first.load("recovery-0001")
    // Another process looks at what the first left behind without closing: the file and its log, as a crash leaves them.
    let copy = directory.file("copy.db")
    for suffix in ["", "-wal"] { try Files.replace(copy + suffix, with: Files.read(path + suffix)) }
    let second = try await SQLiteJournal.open(copy, time: time)
    #expect(try await second.load("recovery-0001") == record)
    try AuditChain.verify(try await second.auditTrail(after: 0, run: nil, limit: 100))
    #expect(try await second.auditTrail(after: 0, run: nil, limit: 100).count == 4)
  }

  @Test func `a crash while the file was being made is recovered from`() async throws {
    // The file is turned into one with a write-ahead log under a rollback journal: a kill right there leaves that hot.
    let crashed = directory.file("crashed.db")
    let maker = try HalfWrittenDatabase(directory.file("making.db"))
    for suffix in ["", "-journal"] {
      try Files.replace(crashed + suffix, with: Files.read(directory.file("making.db") + suffix))
    }
    try maker.giveUp()
    let journal = try await SQLiteJournal.open(crashed, time: time)
    try await journal.create(sampleSpec())
    #expect(try await journal.list(RunFilter()).count == 1)
    try await journal.close()
  }

  @Test func `two processes on one file see one truth`() async throws {
    let (path, time) = (path, time)
    let journals = [
      try await SQLiteJournal.open(path, time: time), try await SQLiteJournal.open(path, time: time),
      try await SQLiteJournal.open(path, time: time),
    ]
    try await journals[0].create(sampleSpec())
    let winners = try await withThrowingTaskGroup(of: Int.self) { group in
      for index in 0..<18 {
        group.addTask {
          do {
            _ = try await journals[index % 3].claim("recovery-0001", as: Holder("h\(index)"), for: .seconds(15))
            return 1
          } catch JournalError.leaseHeld {
            return 0
          }
        }
      }
      return try await group.reduce(0, +)
    }
    #expect(winners == 1)
    try await withThrowingTaskGroup(of: Void.self) { group in
      for index in 0..<30 {
        group.addTask {
          try await journals[index % 3].append(
            AuditDraft(actor: "a\(index)", action: "noted", subject: "x"), under: nil)
        }
      }
      try await group.waitForAll()
    }
    let trail = try await journals[1].auditTrail(after: 0, run: nil, limit: 100)
    #expect(trail.count == 32)
    try AuditChain.verify(trail)
  }

  @Test func `a file that is no database is refused`() async throws {
    try Files.replace(path, with: Array(repeating: 0x41, count: 9000))
    await expect("JOURNAL-302") { _ = try await SQLiteJournal.open(path, time: time) }
  }

  @Test func `a damaged page is reported as damage`() async throws {
    let journal = try await SQLiteJournal.open(path, time: time)
    for number in 0..<20 { try await journal.create(sampleSpec(RunID(unchecked: "r-\(number)"))) }
    try await journal.close()
    let file = try File(path, O_RDWR)
    let size = try file.status().st_size
    let junk = [UInt8](repeating: 0xee, count: Int(size) - 4096)
    try junk.withRawBytes { (raw) throws(SystemFailure) in try file.write(raw, at: 4096) }
    await expect("JOURNAL-302") {
      let damaged = try await SQLiteJournal.open(path, time: time)
      _ = try await damaged.load("r-3")
    }
  }

  @Test func `a record somebody edited is noticed`() async throws {
    let journal = try await SQLiteJournal.open(path, time: time)
    var spec = sampleSpec()
    spec.title = "bring the bank back soon"
    try await journal.create(spec)
    try await journal.close()
    var bytes = try Files.read(path)
    let old = Array("the bank back soon".utf8)
    let new = Array("the bank back NEVER".utf8.prefix(old.count))
    for index in 0..<(bytes.count - old.count) where Array(bytes[index..<index + old.count]) == old {
      bytes.replaceSubrange(index..<index + old.count, with: new)
    }
    try Files.replace(path, with: bytes)
    let edited = try await SQLiteJournal.open(path, time: time)
    await expect("JOURNAL-302") { _ = try await edited.load("recovery-0001") }
    let trail = try await edited.auditTrail(after: 0, run: nil, limit: 10)
    #expect(throws: JournalError.self) { try AuditChain.verify(trail) }
  }

  @Test func `a newer version's journal is refused and left alone`() async throws {
    try await SQLiteJournal.open(path, time: time).close()
    let file = try Files.read(path)
    var newer = file
    // The migration's name, in the table that lists the applied ones.
    let (old, new) = (Array("v1".utf8), Array("v9".utf8))
    for index in 0..<(newer.count - 2) where Array(newer[index..<index + 2]) == old {
      newer.replaceSubrange(index..<index + 2, with: new)
    }
    #expect(newer != file)
    try Files.replace(path, with: newer)
    await expect("JOURNAL-303") { _ = try await SQLiteJournal.open(path, time: time) }
    #expect(try Files.read(path) == newer)
  }

  @Test func `no room is said so, and nothing half-written stays`() async throws {
    let journal = try await SQLiteJournal.open(path, time: time, limitBytes: 200_000)
    var last = 0
    await expect("JOURNAL-304") {
      for number in 0..<10_000 {
        try await journal.create(sampleSpec(RunID(unchecked: "r-\(number)")))
        last = number
      }
    }
    #expect(last > 10)
    let listed = try await journal.list(RunFilter(limit: 100_000))
    #expect(listed.count == last + 1)
    try AuditChain.verify(try await journal.auditTrail(after: 0, run: nil, limit: 100_000))
  }

  @Test func `a locked journal is waited for, then reported`() async throws {
    let journal = try await SQLiteJournal.open(path, time: time, busyTimeout: .milliseconds(200))
    try await journal.create(sampleSpec())
    let lock = try SQLiteLock(path)
    await expect("JOURNAL-301") { _ = try await journal.claim("recovery-0001", as: "a", for: .seconds(1)) }
    try lock.release()
    _ = try await journal.claim("recovery-0001", as: "a", for: .seconds(1))
  }

  @Test func `the claim of a process that is gone lapses at once`() async throws {
    let journal = try await SQLiteJournal.open(path, time: time)
    try await journal.create(sampleSpec())
    let me = ProcessIdentity.current
    let alive = try await journal.claim("recovery-0001", as: Holder(me.description), for: .seconds(1000))
    await expect("JOURNAL-201") { _ = try await journal.claim("recovery-0001", as: "heir", for: .seconds(1)) }
    try await journal.release(alive)
    // The same number, but another start: a process that ended before this one got its number.
    let dead = "\(me.host)/\(me.boot)/\(me.pid)/1"
    _ = try await journal.claim("recovery-0001", as: Holder(dead), for: .seconds(1000))
    let heir = try await journal.claim("recovery-0001", as: "heir", for: .seconds(1000))
    #expect(heir.fence == Fence(3))
    // Of another host nothing is known.
    try await journal.release(heir)
    _ = try await journal.claim("recovery-0001", as: "elsewhere/boot/1/1", for: .seconds(1000))
    await expect("JOURNAL-201") { _ = try await journal.claim("recovery-0001", as: "heir", for: .seconds(1)) }
  }
}
