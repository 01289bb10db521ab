import Core
import DriverKit
import Glibc
import IO
import Synchronization

/// A snapshot whose revision is fixed by its first byte, which comes while the other stores are held.
///
/// See `docs/decisions/0018-etcd-snapshot.md`. Calls come one after the other; what `close` may find half done is guarded.
final class EtcdCapture: CaptureSession {
  static let file: TreePath = "snapshot.db"

  private struct State: Sendable {
    var status: EtcdDriver.Status?
    var job: Control.Job?
    /// The newest revision the snapshot can be of.
    var newest: Int64?
  }

  private let driver: EtcdDriver
  private let context: CaptureContext
  private let interruption = Interruption()
  private let state = Mutex(State())

  init(_ driver: EtcdDriver, _ context: CaptureContext) { (self.driver, self.context) = (driver, context) }

  private var environment: DriverEnvironment { driver.environment }
  private var directory: String { "\(context.scratch)/etcd" }
  private var snapshot: String { "\(directory)/snapshot.db" }

  func prepare() async throws(DriverError) {
    try await interruption.during { () async throws(DriverError) in
      let directory = self.directory
      try await self.environment.pool.run { () throws(DriverError) in
        do throws(SystemFailure) { try Files.createDirectory(directory, mode: 0o700) } catch {
          throw DriverError(error)
        }
      }
      let status = try await self.driver.status(directory, interruption: self.interruption)
      _ = try EtcdDriver.version(status.version)
      self.state.withLock { $0.status = status }
    }
  }

  func hold(limit: Duration) async throws(DriverError) {}

  func mark() async throws(DriverError) -> LogPosition {
    try await interruption.during { () async throws(DriverError) in
      let control = try await self.driver.control(self.directory)
      try await self.begin(control)
      let status = try await self.driver.status(self.directory, interruption: self.interruption)
      guard let before = self.state.withLock({ $0.status }), status.cluster == before.cluster else {
        throw .logGap("\(self.driver.peer) is another cluster than it was before the mark")
      }
      self.state.withLock { $0.newest = status.revision }
      return Self.position(status.revision, status.cluster)
    }
  }

  func release() async -> Bool { false }

  /// Starts the snapshot and returns once its first bytes are here: the server reads from one transaction, which it began
  /// before it sent them.
  private func begin(_ control: Control) async throws(DriverError) {
    let (snapshot, peer) = (snapshot, driver.peer)
    let job = try await environment.pool.run { () throws(DriverError) -> Control.Job in
      do throws(SystemFailure) { return try Control.Job(control, ["snapshot", "save", snapshot]) } catch {
        if error.call == "spawn" { throw .engineFailed("\(control.program) can't be run", log: error.message) }
        throw DriverError(error)
      }
    }
    state.withLock { $0.job = job }
    let limit = environment.time.monotonicNanoseconds() + driver.configuration.timeout.wholeNanoseconds
    while true {
      let hasBegun = try await environment.pool.run { () throws(DriverError) -> Bool in
        if let code = job.process.ended() {
          guard code == 0 else { throw Self.failure(job, code, peer) }
          return true
        }
        var status = stat()
        return stat("\(snapshot).part", &status) == 0 && status.st_size > 0
      }
      if hasBegun { return }
      guard environment.time.monotonicNanoseconds() < limit else {
        throw .unreachable("\(peer): no snapshot began within \(driver.configuration.timeout.brief)")
      }
      do { try await environment.time.sleep(for: .milliseconds(1)) } catch { throw DriverError(error) }
    }
  }

  private static func failure(_ job: Control.Job, _ code: Int32, _ peer: String) -> DriverError {
    guard let output = try? job.output(code) else { return .engineFailed("etcdctl ended with code \(code)", log: "") }
    return output.failure(at: peer, doing: "the snapshot")
  }

  // MARK: After it

  func finish() async throws(DriverError) -> CaptureResult {
    try await interruption.during { () async throws(DriverError) in try await self.take() }
  }

  private func take() async throws(DriverError) -> CaptureResult {
    let (job, status, newest) = state.withLock { ($0.job, $0.status, $0.newest) }
    guard let job, let status, let newest else { throw .engineFailed("finish() without mark()", log: "") }
    while true {
      let peer = driver.peer
      let isOver = try await environment.pool.run { () throws(DriverError) -> Bool in
        guard let code = job.process.ended() else { return false }
        guard code == 0 else {
          let failure = Self.failure(job, code, peer)
          if case .unreachable(let why) = failure { throw .logGap("the snapshot broke off: \(why)") }
          throw failure
        }
        return true
      }
      if isOver { break }
      do { try await environment.time.sleep(for: .milliseconds(5)) } catch { throw DriverError(error) }
    }
    let found = try await driver.inspect(snapshot, in: directory, interruption: interruption)
    guard found.revision <= newest, found.revision >= status.revision else {
      throw .corrupt("the snapshot is of revision \(found.revision); at the mark the server was at \(newest)")
    }
    var notes: [String] = []
    var content: ContentDigest?
    if context.wantsContentDigest {
      (content, notes) = try await digest(found.revision)
    }
    let snapshot = snapshot
    let size: Int64
    do throws(AnyFailure) {
      size = try await context.sink.add(
        Self.file,
        FileMetadata(kind: .regular, permissions: 0o600, size: found.sizeBytes, modified: environment.time.now()),
        cutting: .fixed(bytes: 128 << 10)
      ) {
        try File(snapshot, O_RDONLY | O_NOFOLLOW)
      }.size
    } catch {
      throw interruption.isSet || error.isCancellation ? .cancelled : .sink(error)
    }
    context.progress(size)
    return CaptureResult(
      version: status.version, position: Self.position(found.revision, status.cluster), contentDigest: content,
      sizeBytes: size,
      facts: ["revision": String(found.revision), "keys": String(found.keys), "hash": String(found.hash)], notes: notes)
  }

  private func digest(_ revision: Int64) async throws(DriverError) -> (ContentDigest?, notes: [String]) {
    do throws(DriverError) {
      _ = try await driver.installedVersion()
    } catch {
      if case .cancelled = error { throw error }
      return (nil, ["no content digest: \(driver.configuration.binary) can't be run on this machine"])
    }
    let digest = try await driver.proof(
      of: snapshot, revision: revision, in: "\(directory)/proof", interruption: interruption)
    return (digest, digest == nil ? [EtcdDriver.noDigest] : [])
  }

  func close() async {
    let job = state.withLock { state in
      defer { state.job = nil }
      return state.job
    }
    let directory = directory
    await environment.pool.run {
      if let job {
        job.process.kill()
        _ = job.process.wait()
      }
      try? Files.removeTree(directory)
    }
  }

  // MARK: Parts

  private static func position(_ revision: Int64, _ cluster: String) -> LogPosition {
    LogPosition(kind: "revision", value: String(revision), details: ["cluster": cluster])
  }
}
