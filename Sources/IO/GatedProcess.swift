import CShim
import Core

#if canImport(Glibc)
  import Glibc
#endif

/// A process that has been forked, in a session of its own, and whose program starts only when told to.
///
/// So its number can be written down first: whoever crashes before ``begin()`` leaves nothing running, whoever crashes
/// after it has left a record. Every call blocks, briefly.
package final class GatedProcess: Sendable {
  /// What to start.
  package struct Request: Sendable {
    /// Absolute.
    package var path: String
    /// The first is the program's own name.
    package var arguments: [String]
    /// All of it: nothing is inherited.
    package var environment: [String: String]
    package var workingDirectory: String?
    /// Takes standard output and error.
    package var output: File
    /// `nil` is the user this process runs as.
    package var account: Account?
    /// The process outlives this one and belongs to init; otherwise it is a child, to be waited for.
    package var isDetached: Bool

    package init(
      path: String, arguments: [String], environment: [String: String], workingDirectory: String? = nil,
      output: File, account: Account? = nil, isDetached: Bool
    ) {
      (self.path, self.arguments, self.environment) = (path, arguments, environment)
      (self.workingDirectory, self.output) = (workingDirectory, output)
      (self.account, self.isDetached) = (account, isDetached)
    }
  }

  /// How a child ended.
  package enum Ending: Sendable, Equatable, CustomStringConvertible {
    case exited(Int32)
    case killed(signal: Int32)

    package var description: String {
      switch self {
      case .exited(let code): "exited with \(code)"
      case .killed(let signal): "was killed by signal \(signal)"
      }
    }
  }

  package let pid: Int32
  private let path: String
  private let gate: File
  private let status: File

  package init(_ request: Request) throws(SystemFailure) {
    func strings(_ list: [String]) -> [UnsafeMutablePointer<CChar>?] { list.map { strdup($0) } + [nil] }
    let arguments = strings(request.arguments)
    let environment = strings(request.environment.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" })
    let path = strdup(request.path)
    let directory = request.workingDirectory.flatMap { strdup($0) }
    let groups = request.account?.groups ?? []
    defer {
      for pointer in arguments + environment + [path, directory] {
        // Secrets go this way.
        if let pointer { explicit_bzero(pointer, strlen(pointer)) }
        free(pointer)
      }
    }
    var spawned = salvor_spawned()
    let result = arguments.withUnsafeBufferPointer { arguments in
      environment.withUnsafeBufferPointer { environment in
        groups.withUnsafeBufferPointer { groups in
          var raw = salvor_spawn_request()
          raw.path = UnsafePointer(path)
          raw.arguments = arguments.baseAddress
          raw.environment = environment.baseAddress
          raw.working_directory = UnsafePointer(directory)
          raw.output = request.output.descriptor
          if let account = request.account {
            (raw.set_user, raw.user, raw.group) = (1, account.user, account.group)
            (raw.groups, raw.group_count) = (groups.baseAddress, groups.count)
          }
          raw.detach = request.isDetached ? 1 : 0
          return salvor_spawn(&raw, &spawned)
        }
      }
    }
    guard result == 0 else { throw SystemFailure("fork", path: request.path) }
    pid = spawned.pid
    self.path = request.path
    gate = File(adopting: spawned.gate, path: request.path)
    status = File(adopting: spawned.status, path: request.path)
  }

  /// Lets the program start, and returns once it has.
  ///
  /// - Throws: Why it could not: no such program, no right to become that user, no such directory. The process is gone then.
  package func begin() throws(SystemFailure) {
    var byte: UInt8 = 1
    // A socket, because writing to a pipe whose reader was killed would raise SIGPIPE.
    let sent = retryingInterrupts { send(gate.descriptor, &byte, 1, Int32(MSG_NOSIGNAL)) }
    guard sent == 1 else { throw SystemFailure("start", path: path) }
    var answer = [UInt8](repeating: 0, count: 4)
    let count = try answer.withMutableRawBytes { (raw) throws(SystemFailure) in try status.read(into: raw) }
    guard count == 4 else { return }
    let number = answer.withRawBytes { $0.loadUnaligned(as: Int32.self) }
    throw SystemFailure("start", path: path, number: number)
  }

  /// Doesn't block. For a process that isn't detached; once it has told the ending, don't ask again.
  ///
  /// - Returns: `nil` while the child runs.
  package func ending() throws(SystemFailure) -> Ending? { try wait(WNOHANG) }

  /// Blocks until the child has ended.
  @discardableResult
  package func waitForEnding() throws(SystemFailure) -> Ending? { try wait(0) }

  private func wait(_ options: Int32) throws(SystemFailure) -> Ending? {
    var raw: Int32 = 0
    let result = retryingInterrupts { waitpid(pid, &raw, options) }
    if result == 0 { return nil }
    guard result == pid else { throw SystemFailure("waitpid", path: path) }
    let signal = raw & 0x7f
    return signal == 0 ? .exited((raw >> 8) & 0xff) : .killed(signal: signal)
  }
}

/// Finds programs.
package enum Executable {
  /// - Parameter searchPath: Directories, separated by colons; only for a name without a slash.
  /// - Returns: The path of a file that may be executed, or `nil`.
  package static func find(_ name: String, searchPath: String) -> String? {
    func isExecutable(_ path: String) -> Bool { access(path, X_OK) == 0 && !Files.isDirectory(path) }
    if name.contains("/") { return isExecutable(name) ? name : nil }
    return searchPath.split(separator: ":").map { "\($0)/\(name)" }.first(where: isExecutable)
  }
}

/// A user of this machine.
package struct Account: Sendable, Equatable {
  package var name: String
  package var user: uid_t
  package var group: gid_t
  /// Primary and supplementary.
  package var groups: [gid_t]
  package var home: String

  /// - Returns: `nil` if there is no such user.
  package init?(named name: String) {
    var entry = passwd()
    var found: UnsafeMutablePointer<passwd>?
    var buffer = [CChar](repeating: 0, count: 1 << 16)
    let home: String? = buffer.withUnsafeMutableBufferPointer { buffer in
      guard let start = buffer.baseAddress, getpwnam_r(name, &entry, start, buffer.count, &found) == 0, found != nil
      else { return nil }
      return entry.pw_dir.map { String(cString: $0) } ?? "/"
    }
    guard let home else { return nil }
    var count: Int32 = 256
    var groups = [gid_t](repeating: 0, count: Int(count))
    if getgrouplist(name, entry.pw_gid, &groups, &count) < 0 {
      groups = [gid_t](repeating: 0, count: Int(max(count, 1)))
      guard getgrouplist(name, entry.pw_gid, &groups, &count) >= 0 else { return nil }
    }
    (self.name, user, group, self.home) = (name, entry.pw_uid, entry.pw_gid, home)
    self.groups = Array(groups.prefix(Int(count)))
  }
}
