import CShim
import Core
import Glibc
import IO

/// Writes real files, with their metadata, for ``MemoryTree``.
final class TreeWriter {
  private let root: String
  private var directories: [(path: [CChar], metadata: FileMetadata)] = []
  /// The first name of each file that has several.
  private var linked: [[UInt64]: [CChar]] = [:]

  /// - Throws: Unless `root` is absent or an empty directory.
  init(_ root: String) throws {
    self.root = root
    try Files.createDirectory(root, mode: 0o700)
    guard try Files.names(in: root).isEmpty else { throw ContractBroken("\(root) must be empty to materialise there") }
  }

  func write(_ entry: TreeEntry, _ content: [UInt8]) throws {
    let path = entry.path.bytes(below: root).map { CChar(bitPattern: $0) } + [0]
    let shown = "\(root)/\(entry.path)"
    let metadata = entry.metadata
    switch metadata.kind {
    case .directory:
      guard mkdir(path, 0o700) == 0 else { throw SystemFailure("mkdir", path: shown) }
      directories.append((path, metadata))
      return
    case .regular:
      if metadata.links > 1, metadata.inode != 0, let first = linked[[metadata.device, metadata.inode]] {
        guard link(first, path) == 0 else { throw SystemFailure("link", path: shown) }
        return
      }
      let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
      guard descriptor >= 0 else { throw SystemFailure("open", path: shown) }
      let file = File(adopting: descriptor, path: shown)
      try content.withUnsafeBytes { try file.write($0) }
      try file.synchronize()
      if metadata.links > 1 { linked[[metadata.device, metadata.inode]] = path }
    case .symbolicLink(let target):
      guard symlink(target.map { CChar(bitPattern: $0) } + [0], path) == 0 else {
        throw SystemFailure("symlink", path: shown)
      }
    case .fifo:
      guard mkfifo(path, 0o600) == 0 else { throw SystemFailure("mkfifo", path: shown) }
    case .socket:
      guard mknod(path, S_IFSOCK | 0o600, 0) == 0 else { throw SystemFailure("mknod", path: shown) }
    case .characterDevice(let number):
      guard mknod(path, S_IFCHR | 0o600, dev_t(number)) == 0 else { throw SystemFailure("mknod", path: shown) }
    case .blockDevice(let number):
      guard mknod(path, S_IFBLK | 0o600, dev_t(number)) == 0 else { throw SystemFailure("mknod", path: shown) }
    }
    try apply(metadata, to: path, shown)
  }

  /// Directories last and deepest first: writing into one changes its time.
  func finish(root metadata: FileMetadata?) throws {
    for directory in directories.reversed() { try apply(directory.metadata, to: directory.path, root) }
    if let metadata { try apply(metadata, to: root.utf8.map { CChar(bitPattern: $0) } + [0], root) }
    try Files.synchronizeDirectory(root)
  }

  private func apply(_ metadata: FileMetadata, to path: [CChar], _ shown: String) throws {
    if geteuid() == 0, lchown(path, metadata.userID, metadata.groupID) != 0 {
      throw SystemFailure("chown", path: shown)
    }
    var isLink = false
    if case .symbolicLink = metadata.kind { isLink = true }
    if !isLink, chmod(path, mode_t(metadata.permissions)) != 0 { throw SystemFailure("chmod", path: shown) }
    for attribute in metadata.extendedAttributes {
      guard salvor_lsetxattr(path, attribute.name, attribute.value, attribute.value.count) == 0 else {
        throw SystemFailure("setxattr", path: shown)
      }
    }
    let nanoseconds = metadata.modified.nanoseconds
    var (seconds, rest) = nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
    if rest < 0 { (seconds, rest) = (seconds - 1, rest + 1_000_000_000) }
    let time = timespec(tv_sec: Int(seconds), tv_nsec: Int(rest))
    guard utimensat(AT_FDCWD, path, [time, time], AT_SYMLINK_NOFOLLOW) == 0 else {
      throw SystemFailure("utimensat", path: shown)
    }
  }
}
