import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A user of this machine, as server processes run.
package struct SystemUser: Equatable, Sendable {
  package var name: String
  package var userID: UInt32
  package var groupID: UInt32

  /// - Returns: `nil` for a name this machine doesn't know. Blocks, as long as the machine's directory of users does.
  package init?(name: String) {
    guard let found = Self.find({ getpwnam_r(name, $0, $1, $2, $3) }) else { return nil }
    self = found
  }

  package init?(userID: UInt32) {
    guard let found = Self.find({ getpwuid_r(userID, $0, $1, $2, $3) }) else { return nil }
    self = found
  }

  private init(_ entry: passwd) {
    (name, userID, groupID) = (String(cString: entry.pw_name), entry.pw_uid, entry.pw_gid)
  }

  package static var isRoot: Bool { geteuid() == 0 }

  private typealias Lookup = (
    UnsafeMutablePointer<passwd>, UnsafeMutablePointer<CChar>, Int, UnsafeMutablePointer<UnsafeMutablePointer<passwd>?>
  ) -> Int32

  private static func find(_ lookUp: Lookup) -> SystemUser? {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 1 << 16) { room in
      var entry = passwd()
      var found: UnsafeMutablePointer<passwd>?
      guard let start = room.baseAddress, lookUp(&entry, start, room.count, &found) == 0, found != nil else {
        return nil
      }
      return SystemUser(entry)
    }
  }
}

/// Whose server process it is to be: `runAs`, or whoever owns one of the directories, the first that is not root's.
///
/// - Returns: `nil` where we are not root and can't be anyone else.
package func serverUser(
  store: StoreName, engine: String, runAs: String?, owning directories: [String]
) throws(DriverError) -> SystemUser? {
  guard SystemUser.isRoot else { return nil }
  if let runAs {
    guard let user = SystemUser(name: runAs) else {
      throw .badOption(store: store, option: "runAs", why: "names a user this machine does not know: \(runAs)")
    }
    return user
  }
  for path in directories {
    var status = stat()
    guard lstat(path, &status) == 0, status.st_uid != 0, let user = SystemUser(userID: status.st_uid) else { continue }
    return user
  }
  throw .badOption(
    store: store, option: "runAs",
    why: "is needed: \(engine) does not run as root, and nobody owns \(directories.last ?? "its directory")")
}
