import Core
import DriverKit
import IO

extension NATSDriver {
  func follower() -> (any LogFollower)? { configuration.isFollowed ? NATSFollower(driver: self) : nil }

  /// Why an account's streams can't be followed; `nil` if they can.
  static func unfollowed(_ streams: [StreamInfo], cluster: String?) -> String? {
    if let cluster {
      return "the server is one of cluster \(cluster), whose leaders have a clock each; leave out 'log: true'"
    }
    let consumed = streams.filter { !$0.isInMemory && $0.isConsumed }.map(\.name)
    if !consumed.isEmpty {
      return "a second consumer would change what these streams keep, so they can't be followed: "
        + "\(consumed.joined(separator: ", ")) (work queue or interest); leave out 'log: true'"
    }
    guard streams.count <= NATSFollower.streamLimit else {
      return "\(streams.count) streams are more than \(NATSFollower.streamLimit), the most that can be followed; "
        + "leave out 'log: true'"
    }
    return nil
  }
}

/// Receives every message of an account's streams as one more consumer does, and writes down what else changes.
///
/// `docs/decisions/0039-a-log-of-streams.md` says how and why.
struct NATSFollower: LogFollower {
  let driver: NATSDriver

  /// How far each stream is goes with every position of the log.
  static let streamLimit = 256
  /// How often settings, consumers and what is gone are looked at.
  static let sign: Duration = .seconds(1)
  static let silence: Duration = .seconds(30)
  private static let readBytes = 1 << 20

  func follow(from end: LogEnd?, hint: LogCursor?, into sink: any LogSink) async throws(DriverError) {
    let interruption = Interruption()
    do throws(DriverError) {
      try await interruption.during { () throws(DriverError) in
        try await session(from: end, hint: hint, into: sink, interruption)
      }
    } catch { throw Task.isCancelled ? .cancelled : error }
    if Task.isCancelled { throw .cancelled }
  }

  private func session(
    from end: LogEnd?, hint: LogCursor?, into sink: any LogSink, _ interruption: Interruption
  ) async throws(DriverError) {
    let control = try await driver.connect(interruption: interruption)
    let link = try await driver.connect(interruption: interruption)
    let (driver, time) = (driver, driver.environment.time)
    let mark = Hex.encode(driver.environment.randomness.bytes(4))
    // Drawn before they are needed: a file begins in the middle of a look.
    let tail = try await on { () throws(FollowFailure) -> StreamTail in
      let tail = StreamTail(
        control: control, link: link, account: driver.configuration.account, isLocal: driver.configuration.isLocal,
        time: time, mark: mark)
      try tail.begin(from: end, hint: hint.flatMap { StreamLogFile($0.file) }?.moment, into: sink)
      return tail
    }
    var looked = time.monotonicNanoseconds()
    var gathers = false
    while true {
      if Task.isCancelled { throw .cancelled }
      guard sink.hasRoom else {
        do { try await time.sleep(for: .milliseconds(20)) } catch { throw .cancelled }
        continue
      }
      if gathers { do { try await time.sleep(for: sink.gathering) } catch { throw .cancelled } }
      let isDue = Duration.nanoseconds(time.monotonicNanoseconds() - looked) >= Self.sign
      if isDue { looked = time.monotonicNanoseconds() }
      let count = try await on { () throws(FollowFailure) -> Int in
        let count = try tail.receive(Self.readBytes, wait: .milliseconds(100), into: sink)
        if isDue { try tail.look(into: sink) }
        return count
      }
      gathers = sink.mayGather(after: count)
    }
  }

  private func on<T: Sendable>(
    _ body: @escaping @Sendable () throws(FollowFailure) -> T
  ) async throws(DriverError) -> T {
    do throws(FollowFailure) {
      return try await driver.environment.pool.run { () throws(FollowFailure) -> T in try body() }
    } catch {
      switch error {
      case .driver(let error): throw error
      case .wire(.refused(let text)) where text.lowercased().contains("permissions violation"):
        throw .permissionDenied("\(text) at \(driver.peer)", needs: Rights.follow)
      case .wire(let error): throw error.driverError(at: driver.peer, doing: "following")
      }
    }
  }

  // MARK: Places

  func cursor(of position: LogPosition, in capture: CaptureResult, among files: [String]) -> LogCursor? {
    guard let moment = moment(of: position) else { return nil }
    let known = files.compactMap { StreamLogFile($0) }
    guard !files.isEmpty else { return LogCursor(StreamLogFile(moment, mark: "00000000").name, 0) }
    return known.last { $0.moment <= moment }.map { LogCursor($0.name, 0) }
  }

  func moment(of position: LogPosition) -> Timestamp? {
    position.kind == "moment" ? Timestamp(position.value) : nil
  }
}

enum FollowFailure: Error {
  case wire(WireError)
  case driver(DriverError)
}
