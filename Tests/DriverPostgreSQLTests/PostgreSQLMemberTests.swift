import DriverKit
import Testing

@testable import DriverPostgreSQL

@Suite("Histories of PostgreSQL members") struct PostgreSQLMemberTests {
  private let text = "1\t0/3000060\tno recovery target specified\n\n2\t0/5000A00\tno recovery target specified\n"

  @Test func `a log is a beginning of another up to where that one went on`() {
    let history = TimelineHistory(text, current: 3, end: 0x600_0000)
    #expect(history.includes(EnginePosition(lineage: 1, offset: 0x300_0060)))
    #expect(!history.includes(EnginePosition(lineage: 1, offset: 0x300_0061)))
    #expect(history.includes(EnginePosition(lineage: 3, offset: 0x600_0000)))
    #expect(!history.includes(EnginePosition(lineage: 3, offset: 0x600_0001)))
    #expect(!history.includes(EnginePosition(lineage: 4, offset: 1)))
  }

  @Test func `a history that makes no sense includes nothing but what is known otherwise`() {
    let history = TimelineHistory("x\t0/1\n1\tFFFFFFFFFFFFFFFF/0\n2\t-1/-1\n3 0\n", current: 4, end: 10)
    #expect(history.ends == [4: 10])
  }

  @Test func `the last page before a place lies in one segment`() {
    let megabyte: Int64 = 1 << 20
    #expect(
      WALPiece(timeline: 2, before: 5 * megabyte + 100, segmentBytes: megabyte).name == "000000020000000000000005")
    let piece = WALPiece(timeline: 2, before: 5 * megabyte + 100, segmentBytes: megabyte)
    #expect((piece.offset, piece.count) == (0, 100))
    let whole = WALPiece(timeline: 0x1f, before: 1 << 32, segmentBytes: 16 * megabyte)
    #expect(whole.name == "0000001F00000000000000FF" && whole.count == 8192)
    #expect(whole.offset == 16 * megabyte - 8192)
    #expect(WALSegment("00000001000000FF", bytes: 16 * megabyte)?.start == 1 << 32 | 0xff << 24)
    #expect(WALSegment("0000000100000100", bytes: 16 * megabyte) == nil)
  }

  @Test func `what pg_controldata prints is understood`() {
    let clean = ControlData(
      "Database cluster state:               shut down\nLatest checkpoint location:           0/B07A78\n"
        + "Latest checkpoint's TimeLineID:       2\n")
    #expect(clean.isClean && clean.checkpoint == EnginePosition(lineage: 2, offset: 0xb0_7a78))
    let crashed = ControlData("Database cluster state:               in production\n")
    #expect(!crashed.isClean && crashed.checkpoint == nil)
  }
}
