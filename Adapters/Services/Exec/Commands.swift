import Core
import IO
import StateKit

#if canImport(Glibc)
  import Glibc
#endif

/// A command with all that can be found out about it before it runs.
struct PreparedCommand: Sendable {
  var path: String
  var arguments: [String]
  var environment: [String: String]
  var workingDirectory: String?
  var account: Account?

  func request(output: File, isDetached: Bool) -> GatedProcess.Request {
    GatedProcess.Request(
      path: path, arguments: arguments, environment: environment, workingDirectory: workingDirectory, output: output,
      account: account, isDetached: isDetached)
  }
}

extension ExecServiceRunner {
  func prepare(_ command: ServiceCommand, of name: ServiceName) async throws(ServiceError) -> PreparedCommand {
    guard let program = command.arguments.first, !program.isEmpty else { throw .badCommand(name, why: "is empty") }
    let texts = command.arguments + command.environment.flatMap { [$0.key, $0.value] }
    guard !texts.contains(where: { $0.utf8.contains(0) }) else { throw .badCommand(name, why: "has a NUL in it") }
    for key in Array(command.environment.keys) + Array(command.secrets.keys) where key.isEmpty || key.contains("=") {
      throw .badCommand(name, why: "sets a variable that can't have the name '\(key)'")
    }

    var environment = ChildEnvironment.variables()
    var account: Account?
    if let user = command.user {
      let found = await pool.run { Account(named: user) }
      guard let found else { throw .unknownUser(name, user) }
      // Nothing to change for who runs this already; anybody else needs root to become another.
      if found.user != geteuid() { account = found }
      environment.merge(["HOME": found.home, "USER": user, "LOGNAME": user]) { _, new in new }
    }
    environment.merge(command.environment) { _, new in new }
    for (variable, reference) in command.secrets {
      do throws(AnyFailure) {
        let text = try await resolve(reference).revealed()
        guard !text.utf8.contains(0) else { throw AnyFailure(BadSecret()) }
        environment[variable] = text
      } catch {
        throw .secret(name, variable: variable, error.report)
      }
    }
    let searchPath = environment["PATH"] ?? ""
    guard let path = await pool.run({ Executable.find(program, searchPath: searchPath) }) else {
      throw .badCommand(name, why: "names '\(program)', which is not a program here")
    }
    return PreparedCommand(
      path: path, arguments: command.arguments, environment: environment, workingDirectory: command.workingDirectory,
      account: account)
  }

  private struct BadSecret: Failure {
    var report: Report { Report("SERVICE-103", "the secret has a NUL in it and can't be a variable") }
  }

  /// Runs a command to its end, which must be 0.
  ///
  /// Its output goes to a file, not a pipe: a daemon it leaves behind may keep that open for ever. What it leaves running
  /// after it succeeded stays; after a failure, a timeout or a cancellation its whole session is killed.
  func run(_ command: ServiceCommand, of name: ServiceName, what: String) async throws(ServiceError) {
    let prepared = try await prepare(command, of: name)
    let (directory, limit) = (stateDirectory, Duration.milliseconds(max(1, command.timeoutMilliseconds)))
    let process: GatedProcess
    let output: File
    do throws(SystemFailure) {
      (process, output) = try await pool.run { () throws(SystemFailure) in
        try Files.createDirectory(directory, mode: 0o700)
        let output = try File.unnamed(in: directory)
        let process = try GatedProcess(prepared.request(output: output, isDetached: false))
        do throws(SystemFailure) { try process.begin() } catch {
          try process.waitForEnding()
          throw error
        }
        return (process, output)
      }
    } catch {
      throw .startFailed(name, why: error.report.summary)
    }
    let ending: GatedProcess.Ending?
    do throws(ServiceError) {
      ending = try await wait(for: process, of: name, within: limit)
    } catch {
      try? await end(process)
      throw error
    }
    let words = "\(what): \(command.arguments.joined(separator: " "))"
    guard let ending else {
      try? await end(process)
      throw .timedOut(name, command: words, milliseconds: command.timeoutMilliseconds)
    }
    guard ending == .exited(0) else {
      kill(-process.pid, SIGKILL)
      let log = await pool.run { Self.tail(of: output) }
      throw .commandFailed(name, command: words, outcome: ending.description, log: log)
    }
  }

  /// - Returns: `nil` if it still runs after `limit`.
  private func wait(
    for process: GatedProcess, of name: ServiceName, within limit: Duration
  ) async throws(ServiceError) -> GatedProcess.Ending? {
    let start = time.monotonicNanoseconds()
    var interval = Duration.milliseconds(1)
    while true {
      do { if let ending = try process.ending() { return ending } } catch { throw .system(error.report) }
      if time.monotonicNanoseconds() - start >= limit.wholeNanoseconds { return nil }
      try await pause(interval)
      interval = min(interval * 2, .milliseconds(50))
    }
  }

  /// Kills the whole session and waits for its first process.
  private func end(_ process: GatedProcess) async throws(SystemFailure) {
    kill(-process.pid, SIGKILL)
    // Killed: gone in a moment, and nobody else asks for its end.
    _ = try await pool.run { () throws(SystemFailure) in try process.waitForEnding() }
  }

  /// The last 2,000 bytes, as one line of text.
  static func tail(of file: File) -> String {
    guard let size = try? file.status().st_size else { return "" }
    var bytes = [UInt8](repeating: 0, count: Int(min(2000, max(0, size))))
    let count =
      (try? bytes.withMutableRawBytes { raw throws(SystemFailure) in
        try file.read(at: max(0, Int64(size) - 2000), into: raw)
      }) ?? 0
    return String(decoding: bytes.prefix(count), as: UTF8.self)
      .split(whereSeparator: \.isNewline).map { $0.trimmingPrefix(while: \.isWhitespace) }.joined(separator: " | ")
  }

  func tail(of path: String) async -> String {
    await pool.run { (try? File(path, O_RDONLY)).map { Self.tail(of: $0) } ?? "" }
  }
}

extension File {
  /// A file without a name, gone with its last descriptor.
  fileprivate static func unnamed(in directory: String) throws(SystemFailure) -> File {
    let path = "\(directory)/.output-XXXXXX"
    var template = Array(path.utf8CString)
    let descriptor = mkstemp(&template)
    guard descriptor >= 0, fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0 else {
      throw SystemFailure("mkstemp", path: path)
    }
    unlink(template)
    return File(adopting: descriptor, path: path)
  }
}
