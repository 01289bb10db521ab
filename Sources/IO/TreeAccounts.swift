import Core
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// The names of users and groups, asked for once each.
package final class AccountNames: Sendable {
  private let users = Mutex<[UInt32: String]>([:])
  private let groups = Mutex<[UInt32: String]>([:])

  /// One for the process: a directory service may take its time.
  package static let shared = AccountNames()

  package init() {}

  /// - Returns: Empty if this machine knows no such user.
  package func user(_ id: UInt32) -> String {
    if let known = users.withLock({ $0[id] }) { return known }
    let name = Self.lookUp { buffer in
      var record = passwd()
      var found: UnsafeMutablePointer<passwd>?
      let code = getpwuid_r(id, &record, buffer.baseAddress!, buffer.count, &found)
      return (code, found.map { String(cString: $0.pointee.pw_name) })
    }
    users.withLock { $0[id] = name }
    return name
  }

  /// - Returns: Empty if this machine knows no such group.
  package func group(_ id: UInt32) -> String {
    if let known = groups.withLock({ $0[id] }) { return known }
    let name = Self.lookUp { buffer in
      var record = Glibc.group()
      var found: UnsafeMutablePointer<Glibc.group>?
      let code = getgrgid_r(id, &record, buffer.baseAddress!, buffer.count, &found)
      return (code, found.map { String(cString: $0.pointee.gr_name) })
    }
    groups.withLock { $0[id] = name }
    return name
  }

  private static func lookUp(_ call: (UnsafeMutableBufferPointer<CChar>) -> (Int32, String?)) -> String {
    var size = 1024
    while true {
      let (code, name) = withUnsafeTemporaryAllocation(of: CChar.self, capacity: size, call)
      if code == ERANGE, size < 1 << 20 {
        size *= 4
        continue
      }
      return name ?? ""
    }
  }
}
