import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Whom a server runs as: servers refuse root, so root becomes someone else with setpriv(1).
struct ServerUser {
  var name: String
  private var userID: uid_t
  private var groupID: gid_t

  /// The first of `names` this machine knows, if we are root; whoever we are otherwise.
  static func choose(_ names: String...) throws(BankError) -> String {
    if geteuid() != 0 {
      guard let entry = getpwuid(geteuid()) else { throw .configuration("this process's user has no name") }
      return String(cString: entry.pointee.pw_name)
    }
    guard let name = names.first(where: { getpwnam($0) != nil }) else {
      throw .configuration("none of the system users \(names.joined(separator: ", ")) exists")
    }
    return name
  }

  init(_ name: String) throws(BankError) {
    guard let entry = getpwnam(name) else { throw .configuration("there is no system user '\(name)'") }
    (self.name, userID, groupID) = (name, entry.pointee.pw_uid, entry.pointee.pw_gid)
  }

  /// Makes `path` a directory only this user can enter.
  func ownDirectory(_ path: String) throws {
    try Files.createDirectory(path, mode: 0o700)
    try own(path)
    let probe = run(["test", "-x", path])
    guard probe == 0 else {
      throw BankError.configuration("user '\(name)' can't reach \(path): a directory above it shuts others out")
    }
  }

  func own(_ path: String) throws {
    guard geteuid() != 0 || chown(path, userID, groupID) == 0 else { throw SystemFailure("chown", path: path) }
  }

  /// Runs a command as this user.
  ///
  /// - Parameter log: A file for what it prints; a daemon it leaves behind goes on writing there.
  /// - Throws: The end of what it printed, for any end but exit status 0.
  func runChecked(_ words: [String], log: String) throws {
    let status = run(words, log: log)
    guard status == 0 else {
      let text =
        (try? Files.read(log, limitBytes: 1 << 24)).map { String(decoding: $0.suffix(600), as: UTF8.self) } ?? ""
      throw BankError.configuration("\(words.first ?? "") failed with status \(status): \(text)")
    }
  }

  /// - Returns: The exit status; 127 if the command could not be run, 128 and more after a signal.
  func run(_ words: [String], log: String = "/dev/null") -> Int32 {
    let become =
      geteuid() == 0 && userID != 0
      ? ["setpriv", "--reuid", String(userID), "--regid", String(groupID), "--clear-groups", "--"] : []
    // Not Foundation's Process: it waits until everyone who inherited its pipe is gone, and daemons never are.
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0o644)
    posix_spawn_file_actions_adddup2(&actions, 1, 2)
    // A server must not die with the terminal that started it, nor keep our directory busy.
    let line = ["env", "--chdir=/", "setsid"] + become + words
    var arguments: [UnsafeMutablePointer<CChar>?] = line.map { strdup($0) } + [nil]
    defer { for argument in arguments { free(argument) } }
    var pid: pid_t = 0
    guard posix_spawn(&pid, "/usr/bin/env", &actions, nil, &arguments, environ) == 0 else { return 127 }
    var status: Int32 = 0
    while waitpid(pid, &status, 0) == -1 { if errno != EINTR { return 127 } }
    let signal = status & 0x7f
    return signal == 0 ? (status >> 8) & 0xff : 128 + signal
  }
}

/// Waits in steps of 50 ms until `condition` holds.
///
/// - Throws: ``BankError/configuration(_:)`` with `what` after `seconds`.
func waitUntil(_ what: String, seconds: Int = 20, _ condition: () -> Bool) throws(BankError) {
  for _ in 0..<(seconds * 20) {
    if condition() { return }
    usleep(50_000)
  }
  throw .configuration("gave up waiting: \(what)")
}
