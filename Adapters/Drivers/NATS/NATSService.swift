import Core
import DriverKit
import Glibc
import IO

extension NATSDriver {
  /// How long a server may take to end.
  private static var endingLimit: Duration { .seconds(60) }

  /// Whether somebody accepts connections where the server should be.
  func isServing() async -> Bool {
    let configuration = configuration
    return await environment.pool.run {
      (try? Socket.connect(host: configuration.host, port: configuration.port, patience: configuration.timeout)) != nil
    }
  }

  func start() async throws(DriverError) {
    if await !isServing() {
      if !configuration.startCommand.isEmpty {
        try await run(configuration.startCommand, what: "the 'start' command")
      } else if let file = configuration.configFile {
        try await launch(file)
      } else {
        throw .unsupported(
          "store \(configuration.store) has neither a 'start' command nor a 'configFile' to start it with")
      }
    }
    try await waitUntilItAnswers()
  }

  /// A nats-server stays in the foreground: it is started as a process of its own that outlives this one.
  private func launch(_ file: String) async throws(DriverError) {
    let (binary, runAs) = (configuration.binary, configuration.runAs)
    try await environment.pool.run { () throws(DriverError) in
      do throws(SystemFailure) {
        try OwnProcess.launch([binary, "-c", file], runAs: runAs)
      } catch { throw .engineFailed("\(binary) can't be run", log: error.message) }
    }
  }

  /// A server takes connections once it has read its streams.
  private func waitUntilItAnswers() async throws(DriverError) {
    var remaining = 1200
    while true {
      do throws(DriverError) {
        return try await withJetStream { server throws(WireError) in _ = try server.call("INFO") }
      } catch {
        switch error {
        case .unreachable: break
        // Between listening and having read the streams JetStream doesn't answer yet.
        case .unsupported: break
        default: throw error
        }
        remaining -= 1
        guard remaining > 0 else { throw error }
      }
      do { try await environment.time.sleep(for: .milliseconds(25)) } catch { throw DriverError(error) }
    }
  }

  func stop() async throws(DriverError) {
    guard await isServing() else { return }
    let (port, isLocal) = (configuration.port, configuration.isLocal)
    let pid = await environment.pool.run { isLocal ? ListeningProcess.find(port: port) : nil }
    if !configuration.stopCommand.isEmpty {
      try await run(configuration.stopCommand, what: "the 'stop' command")
    } else {
      guard let pid else {
        throw .unsupported(
          "store \(configuration.store) has no 'stop' command, and no process on this machine is seen to listen on port "
            + "\(configuration.port)")
      }
      guard kill(pid, SIGTERM) == 0 else { throw DriverError(SystemFailure("kill", path: "process \(pid)")) }
    }
    var waited = Duration.zero
    while waited < Self.endingLimit {
      let isThere = await environment.pool.run { pid.flatMap { ProcessStatus(pid: $0) }?.isAlive ?? false }
      if await !isServing(), !isThere { return }
      do { try await environment.time.sleep(for: .milliseconds(10)) } catch { throw DriverError(error) }
      waited += .milliseconds(10)
    }
    throw .serverRunning("after \(Self.endingLimit.brief) the server at \(peer)")
  }

  private func run(_ words: [String], what: String) async throws(DriverError) {
    try await OwnProcess.succeed(words, what: what, on: environment.pool)
  }
}
