import Core
import DriverKit
import Testing

@testable import DriverMariaDB

@Suite("A mirrored binary log") struct BinlogMirrorTests {
  /// Events as a server would write them, each with its checksum.
  private struct Writer {
    var offset: UInt32 = 4
    var packets: [[UInt8]] = []

    mutating func add(_ kind: UInt8, _ body: [UInt8], seconds: UInt32 = 1000, isArtificial: Bool = false) {
      let length = UInt32(19 + body.count + 4)
      var event: [UInt8] = []
      func put<T: FixedWidthInteger>(_ value: T) { withUnsafeBytes(of: value.littleEndian) { event += $0 } }
      put(isArtificial ? 0 : seconds)
      put(kind)
      put(UInt32(1))
      put(length)
      put(isArtificial ? 0 : offset + length)
      put(UInt16(isArtificial ? 0x20 : 0))
      event += body
      put(event.withUnsafeBytes { CRC32.of($0) })
      if !isArtificial { offset += length }
      packets.append(event)
    }

    mutating func rotate(to name: String) {
      add(4, [4, 0, 0, 0, 0, 0, 0, 0] + Array(name.utf8), isArtificial: true)
      offset = 4
    }

    mutating func begin(seconds: UInt32 = 1000) { add(15, [UInt8](repeating: 0, count: 60) + [1], seconds: seconds) }

    mutating func transaction(_ number: UInt64, seconds: UInt32 = 1000) {
      var body: [UInt8] = []
      withUnsafeBytes(of: number.littleEndian) { body += $0 }
      add(162, body + [0, 0, 0, 0, 0] + [0, 0, 0, 0, 0, 0], seconds: seconds)
      add(23, [1, 2, 3], seconds: seconds)
      add(16, [0, 0, 0, 0, 0, 0, 0, 0], seconds: seconds)
    }
  }

  private func feed(_ mirror: inout BinlogMirror, _ packets: [[UInt8]]) throws {
    for packet in packets { try packet.withRawBytes { raw throws(StatementFailure) in try mirror.take(raw) } }
  }

  private func written() -> Writer {
    var writer = Writer()
    writer.rotate(to: "bin.000001")
    writer.begin()
    writer.transaction(7, seconds: 1007)
    writer.transaction(8, seconds: 1003)
    return writer
  }

  private func code(_ mirror: inout BinlogMirror, _ packets: [[UInt8]]) -> UInt32? {
    do { try feed(&mirror, packets) } catch { return (error as? StatementFailure)?.code }
    return nil
  }

  @Test func `events become the file they came from, and files follow each other`() throws {
    var writer = written()
    let first = Int64(writer.offset)
    writer.rotate(to: "bin.000002")
    writer.begin(seconds: 2000)
    writer.transaction(9, seconds: 2001)
    var mirror = BinlogMirror(stream: "server-1", file: "bin.000001", begun: nil, why: nil)
    try feed(&mirror, writer.packets)
    let begun = mirror.takeBeginning()
    let beginning = try #require(begun)
    #expect(beginning.cursor == LogCursor("bin.000001@1000", 0) && beginning.stream == "server-1")
    let chunks = mirror.takeChunks()
    #expect(chunks.map(\.file) == ["bin.000001@1000", "bin.000002@2000"])
    #expect(chunks.map(\.offset) == [0, 0])
    #expect(chunks[1].follows == LogCursor("bin.000001@1000", first))
    #expect(chunks[0].bytes == [0xfe, 0x62, 0x69, 0x6e] + writer.packets[1...7].flatMap(\.self))
    #expect(chunks[0].mark.firstCommit == Timestamp(seconds: 1003))
    #expect(chunks[0].mark.lastCommit == Timestamp(seconds: 1007))
    #expect(chunks[0].mark.position.details["gtid"] == "0-1-8")
    #expect(chunks[1].mark.position.value == "bin.000002:\(writer.offset)")
    #expect(mirror.reached.description == "0-1-9")
  }

  @Test func `any bit that is flipped is found, and any event that is left out`() throws {
    let packets = written().packets
    for (index, packet) in packets.enumerated().dropFirst() {
      for place in stride(from: 0, to: packet.count, by: 7) {
        var damaged = packets
        damaged[index][place] ^= 1 << UInt8(place % 8)
        var mirror = BinlogMirror(stream: "server-1", file: "bin.000001", begun: nil, why: nil)
        let found = code(&mirror, damaged)
        #expect(found != nil, "byte \(place) of event \(index)")
      }
      guard index < packets.count - 1 else { continue }
      var lacking = packets
      lacking.remove(at: index)
      var mirror = BinlogMirror(stream: "server-1", file: "bin.000001", begun: nil, why: nil)
      let found = code(&mirror, lacking)
      #expect(found == BinlogMirror.broken, "without event \(index)")
    }
    for short in [[], [0], [UInt8](repeating: 0, count: 18), [UInt8](repeating: 255, count: 19)] as [[UInt8]] {
      var mirror = BinlogMirror(stream: "server-1", file: "bin.000001", begun: nil, why: nil)
      let found = code(&mirror, [short])
      #expect(found == BinlogMirror.broken)
    }
  }

  /// In the middle of a transaction too: at every event a follower may have been ended.
  @Test func `who comes again goes on from the last event if it is the same, and only then`() throws {
    let packets = written().packets
    for count in 2..<packets.count {
      var mirror = BinlogMirror(stream: "server-1", file: "bin.000001", begun: nil, why: nil)
      try feed(&mirror, Array(packets[..<count]))
      let chunks = mirror.takeChunks()
      let kept = try #require(chunks.last)
      let end = LogEnd(
        stream: "server-1", cursor: LogCursor(kept.file, kept.offset + Int64(kept.bytes.count)),
        position: kept.mark.position)
      let place = try #require(BinlogMirror.Resumption(end))
      var again = BinlogMirror(stream: "server-1", goingOn: place)
      // From the middle of a file its beginning is told as something made up.
      var told = Array(packets[..<1])
      if again.request > 4 {
        var writer = Writer()
        writer.begin()
        var format = writer.packets[0]
        format.replaceSubrange(13..<17, with: [0, 0, 0, 0])
        let sum = format[..<(format.count - 4)].withUnsafeBytes { CRC32.of($0) }
        format.replaceSubrange((format.count - 4)..., with: withUnsafeBytes(of: sum.littleEndian) { Array($0) })
        told.append(format)
      }
      try feed(&again, told + packets[(count - 1)...])
      let anew = again.takeBeginning()
      #expect(again.hasBegun && anew == nil)
      let rest = again.takeChunks()
      #expect(kept.bytes + rest.flatMap(\.bytes) == [0xfe, 0x62, 0x69, 0x6e] + packets[1...].flatMap(\.self))
      #expect(rest.first.map { $0.offset } == end.cursor.offset)
      #expect(again.reached.description == "0-1-8", "after \(count) events")
      // Another log under the same name, as long.
      var other = Writer()
      other.rotate(to: "bin.000001")
      other.begin()
      other.transaction(7, seconds: 1008)
      other.transaction(8, seconds: 1004)
      var wrong = BinlogMirror(stream: "server-1", goingOn: place)
      if count > 2 {
        let found = code(&wrong, told + other.packets[(count - 1)...])
        #expect(found == BinlogMirror.refused, "after \(count) events")
      }
    }
    var anew = Writer()
    anew.rotate(to: "bin.000001")
    anew.begin(seconds: 5000)
    var mirror = BinlogMirror(stream: "server-1", file: "bin.000001", begun: 1000, why: nil)
    let found = code(&mirror, anew.packets)
    #expect(found == BinlogMirror.refused, "begun at another time")
  }

  @Test func `a moment is complete when all that was written by then has come`() throws {
    #expect(CommitClock.timestamp("1795296573.123456") == Timestamp(seconds: 1_795_296_573, nanoseconds: 123_456_000))
    for bad in ["", "1", "1.5", "-1.000000", "99999999999.000000", "a.bcdefg"] {
      #expect(CommitClock.timestamp(bad) == nil, "\(bad)")
    }
    #expect(GTID("0-1-2")?.description == "0-1-2")
    for bad in ["", "0-1", "0-1-2-3", "a-b-c", "-1-2"] { #expect(GTID(bad) == nil, "\(bad)") }
    #expect(LogFileName("bin.000001@17")?.text == "bin.000001@17")
    for bad in ["bin.000001", "@1", "../x@1", "bin@x"] { #expect(LogFileName(bad) == nil, "\(bad)") }
    #expect(Array("123456789".utf8).withUnsafeBytes { CRC32.of($0) } == 0xcbf4_3926)
  }
}
