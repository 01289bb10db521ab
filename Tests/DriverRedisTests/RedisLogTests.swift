import Core
import DriverKit
import IO
import TestSupport
import Testing

@testable import DriverRedis

private let id = String(repeating: "a1", count: 20)
private let other = String(repeating: "b2", count: 20)

@Suite("The log of a Redis server") struct RedisLogTests {
  private func commands(_ bytes: [UInt8], pieces: Int) throws -> [StreamSplitter.Command] {
    var splitter = StreamSplitter()
    var result: [StreamSplitter.Command] = []
    var index = 0
    while index < bytes.count {
      let end = min(bytes.count, index + pieces)
      try bytes.withUnsafeBytes { raw in
        try splitter.feed(UnsafeRawBufferPointer(rebasing: raw[index..<end])) { result.append($0) }
      }
      index = end
    }
    #expect(splitter.received == Int64(bytes.count))
    return result
  }

  @Test func `commands are told apart however they come`() throws {
    let bytes =
      Connection.format("PING") + Connection.format("multi")
      + Connection.format("SET", "a", String(repeating: "*1\r\n", count: 500))
      + Connection.format("SET", "", "") + Connection.format("EXEC") + Connection.format("REPLCONF", "GETACK", "*")
    let whole = try commands(bytes, pieces: bytes.count)
    #expect(whole.map(\.name) == ["PING", "MULTI", "SET", "SET", "EXEC", "REPLCONF"])
    #expect(whole.map(\.isInTransaction) == [false, true, true, true, false, false])
    #expect(whole[2].words == ["SET", "a", ""], "a long word is not kept")
    #expect(whole.last?.end == Int64(bytes.count))
    for pieces in [1, 2, 3, 7, 64] { #expect(try commands(bytes, pieces: pieces) == whole) }
  }

  @Test(arguments: [
    "PING\r\n", "*0\r\n", "*1\r\n+OK\r\n", "*1\r\n$99999999999999999\r\n", "*1\r\n$-1\r\n", "*1\r\n$1\r\nxyz",
  ])
  func `what is no command is a gap, not a guess`(_ text: String) throws {
    #expect(throws: DriverError.self) { try commands(Array(text.utf8), pieces: 3) }
  }

  @Test func `the server's own words say whether it can go on`() throws {
    func info(_ more: String) -> Info {
      Info(
        """
        master_replid:\(id)
        master_replid2:\(other)
        second_repl_offset:500
        master_repl_offset:1000
        repl_backlog_active:1
        repl_backlog_first_byte_offset:301
        \(more)
        """)
    }
    #expect(RedisFollower.missing(id, after: 300, info("")) == nil)
    #expect(RedisFollower.missing(id, after: 1000, info("")) == nil)
    #expect(RedisFollower.missing(id, after: 299, info(""))?.contains("backlog begins at offset 300") == true)
    #expect(RedisFollower.missing(id, after: 1001, info(""))?.contains("lost what it had sent") == true)
    #expect(RedisFollower.missing(other, after: 499, info("")) == nil)
    #expect(RedisFollower.missing(other, after: 500, info(""))?.contains("left that history at offset 499") == true)
    #expect(RedisFollower.missing(String(repeating: "c", count: 40), after: 400, info(""))?.contains("own") == true)
    #expect(RedisFollower.missing(id, after: 400, info("repl_backlog_active:0"))?.contains("no backlog") == true)
    let file = StreamFile(id, at: 100)
    let end = LogEnd(stream: id, cursor: file.cursor(at: 120), position: LogPosition(kind: "offset", value: "120"))
    let anew = try RedisFollower.start(from: end, hint: nil, info(""))
    #expect(anew.isNew && anew.offset == 1000 && anew.why?.contains("backlog") == true)
    // The newest copy's mark is still there: the log begins with it.
    let led = try RedisFollower.start(from: end, hint: StreamFile(other, at: 450).cursor(at: 450), info(""))
    #expect(led.isNew && led.file == StreamFile(other, at: 450) && led.why?.contains("backlog") == true)
  }

  @Test func `signs of life wait for work, and every byte comes once`() throws {
    var stream = RedisFollower.Stream(
      file: StreamFile(id, at: 40), position: 100, channel: "salvor:cache", session: "0a")
    let ping = Connection.format("PING")
    #expect(try stream.take(ping) == nil)
    let set = Connection.format("SET", "a", "b")
    #expect(try stream.take(Array(set[..<9])) == nil)
    #expect(stream.received == 100 + Int64(ping.count) + 9)
    let message = TimeMessage(session: "0a", number: 3, before: Timestamp(seconds: 77), last: Timestamp(seconds: 70))
    let chunk = try #require(
      try stream.take(Array(set[9...]) + Connection.format("PUBLISH", "salvor:cache", message.text)))
    #expect(chunk.offset == 60 && chunk.file == StreamFile(id, at: 40).name && chunk.follows == nil)
    #expect(chunk.bytes.starts(with: ping + set) && stream.isDirty)
    #expect(chunk.mark.completeUntil == Timestamp(seconds: 77))
    #expect(chunk.mark.position.value == "\(100 + chunk.bytes.count)")
    stream.enter(other)
    let next = try #require(try stream.take(set))
    #expect(next.file == StreamFile(other, at: 100 + Int64(chunk.bytes.count)).name && next.offset == 0)
    #expect(next.follows == LogCursor(chunk.file, 60 + Int64(chunk.bytes.count)))
  }

  @Test(arguments: 0..<20) func `a time is met by the last message that is known to lie before it`(_ seed: UInt64)
    async throws
  {
    let random = SeededRandomness(seed: seed)
    func chance(_ count: UInt64) -> Int64 { Int64(random.next() % count) }
    let directory = try TemporaryDirectory("cut")
    var bytes: [UInt8] = []
    /// When each command outside a transaction was run.
    var ends: [(time: Int64, end: Int64, isMessage: Bool)] = []
    var (clock, number, last): (Int64, Int64, Timestamp?) = (1_000_000, 0, nil)
    for _ in 0..<200 {
      clock += chance(50) * 1000
      switch chance(4) {
      case 0:
        let before = Timestamp(nanoseconds: clock * 1000)
        clock += chance(3)
        let message = TimeMessage(session: "0b", number: number, before: before, last: last)
        bytes += Connection.format("PUBLISH", "salvor:cache", message.text)
        ends.append((clock, Int64(bytes.count), true))
        clock += chance(3)
        (number, last) = (number + 1, Timestamp(nanoseconds: clock * 1000))
      case 1:
        bytes += Connection.format("MULTI") + Connection.format("SET", "a", "b") + Connection.format("EXEC")
        ends.append((clock, Int64(bytes.count), false))
      default:
        bytes += Connection.format("SET", "a", "b")
        ends.append((clock, Int64(bytes.count), false))
      }
    }
    try Files.replace(directory.file("log"), with: bytes + Connection.format("MULTI") + Connection.format("DEL", "a"))
    let file = try File(directory.file("log"), O_RDONLY)
    let size = Int64(try file.status().st_size)
    let newest = try RedisDriver.cut(file, size, .newest, "salvor:cache")
    #expect(newest.bytes == Int64(bytes.count), "half a transaction is none")
    for _ in 0..<20 {
      let time = 1_000_000 + chance(UInt64(clock - 1_000_000))
      let cut = try RedisDriver.cut(file, size, .time(Timestamp(nanoseconds: time * 1000)), "salvor:cache")
      #expect(ends.allSatisfy { $0.end > cut.bytes || $0.time <= time }, "nothing later is in it")
      // Messages run at or before it, but the two that may not be known to be.
      let messages = ends.filter { $0.isMessage && $0.time + 3 <= time }
      if messages.count > 0, messages.count < ends.filter(\.isMessage).count {
        #expect(cut.bytes >= messages[messages.count - 1].end)
      }
    }
  }
}

#if canImport(Glibc)
  import Glibc
#endif
