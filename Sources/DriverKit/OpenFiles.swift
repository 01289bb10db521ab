import Core
import Glibc
import IO

/// Which processes have files open, as far as this user may see: root sees all of this machine's.
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
    guard !wanted.isEmpty else { return [] }
    return users { descriptor in
      var status = stat()
      return stat(descriptor, &status) == 0 && wanted.contains([UInt64(status.st_dev), UInt64(status.st_ino)])
    }
  }

  /// Who has the directory, or anything below it, open; without this process.
  ///
  /// By the names under which the kernel knows open files: one that was opened through another mount of the same tree, as
  /// containers do, is not seen. A process that merely stands in the directory is no user of it.
  package static func users(below directory: String) -> [User] {
    guard let resolved = realpath(directory, nil) else { return [] }
    defer { free(resolved) }
    let root = Array(String(cString: resolved).utf8)
    var buffer = [UInt8](repeating: 0, count: Int(PATH_MAX))
    return users { descriptor in
      let count = readlink(descriptor, into: &buffer)
      return count >= root.count && buffer.starts(with: root) && (count == root.count || buffer[root.count] == 0x2f)
    }.filter { $0.processID != getpid() }
  }

  private static func readlink(_ path: String, into buffer: inout [UInt8]) -> Int {
    buffer.withUnsafeMutableBytes { raw in
      raw.withMemoryRebound(to: CChar.self) { Glibc.readlink(path, $0.baseAddress!, $0.count) }
    }
  }

  private static func users(_ isOne: (_ descriptor: String) -> Bool) -> [User] {
    guard let processes = try? Files.names(in: "/proc") else { return [] }
    var found: [User] = []
    for process in processes {
      guard let id = Int32(process.lossyText), let descriptors = try? Files.names(in: "/proc/\(id)/fd") else {
        continue
      }
      guard descriptors.contains(where: { isOne("/proc/\(id)/fd/\($0)") }) else { continue }
      let name = (try? Files.read("/proc/\(id)/comm", limitBytes: 4096)) ?? []
      found.append(User(processID: id, command: String(decoding: name.prefix { $0 != 10 }, as: UTF8.self)))
    }
    return found.sorted { $0.processID < $1.processID }
  }
}
