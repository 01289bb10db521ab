import Core
import DriverKit
import IO

extension SQLiteDriver {
  func follower() -> (any LogFollower)? { SQLiteFollower(driver: self) }
}

/// Ships a WAL's frames as they are committed, and sees to it that none is overwritten before.
///
/// `docs/decisions/0016-sqlite-wal.md` says how and why.
struct SQLiteFollower: LogFollower {
  let driver: SQLiteDriver

  /// How often is looked for what was committed; the resolution of times.
  static let poll: Duration = .milliseconds(50)
  static let sign: Duration = .seconds(1)
  /// From how many frames on the WAL is put away once it is durable, as SQLite itself has it.
  static let turnFrames: Int64 = 1000
  /// From how many on it is put away though writers leave no moment in which all is durable.
  static let longestFrames: Int64 = 16_000

  func follow(from end: LogEnd?, hint: LogCursor?, into sink: any LogSink) async throws(DriverError) {
    let (path, time, pool) = (driver.path, driver.environment.time, driver.pool)
    let tail = try await pool.run { () throws(DriverError) -> WALTail in try WALTail(path, time) }
    let failure: DriverError
    do throws(DriverError) {
      try await ship(tail, from: end, into: sink)
      return
    } catch { failure = error }
    await pool.run { tail.close() }
    throw failure
  }

  private func ship(_ tail: WALTail, from end: LogEnd?, into sink: any LogSink) async throws(DriverError) {
    let (time, pool) = (driver.environment.time, driver.pool)
    try await pool.run { () throws(DriverError) in try tail.begin(from: end, into: sink) }
    var isAnchored = false
    var turned = time.monotonicNanoseconds()
    var said = turned
    while true {
      if Task.isCancelled { throw .cancelled }
      var isAtEnd = true
      if sink.hasRoom {
        let anchored = isAnchored
        isAtEnd = try await pool.run { () throws(DriverError) in
          guard try tail.ship(into: sink, isAnchored: anchored) else { return false }
          try tail.rest(isDurable: sink.durable == tail.position, into: sink)
          return true
        }
        let now = time.monotonicNanoseconds()
        if isAtEnd {
          // The read transaction was there before: it keeps what comes, and all before that is shipped.
          isAnchored = true
          if tail.frames >= Self.longestFrames, Duration.nanoseconds(now - turned) >= Self.sign {
            _ = try await pool.run { () throws(DriverError) in try tail.turn(into: sink) }
            turned = time.monotonicNanoseconds()
          }
        }
        if Duration.nanoseconds(now - said) >= Self.sign {
          said = now
          try await pool.run { () throws(DriverError) in try tail.requireFile() }
        }
      }
      if !isAtEnd { continue }
      do { try await time.sleep(for: Self.poll) } catch { throw .cancelled }
    }
  }

  // MARK: Places

  func cursor(of position: LogPosition, in capture: CaptureResult, among files: [String]) -> LogCursor? {
    guard position.kind == "frame" else { return nil }
    let known = files.compactMap { WALFile($0) }
    if position.value.hasPrefix("0@") {
      guard let modified = Timestamp(position.value.dropFirst(2)) else { return nil }
      // The WAL had begun anew, and no frame had come yet; before its first life it has no salts.
      let salts = position.details["salts"] ?? ""
      let file = known.last { $0.salts == salts && $0.modified == nil && $0.first == 0 }
      if let file, salts.contains(where: { $0 != "0" }) { return file.cursor(after: 0) }
      return known.last { $0.modified == modified }.map { $0.cursor(after: $0.first) }
    }
    let parts = position.value.split(separator: ":")
    guard parts.count == 2, WALFile.isSalts(parts[0]), let frame = Int64(parts[1]), (1...1 << 32).contains(frame),
      let file = known.last(where: { $0.salts == parts[0] && $0.modified == nil && $0.first <= frame })
    else { return nil }
    return file.cursor(after: frame)
  }
}
