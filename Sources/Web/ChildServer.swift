import Core

#if canImport(Glibc)
  import Glibc
#endif

/// `POSIX_SPAWN_SETSID`, which glibc shows to GNU programs only.
private let spawnInSession: Int16 = 0x80

/// A program that serves on its standard input and output; gone when nobody writes to it any more.
package struct ChildServer: Sendable {
  /// The program's, without its directory.
  let name: String
  let pid: pid_t
  /// Ours to write its input to.
  let input: CInt
  /// Ours to read its output from.
  let output: CInt
  let errors: CInt

  /// Blocks, briefly.
  ///
  /// - Parameters:
  ///   - words: The program, as a path or a name to look for in this process's PATH, and its arguments.
  ///   - environment: All of it.
  /// - Throws: `.address` if there is no such program, `.connection` if the machine can't start one now.
  package static func start(_ words: [String], environment: [String: String]) throws(WebFailure) -> ChildServer {
    guard let program = words.first else { throw .address("no program is named") }
    // Closed in every other child from the beginning: one that held an end would keep this one alive.
    let cloexec = Int32(SOCK_CLOEXEC.rawValue)
    var pairs: [[CInt]] = []
    func closeAll() { for end in pairs.joined() { close(end) } }
    for _ in 0..<3 {
      var ends: [CInt] = [-1, -1]
      guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | cloexec, 0, &ends) == 0 else {
        let reason = String(cString: strerror(errno))
        closeAll()
        throw .connection("no connection for \(program): \(reason)")
      }
      pairs.append(ends)
    }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, pairs[0][0], 0)
    posix_spawn_file_actions_adddup2(&actions, pairs[1][1], 1)
    posix_spawn_file_actions_adddup2(&actions, pairs[2][1], 2)
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
      closeAll()
      let reason = String(cString: strerror(failure)).lowercased()
      if failure == EAGAIN || failure == ENOMEM { throw .connection("\(program) can't be started: \(reason)") }
      throw .address("\(program) can't be started: \(reason)")
    }
    for end in [pairs[0][0], pairs[1][1], pairs[2][1]] { close(end) }
    let name = program.split(separator: "/").last.map(String.init) ?? program
    return ChildServer(name: name, pid: pid, input: pairs[0][1], output: pairs[1][0], errors: pairs[2][0])
  }

  /// Waits until it has ended, and leaves nothing of it behind. Blocks.
  ///
  /// - Parameter ended: Called while its number is still its own, for the last time.
  func reap(ended: () -> Void) {
    var information = siginfo_t()
    while waitid(P_PID, id_t(pid), &information, WEXITED | WNOWAIT) != 0, errno == EINTR {}
    ended()
    var status: Int32 = 0
    while waitpid(pid, &status, 0) == -1, errno == EINTR {}
  }
}
