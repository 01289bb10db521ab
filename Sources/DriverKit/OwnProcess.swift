import Core
import Glibc
import IO
import Synchronization

/// A child process, by its own pid; nothing is ever ended by name. Calls block.
package final class OwnProcess: Sendable {
  package let pid: pid_t
  /// How it ended, once it was waited for; from then on the pid may be someone else's.
  private let result = Mutex<Int32?>(nil)

  private init(pid: pid_t) { self.pid = pid }

  /// - Parameters:
  ///   - words: The program, looked for on `PATH` unless it has a slash, and its arguments.
  ///   - output: Takes what it prints; `nil` drops it.
  ///   - errors: Takes what it prints on its other channel; without it that goes where `output` goes.
  ///   - more: Variables beside the usual ones.
  package static func start(
    _ words: [String], output: Int32? = nil, errors: Int32? = nil, variables more: [String: String] = [:]
  ) throws(SystemFailure) -> OwnProcess {
    guard let program = words.first else { throw SystemFailure("spawn", number: ENOENT) }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    if let output {
      posix_spawn_file_actions_adddup2(&actions, output, 1)
      posix_spawn_file_actions_adddup2(&actions, errors ?? output, 2)
    } else {
      posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0)
      posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
    }
    // A child starts with no signal blocked and none ignored, whatever this process does about SIGPIPE.
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    var all = sigset_t()
    sigfillset(&all)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setsigdefault(&attributes, &all)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
    var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
    defer { for argument in arguments { free(argument) } }
    var pid: pid_t = 0
    var variables: [UnsafeMutablePointer<CChar>?] =
      ChildEnvironment.variables(more).map { strdup("\($0.key)=\($0.value)") } + [nil]
    defer {
      for variable in variables {
        // Secrets go this way.
        if let variable { explicit_bzero(variable, strlen(variable)) }
        free(variable)
      }
    }
    let status = posix_spawnp(&pid, program, &actions, &attributes, &arguments, &variables)
    guard status == 0 else { throw SystemFailure("spawn", path: program, number: status) }
    return OwnProcess(pid: pid)
  }

  /// - Returns: How it ended, or `nil` while it runs: 0 for success, 128 and more for a signal.
  package func ended() -> Int32? { collect(WNOHANG) }

  package func wait() -> Int32 { collect(0) ?? 127 }

  package func kill(_ signal: Int32 = SIGKILL) {
    result.withLock { result in
      if result == nil { _ = Glibc.kill(pid, signal) }
    }
  }

  private func collect(_ options: Int32) -> Int32? {
    result.withLock { result in
      if let result { return result }
      var status: Int32 = 0
      let found = retryingInterrupts { waitpid(pid, &status, options) }
      if found == pid { result = Self.code(status) } else if found < 0 { result = 127 }
      return result
    }
  }

  private static func code(_ status: Int32) -> Int32 {
    let signal = status & 0x7f
    return signal == 0 ? (status >> 8) & 0xff : 128 + signal
  }

  /// Runs a command to its end.
  ///
  /// What it prints goes to an unlinked file, not a pipe: a daemon it leaves behind would hold the pipe open for good.
  package static func run(_ words: [String]) throws(SystemFailure) -> (code: Int32, output: String) {
    let file = try unlinkedFile()
    let code = try start(words, output: file.descriptor).wait()
    return (code, try file.lastText(16_384).trimmingBlanks)
  }
}

extension OwnProcess {
  /// Runs an operator's command to its end.
  ///
  /// - Parameter what: What it is, for people, such as `the 'start' command`.
  /// - Throws: ``DriverError/engineFailed(_:log:)`` for any end but exit status 0.
  package static func succeed(_ words: [String], what: String, on pool: BlockingPool) async throws(DriverError) {
    let result: (code: Int32, output: String)
    do throws(SystemFailure) {
      result = try await pool.run { () throws(SystemFailure) in try run(words) }
    } catch {
      throw .engineFailed("\(what) can't be run", log: error.message)
    }
    guard result.code == 0 else {
      throw .engineFailed("\(what) ended with code \(result.code)", log: String(result.output.suffix(500)))
    }
  }

  /// Starts a program that stays in the foreground so that it outlives this process and belongs to init.
  ///
  /// - Parameter runAs: The user it runs as; only root can be someone else.
  package static func launch(_ words: [String], runAs: String?) throws(SystemFailure) {
    let variables = ChildEnvironment.variables()
    let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    let program = words.first ?? ""
    guard let path = Executable.find(program, searchPath: variables["PATH"] ?? usual) else {
      throw SystemFailure("find", path: program, number: ENOENT)
    }
    var account: Account?
    if let runAs, geteuid() == 0 {
      account = Account(named: runAs)
      guard account != nil else { throw SystemFailure("getpwnam", path: runAs, number: ENOENT) }
    }
    let process = try GatedProcess(
      .init(
        path: path, arguments: words, environment: variables, workingDirectory: "/",
        output: try File("/dev/null", O_WRONLY), account: account, isDetached: true))
    try process.begin()
  }
}

extension String {
  fileprivate var trimmingBlanks: String {
    var part = self[...]
    while part.first?.isWhitespace == true { part.removeFirst() }
    while part.last?.isWhitespace == true { part.removeLast() }
    return String(part)
  }
}
