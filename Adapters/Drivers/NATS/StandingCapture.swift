import Core
import DriverKit
import Glibc
import IO
import Synchronization

/// A capture of a server on this machine, whose process stands still while the last of its files is copied.
///
/// What it has is then as it would be after a crash at that moment: everything that was acknowledged, nothing that came later,
/// consumers as far as the server had written down. See `docs/decisions/0017-nats-cut.md`. Calls come one after the other.
final class StandingCapture: CaptureSession {
  private struct State: Sendable {
    var version = ""
    var pid: Int32?
    var canHold = true
    /// The group is held; otherwise the server stands still for its own copy only.
    var isHeldWithOthers = false
    var copy: DirectoryCopy?
    var moment: Timestamp?
    var notes: [String] = []
  }

  private let driver: NATSDriver
  private let context: CaptureContext
  private let interruption = Interruption()
  private let keeper = HoldKeeper()
  private let standing = StandingProcess()
  private let state = Mutex(State())

  init(_ driver: NATSDriver, _ context: CaptureContext) { (self.driver, self.context) = (driver, context) }

  private var environment: DriverEnvironment { driver.environment }
  private var directory: String { "\(context.scratch)/nats" }
  private var account: String { ScratchServer.account(in: directory) }

  func prepare() async throws(DriverError) {
    try await interruption.during { () async throws(DriverError) in
      let server = try await self.driver.connect(interruption: self.interruption)
      let inMemory = try await self.driver.asking(server) { server throws(WireError) in
        try server.streams().filter(\.isInMemory).map(\.name)
      }
      let configuration = self.driver.configuration
      let live = "\(configuration.storeDirectory ?? "")/jetstream/\(configuration.account)/streams"
      let (port, target) = (configuration.port, "\(self.account)/streams")
      let (pid, copy) = try await self.environment.pool.run { () throws(DriverError) -> (Int32?, DirectoryCopy) in
        var copy = DirectoryCopy(from: live, to: target)
        do throws(SystemFailure) { try copy.bringUpToDate(isStill: false) } catch { throw DriverError(error) }
        return (ListeningProcess.find(port: port), copy)
      }
      self.state.withLock { state in
        state.version = server.client.info.version
        state.pid = pid
        if case .outside = self.driver.hold(server.client.info.cluster) { state.canHold = false }
        state.copy = copy
        if !inMemory.isEmpty {
          state.notes.append("streams kept in memory are not captured: \(inMemory.joined(separator: ", "))")
        }
      }
    }
  }

  /// How long the server may stand still where no group's budget says so: on a machine that is busy a second may pass before
  /// anything is copied at all.
  private static let ownLimits: [Duration] = [.seconds(1), .seconds(1), .seconds(2), .seconds(4)]

  func hold(limit: Duration) async throws(DriverError) {
    state.withLock { $0.isHeldWithOthers = true }
    try await stand(limit: limit)
  }

  private func stand(limit: Duration) async throws(DriverError) {
    let (pid, canHold) = state.withLock { ($0.pid, $0.canHold) }
    guard canHold else {
      throw .holdImpossible("the server is one of a cluster, whose others would go on; set 'hold: none'")
    }
    guard let pid else {
      throw .holdImpossible(
        "no process on this machine is seen to listen on port \(driver.configuration.port); set 'hold: none'")
    }
    let standing = standing
    try await keeper.hold(limit: limit, retryEvery: .milliseconds(1)) { () throws(DriverError) -> Bool in
      try standing.stop(pid, within: limit)
      return true
    } letGo: {
      standing.letGo()
    }
  }

  func mark() async throws(DriverError) -> LogPosition {
    guard !state.withLock({ $0.isHeldWithOthers }) else { return try await markStanding() }
    // Nobody is held: it is at one moment all the same, which is its own.
    for limit in Self.ownLimits.dropLast() {
      if let position = try await markAlone(limit: limit) { return position }
    }
    guard let position = try await markAlone(limit: Self.ownLimits[Self.ownLimits.count - 1]) else {
      throw .holdImpossible(
        "four times the server was let go before the last of its files was copied: the machine is busy")
    }
    return position
  }

  /// - Returns: `nil` if it took longer than `limit`: what was copied is of no one moment.
  private func markAlone(limit: Duration) async throws(DriverError) -> LogPosition? {
    try await stand(limit: limit)
    let result: Result<LogPosition?, DriverError>
    do throws(DriverError) {
      result = .success(try await copyStanding())
    } catch {
      // A file went away, as the server no longer stood still.
      result = keeper.isHeld ? .failure(error) : .success(nil)
    }
    _ = await keeper.release()
    return try result.get()
  }

  private func markStanding() async throws(DriverError) -> LogPosition {
    guard let position = try await copyStanding() else {
      let bytes = state.withLock { $0.copy?.lastBytes ?? 0 }
      throw .holdImpossible("the hold ended before the last \(bytes) bytes were copied")
    }
    return position
  }

  /// - Returns: `nil` if the hold ended meanwhile: what was copied while the server ran on is of no one moment.
  private func copyStanding() async throws(DriverError) -> LogPosition? {
    try await interruption.during { () async throws(DriverError) in
      guard let copy = self.state.withLock({ $0.copy }) else {
        throw .engineFailed("mark() without prepare()", log: "")
      }
      let moment = self.environment.time.now()
      let whole = try await self.environment.pool.run { () throws(DriverError) -> DirectoryCopy in
        var copy = copy
        do throws(SystemFailure) { try copy.bringUpToDate(isStill: true) } catch { throw DriverError(error) }
        return copy
      }
      let isHeld = self.keeper.isHeld
      self.state.withLock { state in
        // Also when it came too late: there is less to copy the next time.
        state.copy = whole
        if isHeld { state.moment = moment }
      }
      guard isHeld else { return nil }
      return self.driver.standingPosition(moment)
    }
  }

  func release() async -> Bool { await keeper.release() }

  func finish() async throws(DriverError) -> CaptureResult {
    try await interruption.during { () async throws(DriverError) in try await self.prove() }
  }

  private func prove() async throws(DriverError) -> CaptureResult {
    let (version, moment, notes) = state.withLock { ($0.version, $0.moment, $0.notes) }
    guard let moment else { throw .engineFailed("finish() without mark()", log: "") }
    let account = account
    let installed = try await driver.installedVersion()
    let streams = try await environment.pool.run { () throws(DriverError) in try StreamFiles.read(account) }
    let contents = try await driver.contents(
      of: account, streams, provedIn: "\(context.scratch)/proof", interruption: interruption)
    let description = Description(account: driver.configuration.account, streams: streams, contents: contents)
    let size = try await driver.send(account, description, to: context, interruption)
    context.progress(size)
    return CaptureResult(
      version: version,
      position: driver.standingPosition(moment),
      contentDigest: context.wantsContentDigest ? try ContentDigest(streams, contents) : nil, sizeBytes: size,
      facts: ["account": driver.configuration.account, "layout": installed.description, "hold": "process"],
      notes: notes)
  }

  func close() async {
    _ = await keeper.release()
    let places = [directory, "\(context.scratch)/proof"]
    await environment.pool.run { for place in places { try? Files.removeTree(place) } }
  }
}

extension NATSDriver {
  /// - Parameter moment: Of this machine's clock, while the server stood still.
  func standingPosition(_ moment: Timestamp) -> LogPosition {
    LogPosition(
      kind: "moment", value: moment.description, details: ["held": "process", "account": configuration.account])
  }
}
