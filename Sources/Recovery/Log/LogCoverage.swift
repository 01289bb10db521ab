import Core
import DriverKit

/// A copy that a restore may start from.
package struct LogBase: Sendable, Equatable {
  package var point: PointID
  package var time: Timestamp
  package var position: LogPosition
  /// The mark's place in the log's files.
  package var cursor: LogCursor?

  package init(point: PointID, time: Timestamp, position: LogPosition, cursor: LogCursor?) {
    (self.point, self.time, self.position, self.cursor) = (point, time, position, cursor)
  }
}

/// What a store can be brought back to.
package struct LogCoverage: Sendable, Equatable, Codable {
  /// From one copy to the end of the log that goes on from it. Without such a log the copy's own moment.
  package struct Reach: Sendable, Equatable, Codable {
    package var point: PointID
    package var from: LogPosition
    package var fromTime: Timestamp
    package var to: LogPosition
    /// By the server's clock.
    package var toTime: Timestamp
    /// Bytes of log between the two.
    package var logBytes: Int64
  }

  package var reaches: [Reach]
  package var gaps: [LogGap]
  /// Log that nothing leads to: no copy was taken since it began.
  package var unbased: [Unbased]

  package struct Unbased: Sendable, Equatable, Codable {
    package var from: LogPosition
    package var to: LogPosition
    package var toTime: Timestamp?
  }

  /// The newest moment that can be come back to.
  package var newest: Timestamp? { reaches.map(\.toTime).max() }
}

/// What can be reached from `bases` with the log in `chains`. Pure: reads nothing.
package func coverage(of bases: [LogBase], _ chains: [LogChain]) -> LogCoverage {
  var based: Set<Int> = []
  var reaches: [LogCoverage.Reach] = []
  for base in bases.sorted(by: { $0.time < $1.time }) {
    var reach = LogCoverage.Reach(
      point: base.point, from: base.position, fromTime: base.time, to: base.position, toTime: base.time, logBytes: 0)
    if let cursor = base.cursor, let index = chains.lastIndex(where: { $0.holds(base, at: cursor) }) {
      based.insert(index)
      reach.to = chains[index].to
      reach.toTime = max(base.time, chains[index].completeUntil ?? chains[index].lastCommit ?? base.time)
      reach.logBytes = chains[index].bytes(from: cursor)
    }
    reaches.append(reach)
  }
  return LogCoverage(
    reaches: reaches, gaps: chains.compactMap(\.gap),
    unbased: chains.enumerated().filter { !based.contains($0.offset) }.map {
      .init(from: $0.element.from, to: $0.element.to, toTime: $0.element.completeUntil)
    })
}

extension LogChain {
  /// Whether a restore of `base` can go on with this log.
  func holds(_ base: LogBase, at cursor: LogCursor) -> Bool {
    guard place(of: cursor) != nil else { return false }
    // Streams are named by what positions carry too, where the engine has such a thing; or files are.
    return base.position.details.isEmpty
      || base.position.details.values.contains { $0 == stream || cursor.file.hasPrefix($0 + "-") }
  }

  func bytes(from cursor: LogCursor) -> Int64 {
    guard let place = place(of: cursor) else { return 0 }
    return extents.enumerated().reduce(0) { sum, item in
      if item.offset < place.extent { return sum }
      let start = item.offset == place.extent ? max(item.element.from, cursor.offset) : item.element.from
      return sum + item.element.to - start
    }
  }
}
