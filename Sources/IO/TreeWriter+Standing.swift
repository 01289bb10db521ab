import CShim
import Core

#if canImport(Glibc)
  import Glibc
#endif

/// What stands under a name already, as far as it matters to whoever wants to write there.
package struct StandingEntry: Hashable, Sendable {
  package var isRegular: Bool
  package var isDirectory: Bool
  package var device: UInt64
  package var inode: UInt64
  /// Names of this file, wherever they are.
  package var links: UInt64
  package var size: Int64
  package var modified: Timestamp
  private var type: mode_t
  private var number: UInt64

  init(_ status: stat) {
    type = status.st_mode & S_IFMT
    (isRegular, isDirectory) = (type == S_IFREG, type == S_IFDIR)
    (device, inode, number) = (UInt64(status.st_dev), UInt64(status.st_ino), UInt64(status.st_rdev))
    (links, size) = (UInt64(status.st_nlink), Int64(status.st_size))
    modified = Timestamp(status.st_mtim)
  }

  /// Whether both are names of one file.
  package func isSameFile(_ other: StandingEntry) -> Bool { device == other.device && inode == other.inode }

  /// Whether it is a fifo, a socket or a device like that one.
  package func isSpecial(_ kind: FileKind) -> Bool {
    switch kind {
    case .fifo: type == S_IFIFO
    case .socket: type == S_IFSOCK
    case .characterDevice(let number): type == S_IFCHR && self.number == number
    case .blockDevice(let number): type == S_IFBLK && self.number == number
    case .regular, .directory, .symbolicLink: false
    }
  }
}

/// Working on what is there already: nothing here follows a symbolic link, and nothing removes a directory.
extension TargetDirectory {
  /// - Returns: `nil` if nothing stands there.
  package func standing(_ name: FileName) throws(SystemFailure) -> StandingEntry? {
    var status = stat()
    guard name.withCString({ fstatat(file.descriptor, $0, &status, AT_SYMLINK_NOFOLLOW) }) == 0 else {
      if errno == ENOENT { return nil }
      throw SystemFailure("stat", path: shown(name))
    }
    return StandingEntry(status)
  }

  /// Whether a symbolic link stands there that leads to `target`.
  package func isLink(_ name: FileName, to target: [UInt8]) -> Bool {
    withUnsafeTemporaryAllocation(byteCount: target.count + 1, alignment: 1) { buffer in
      let count = name.withCString { readlinkat(file.descriptor, $0, buffer.baseAddress!, buffer.count) }
      return count == target.count && buffer.prefix(count).elementsEqual(target)
    }
  }

  /// Opens a regular file for reading.
  ///
  /// - Throws: `ESTALE` if it isn't `expected` any more.
  package func openStanding(_ name: FileName, _ expected: StandingEntry) throws(SystemFailure) -> File {
    // A fifo put in the file's place must not hang the restore.
    try open(name, O_RDONLY | O_NONBLOCK, expected)
  }

  /// Opens a regular file for writing, and shuts it for everybody else: what it will hold may be meant for fewer eyes.
  ///
  /// - Throws: `ESTALE` if it isn't `expected` any more, `ETXTBSY` if it is a program that runs.
  package func openStandingForWriting(_ name: FileName, _ expected: StandingEntry) throws(SystemFailure) -> File {
    let reader = try openStanding(name, expected)
    guard fchmod(reader.descriptor, 0o600) == 0 else { throw SystemFailure("chmod", path: shown(name)) }
    return try open(name, O_RDWR | O_NONBLOCK, expected)
  }

  private func open(
    _ name: FileName, _ flags: Int32, _ expected: StandingEntry
  ) throws(SystemFailure) -> File {
    let descriptor = name.withCString { pointer in
      retryingInterrupts { openat(file.descriptor, pointer, flags | O_NOFOLLOW | O_CLOEXEC) }
    }
    guard descriptor >= 0 else { throw SystemFailure("open", path: shown(name)) }
    let opened = File(adopting: descriptor, path: shown(name))
    let found = StandingEntry(try opened.status())
    guard found.isRegular, found.isSameFile(expected), found.links <= expected.links else {
      throw SystemFailure("open", path: shown(name), number: ESTALE)
    }
    return opened
  }

  /// Takes a name away that is no directory's.
  package func remove(_ name: FileName) throws(SystemFailure) {
    guard name.withCString({ unlinkat(file.descriptor, $0, 0) }) == 0 || errno == ENOENT else {
      throw SystemFailure("unlink", path: shown(name))
    }
  }
}

extension File {
  /// Removes attributes that `metadata` doesn't have, access control lists among them.
  package func removeAttributes(notIn metadata: FileMetadata, _ rights: RestoreRights) throws(SystemFailure) {
    let wanted = Set(metadata.extendedAttributes.map(\.name))
    for name in try attributeNames() where !wanted.contains(name) {
      // Some come back by themselves, and some only root may remove.
      if salvor_fremovexattr(descriptor, name) == 0 || errno == ENODATA || rights.mayLack(name, errno) { continue }
      throw SystemFailure("removexattr \(name)", path: path)
    }
  }

  private func attributeNames() throws(SystemFailure) -> [String] {
    var list: [UInt8] = []
    while true {
      let needed = salvor_flistxattr(descriptor, nil, 0)
      if needed == 0 || needed < 0 && errno == ENOTSUP { return [] }
      guard needed > 0 else { throw SystemFailure("listxattr", path: path) }
      list = [UInt8](repeating: 0, count: needed)
      let got = list.withUnsafeMutableBytes { buffer in
        salvor_flistxattr(descriptor, buffer.assumingMemoryBound(to: CChar.self).baseAddress, buffer.count)
      }
      if got >= 0 { return list[..<got].split(separator: 0).map { String(decoding: $0, as: UTF8.self) } }
      // It has one more since.
      guard errno == ERANGE else { throw SystemFailure("listxattr", path: path) }
    }
  }
}
