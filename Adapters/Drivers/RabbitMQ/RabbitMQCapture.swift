import Core
import DriverKit
import Glibc
import IO
import Synchronization

/// A capture of a node whose process stands still while the last of its files is copied.
///
/// What it has is then as it would be after a crash at that moment: everything that was confirmed, nothing that came later. See
/// `docs/decisions/0036-rabbitmq-cut.md`. Calls come one after the other.
final class RabbitMQCapture: CaptureSession {
  private struct State: Sendable {
    var version = ""
    var pid: Int32?
    var copy: DirectoryCopy?
    var flags: [UInt8]?
    var moment: Timestamp?
  }

  private let driver: RabbitMQDriver
  private let context: CaptureContext
  private let interruption = Interruption()
  private let keeper = HoldKeeper()
  private let standing = StandingProcess()
  private let state = Mutex(State())

  init(_ driver: RabbitMQDriver, _ context: CaptureContext) { (self.driver, self.context) = (driver, context) }

  private var environment: DriverEnvironment { driver.environment }
  private var configuration: RabbitMQConfiguration { driver.configuration }
  private var directory: String { "\(context.scratch)/rabbitmq" }
  private var isHeldWithOthers: Bool { configuration.hold == .process }

  func prepare() async throws(DriverError) {
    try await interruption.during { () async throws(DriverError) in
      let version = try await self.driver.runningVersion(interruption: self.interruption)
      let (live, target, port) = (self.configuration.dataDirectory, self.directory, self.configuration.port)
      let (pid, copy) = try await self.environment.pool.run { () throws(DriverError) -> (Int32?, DirectoryCopy) in
        try NodeFiles(live).requireAlone()
        // The log that quorum queues share may have half a gigabyte, and only grows.
        var copy = DirectoryCopy(from: live, to: target) {
          $0.last?.bytes.suffix(4).elementsEqual(".wal".utf8) ?? false
        }
        do throws(SystemFailure) { try copy.bringUpToDate(isStill: false) } catch { throw DriverError(error) }
        let pid = ListeningProcess.find(port: port)
        // Another node's process would stand still for nothing.
        if let pid, !OpenFiles.users(below: live).contains(where: { $0.processID == pid }) {
          throw .unsupported("process \(pid), which listens on port \(port), has no file of \(live) open")
        }
        return (pid, copy)
      }
      self.state.withLock { state in
        state.version = version.description
        state.pid = pid
        state.copy = copy
      }
    }
  }

  /// How long the node may stand still where no group's budget says so: on a machine that is busy a second may pass before
  /// anything is copied at all.
  private static let ownLimits: [Duration] = [.seconds(1), .seconds(1), .seconds(2), .seconds(4)]

  func hold(limit: Duration) async throws(DriverError) {
    guard isHeldWithOthers else { return }
    try await stand(limit: limit)
  }

  private func stand(limit: Duration) async throws(DriverError) {
    guard let pid = state.withLock({ $0.pid }) else {
      throw .holdImpossible("no process on this machine is seen to listen on port \(configuration.port)")
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
    if isHeldWithOthers {
      guard let position = try await copyStanding() else {
        let bytes = state.withLock { $0.copy?.lastBytes ?? 0 }
        throw .holdImpossible("the hold ended before the last \(bytes) bytes were copied")
      }
      return position
    }
    // Nobody is held: it is at one moment all the same, which is its own.
    for limit in Self.ownLimits {
      if let position = try await markAlone(limit: limit) { return position }
    }
    throw .holdImpossible("four times the node was let go before the last of its files was copied: the machine is busy")
  }

  /// - Returns: `nil` if it took longer than `limit`: what was copied is of no one moment.
  private func markAlone(limit: Duration) async throws(DriverError) -> LogPosition? {
    try await stand(limit: limit)
    let result: Result<LogPosition?, DriverError>
    do throws(DriverError) {
      result = .success(try await copyStanding())
    } catch {
      // A file went away, as the node no longer stood still.
      result = keeper.isHeld ? .failure(error) : .success(nil)
    }
    _ = await keeper.release()
    return try result.get()
  }

  /// - Returns: `nil` if the hold ended meanwhile: what was copied while the node ran on is of no one moment.
  private func copyStanding() async throws(DriverError) -> LogPosition? {
    try await interruption.during { () async throws(DriverError) in
      guard let copy = self.state.withLock({ $0.copy }) else {
        throw .engineFailed("mark() without prepare()", log: "")
      }
      let (moment, live) = (self.environment.time.now(), self.configuration.dataDirectory)
      let (whole, flags) = try await self.environment.pool.run { () throws(DriverError) -> (DirectoryCopy, [UInt8]) in
        var copy = copy
        do throws(SystemFailure) {
          try copy.bringUpToDate(isStill: true)
          return (copy, try Files.read(live + NodeFiles.flags, limitBytes: 1 << 20))
        } catch { throw DriverError(error) }
      }
      let isHeld = self.keeper.isHeld
      self.state.withLock { state in
        // Also when it came too late: there is less to copy the next time.
        (state.copy, state.flags) = (whole, flags)
        if isHeld { state.moment = moment }
      }
      return isHeld ? self.position(moment) : nil
    }
  }

  private func position(_ moment: Timestamp) -> LogPosition {
    LogPosition(kind: "moment", value: moment.description, details: ["held": configuration.hold.rawValue])
  }

  func release() async -> Bool { isHeldWithOthers ? await keeper.release() : false }

  func finish() async throws(DriverError) -> CaptureResult {
    try await interruption.during { () async throws(DriverError) in try await self.prove() }
  }

  private func prove() async throws(DriverError) -> CaptureResult {
    let (version, moment, flags) = state.withLock { ($0.version, $0.moment, $0.flags) }
    guard let moment, let flags else { throw .engineFailed("finish() without mark()", log: "") }
    let (directory, node) = (directory, configuration.node)
    try await environment.pool.run { () throws(DriverError) in try NodeFiles(directory).requireAlone() }
    let outcomes = try await driver.complete(directory, node, as: configuration.dataDirectory)
    let files = try await driver.send(directory, flags, to: context, interruption)
    let contents = try await driver.contents(
      of: directory, flags, node: node, at: moment, provedIn: "\(context.scratch)/proof", interruption: interruption)
    let size = files + (try await driver.send(contents, to: context, interruption))
    context.progress(size)
    let described = contents.described
    return CaptureResult(
      version: version, position: position(moment),
      contentDigest: context.wantsContentDigest ? described.digest : nil, sizeBytes: size,
      facts: [
        "node": node, "hold": configuration.hold.rawValue, "queues": String(described.queues.count),
        "messages": String(described.queues.values.reduce(0) { $0 + $1.messages }),
        // Transactions that were made, and whose outcome was in no file.
        "completed": String(outcomes),
      ], notes: described.notes)
  }

  func close() async {
    _ = await keeper.release()
    let places = [directory, "\(context.scratch)/proof"]
    await environment.pool.run { for place in places { try? Files.removeTree(place) } }
  }
}

extension RabbitMQDriver {
  /// Gives the sink the node's directory under its name, and what belongs to it.
  func send(
    _ directory: String, _ flags: [UInt8], to context: CaptureContext, _ interruption: Interruption
  ) async throws(DriverError) -> Int64 {
    let entries = try await environment.pool.run { () throws(DriverError) -> [TreeEntry] in
      do throws(SystemFailure) { return try TreeReader.scan(directory) } catch { throw DriverError(error) }
    }
    let place = TreePath([FileName(configuration.node)])
    var size = try await add(
      place, FileMetadata(kind: .directory, permissions: 0o700, modified: environment.time.now()), nil, to: context,
      interruption)
    size += try await add(
      TreePath([FileName(configuration.node + NodeFiles.flags)]), flags, to: context, interruption)
    for entry in entries {
      let isFile = entry.metadata.kind == .regular
      guard isFile || entry.metadata.kind == .directory else { continue }
      let path = "\(directory)/\(entry.path)"
      let open: OpenSource = { try File(path, O_RDONLY | O_NOFOLLOW) }
      size += try await add(
        place.appending(entry.path), entry.metadata, isFile ? open : nil, to: context, interruption)
      context.progress(size)
    }
    return size
  }

  /// Gives the sink what was found in it.
  func send(
    _ contents: Contents, to context: CaptureContext, _ interruption: Interruption
  ) async throws(DriverError) -> Int64 {
    let described: [UInt8]
    let definitions: [UInt8]
    do {
      described = try CanonicalJSON.encode(contents.described)
      definitions = try CanonicalJSON.encode(contents.definitions)
    } catch { throw DriverError(error) }
    let size = try await add(Description.name, described, to: context, interruption)
    return size + (try await add(Description.definitions, definitions, to: context, interruption))
  }

  private func add(
    _ path: TreePath, _ bytes: [UInt8], to context: CaptureContext, _ interruption: Interruption
  ) async throws(DriverError) -> Int64 {
    let metadata = FileMetadata(
      kind: .regular, permissions: 0o600, size: Int64(bytes.count), modified: environment.time.now())
    return try await add(path, metadata, { MemorySource(bytes) }, to: context, interruption)
  }

  private func add(
    _ path: TreePath, _ metadata: FileMetadata, _ content: OpenSource?, to context: CaptureContext,
    _ interruption: Interruption
  ) async throws(DriverError) -> Int64 {
    do throws(AnyFailure) {
      return try await context.sink.add(path, metadata, cutting: .content, content: content).size
    } catch {
      throw interruption.isSet || error.isCancellation ? .cancelled : .sink(error)
    }
  }
}
