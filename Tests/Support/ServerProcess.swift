import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A server of a test's own, on loopback; ended by its pid when the value is let go.
package final class ServerProcess: Sendable {
  package let pid: pid_t
  package let port: UInt16
  private let directory: TemporaryDirectory

  /// Starts a program and returns when its port takes connections. Blocks.
  ///
  /// - Parameters:
  ///   - port: Where it will listen.
  ///   - words: The program, as a path or a name to look for in this process's own PATH, and its arguments.
  ///   - environment: Beside this process's own.
  package init(port: UInt16, _ words: [String], environment: [String: String] = [:]) throws {
    self.port = port
    directory = try TemporaryDirectory("server")
    let log = directory.file("log")
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0o600)
    posix_spawn_file_actions_adddup2(&actions, 1, 2)
    // Threads of a pool block signals, and a child would inherit that: a server must hear SIGTERM.
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
    // `env` looks the program up, and adds to what it was given.
    let changes = environment.map { "\($0)=\($1)" }
    var arguments: [UnsafeMutablePointer<CChar>?] = (["/usr/bin/env"] + changes + words).map { strdup($0) } + [nil]
    defer { for text in arguments { free(text) } }
    var child: pid_t = 0
    let failure = posix_spawn(&child, "/usr/bin/env", &actions, &attributes, &arguments, environ)
    guard failure == 0 else { throw SystemFailure("spawn", path: words.first, number: failure) }
    pid = child
    for _ in 0..<6000 {
      if Self.answers(port) { return }
      var status: Int32 = 0
      if waitpid(child, &status, WNOHANG) == child {
        throw CommandRun.Failed(description: "\(words) ended with \(status): \(output)")
      }
      usleep(10_000)
    }
    let said = output
    end()
    throw CommandRun.Failed(description: "\(words) doesn't answer on port \(port): \(said)")
  }

  deinit { end() }

  /// What it has said so far.
  package var output: String {
    (try? Files.read(directory.file("log"))).map { String(decoding: $0, as: UTF8.self) } ?? ""
  }

  /// Ends it, waits, and gives its status; 128 and more for a signal. Blocks; more than once is fine.
  @discardableResult
  package func end(_ signal: Int32 = SIGTERM) -> Int32? {
    guard kill(pid, signal) == 0 else { return nil }
    var status: Int32 = 0
    for _ in 0..<1000 {
      let got = waitpid(pid, &status, WNOHANG)
      if got == pid { return status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f) }
      if got == -1 { return nil }
      usleep(10_000)
    }
    kill(pid, SIGKILL)
    waitpid(pid, &status, 0)
    return 128 + SIGKILL
  }

  private static func answers(_ port: UInt16) -> Bool {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = inet_addr("127.0.0.1")
    address.sin_port = port.bigEndian
    return withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
      }
    }
  }
}
