import CShim
import Core
import DriverKit
import Glibc
import IO

/// Tells which entries of a tree may have changed, by inotify(7).
///
/// The kernel notes an event before the call that made it returns. So whoever has made all writers wait, and then empties the
/// queue, knows every entry that isn't as it was. What an event says is never believed: it only names what to look at. Not
/// noted are stores into memory mapped from a file (only its cut to size is), changes through a name outside the tree, and
/// what other machines do on a shared file system; the latter are refused.
///
/// Used by one task at a time, on the blocking pool.
final class TreeWatch: @unchecked Sendable {
  private static let events =
    UInt32(IN_CREATE | IN_DELETE | IN_MODIFY | IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF)
    | UInt32(IN_MOVE_SELF) | UInt32(IN_ONLYDIR)

  private let tree: Tree
  private let queue: File
  var descriptor: Int32 { queue.descriptor }
  private var paths: [Int32: TreePath] = [:]
  private var numbers: [TreePath: Int32] = [:]
  private var buffer = [UInt8](repeating: 0, count: 1 << 16)

  /// What an emptied queue has named.
  struct News: Sendable {
    /// `true` for those that were written to.
    var touched: [TreePath: Bool] = [:]
    /// There were more events than the kernel keeps: anything may have changed.
    var isOverflown = false

    var isEmpty: Bool { touched.isEmpty && !isOverflown }
  }

  init(_ tree: Tree) throws(DriverError) {
    self.tree = tree
    let descriptor = inotify_init1(Int32(IN_NONBLOCK | IN_CLOEXEC))
    guard descriptor >= 0 else { throw DriverError(SystemFailure("inotify_init", path: tree.root)) }
    queue = File(adopting: descriptor, path: "the watch of \(tree.root)")
  }

  /// Watches a directory and all below it, and lists them; the first entry is `path` itself.
  ///
  /// Each is watched before it is looked at and its names are read, so what changes meanwhile is named later.
  func walk(_ path: TreePath, each: (TreeEntry) -> Void) throws(DriverError) {
    do throws(SystemFailure) {
      try walk(try tree.directory(path), path, within: nil, each)
    } catch { throw Tree.error(error) }
  }

  private func walk(
    _ directory: DirectoryReader, _ path: TreePath, within device: UInt64?, _ each: (TreeEntry) -> Void
  ) throws(SystemFailure) {
    let own = UInt64(try directory.status().st_dev)
    if own != device { try requireLocal(directory) }
    try watch(directory, path)
    each(TreeEntry(path: path, metadata: try directory.metadata()))
    for name in try directory.names() {
      let child = path.appending(name)
      if tree.isExcluded(child) { continue }
      do throws(SystemFailure) {
        let metadata = try directory.metadata(of: name)
        if metadata.kind == .directory {
          try walk(try directory.directory(name), child, within: own, each)
        } else {
          each(TreeEntry(path: child, metadata: metadata))
        }
      } catch {
        // It is gone, or something else by now, and that was noted.
        guard [ENOENT, ENOTDIR, ELOOP].contains(error.number) else { throw error }
      }
    }
  }

  private func requireLocal(_ directory: DirectoryReader) throws(SystemFailure) {
    guard try directory.isLocal() else {
      throw SystemFailure(
        "watch a file system that other machines may change", path: directory.shownPath, number: ENOTSUP)
    }
  }

  private func watch(_ directory: DirectoryReader, _ path: TreePath) throws(SystemFailure) {
    let number = inotify_add_watch(queue.descriptor, "/proc/self/fd/\(directory.descriptor)", Self.events)
    guard number >= 0 else { throw SystemFailure("watch", path: directory.shownPath) }
    // The same directory under another name.
    if let old = paths[number], numbers[old] == number { numbers[old] = nil }
    if let old = numbers[path], old != number { drop(old) }
    (paths[number], numbers[path]) = (path, number)
  }

  /// Nothing below is named any more.
  func forget(_ path: TreePath) {
    if let number = numbers.removeValue(forKey: path) { drop(number) }
  }

  private func drop(_ number: Int32) {
    paths[number] = nil
    inotify_rm_watch(queue.descriptor, number)
  }

  /// Empties the queue.
  func news() throws(DriverError) -> News {
    var news = News()
    while true {
      let count = buffer.withUnsafeMutableBytes { raw in
        retryingInterrupts { read(queue.descriptor, raw.baseAddress, raw.count) }
      }
      if count < 0 {
        if errno == EAGAIN { return news }
        throw DriverError(SystemFailure("read", path: queue.path))
      }
      if count == 0 { return news }
      take(count, &news)
    }
  }

  private func take(_ count: Int, _ news: inout News) {
    var at = 0
    while at + 16 <= count {
      let (number, mask, size) = buffer.withUnsafeBytes { raw in
        (
          raw.loadUnaligned(fromByteOffset: at, as: Int32.self),
          raw.loadUnaligned(fromByteOffset: at + 4, as: UInt32.self),
          Int(raw.loadUnaligned(fromByteOffset: at + 12, as: UInt32.self))
        )
      }
      let name = buffer[(at + 16)..<min(count, at + 16 + size)].prefix { $0 != 0 }
      at += 16 + size
      if mask & UInt32(IN_Q_OVERFLOW) != 0 { news.isOverflown = true }
      guard let directory = paths[number] else { continue }
      let isWritten = mask & UInt32(IN_MODIFY) != 0
      // A directory's own times change with its entries.
      news.touched[directory] = news.touched[directory] ?? false
      if !name.isEmpty {
        let path = directory.appending(FileName(bytes: Array(name)))
        if !tree.isExcluded(path) { news.touched[path] = isWritten || news.touched[path] ?? false }
      }
      if mask & UInt32(IN_IGNORED) != 0 {
        paths[number] = nil
        if numbers[directory] == number { numbers[directory] = nil }
      }
    }
  }
}
