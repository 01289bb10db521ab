import Core
import DriverKit
import Testing

@testable import Recovery
@testable import Runtime

/// Knows positions of ``SampleLog``; follows nothing.
private struct SampleFollower: LogFollower {
  func follow(from end: LogEnd?, hint: LogCursor?, into sink: any LogSink) async throws(DriverError) {}
  func cursor(of position: LogPosition, in capture: CaptureResult, among files: [String]) -> LogCursor? {
    Int64(position.value).map { SampleLog.cursor($0) }
  }
}

@Suite("Ways along a log") struct LogWaysTests {
  private static func point(_ number: Int) throws -> PointID {
    try #require(PointID("20261121T0809\(number)Z-00000000"))
  }

  /// Copies at places of a log, taken so many seconds after the epoch.
  private func ways(_ copies: [(place: Int64, seconds: Int64)], _ spans: [StoredSpan]) throws -> LogWays {
    var ways = LogWays(name: "shop-db", follower: SampleFollower(), bases: [], captures: [:], chains: chains(of: spans))
    for (index, copy) in copies.enumerated() {
      let id = try Self.point(10 + index)
      let position = SampleLog.position(copy.place)
      ways.captures[id] = CaptureResult(version: "1", position: position, sizeBytes: 1)
      ways.bases.append(
        LogBase(
          point: id, time: Timestamp(seconds: copy.seconds), position: position, cursor: SampleLog.cursor(copy.place)))
    }
    return ways
  }

  @Test func `the newest is where the log leads furthest, from the newest copy it leads on from`() throws {
    let ways = try ways(
      [(100, 10), (500, 50)], [LogArchiveTests.span(1...1, 0, 900, at: 90, beginning: .some(nil))])
    let found = try ways.to(.newest)
    #expect(found.map(\.point) == [try Self.point(11), try Self.point(10)])
    #expect(found[0].through == SampleLog.cursor(900) && found[0].time == Timestamp(seconds: 90))
  }

  @Test func `a copy that is newer than all that the log leads to is said to be the newest`() throws {
    // The log ended long ago, and copies were taken since: to go along it would lose what they hold.
    let ways = try ways(
      [(100, 10), (5000, 500)], [LogArchiveTests.span(1...1, 0, 900, at: 90, beginning: .some(nil))])
    let error = #expect(throws: RecoveryError.self) { try ways.to(.newest) }
    #expect(error?.report.summary.contains("\(try Self.point(11))") == true, "\(String(describing: error))")
    // Anything before the log's end is still to be had.
    #expect(try ways.to(.time(Timestamp(seconds: 60))).map(\.point) == [try Self.point(10)])
  }

  @Test func `of two logs with a gap between them the one counts that leads to the newest moment`() throws {
    let spans = [
      LogArchiveTests.span(1...1, 0, 900, at: 90, beginning: .some(nil)),
      LogArchiveTests.span(2...2, 2000, 2500, at: 250, beginning: .some("the slot was gone")),
    ]
    let ways = try ways([(100, 10), (2100, 210)], spans)
    #expect(try ways.to(.newest).first?.point == Self.point(11))
    #expect(try ways.to(.mark(SampleLog.position(800))).map(\.point) == [try Self.point(10)])
    #expect(throws: RecoveryError.self) { try ways.to(.mark(SampleLog.position(1500))) }
    #expect(throws: RecoveryError.self, "before its copy nothing leads") {
      try ways.to(.mark(SampleLog.position(2050)))
    }
    #expect(throws: RecoveryError.self) { try ways.to(.time(Timestamp(seconds: 251))) }
  }
}
