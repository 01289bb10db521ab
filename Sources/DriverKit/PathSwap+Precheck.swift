import Core
import Glibc
import IO

extension PathSwap {
  /// What stands in the way of a restore next to the live path. Reads only; blocks.
  ///
  /// - Parameter needsBytes: What the restored state will take; may be anything, it comes from a snapshot.
  package func precheck(needsBytes: Int64) -> [Finding] {
    let parent = Files.parent(of: live)
    guard Files.isDirectory(parent) else {
      return [Finding(Report("DRIVER-601", "there is no directory \(parent)").remedy("create it, or correct the path"))]
    }
    var found: [Finding] = []
    var file = statvfs()
    if statvfs(parent, &file) != 0 {
      found.append(Finding(SystemFailure("statvfs", path: parent).report))
    } else if file.f_flag & UInt(ST_RDONLY) != 0 {
      found.append(Finding(Self.readOnly(parent, "its file system is mounted read-only")))
    } else if access(parent, W_OK | X_OK) != 0 {
      found.append(Finding(Self.readOnly(parent, SystemFailure("access").message.lowercased())))
    }
    if let status = Self.status(live) {
      if status.isLink {
        found.append(
          Finding(
            Report("DRIVER-604", "\(live) is a symbolic link").remedy(
              "name the path it leads to in the catalog instead")))
      } else if let around = Self.status(parent + "/."), around.device != status.device {
        found.append(Finding(Self.mountPoint(live)))
      }
    }
    if let free = try? Files.freeBytes(at: parent) {
      // A twentieth for directories, logs and rounding to blocks.
      let (sum, overflow) = needsBytes.addingReportingOverflow(needsBytes / 20)
      let needs = overflow ? Int64.max : sum
      if needs > free {
        found.append(
          Finding(
            Report("DRIVER-602", "the restore needs \(needs) bytes in \(parent), which has \(free) free")
              .remedy("make room there: the old state is kept until the new one has proved itself")))
      }
    }
    return found
  }

  private static func readOnly(_ path: String, _ why: String) -> Report {
    Report("DRIVER-603", "\(path) can't be written to: \(why)").remedy("make it writable for the user Salvor runs as")
  }

  static func mountPoint(_ path: String) -> Report {
    Report("DRIVER-605", "\(path) is a file system of its own, so nothing can be swapped in its place by renaming")
      .remedy("keep the state in a directory below the mount point")
  }
}
