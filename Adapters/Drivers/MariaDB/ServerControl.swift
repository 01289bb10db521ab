import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Whether a server runs on `directory`. Blocks for some milliseconds.
func isLive(_ directory: String) -> Bool { serverProcess(directory) != nil }

/// The server whose working directory is `directory`: mariadbd goes there before it does anything else.
func serverProcess(_ directory: String) -> pid_t? {
  var here = stat()
  guard stat(directory, &here) == 0, let names = try? Files.names(in: "/proc") else { return nil }
  for name in names {
    guard let number = pid_t(name.lossyText) else { continue }
    var there = stat()
    guard stat("/proc/\(number)/cwd", &there) == 0, there.st_ino == here.st_ino, there.st_dev == here.st_dev,
      let command = try? Files.read("/proc/\(number)/comm", limitBytes: 4096),
      ["mariadbd", "mysqld"].contains(String(decoding: command.prefix { $0 != 10 }, as: UTF8.self)),
      ProcessStatus(pid: number)?.isAlive == true
    else { continue }
    return number
  }
  return nil
}

/// A server of ours, started from its program.
final class StartedServer: Sendable {
  let process: GatedProcess
  private let output: File
  private let isDetached: Bool

  private init(_ process: GatedProcess, _ output: File, isDetached: Bool) {
    (self.process, self.output, self.isDetached) = (process, output, isDetached)
  }

  /// Blocks.
  static func start(
    _ path: String, _ arguments: [String], user: SystemUser?, isDetached: Bool
  ) throws(DriverError) -> StartedServer {
    do throws(SystemFailure) {
      let output = try unlinkedFile()
      let process = try GatedProcess(
        .init(
          path: path, arguments: [path] + arguments, environment: ChildEnvironment.variables(["LC_ALL": "C.UTF-8"]),
          workingDirectory: "/", output: output, account: user.flatMap { Account(named: $0.name) },
          isDetached: isDetached))
      do throws(SystemFailure) { try process.begin() } catch {
        if !isDetached { _ = try? process.waitForEnding() }
        throw error
      }
      return StartedServer(process, output, isDetached: isDetached)
    } catch { throw .engineFailed("\(path) can't be started", log: error.message) }
  }

  /// Blocks, briefly.
  var hasEnded: Bool {
    if isDetached { return ProcessStatus(pid: process.pid)?.isAlive != true }
    do throws(SystemFailure) { return try process.ending() != nil } catch { return true }
  }

  /// The end of what it printed. Blocks.
  var lastWords: String {
    lastLines((try? output.lastText(16_384)) ?? "")
  }
}

extension MariaDBDriver {
  func start() async throws(DriverError) {
    var started: StartedServer?
    if await !environment.pool.run({ isLive(dataDirectory) }) {
      if let startCommand {
        try await runGiven(startCommand, "start")
      } else {
        let server = try program("mariadbd")
        let user = try serverUser(dataDirectory)
        let arguments = (configFile.map { ["--defaults-file=\($0)"] } ?? []) + ["--datadir=\(dataDirectory)"]
        started = try await blocking { () throws(DriverError) in
          try StartedServer.start(server, arguments, user: user, isDetached: true)
        }
      }
    }
    try await waitUntilItAnswers(started)
  }

  func stop() async throws(DriverError) {
    guard let process = await environment.pool.run({ serverProcess(dataDirectory) }) else { return }
    if let stopCommand {
      try await runGiven(stopCommand, "stop")
    } else {
      try end(process, SIGTERM)
    }
    try await waitUntilGone(dataDirectory, within: .seconds(600))
  }

  func end(_ process: pid_t, _ signal: Int32) throws(DriverError) {
    guard kill(process, signal) == 0 || errno == ESRCH else {
      throw .permissionDenied("ending the server (process \(process))", needs: "to run as its user, or as root")
    }
  }

  func waitUntilGone(_ directory: String, within limit: Duration) async throws(DriverError) {
    let deadline = environment.time.monotonicNanoseconds() + limit.wholeNanoseconds
    while await environment.pool.run({ isLive(directory) }) {
      guard environment.time.monotonicNanoseconds() < deadline else {
        throw .serverRunning("the server on \(directory), although it was told to stop,")
      }
      try await pause()
    }
  }

  private func runGiven(_ command: String, _ option: String) async throws(DriverError) {
    if command == "none" {
      throw .unsupported(
        "the server on \(dataDirectory) must be \(option == "start" ? "started" : "stopped") by hand: '\(option)' is 'none'"
      )
    }
    try await runCommand(command, option: option, store: store)
  }

  func waitUntilItAnswers(_ started: StartedServer?) async throws(DriverError) {
    let deadline = environment.time.monotonicNanoseconds() + startTimeout.wholeNanoseconds
    while true {
      do throws(DriverError) {
        return await (try connect()).close()
      } catch {
        guard case .unreachable = error, environment.time.monotonicNanoseconds() < deadline else { throw error }
        if let words = await environment.pool.run({ started?.hasEnded == true ? started?.lastWords : nil }) {
          throw .engineFailed("mariadbd ended at once", log: words)
        }
      }
      try await pause()
    }
  }

  func pause() async throws(DriverError) {
    do { try await environment.time.sleep(for: .milliseconds(50)) } catch { throw DriverError(error) }
  }

  // MARK: Programs and users

  /// Where a program of MariaDB's is.
  func program(_ name: String) throws(DriverError) -> String {
    if let binDirectory { return binDirectory + "/" + name }
    let path = (ChildEnvironment.variables()["PATH"] ?? "") + ":/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
    if let found = Executable.find(name, searchPath: path) { return found }
    throw .unsupported("\(name) is not installed: install it, or set binDirectory")
  }

  /// Such as `10.11.19`, by `mariadbd --version`; `nil` without it.
  func installedVersion() async -> String? {
    guard let server = try? program("mariadbd"),
      let text = try? await ServerCommand(executable: server, arguments: ["--no-defaults", "--version"], user: nil)
        .run(),
      let place = text.range(of: "Ver ")
    else { return nil }
    return String(text[place.upperBound...].prefix { $0.isNumber || $0 == "." })
  }

  /// Who server processes on `directory` run as; `nil` unless we are root, who must not run them.
  func serverUser(_ directory: String) throws(DriverError) -> SystemUser? {
    try DriverKit.serverUser(store: store, engine: "MariaDB", runAs: runAs, owning: [dataDirectory, directory])
  }
}
