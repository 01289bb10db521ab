import Core
import DriverKit
import IO

extension NATSDriver {
  func marking() -> (any MarkSession)? { configuration.isFollowed ? NATSMarking(self) : nil }
}

/// Names the moment at which a server stood still, or at which nobody held it, again and again.
actor NATSMarking: MarkSession {
  private let driver: NATSDriver
  private var server: JetStream?
  private var pid: Int32?
  private var canHold = true
  private var keeper: HoldKeeper?

  init(_ driver: NATSDriver) { self.driver = driver }

  private var isStanding: Bool { driver.configuration.hold == .process }

  func prepare() async throws(DriverError) {
    let server = try await driver.connect()
    let streams = try await driver.asking(server) { server throws(WireError) in try server.streams() }
    if let why = NATSDriver.unfollowed(streams, cluster: server.client.info.cluster) { throw .unsupported(why) }
    self.server = server
    guard isStanding else { return }
    if case .outside = driver.hold(server.client.info.cluster) { canHold = false }
    let port = driver.configuration.port
    pid = await driver.environment.pool.run { ListeningProcess.find(port: port) }
  }

  func hold(limit: Duration) async throws(DriverError) {
    guard isStanding else { return }
    guard canHold else {
      throw .holdImpossible("the server is one of a cluster, whose others would go on; set 'hold: none'")
    }
    guard let pid else {
      throw .holdImpossible(
        "no process on this machine is seen to listen on port \(driver.configuration.port); set 'hold: none'")
    }
    // One that was started again has another number, and connections that ended.
    let (keeper, standing) = (HoldKeeper(), StandingProcess())
    self.keeper = keeper
    do throws(DriverError) {
      try await keeper.hold(limit: limit, retryEvery: .milliseconds(1)) { () throws(DriverError) -> Bool in
        try standing.stop(pid, within: limit)
        return true
      } letGo: {
        standing.letGo()
      }
    } catch {
      self.keeper = nil
      throw error
    }
  }

  func mark() async throws(DriverError) -> LogPosition {
    guard let server else { throw .holdImpossible("the session is not prepared") }
    // Nothing can be asked of a process that stands still, and it stores nothing: what it has is of before this moment, what
    // it will get is of after it.
    if keeper != nil { return driver.standingPosition(driver.environment.time.now()) }
    var mark = try await driver.asking(server) { server throws(WireError) in try NATSCapture.look(server) }
    mark.account = driver.configuration.account
    return mark.position
  }

  func release() async -> Bool {
    let held = keeper
    keeper = nil
    return await held?.release() ?? false
  }

  func close() async {
    _ = await release()
    server = nil
  }
}
