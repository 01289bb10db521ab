import Core
import Glibc
import IO

/// Which processes have a file open, as far as this user may see: root sees all of this machine's.
package enum OpenFiles {
  package struct User: Hashable, Sendable, CustomStringConvertible {
    package var processID: Int32
    /// The command's name, at most 15 bytes.
    package var command: String

    package var description: String { "\(command) (process \(processID))" }
  }

  /// Looks through `/proc/<pid>/fd`; blocks for some milliseconds per hundred processes. Includes this process.
  ///
  /// - Returns: Ascending by process; empty also if nobody can be seen.
  package static func users(of paths: [String]) -> [User] {
    var wanted: Set<[UInt64]> = []
    for path in paths {
      var status = stat()
      if stat(path, &status) == 0 { wanted.insert([UInt64(status.st_dev), UInt64(status.st_ino)]) }
    }
    guard !wanted.isEmpty, let processes = try? Files.names(in: "/proc") else { return [] }
    var found: [User] = []
    for process in processes {
      guard let id = Int32(process.lossyText), let descriptors = try? Files.names(in: "/proc/\(id)/fd") else {
        continue
      }
      let hasOne = descriptors.contains { descriptor in
        var status = stat()
        return stat("/proc/\(id)/fd/\(descriptor)", &status) == 0
          && wanted.contains([UInt64(status.st_dev), UInt64(status.st_ino)])
      }
      guard hasOne else { continue }
      let name = (try? Files.read("/proc/\(id)/comm", limitBytes: 4096)) ?? []
      found.append(User(processID: id, command: String(decoding: name.prefix { $0 != 10 }, as: UTF8.self)))
    }
    return found.sorted { $0.processID < $1.processID }
  }
}
