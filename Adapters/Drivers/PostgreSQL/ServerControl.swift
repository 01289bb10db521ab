import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Whether a server runs on `directory`: its pid file names a living process that works there.
func isLive(_ directory: String) -> Bool { serverProcess(directory) != nil }

func serverProcess(_ directory: String) -> pid_t? {
  guard let bytes = try? Files.read(directory + "/postmaster.pid", limitBytes: 1 << 16),
    let line = String(decoding: bytes, as: UTF8.self).split(separator: "\n").first,
    let number = pid_t(line.filter(\.isNumber)), number > 1, kill(number, 0) == 0 || errno == EPERM
  else { return nil }
  // The number may have gone to someone else since. A server's working directory is its data directory.
  var here = stat()
  var there = stat()
  if stat("/proc/\(number)/cwd", &there) == 0, stat(directory, &here) == 0,
    here.st_ino != there.st_ino || here.st_dev != there.st_dev
  {
    return nil
  }
  return number
}

/// Kills a server and every process of it; blocks until none of them is left, a few seconds at most.
func endServer(_ directory: String) {
  guard let server = serverProcess(directory) else { return }
  // Standing still it makes no new ones while they are counted.
  kill(server, SIGSTOP)
  let all = [server] + children(of: server)
  for process in all { kill(process, SIGKILL) }
  for _ in 0..<500 where all.contains(where: { ProcessStatus(pid: $0)?.isAlive ?? false }) { poll(nil, 0, 10) }
}

func children(of process: pid_t) -> [pid_t] {
  ((try? Files.names(in: "/proc")) ?? []).compactMap { name in
    guard let number = pid_t(name.lossyText), let bytes = try? Files.read("/proc/\(number)/stat", limitBytes: 1 << 16),
      // The second field is the program's name in parentheses, the fourth its parent.
      let close = bytes.lastIndex(of: UInt8(ascii: ")"))
    else { return nil }
    let fields = bytes[(close + 1)...].split(separator: 32)
    return fields.count > 1 && pid_t(String(decoding: fields[1], as: UTF8.self)) == process ? number : nil
  }
}

extension PostgreSQLDriver {
  func start() async throws(DriverError) {
    if !isLive(dataDirectory) {
      if let startCommand {
        try await runGiven(startCommand, "start")
      } else {
        var arguments = ["-D", dataDirectory, "-l", dataDirectory + "/startup.log", "-w", "-t", seconds(startTimeout)]
        if let serverOptions { arguments += ["-o", serverOptions] }
        let control = try await program("pg_ctl", major: await majorOnDisk(dataDirectory))
        do throws(DriverError) {
          try await ServerCommand(
            executable: control, arguments: arguments + ["start"], user: try serverUser(dataDirectory)
          ).run()
        } catch {
          throw explained(error, log: dataDirectory + "/startup.log")
        }
      }
    }
    try await waitUntilItAnswers()
  }

  func stop() async throws(DriverError) {
    try requirePrimary()
    guard isLive(dataDirectory) else { return }
    if let stopCommand {
      try await runGiven(stopCommand, "stop")
    } else {
      try await stopServer(dataDirectory, mode: "fast")
    }
    let deadline = environment.time.monotonicNanoseconds() + Duration.seconds(60).wholeNanoseconds
    while isLive(dataDirectory) {
      guard environment.time.monotonicNanoseconds() < deadline else {
        throw .serverRunning("the server on \(dataDirectory), although it was told to stop,")
      }
      try await pause()
    }
  }

  /// - Parameter mode: `fast` or `immediate`.
  func stopServer(_ directory: String, mode: String) async throws(DriverError) {
    let control = try await program("pg_ctl", major: await majorOnDisk(directory))
    do throws(DriverError) {
      try await ServerCommand(
        executable: control, arguments: ["-D", directory, "-m", mode, "-w", "-t", "600", "stop"],
        user: try serverUser(directory)
      ).run()
    } catch {
      // It may have gone by itself in between.
      if isLive(directory) { throw error }
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

  private func waitUntilItAnswers() async throws(DriverError) {
    let deadline = environment.time.monotonicNanoseconds() + startTimeout.wholeNanoseconds
    while true {
      do throws(DriverError) {
        return await (try connect()).close()
      } catch {
        guard case .unreachable = error, environment.time.monotonicNanoseconds() < deadline else { throw error }
      }
      try await pause()
    }
  }

  func pause() async throws(DriverError) {
    do { try await environment.time.sleep(for: .milliseconds(50)) } catch { throw DriverError(error) }
  }

  /// The end of the server's log says why, pg_ctl does not.
  func explained(_ error: DriverError, log: String) -> DriverError {
    guard case .engineFailed(let what, let said) = error, let bytes = try? Files.read(log, limitBytes: 1 << 24) else {
      return error
    }
    return .engineFailed(what, log: lastLines(String(decoding: bytes, as: UTF8.self)) + "; " + said)
  }

  // MARK: Programs and users

  /// `PG_VERSION` of a data directory.
  func majorOnDisk(_ directory: String) async -> Int? {
    await environment.pool.run {
      (try? Files.read(directory + "/PG_VERSION", limitBytes: 64)).flatMap {
        Int(String(decoding: $0, as: UTF8.self).filter(\.isNumber))
      }
    }
  }

  /// Where a program of PostgreSQL's is.
  func program(_ name: String, major: Int?) async throws(DriverError) -> String {
    if let binDirectory { return binDirectory + "/" + name }
    if let major {
      let path = "/usr/lib/postgresql/\(major)/bin/\(name)"
      if access(path, X_OK) == 0 { return path }
    }
    for directory in (getenv("PATH").map { String(cString: $0) } ?? "").split(separator: ":") {
      let path = "\(directory)/\(name)"
      if access(path, X_OK) == 0 { return path }
    }
    throw .unsupported(
      "\(name) of PostgreSQL\(major.map { " \($0)" } ?? "") is not installed: install it, or set binDirectory")
  }

  /// Who server processes on `directory` run as; `nil` unless we are root, who must not run them.
  func serverUser(_ directory: String) throws(DriverError) -> SystemUser? {
    try DriverKit.serverUser(store: store, engine: "PostgreSQL", runAs: runAs, owning: [dataDirectory, directory])
  }

  private func seconds(_ duration: Duration) -> String { String(max(1, duration.components.seconds)) }
}
