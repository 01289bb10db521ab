import Core
import Foundation

/// Who writes: what keys, locks and snapshots carry, so that people know whom to ask.
package struct Owner: Sendable {
  package var hostname: String
  package var username: String
  package var processID: Int
  package var userID: UInt32
  package var groupID: UInt32
  /// Whether a process of this host is alive; decides which locks are stale.
  package var isAlive: @Sendable (Int) -> Bool

  package init(
    hostname: String, username: String, processID: Int, userID: UInt32 = 0, groupID: UInt32 = 0,
    isAlive: @escaping @Sendable (Int) -> Bool
  ) {
    (self.hostname, self.username, self.processID) = (hostname, username, processID)
    (self.userID, self.groupID, self.isAlive) = (userID, groupID, isAlive)
  }

  /// This process.
  package static var current: Owner {
    Owner(
      hostname: localHostname(), username: ProcessInfo.processInfo.userName,
      processID: Int(getpid()), userID: getuid(), groupID: getgid(),
      isAlive: { processID in
        guard let processID = pid_t(exactly: processID), processID > 0 else { return false }
        // EPERM says that it lives and is someone else's.
        return kill(processID, 0) == 0 || errno == EPERM
      })
  }
}

/// As gethostname(2) has it, which is what restic compares; Foundation's would ask a resolver.
private func localHostname() -> String {
  var name = [CChar](repeating: 0, count: 256)
  guard gethostname(&name, name.count - 1) == 0 else { return "unknown" }
  return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
