import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A program run to its end, with what it said on each channel.
///
/// Only its own end is waited for: a daemon it leaves behind holds nobody up, as it would with Foundation's `Process`.
package struct CommandRun: Sendable {
  package var words: [String]
  /// The exit status; 128 and more for a signal.
  package var status: Int32
  package var output: String
  package var errors: String

  /// - Parameters:
  ///   - words: The program, as a path or a name to look for, and its arguments.
  ///   - environment: All of it, beside a usual `PATH`; nothing is inherited.
  ///   - pool: Whose threads wait; one is taken until the program ends.
  package init(
    _ words: [String], in directory: String = "/", environment: [String: String] = [:], pool: BlockingPool = .shared
  ) async throws {
    self.words = words
    let variables = ["PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/nonexistent", "TZ": "UTC"]
      .merging(environment) { $1 }
    (status, output, errors) = try await pool.run {
      let scratch = try TemporaryDirectory("run")
      let (output, errors) = (scratch.file("output"), scratch.file("errors"))
      let status = try Self.run(words, in: directory, variables.map { "\($0)=\($1)" }, output, errors)
      func text(_ file: String) throws -> String { String(decoding: try Files.read(file), as: UTF8.self) }
      return (status, try text(output), try text(errors))
    }
  }

  private static func run(
    _ words: [String], in directory: String, _ variables: [String], _ output: String, _ errors: String
  ) throws -> Int32 {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_APPEND, 0o600)
    posix_spawn_file_actions_addopen(&actions, 2, errors, O_WRONLY | O_CREAT | O_APPEND, 0o600)
    // Threads of a pool block signals, and a child would inherit that: a server must hear SIGTERM.
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
    // `env` changes the directory, and looks the program up in the PATH given here.
    var arguments: [UnsafeMutablePointer<CChar>?] =
      (["/usr/bin/env", "-C", directory] + words).map { strdup($0) } + [nil]
    var environment: [UnsafeMutablePointer<CChar>?] = variables.map { strdup($0) } + [nil]
    defer { for text in arguments + environment { free(text) } }
    var pid: pid_t = 0
    let failure = posix_spawn(&pid, "/usr/bin/env", &actions, &attributes, &arguments, &environment)
    guard failure == 0 else { throw SystemFailure("spawn", path: words.first, number: failure) }
    var status: Int32 = 0
    while waitpid(pid, &status, 0) == -1 {
      guard errno == EINTR else { throw SystemFailure("wait", path: words.first) }
    }
    let signal = status & 0x7f
    return signal == 0 ? (status >> 8) & 0xff : 128 + signal
  }

  /// - Throws: Unless it ended with status 0.
  @discardableResult
  package func succeeded() throws -> CommandRun {
    guard status == 0 else { throw Failed(description: "\(words) ended with \(status): \(errors)\(output)") }
    return self
  }

  package struct Failed: Error, CustomStringConvertible {
    package var description: String
    package init(description: String) { self.description = description }
  }

  /// A product of this package, next to the test bundle.
  package static func product(_ name: String) throws -> String {
    for place in CommandLine.arguments + ["/proc/self/exe"] {
      guard let resolved = realpath(place, nil) else { continue }
      defer { free(resolved) }
      let candidate = "\(Files.parent(of: String(cString: resolved)))/\(name)"
      if Files.exists(candidate) { return candidate }
    }
    throw SystemFailure("find", path: name, number: ENOENT)
  }
}
