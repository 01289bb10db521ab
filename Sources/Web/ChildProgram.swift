import Core

#if canImport(Glibc)
  import Glibc
#endif

/// `POSIX_SPAWN_SETSID`, which glibc shows to GNU programs only.
private let spawnInSession: Int16 = 0x80

/// Both ends of what a child and we say to each other.
struct ChildEnds: Sendable {
  /// Ours to write its input to.
  let input: CInt
  /// Ours to read its output from.
  let output: CInt
  let errors: CInt
  /// Its standard input, output and error.
  let theirs: [CInt]

  init() throws(WebFailure) {
    var pairs: [[CInt]] = []
    // Closed in every other child from the beginning: one that held an end would keep this one alive.
    let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    for _ in 0..<3 {
      var ends: [CInt] = [-1, -1]
      guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else {
        let reason = String(cString: strerror(errno))
        for end in pairs.joined() { close(end) }
        throw .connection("no connection to a child can be made: \(reason)")
      }
      pairs.append(ends)
    }
    (input, output, errors) = (pairs[0][0], pairs[1][0], pairs[2][0])
    theirs = pairs.map { $0[1] }
  }

  func closeTheirs() { for end in theirs { close(end) } }
  func closeOurs() { for end in [input, output, errors] { close(end) } }
}

/// A program that serves on its standard input and output, and ends when its input does.
package struct ChildProgram: Sendable {
  private let words: [String]
  private let environment: [String: String]

  /// - Parameters:
  ///   - words: The program, as a path or a name to look for in this process's PATH, and its arguments: every user of the
  ///     machine can read them.
  ///   - environment: All of it.
  package init(_ words: [String], environment: [String: String]) {
    (self.words, self.environment) = (words, environment)
  }

  /// Without its directory.
  var name: String { words.first?.split(separator: "/").last.map(String.init) ?? "the program" }

  /// Blocks, briefly. The child's ends are its own afterwards, or closed.
  ///
  /// - Throws: `.address` if there is no such program, `.connection` if the machine can't start one now.
  func start(_ ends: ChildEnds) throws(WebFailure) -> pid_t {
    defer { ends.closeTheirs() }
    guard let program = words.first else { throw .address("no program is named") }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    for (number, end) in ends.theirs.enumerated() { posix_spawn_file_actions_adddup2(&actions, end, CInt(number)) }
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var (none, all) = (sigset_t(), sigset_t())
    sigemptyset(&none)
    sigfillset(&all)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setsigdefault(&attributes, &all)
    // A session of its own: an interrupt from the terminal is for us, who still have locks to take back.
    posix_spawnattr_setflags(
      &attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF) | spawnInSession)
    var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
    var variables: [UnsafeMutablePointer<CChar>?] = environment.map { strdup("\($0)=\($1)") } + [nil]
    defer {
      for text in arguments + variables {
        if let text { explicit_bzero(text, strlen(text)) }
        free(text)
      }
    }
    var pid: pid_t = 0
    let failure = posix_spawnp(&pid, program, &actions, &attributes, &arguments, &variables)
    guard failure == 0 else {
      let reason = String(cString: strerror(failure)).lowercased()
      if failure == EAGAIN || failure == ENOMEM { throw .connection("\(program) can't be started: \(reason)") }
      throw .address("\(program) can't be started: \(reason)")
    }
    return pid
  }

  /// Waits until a child has ended, and leaves nothing of it behind. Blocks.
  ///
  /// - Parameter ended: Called while its number is still its own, for the last time.
  /// - Returns: Whether it ended by itself, and called that a success.
  static func reap(_ pid: pid_t, ended: () -> Void) -> Bool {
    var information = siginfo_t()
    while waitid(P_PID, id_t(pid), &information, WEXITED | WNOWAIT) != 0, errno == EINTR {}
    ended()
    var status: Int32 = 0
    while waitpid(pid, &status, 0) == -1, errno == EINTR {}
    return status == 0
  }
}
