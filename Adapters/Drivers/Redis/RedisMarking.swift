import Core
import DriverKit
import IO

/// Pauses a server's writers and names its offset, again and again, over a connection that stays.
actor RedisMarking: MarkSession {
  private let driver: RedisDriver
  private var control: Connection?
  private var canHold = true
  private var pause: (since: Int64, limit: Duration)?
  private var marked: (offset: Int64, wasHeld: Bool)?

  init(_ driver: RedisDriver) { self.driver = driver }

  func prepare() async throws(DriverError) {
    let control = try await driver.connect()
    let info = try await driver.info(control)
    _ = try RedisDriver.version(info)
    if case .outside = RedisDriver.hold(info) { canHold = false }
    self.control = control
  }

  func hold(limit: Duration) async throws(DriverError) {
    marked = nil
    guard let control else { throw .holdImpossible("the session is not prepared") }
    guard canHold else { return }
    pause = (driver.environment.time.monotonicNanoseconds(), limit)
    do throws(DriverError) { try await ClientPause(driver, control).begin(limit) } catch {
      pause = nil
      throw error
    }
  }

  func mark() async throws(DriverError) -> LogPosition {
    guard let control else { throw .holdImpossible("the session is not prepared") }
    let info = try await ClientPause(driver, control).standing()
    // Without one the offset stands still, whatever is written.
    guard info["repl_backlog_active"] == "1" else {
      throw .unsupported("\(driver.peer) has never had a replica: nobody follows its log")
    }
    guard let offset = info.integer("master_repl_offset"), let identifier = info["master_replid"] else {
      throw .engineFailed("\(driver.peer) did not name its offset", log: "")
    }
    marked = (offset, pause != nil && info["role"] == "master")
    return ClientPause.position(offset, identifier, databases: info.keyspace.count)
  }

  func release() async -> Bool {
    guard let control, let pause else { return false }
    self.pause = nil
    let offset = await ClientPause(driver, control).end()
    let elapsed = Duration.nanoseconds(driver.environment.time.monotonicNanoseconds() - pause.since)
    guard let offset, elapsed < pause.limit else { return false }
    guard let marked else { return true }
    // Writes after the mark, if somebody else ended the pause. One PING of the server's own to its replicas may have come; no
    // command that writes is as short.
    return marked.wasHeld && [0, Self.pingBytes].contains(offset - marked.offset)
  }

  /// `*1\r\n$4\r\nPING\r\n`
  private static let pingBytes: Int64 = 14

  func close() async {
    if pause != nil { _ = await release() }
    control = nil
  }
}

extension RedisDriver {
  func marking() -> (any MarkSession)? { RedisMarking(self) }
}
