import Core
import DriverKit
import IO

/// Makes a server's writers wait, and names where it stands: `CLIENT PAUSE … WRITE`, which lapses by itself.
struct ClientPause: Sendable {
  private let driver: RedisDriver
  private let control: Connection

  init(_ driver: RedisDriver, _ control: Connection) { (self.driver, self.control) = (driver, control) }

  private var environment: DriverEnvironment { driver.environment }

  /// - Throws: ``DriverError``; nobody waits then.
  func begin(_ limit: Duration) async throws(DriverError) {
    let milliseconds = limit.wholeNanoseconds / 1_000_000
    guard milliseconds > 0 else { throw .holdTimeout(limit) }
    guard !Task.isCancelled else { throw .cancelled }
    let control = control
    do throws(WireError) {
      _ = try await environment.pool.run { () throws(WireError) -> Reply in
        try control.call("CLIENT", "PAUSE", String(milliseconds), "WRITE", patience: limit)
      }
    } catch {
      // The pause may still be on its way; what ends it goes the same way, after it.
      await end()
      switch error {
      case .cancelled: throw .cancelled
      case .silent: throw .holdTimeout(limit)
      case .refused(let text) where !text.hasPrefix("NOPERM") && !text.hasPrefix("NOAUTH"): throw .holdImpossible(text)
      default: throw error.driverError(at: driver.peer, doing: "CLIENT PAUSE")
      }
    }
  }

  /// Replication, role and keys, in one round trip.
  func standing() async throws(DriverError) -> Info {
    let commands = [["INFO", "replication"], ["INFO", "keyspace"]].map { $0.map { Array($0.utf8) } }
    let control = control
    do throws(WireError) {
      let replies = try await environment.pool.run { () throws(WireError) -> [Reply] in try control.all(commands) }
      for case .error(let text) in replies { throw .refused(text) }
      return Info(replies.compactMap(\.text).joined(separator: "\n"))
    } catch { throw error.driverError(at: driver.peer, doing: "INFO") }
  }

  static func position(_ offset: Int64, _ replicationID: String, databases: Int) -> LogPosition {
    LogPosition(
      kind: "offset", value: String(offset), details: ["replid": replicationID, "databases": String(databases)])
  }

  /// Ends the pause, on a new connection if need be; without an answer it lapses by itself.
  ///
  /// - Returns: The offset just before, or `nil` if nobody answered.
  @discardableResult
  func end() async -> Int64? {
    let commands = [["INFO", "replication"], ["CLIENT", "UNPAUSE"]].map { $0.map { Array($0.utf8) } }
    let (control, patience) = (control, driver.configuration.timeout)
    let replies = try? await environment.pool.run { () throws(WireError) -> [Reply] in
      try control.all(commands, patience: patience, persistently: true)
    }
    if let replies {
      guard replies.last == .status("OK"), let text = replies.first?.text else { return nil }
      return Info(text).integer("master_repl_offset")
    }
    guard let other = try? await driver.connect() else { return nil }
    _ = try? await driver.call(other, "CLIENT", "UNPAUSE")
    return nil
  }
}
