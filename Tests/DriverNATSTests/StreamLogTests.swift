import Core
import DriverKit
import IO
import TestSupport
import Testing

@testable import DriverNATS

#if canImport(Glibc)
  import Glibc
#endif

@Suite("The log of streams: records, names, blocks") struct StreamLogTests {
  static let records: [StreamRecord] = [
    .begin, .complete, .gone(number: 7), .bounds(number: 1, first: 5, last: 4), .bounds(number: 0, first: 0, last: 0),
    .removed(number: 2, [1...1, 5...900]), .removed(number: 2, []),
    .stream(
      number: 3, name: "ORDERS", created: "2026-11-22T20:30:10.499152199Z",
      config: ["name": "ORDERS", "subjects": ["o.>"], "max_age": 0]),
    .consumers(number: 4, [.init(name: "w", created: "x", config: ["durable_name": "w"], count: 3, sequence: 9)]),
    .message(
      number: 5,
      StoredMessage(
        sequence: 12, time: Timestamp(nanoseconds: 77), subject: "o.é", headers: Array("NATS/1.0\r\nA: b\r\n\r\n".utf8),
        payload: [0, 255, 10])),
    .message(
      number: 5, StoredMessage(sequence: 1, time: Timestamp(nanoseconds: 77), subject: "o", headers: [], payload: [])),
  ]

  @Test(arguments: records) func `a record is read as it was written`(_ record: StreamRecord) throws {
    var bytes: [UInt8] = [9]
    try record.append(to: &bytes, at: Timestamp(nanoseconds: 77))
    let length = bytes[1..<5].reduce(0) { $0 << 8 | Int($1) }
    #expect(length == bytes.count - 5)
    #expect(try StreamRecord(Array(bytes[5...])) == record)
    #expect(StreamRecord.moment(Array(bytes[5...])) == Timestamp(nanoseconds: 77))
  }

  /// A history of eight times as many messages takes about eight times as long, not sixty.
  @Test func `a long history costs no more for each message`() throws {
    let directory = try TemporaryDirectory()
    func seconds(_ messages: Int64) throws -> Double {
      var bytes: [UInt8] = []
      try StreamRecord.begin.append(to: &bytes, at: Timestamp(nanoseconds: 2))
      let born = Timestamp(nanoseconds: 3)
      try StreamRecord.stream(number: 1, name: "S", created: "\(born)", config: ["name": "S", "subjects": ["s"]])
        .append(to: &bytes, at: born)
      for sequence in 1...messages {
        let time = Timestamp(nanoseconds: 10 + sequence)
        let message = StoredMessage(sequence: sequence, time: time, subject: "s", headers: [], payload: [1])
        try StreamRecord.message(number: 1, message).append(to: &bytes, at: time)
      }
      let path = "\(directory.path)/\(messages)"
      try Files.replace(path, with: bytes)
      var history = StreamHistory(
        Description(account: "A", streams: [], contents: [:]), mark: Timestamp(nanoseconds: 1), target: .newest)
      let part = SpilledPart(extent: LogExtent("log", from: 0, to: Int64(bytes.count)), at: 0)
      let start = processorSeconds()
      try history.take(part, of: try File(path, O_RDONLY))
      let end = processorSeconds()
      #expect(history.messages == messages && history.lines["S"]?.messages.count == Int(messages))
      return end - start
    }
    let short = try (0..<3).map { _ in try seconds(10_000) }.min()!
    let long = try seconds(80_000)
    #expect(long < 24 * short, "10,000 took \(short) s of this thread's, 80,000 took \(long) s")
  }

  /// Bytes that were cut, or changed, are refused or are a record; nothing else happens.
  @Test(arguments: records) func `hostile bytes are refused`(_ record: StreamRecord) throws {
    var whole: [UInt8] = []
    try record.append(to: &whole, at: Timestamp(nanoseconds: 1))
    let bytes = Array(whole[4...])
    var refused = 0
    for count in 0..<bytes.count {
      do throws(DriverError) { _ = try StreamRecord(Array(bytes[..<count])) } catch {
        guard case .corrupt = error else {
          Issue.record("\(error)")
          continue
        }
        refused += 1
      }
    }
    #expect(refused >= StreamRecord.headBytes)
    for index in bytes.indices {
      for value in [UInt8(0), 1, 127, 128, 255] {
        var changed = bytes
        changed[index] = value
        do throws(DriverError) {
          let read = try StreamRecord(changed)
          var again: [UInt8] = []
          try read.append(to: &again, at: StreamRecord.moment(changed))
          #expect(try StreamRecord(Array(again[4...])) == read)
        } catch {
          guard case .corrupt = error else {
            Issue.record("\(error)")
            continue
          }
        }
      }
    }
  }

  @Test func `files are named by moments, and places by what a session goes on from`() throws {
    let file = StreamLogFile(Timestamp(nanoseconds: 1_795_379_410_499_152_199), mark: "0a1b2c3d")
    #expect(file.name == "1795379410499152199-0a1b2c3d" && StreamLogFile(file.name) == file)
    #expect(StreamLogFile(StreamLogFile(Timestamp(nanoseconds: 0), mark: "00000000").name)?.moment.nanoseconds == 0)
    for name in [
      "", "1-2", "17953794104991521990a1b2c3d", "1795379410499152199-0A1B2C3D", "../5379410499152199-0a1b2c3d",
    ] {
      #expect(StreamLogFile(name) == nil, "\(name)")
    }
    let place = StreamPlace(created: "2026-11-22T20:30:10Z", last: 7, time: 9)
    #expect(StreamPlace(place.text) == place)
    for text in ["", "1 2", "-1 2 x", "1 2 ", "a b c"] { #expect(StreamPlace(text) == nil, "\(text)") }
  }

  @Test(arguments: 1...50) func `what is new among what is gone`(_ seed: Int) {
    var random = SeededRandom(UInt64(seed))
    func ranges(_ numbers: Set<Int64>) -> [ClosedRange<Int64>] { numbers.sorted().map { $0...$0 }.merged() }
    let old = Set((0..<20).map { _ in Int64(random.next() % 40 + 1) })
    let new = Set((0..<30).map { _ in Int64(random.next() % 40 + 1) })
    let fresh = StreamTail.subtracting(ranges(old), from: ranges(new))
    #expect(Set(fresh.flatMap(Array.init)) == new.subtracting(old))
  }

  @Test(.timeLimit(.minutes(10))) func `blocks are byte for byte what the server writes`() async throws {
    try await NATSFixture.with { fixture in
      let messages = try await fixture.with { server in
        try server.client.publish(
          "record.h", reply: server.client.newInbox(), Array("with headers".utf8),
          headers: Array("NATS/1.0\r\nA: b\r\n\r\n".utf8))
        _ = try JetStream.value(try server.client.next().payload)
        var messages: [StoredMessage] = []
        try server.scan(NATSFixture.stream) { messages.append($0) }
        return messages
      }
      let directory = try TemporaryDirectory("blocks")
      var blocks = try MessageBlocks(directory.file("msgs"), of: NATSFixture.stream)
      for message in messages { try blocks.append(message) }
      try blocks.finish()
      let written = try Files.read(directory.file("msgs/1.blk"))
      let streams = "\(fixture.livePaths[0])/streams/\(NATSFixture.stream)"
      #expect(messages.count == 21)
      #expect(try Files.read("\(streams)/msgs/1.blk") == written)
    }
  }
}

/// SplitMix64.
private struct SeededRandom {
  private var state: UInt64
  init(_ seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }
}

/// Of this thread.
private func processorSeconds() -> Double {
  var now = timespec()
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
  return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
}
