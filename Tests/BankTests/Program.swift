import Core
import IO
import TestSupport

#if canImport(Glibc)
  import Glibc
#endif

/// A program a test has started; killed with the value, if nothing else ended it.
final class Program: @unchecked Sendable {
  // Used by one task at a time.
  private let pid: pid_t
  private var code: Int32?
  let output: String

  /// - Parameter output: A file for both of its channels.
  init(_ words: [String], output: String) throws {
    self.output = output
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_APPEND, 0o644)
    posix_spawn_file_actions_adddup2(&actions, 1, 2)
    var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
    defer { for argument in arguments { free(argument) } }
    var pid: pid_t = 0
    let status = posix_spawnp(&pid, words[0], &actions, nil, &arguments, environ)
    guard status == 0 else { throw SystemFailure("spawn", path: words[0], number: status) }
    self.pid = pid
  }

  deinit { _ = stop(SIGKILL) }

  /// Sends a signal and waits for the end.
  ///
  /// - Returns: The exit status; 128 and more for a signal.
  @discardableResult
  func stop(_ signal: Int32 = SIGTERM) -> Int32 {
    if let code { return code }
    kill(pid, signal)
    return wait()
  }

  @discardableResult
  func wait() -> Int32 {
    if let code { return code }
    var status: Int32 = 0
    while waitpid(pid, &status, 0) == -1 { if errno != EINTR { return 127 } }
    let signal = status & 0x7f
    let result = signal == 0 ? (status >> 8) & 0xff : 128 + signal
    code = result
    return result
  }

  var text: String { (try? Files.read(output)).map { String(decoding: $0, as: UTF8.self) } ?? "" }

  /// Runs a program to its end.
  static func run(_ words: [String], in directory: String) throws -> String {
    let file = "\(directory)/output-\(Hex.encode(SystemRandomness().bytes(6)))"
    let program = try Program(words, output: file)
    let code = program.wait()
    guard code == 0 else { throw ProgramFailed(words: words, code: code, output: program.text) }
    return program.text
  }

  /// `salvor-bank`, next to the test bundle.
  static func bank() throws -> String {
    let places = CommandLine.arguments + ["/proc/self/exe"]
    for place in places {
      guard let resolved = realpath(place, nil) else { continue }
      defer { free(resolved) }
      let candidate = "\(Files.parent(of: String(cString: resolved)))/salvor-bank"
      if Files.exists(candidate) { return candidate }
    }
    throw SystemFailure("find", path: "salvor-bank", number: ENOENT)
  }
}

struct ProgramFailed: Error {
  var words: [String]
  var code: Int32
  var output: String
}
