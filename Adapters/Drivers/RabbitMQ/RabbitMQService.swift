import Core
import DriverKit
import Glibc
import IO

extension RabbitMQDriver {
  /// How long a node may take to end, and to read its files.
  private static var endingLimit: Duration { .seconds(300) }
  private static var beginningLimit: Duration { .seconds(600) }

  /// Whether somebody on this machine listens where the node should be.
  func isServing() async -> Bool {
    let port = configuration.port
    return await environment.pool.run { ListeningProcess.isListening(port: port) }
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
    let limit = environment.time.monotonicNanoseconds() + Self.beginningLimit.wholeNanoseconds
    while true {
      do throws(DriverError) {
        _ = try await runningVersion()
        return
      } catch {
        guard case .unreachable = error, environment.time.monotonicNanoseconds() < limit else { throw error }
      }
      do { try await environment.time.sleep(for: .milliseconds(100)) } catch { throw DriverError(error) }
    }
  }

  /// As a process of its own that outlives this one.
  private func launch(_ file: String) async throws(DriverError) {
    let (binary, store, runAs) = (configuration.binary, configuration.store, configuration.runAs)
    let live = configuration.dataDirectory
    try await environment.pool.run { () throws(DriverError) in
      let user = try serverUser(
        store: store, engine: "RabbitMQ", runAs: runAs, owning: [live, Files.parent(of: live)])
      let name = user?.name ?? SystemUser(userID: geteuid())?.name
      // Erlang wants a home, where its cookie is.
      let home = name.flatMap { Account(named: $0)?.home } ?? "/"
      do throws(SystemFailure) {
        try OwnProcess.launch(
          ["env", "HOME=\(home)", "RABBITMQ_CONF_ENV_FILE=\(file)", binary], runAs: user?.name)
      } catch { throw .engineFailed("\(binary) can't be run", log: error.message) }
    }
  }

  func stop() async throws(DriverError) {
    let port = configuration.port
    let pid = await environment.pool.run { ListeningProcess.find(port: port) }
    guard await isServing() else { return }
    if !configuration.stopCommand.isEmpty {
      try await run(configuration.stopCommand, what: "the 'stop' command")
    } else {
      guard let pid else {
        throw .unsupported(
          "store \(configuration.store) has no 'stop' command, and no process on this machine is seen to listen on port "
            + "\(port)")
      }
      guard kill(pid, SIGTERM) == 0 else { throw DriverError(SystemFailure("kill", path: "process \(pid)")) }
    }
    let limit = environment.time.monotonicNanoseconds() + Self.endingLimit.wholeNanoseconds
    while environment.time.monotonicNanoseconds() < limit {
      let isThere = await environment.pool.run { pid.flatMap { ProcessStatus(pid: $0) }?.isAlive ?? false }
      if await !isServing(), !isThere { return }
      do { try await environment.time.sleep(for: .milliseconds(20)) } catch { throw DriverError(error) }
    }
    throw .serverRunning("after \(Self.endingLimit.brief) the server at \(peer)")
  }

  private func run(_ words: [String], what: String) async throws(DriverError) {
    try await OwnProcess.succeed(words, what: what, on: environment.pool)
  }
}
