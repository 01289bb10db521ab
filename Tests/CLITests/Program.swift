import Core
import IO
import TestSupport

#if canImport(Glibc)
  import Glibc
#endif

/// What a program did.
struct Ran: Sendable, CustomStringConvertible {
  var words: [String]
  /// 128 and more for a signal.
  var status: Int32
  var out: String
  var err: String

  var description: String { "\(words.joined(separator: " ")) ended with \(status)\n--- out\n\(out)--- err\n\(err)" }

  var json: JSONValue? { try? CanonicalJSON.decode(JSONValue.self, from: Array(out.utf8)) }
}

/// A program under way; killed with the value, if nothing else ended it.
final class Program: @unchecked Sendable {
  // Used by one task at a time.
  private let pid: pid_t
  private var ended: Int32?
  private let words: [String]
  private let directory: TemporaryDirectory

  /// - Parameter environment: All of it; nothing is inherited.
  init(_ words: [String], in workingDirectory: String, environment: [String: String], input: String? = nil) throws {
    self.words = words
    directory = try TemporaryDirectory("program")
    if let input { try Files.replace(directory.file("in"), with: Array(input.utf8)) }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, input == nil ? "/dev/null" : directory.file("in"), O_RDONLY, 0)
    posix_spawn_file_actions_addopen(&actions, 1, directory.file("out"), O_WRONLY | O_CREAT | O_APPEND, 0o644)
    posix_spawn_file_actions_addopen(&actions, 2, directory.file("err"), O_WRONLY | O_CREAT | O_APPEND, 0o644)
    // Threads of a pool block signals, and a child would inherit that.
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    var all = sigset_t()
    sigemptyset(&none)
    sigfillset(&all)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setsigdefault(&attributes, &all)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
    var arguments: [UnsafeMutablePointer<CChar>?] =
      (["env", "-C", workingDirectory] + words).map { strdup($0) } + [nil]
    var variables: [UnsafeMutablePointer<CChar>?] = environment.map { strdup("\($0.key)=\($0.value)") } + [nil]
    defer { for pointer in arguments + variables { free(pointer) } }
    var pid: pid_t = 0
    let status = posix_spawn(&pid, "/usr/bin/env", &actions, &attributes, &arguments, &variables)
    guard status == 0 else { throw SystemFailure("spawn", path: words[0], number: status) }
    self.pid = pid
  }

  deinit {
    if ended == nil {
      kill(pid, SIGKILL)
      _ = collect()
    }
  }

  func signal(_ number: Int32) { kill(pid, number) }

  var text: String { read("out") + read("err") }

  func wait() async -> Ran {
    let status = await BlockingPool.shared.run { self.collect() }
    return Ran(words: words, status: status, out: read("out"), err: read("err"))
  }

  private func collect() -> Int32 {
    if let ended { return ended }
    var status: Int32 = 0
    while waitpid(pid, &status, 0) == -1 { if errno != EINTR { return 127 } }
    let number = status & 0x7f
    let result = number == 0 ? (status >> 8) & 0xff : 128 + number
    ended = result
    return result
  }

  private func read(_ name: String) -> String {
    (try? Files.read(directory.file(name))).map { String(decoding: $0, as: UTF8.self) } ?? ""
  }

  /// A program of this package, next to the test bundle.
  static func built(_ name: String) throws -> String {
    for place in CommandLine.arguments + ["/proc/self/exe"] {
      guard let resolved = realpath(place, nil) else { continue }
      defer { free(resolved) }
      let candidate = "\(Files.parent(of: String(cString: resolved)))/\(name)"
      if Files.exists(candidate) { return candidate }
    }
    throw SystemFailure("find", path: name, number: ENOENT)
  }
}
