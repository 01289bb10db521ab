import Core
import Glibc
import IO

/// A copy of a directory that is brought up to date a second time while nothing writes to the original. Calls block.
package struct DirectoryCopy: Sendable {
  private struct Stamp: Equatable, Sendable {
    var inode: UInt64
    var size: Int64
    /// When anything of it was last changed, which nobody can set: a time of modification can be put back, or lie in the future.
    var changed: Timestamp
  }

  /// How much of a file that only grows is in the copy.
  private struct Begun: Sendable {
    var inode: UInt64
    var size: Int64
  }

  package let from: String
  package let to: String
  private let growsOnly: @Sendable (TreePath) -> Bool
  private var stamps: [TreePath: Stamp] = [:]
  private var begun: [TreePath: Begun] = [:]
  /// What the last call read.
  package private(set) var lastBytes: Int64 = 0

  /// - Parameter growsOnly: Whether a file is only ever appended to: what was copied of it is not read again.
  package init(from: String, to: String, growsOnly: @escaping @Sendable (TreePath) -> Bool = { _ in false }) {
    (self.from, self.to, self.growsOnly) = (from, to, growsOnly)
  }

  /// - Parameter isStill: Nobody writes: a file that can't be read is an error then, and what is there no more is removed.
  package mutating func bringUpToDate(isStill: Bool) throws(SystemFailure) {
    var found: [TreePath: Stamp] = [:]
    lastBytes = 0
    try Files.createDirectory(to, mode: 0o700)
    guard Files.exists(from) else {
      try Files.removeTree(to)
      return try Files.createDirectory(to, mode: 0o700)
    }
    let entries: [TreeEntry]
    do throws(SystemFailure) { entries = try TreeReader.scan(from) } catch {
      // A file that went away under the scan: what can't be copied ahead is copied later.
      guard !isStill else { throw error }
      return
    }
    // File systems tell times in ticks: a file changed in the tick of its copy may look as if it had not been.
    let newest = entries.map(\.metadata.changed).max() ?? Timestamp(nanoseconds: 0)
    for entry in entries {
      let target = "\(to)/\(entry.path)"
      switch entry.metadata.kind {
      case .directory: try Files.createDirectory(target, mode: 0o700)
      case .regular:
        let stamp = Stamp(
          inode: entry.metadata.inode, size: entry.metadata.size, changed: entry.metadata.changed)
        if stamps[entry.path] != stamp {
          do throws(SystemFailure) {
            try copy(entry, to: target)
          } catch {
            guard error.number == ENOENT, !isStill else { throw error }
            continue
          }
        }
        if stamp.changed < newest - .seconds(1) { found[entry.path] = stamp }
      default: continue
      }
      if entry.metadata.kind == .directory {
        found[entry.path] = Stamp(inode: 0, size: 0, changed: Timestamp(nanoseconds: 0))
      }
    }
    if isStill {
      let present = Set(entries.map(\.path))
      for entry in try TreeReader.scan(to) where !present.contains(entry.path) {
        try Files.removeTree("\(to)/\(entry.path)")
      }
    }
    stamps = found
  }

  private mutating func copy(_ entry: TreeEntry, to target: String) throws(SystemFailure) {
    let input = try File("\(from)/\(entry.path)", O_RDONLY | O_NOFOLLOW)
    var start: Int64 = 0
    // Grown, and not by anything but its end: a size that was set ahead stays as it is.
    if let known = begun[entry.path], known.inode == entry.metadata.inode, known.size < entry.metadata.size {
      start = known.size
    }
    let output = try File(target, O_WRONLY | O_CREAT | (start > 0 ? 0 : O_TRUNC))
    guard lseek(input.descriptor, off_t(start), SEEK_SET) >= 0, lseek(output.descriptor, off_t(start), SEEK_SET) >= 0
    else { throw SystemFailure("lseek", path: target) }
    begun[entry.path] = nil
    var done = start
    var buffer = [UInt8](repeating: 0, count: 1 << 20)
    while true {
      let count = try buffer.withMutableRawBytes { (raw) throws(SystemFailure) -> Int in try input.read(into: raw) }
      if count == 0 { break }
      try buffer.withRawBytes { (raw) throws(SystemFailure) in
        try output.write(UnsafeRawBufferPointer(rebasing: raw[..<count]))
      }
      done += Int64(count)
    }
    lastBytes += done - start
    if growsOnly(entry.path) { begun[entry.path] = Begun(inode: entry.metadata.inode, size: done) }
  }
}
