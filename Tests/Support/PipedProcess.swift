import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A program that is talked to while it runs; what it says goes to files.
///
/// Only its own end is waited for, and no child inherits another's ends of pipes: with Foundation's `Process`, one child that
/// stays may keep everybody waiting for another that has ended.
package final class PipedProcess: @unchecked Sendable {
  // One thread at a time uses it.
  private let scratch: TemporaryDirectory
  private let pid: pid_t
  private var input: Int32
  private var status: Int32?

  /// - Parameters:
  ///   - words: The program, as a path or a name to look for, and its arguments.
  ///   - environment: All of it, beside a usual `PATH`; nothing is inherited.
  package init(_ words: [String], in directory: String = "/", environment: [String: String] = [:]) throws {
    signal(SIGPIPE, SIG_IGN)
    scratch = try TemporaryDirectory("piped")
    var ends: [Int32] = [0, 0]
    // A pair of sockets is close-on-exec from its first moment on, which pipe(2) can't give.
    let kind = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
    guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else { throw SystemFailure("socketpair", path: words.first) }
    input = ends[1]
    defer { close(ends[0]) }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, ends[0], 0)
    posix_spawn_file_actions_addopen(&actions, 1, scratch.file("output"), O_WRONLY | O_CREAT | O_APPEND, 0o600)
    posix_spawn_file_actions_addopen(&actions, 2, scratch.file("errors"), O_WRONLY | O_CREAT | O_APPEND, 0o600)
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
    let variables = ["PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/nonexistent", "TZ": "UTC"]
      .merging(environment) { $1 }
    var arguments: [UnsafeMutablePointer<CChar>?] =
      (["/usr/bin/env", "-C", directory] + words).map { strdup($0) } + [nil]
    var inherited: [UnsafeMutablePointer<CChar>?] = variables.map { strdup("\($0)=\($1)") } + [nil]
    defer { for text in arguments + inherited { free(text) } }
    var child: pid_t = 0
    let failure = posix_spawn(&child, "/usr/bin/env", &actions, &attributes, &arguments, &inherited)
    pid = child
    guard failure == 0 else { throw SystemFailure("spawn", path: words.first, number: failure) }
  }

  deinit {
    end()
    if status == nil { kill() }
  }

  package func write(_ bytes: [UInt8]) {
    var done = 0
    while done < bytes.count {
      let count = bytes.withUnsafeBytes { Glibc.write(input, $0.baseAddress! + done, bytes.count - done) }
      if count <= 0 { return }
      done += count
    }
  }

  /// Nothing more will be written.
  package func end() {
    if input >= 0 { close(input) }
    input = -1
  }

  /// Blocks until it has ended.
  ///
  /// - Returns: The exit status; 128 and more for a signal.
  @discardableResult
  package func wait() -> Int32 {
    if let status { return status }
    var code: Int32 = 0
    while waitpid(pid, &code, 0) == -1, errno == EINTR {}
    let signal = code & 0x7f
    let result = signal == 0 ? (code >> 8) & 0xff : 128 + signal
    status = result
    return result
  }

  package var isRunning: Bool {
    if status != nil { return false }
    var information = siginfo_t()
    return waitid(P_PID, id_t(pid), &information, WEXITED | WNOHANG | WNOWAIT) == 0 && information.si_signo == 0
  }

  /// Asks it to end.
  package func terminate() { if status == nil { Glibc.kill(pid, SIGTERM) } }

  /// Ends it without a chance to tidy up.
  package func kill() {
    guard status == nil else { return }
    Glibc.kill(pid, SIGKILL)
    wait()
  }

  package var output: [UInt8] { (try? Files.read(scratch.file("output"))) ?? [] }
  package var errors: String {
    (try? Files.read(scratch.file("errors"))).map { String(decoding: $0, as: UTF8.self) } ?? ""
  }
}
