import Core
import IO
import StateKit

#if canImport(Glibc)
  import Glibc
#endif

/// Runs services as plain processes of this machine: no supervisor needed, none in the way.
///
/// A daemon gets a session of its own and outlives Salvor. Its process is on record in `<stateDirectory>/<name>.pid`, with
/// its start time, before its program starts: no crash leaves one running that nobody knows of, and no number that was
/// given to somebody else is ever signalled. Its output goes to `<stateDirectory>/<name>.log`. A lock per service keeps
/// two controllers of one machine from starting it twice.
package struct ExecServiceRunner: ServiceRunner {
  package typealias SQLProbe =
    @Sendable (_ store: StoreName, _ query: String, _ timeout: Duration) async throws -> [[String?]]

  let stateDirectory: String
  let time: any Timekeeper
  let pool: BlockingPool
  let resolve: @Sendable (SecretReference) async throws(AnyFailure) -> Secret
  let runQuery: SQLProbe?

  /// - Parameters:
  ///   - stateDirectory: Made if missing, for its owner alone; on a disk that survives a reboot or not, as `/run` doesn't.
  ///   - resolve: Reads a secret when it is needed.
  ///   - runQuery: Answers `sql` checks; without it they fail.
  package init(
    stateDirectory: String, time: any Timekeeper, pool: BlockingPool = .shared,
    resolve: @escaping @Sendable (SecretReference) async throws(AnyFailure) -> Secret, runQuery: SQLProbe? = nil
  ) {
    (self.stateDirectory, self.time, self.pool) = (stateDirectory, time, pool)
    (self.resolve, self.runQuery) = (resolve, runQuery)
  }

  func pidPath(_ name: ServiceName) -> String { "\(stateDirectory)/\(name).pid" }
  func logPath(_ name: ServiceName) -> String { "\(stateDirectory)/\(name).log" }

  // MARK: Start

  package func start(_ service: ServiceUnit) async throws(ServiceError) -> ServiceStart {
    switch service.mode {
    case .oneshot:
      try await run(service.start, of: service.name, what: "start")
      return .commandRan
    case .daemon:
      let command = try await prepare(service.start, of: service.name)
      let (pid, log) = (pidPath(service.name), logPath(service.name))
      return try await locked(service.name) { () throws(ServiceError) in
        if let running = Self.recorded(pid) { return .alreadyRunning(pid: running.pid) }
        do throws(SystemFailure) {
          let output = try File(log, O_WRONLY | O_CREAT | O_APPEND, mode: 0o600)
          let process = try GatedProcess(command.request(output: output, isDetached: true))
          guard let identity = ProcessIdentity(pid: process.pid) else {
            throw SystemFailure("start", path: command.path, number: ESRCH)
          }
          try Files.replace(pid, with: Array("\(identity)\n".utf8))
          do throws(SystemFailure) {
            try process.begin()
          } catch {
            try Files.removeTree(pid)
            throw error
          }
          return .started(pid: process.pid)
        } catch {
          throw .startFailed(service.name, why: error.report.summary)
        }
      }
    }
  }

  // MARK: Stop

  package func stop(_ service: ServiceUnit) async throws(ServiceError) {
    let running = try await recorded(service)
    if let command = service.stop, service.mode == .oneshot || running != nil {
      try await run(command, of: service.name, what: "stop")
    }
    guard service.mode == .daemon, let running else { return }
    let limit = Duration.milliseconds(max(0, service.stopTimeoutMilliseconds))
    if service.stop == nil { try await signal(SIGTERM, running, of: service.name) }
    if try await !isGone(running, within: limit) {
      try await signal(SIGKILL, running, of: service.name)
      guard try await isGone(running, within: .seconds(5)) else {
        throw .wouldNotStop(service.name, pid: running.pid)
      }
    }
    // What the daemon started and left behind is in its session still, and would keep ports and files.
    kill(-running.pid, SIGKILL)
    let path = pidPath(service.name)
    try await locked(service.name) { () throws(ServiceError) in
      // Somebody may have started it again in the meantime.
      guard Self.recorded(path) == nil else { return }
      do throws(SystemFailure) { try Files.removeTree(path) } catch { throw .system(error.report) }
    }
  }

  package func status(_ service: ServiceUnit) async throws(ServiceError) -> ServiceStatus {
    guard service.mode == .daemon else { return .unknown }
    return try await recorded(service).map { .running(pid: $0.pid) } ?? .notRunning
  }

  private func signal(_ number: Int32, _ process: ProcessIdentity, of name: ServiceName) async throws(ServiceError) {
    // Looked at again right before: the number may have passed to somebody else.
    guard !process.isGone else { return }
    if kill(-process.pid, number) != 0, errno != ESRCH {
      throw .system(SystemFailure("kill", path: "process \(process.pid)").report)
    }
  }

  private func isGone(_ process: ProcessIdentity, within limit: Duration) async throws(ServiceError) -> Bool {
    let start = time.monotonicNanoseconds()
    while !process.isGone {
      if time.monotonicNanoseconds() - start >= limit.wholeNanoseconds { return false }
      try await pause(.milliseconds(20))
    }
    return true
  }

  // MARK: The record

  private func recorded(_ service: ServiceUnit) async throws(ServiceError) -> ProcessIdentity? {
    let path = pidPath(service.name)
    return await pool.run { Self.recorded(path) }
  }

  /// The process on record, if it is that very one and runs.
  private static func recorded(_ path: String) -> ProcessIdentity? {
    guard let bytes = try? Files.read(path, limitBytes: 4096) else { return nil }
    let text = String(decoding: bytes.prefix { $0 != 10 }, as: UTF8.self)
    guard let identity = ProcessIdentity(text), identity.isLocal, !identity.isGone else { return nil }
    return identity
  }

  private func locked<T: Sendable>(
    _ name: ServiceName, _ body: @escaping @Sendable () throws(ServiceError) -> T
  ) async throws(ServiceError) -> T {
    let directory = stateDirectory
    return try await pool.run { () throws(ServiceError) in
      let lock: File
      do throws(SystemFailure) {
        try Files.createDirectory(directory, mode: 0o700)
        lock = try File("\(directory)/\(name).lock", O_RDWR | O_CREAT, mode: 0o600)
        guard retryingInterrupts({ flock(lock.descriptor, LOCK_EX) }) == 0 else {
          throw SystemFailure("flock", path: lock.path)
        }
      } catch {
        throw .system(error.report)
      }
      defer { withExtendedLifetime(lock) {} }
      return try body()
    }
  }

  func pause(_ duration: Duration) async throws(ServiceError) {
    do { try await time.sleep(for: duration) } catch { throw .cancelled }
  }
}
