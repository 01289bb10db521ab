import Core
import DriverKit
import Foundation
import IO
import Synchronization
import TestSupport
import Testing

@testable import DriverSQLite

#if canImport(Glibc)
  import Glibc
#endif

/// How often what chance has a part in is tried: `SALVOR_LOG_RUNS`.
private let runs = ProcessInfo.processInfo.environment["SALVOR_LOG_RUNS"].flatMap { UInt64($0) } ?? 4

@Suite("The log of an SQLite database", .serialized) struct WALTests {
  @Test func `a frame's place follows from its number, and back`() throws {
    let file = WALFile(salts: "0123456789abcdef", pageSize: 4096)
    let later = WALFile(salts: "0123456789abcdef", pageSize: 4096, first: 7)
    #expect(WALFile(later.name) == later && later.cursor(after: 7).offset == 32 && later.frames(before: 32 + 4128) == 8)
    #expect(WALFile(file.name) == file && file.cursor(after: 3).offset == 32 + 3 * 4128)
    #expect(file.frames(before: 0) == 0 && file.frames(before: 32) == 0 && file.frames(before: 32 + 4128) == 1)
    #expect(file.frames(before: 33) == nil && file.frames(before: 31) == nil)
    let empty = WALFile(salts: "0000000000000000", pageSize: 512, modified: Timestamp(seconds: 5, nanoseconds: 7))
    #expect(WALFile(empty.name) == empty)
    for name in [
      "", "0123456789abcdef-4096", "0123456789abcdef-4097-0", "0123456789ABCDEF-4096-0", "../../../../etc-4096-0",
      "0123456789abcdef-4096-0--1", "0123456789abcdef-4096--1",
    ] {
      #expect(WALFile(name) == nil, "\(name)")
    }
  }

  @Test(.timeLimit(.minutes(1))) func `a writer that has to wait in the middle of its word is waited for`() async throws
  {
    let directory = try TemporaryDirectory("wal")
    let path = directory.file("live.db")
    let user = try User(path)
    try user.run("PRAGMA journal_mode=WAL; CREATE TABLE record (n INTEGER PRIMARY KEY)")
    let reader = try Connection(path, .readOnly)
    _ = try reader.integer("SELECT count(*) FROM record")
    let before = try reader.walIndex()
    // Kept open to the end: whoever closes it drops SQLite's locks on it.
    let shared = try File(path + "-shm", O_RDWR)
    let place = Int64(WALIndex.bytes + 16)
    let kept = try shared.read(at: place, count: 4)
    func put(_ bytes: [UInt8]) {
      _ = bytes.withUnsafeBytes { pwrite(shared.descriptor, $0.baseAddress, 4, off_t(place)) }
    }
    put(kept.map { ~$0 })
    async let looked = BlockingPool.shared.run { () throws(DriverError) in try reader.walIndex() }
    try await Task.sleep(for: .milliseconds(100))
    put(kept)
    #expect(try await looked == before)
    put(kept.map { ~$0 })
    await #expect(throws: DriverError.self, "one that never ends is told") {
      try await BlockingPool.shared.run { () throws(DriverError) in try reader.walIndex() }
    }
    put(kept)
    reader.close()
  }

  @Test(.timeLimit(.minutes(10)), arguments: 0..<runs)
  func `whatever writers and checkpoints do, every transaction comes back`(_ seed: UInt64) async throws {
    let random = SeededRandomness(seed: seed)
    let directory = try TemporaryDirectory("wal")
    let path = directory.file("live.db")
    let user = try User(path)
    try user.run(
      """
      PRAGMA page_size=\(seed % 2 == 0 ? 1024 : 4096); PRAGMA journal_mode=WAL;
      CREATE TABLE record (n INTEGER PRIMARY KEY, filler BLOB); INSERT INTO record VALUES (0, zeroblob(10));
      """)
    let sink = MemoryLog()
    let driver = SQLiteDriver(path: path, holdPoll: .milliseconds(1), environment: .live)
    let follower = SQLiteFollower(driver: driver)
    let following = Task { () -> DriverError? in
      do throws(DriverError) {
        try await follower.follow(from: nil, hint: nil, into: sink)
        return nil
      } catch { return error }
    }
    for _ in 0..<400 where sink.end == nil { try await Task.sleep(for: .milliseconds(25)) }
    let base = try Connection(path, .readOnly)
    let mark = try base.pin()
    try base.copy(to: directory.file("base.db"), scratch: directory.path)
    base.close()
    let isOver = Mutex(false)
    // Somebody else who wants the WAL gone.
    let other = Task { [random] in
      // For as long as the test runs: a thread of its own.
      await BlockingPool(threads: 1).run {
        guard let other = try? User(path) else { return }
        while !isOver.withLock({ $0 }) {
          try? other.run(
            "PRAGMA busy_timeout=50; PRAGMA wal_checkpoint(\(["TRUNCATE", "RESTART", "PASSIVE"][Int(random.next() % 3)]))"
          )
          usleep(UInt32(random.next() % 60_000))
        }
      }
    }
    var history: [(position: LogPosition, time: Timestamp, digest: ContentDigest)] = []
    let reader = try Connection(path, .readOnly)
    for round in 1...120 {
      let rows = random.next() % 200
      try user.run(
        """
        BEGIN IMMEDIATE;
        WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < \(rows + 1))
        INSERT INTO record (filler) SELECT randomblob(\(random.next() % 900)) FROM c;
        DELETE FROM record WHERE n % 7 = \(random.next() % 7) AND n > 0;
        COMMIT;
        """)
      if random.next() % 25 == 0 { try user.run("VACUUM") }
      if round % 5 == 0 {
        let position = try reader.pin()
        let digest = try reader.rowsDigest()
        try reader.execute("ROLLBACK")
        for _ in 0..<400 where sink.end?.value != position.value { try await Task.sleep(for: .milliseconds(5)) }
        // It has been seen; what comes is seen later.
        history.append((position, SystemTime().now(), digest))
        try await Task.sleep(for: .milliseconds(60))
      }
    }
    let last = try reader.pin()
    try reader.execute("ROLLBACK")
    reader.close()
    isOver.withLock { $0 = true }
    await other.value
    for _ in 0..<400 where sink.end?.value != last.value { try await Task.sleep(for: .milliseconds(25)) }
    following.cancel()
    let ended = await following.value
    #expect(ended?.report.code == "CORE-001", "\(String(describing: ended))")
    #expect(sink.end?.value == last.value && sink.beginnings == 1)
    #expect(sink.files.count > 2, "the WAL began anew: \(sink.files)")

    let capture = CaptureResult(version: "", position: mark, sizeBytes: 0, facts: [:], notes: [])
    let from = try #require(follower.cursor(of: mark, in: capture, among: sink.files))
    func comesBack(_ through: LogCursor?, _ target: LogTarget) async throws -> ContentDigest {
      let place = directory.file("back.db")
      try Files.replace(place, with: try Files.read(directory.file("base.db")))
      _ = try await driver.goForward(
        LogReplay(source: sink.lent(from, through), target: target), from: capture, place: place,
        spill: directory.file("spill"))
      let back = try Connection(place, .immutable)
      defer { back.close() }
      #expect(try back.text("PRAGMA integrity_check") == "ok")
      return try back.rowsDigest()
    }
    for (position, time, digest) in history {
      guard !position.value.hasPrefix("0@") else { continue }
      let cursor = try #require(follower.cursor(of: position, in: capture, among: sink.files))
      #expect(try await comesBack(cursor, .newest) == digest, "\(position)")
      #expect(try await comesBack(nil, .time(time)) == digest, "\(time)")
    }
    // Damage is found, wherever it is.
    let damaged = sink.lent(from, nil, damaging: random)
    await #expect(throws: DriverError.self) {
      try Files.replace(directory.file("back.db"), with: try Files.read(directory.file("base.db")))
      _ = try await driver.goForward(
        LogReplay(source: damaged, target: .newest), from: capture, place: directory.file("back.db"),
        spill: directory.file("spill"))
    }
  }
}

/// A log in memory, as strict as the one that is kept.
private final class MemoryLog: LogSink {
  private struct State {
    var files: [(name: String, bytes: [UInt8], follows: LogCursor?)] = []
    var cursor: LogCursor?
    var end: LogPosition?
    var beginnings = 0
  }

  private let state = Mutex(State())

  var hasRoom: Bool { true }
  let gathering: Duration = .milliseconds(5)
  var durable: LogPosition? { end }
  var end: LogPosition? { state.withLock { $0.end } }
  var beginnings: Int { state.withLock { $0.beginnings } }
  var files: [String] { state.withLock { $0.files.map(\.name) } }

  func begin(_ beginning: LogBeginning) {
    state.withLock { state in
      state.cursor = beginning.cursor
      state.beginnings += 1
    }
  }

  func append(_ chunk: LogChunk) throws(DriverError) {
    let isRight = state.withLock { state -> Bool in
      let isNew = chunk.follows != nil || state.files.isEmpty
      guard
        chunk.follows.map({ $0 == state.cursor && chunk.offset == 0 })
          ?? (LogCursor(chunk.file, chunk.offset) == state.cursor)
      else { return false }
      if isNew { state.files.append((chunk.file, [], chunk.follows)) }
      state.files[state.files.count - 1].bytes += chunk.bytes
      state.cursor = LogCursor(chunk.file, chunk.offset + Int64(chunk.bytes.count))
      state.end = chunk.mark.position
      return true
    }
    guard isRight else { throw .logGap("\(chunk.file)+\(chunk.offset) does not go on") }
  }

  func attach(_ name: String, _ bytes: [UInt8]) {}
  func note(_ mark: LogMark) {}

  func lent(_ from: LogCursor, _ through: LogCursor?, damaging random: SeededRandomness? = nil) -> Lent {
    var files = state.withLock { $0.files }
    files.removeFirst(files.firstIndex { $0.name == from.file } ?? 0)
    if let through, let last = files.lastIndex(where: { $0.name == through.file }) {
      files.removeLast(files.count - last - 1)
      files[last].bytes.removeLast(files[last].bytes.count - Int(through.offset))
    }
    if let random {
      // Not in the first, whose frames may be from before the mark; not in its first frame, and not in a time.
      let index = files.indices.last { files[$0].bytes.count > 20_000 } ?? 0
      files[index].bytes[files[index].bytes.count - 9 - Int(random.next() % 400)] ^= 1
    }
    return Lent(files: files.filter { !$0.bytes.isEmpty })
  }

  struct Lent: LogSource {
    var files: [(name: String, bytes: [UInt8], follows: LogCursor?)]

    func extents() async throws(AnyFailure) -> [LogExtent] {
      files.map { LogExtent($0.name, from: 0, to: Int64($0.bytes.count), follows: $0.follows) }
    }

    func attachments() async throws(AnyFailure) -> [String] { [] }
    func attachment(_ name: String, limitBytes: Int) async throws(AnyFailure) -> [UInt8] { [] }

    func read(
      _ extent: LogExtent, _ each: @escaping @Sendable (_ offset: Int64, _ bytes: [UInt8]) async throws -> Void
    ) async throws(AnyFailure) {
      do {
        let bytes = files.first { $0.name == extent.file }?.bytes ?? []
        for start in stride(from: 0, to: bytes.count, by: 100_000).reversed() {
          try await each(Int64(start), Array(bytes[start..<min(bytes.count, start + 100_000)]))
        }
      } catch { throw AnyFailure(error) }
    }
  }
}
