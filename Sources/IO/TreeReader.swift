import CShim
import Core

#if canImport(Glibc)
  import Glibc
#endif

/// An open directory that is read entry by entry, by descriptor: no path is resolved twice, and no symbolic link
/// is followed below the first. Every call blocks.
package final class DirectoryReader: Sendable {
  private let file: File
  /// For messages only.
  package let shownPath: String

  private init(_ file: File, _ shownPath: String) { (self.file, self.shownPath) = (file, shownPath) }

  /// Follows symbolic links in `path`, its last component included: it is what the operator named.
  package convenience init(_ path: String) throws(SystemFailure) {
    self.init(try File(path, O_RDONLY | O_DIRECTORY), path == "/" ? "" : path)
  }

  /// Opens a directory by its path from the root, whose bytes need not be UTF-8; symbolic links are followed.
  package static func at(_ path: TreePath) throws(SystemFailure) -> DirectoryReader {
    let bytes = path.components.isEmpty ? [47] : path.bytes(below: "")
    let descriptor = FileName(bytes: bytes).withCString { pointer in
      retryingInterrupts { Glibc.open(pointer, O_RDONLY | O_DIRECTORY | O_CLOEXEC) }
    }
    let shown = path.components.isEmpty ? "" : "/\(path)"
    guard descriptor >= 0 else { throw SystemFailure("open", path: shown) }
    return DirectoryReader(File(adopting: descriptor, path: shown), shown)
  }

  /// Opens a directory in this one.
  package func directory(_ name: FileName) throws(SystemFailure) -> DirectoryReader {
    DirectoryReader(try open(name, O_RDONLY | O_DIRECTORY), shown(name))
  }

  package func shown(_ name: FileName) -> String { "\(shownPath)/\(name.lossyText)" }

  /// The directory itself, for calls that take a descriptor; closed with the reader.
  package var descriptor: Int32 { file.descriptor }

  /// Names ascending by their bytes, without `.` and `..`.
  package func names() throws(SystemFailure) -> [FileName] {
    try Self.names(of: file.descriptor, shown: shownPath)
  }

  static func names(of descriptor: Int32, shown shownPath: String) throws(SystemFailure) -> [FileName] {
    // A descriptor of its own: the stream's position would be shared otherwise.
    let copy = retryingInterrupts { openat(descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) }
    guard copy >= 0 else { throw SystemFailure("open", path: shownPath) }
    guard let stream = fdopendir(copy) else {
      let failure = SystemFailure("opendir", path: shownPath)
      close(copy)
      throw failure
    }
    defer { closedir(stream) }
    var result: [FileName] = []
    let nameOffset = MemoryLayout<dirent>.offset(of: \dirent.d_name) ?? 19
    while true {
      errno = 0
      guard let entry = readdir(stream) else {
        if errno != 0 { throw SystemFailure("readdir", path: shownPath) }
        break
      }
      let start = UnsafeRawPointer(entry) + nameOffset
      let length = strlen(start.assumingMemoryBound(to: CChar.self))
      let bytes = [UInt8](UnsafeRawBufferPointer(start: start, count: length))
      if bytes != [46], bytes != [46, 46] { result.append(FileName(bytes: bytes)) }
    }
    result.sort()
    return result
  }

  package func status() throws(SystemFailure) -> stat { try file.status() }

  /// Whether nobody but this machine changes what is in its file system.
  package func isLocal() throws(SystemFailure) -> Bool { try file.isLocal() }

  /// This directory's own metadata.
  package func metadata(_ accounts: AccountNames = .shared) throws(SystemFailure) -> FileMetadata {
    try FileMetadata(
      try file.status(), target: [], attributes: attributes("/proc/self/fd/\(file.descriptor)/."), accounts)
  }

  /// Everything there is to know of an entry but its content.
  package func metadata(of name: FileName, _ accounts: AccountNames = .shared) throws(SystemFailure) -> FileMetadata {
    var status = stat()
    let code = name.withCString { fstatat(file.descriptor, $0, &status, AT_SYMLINK_NOFOLLOW) }
    guard code == 0 else { throw SystemFailure("stat", path: shown(name)) }
    let target = status.st_mode & S_IFMT == S_IFLNK ? try linkTarget(name) : []
    let hasNone = name.withCString { salvor_listxattrat(file.descriptor, $0, nil, 0) } == 0
    let attributes = hasNone ? [] : try attributes("/proc/self/fd/\(file.descriptor)/", name)
    return try FileMetadata(status, target: target, attributes: attributes, accounts)
  }

  /// Opens a regular file for reading; its access time stays as it is where the kernel allows that.
  ///
  /// - Throws: `ELOOP` if the name has become a symbolic link, `EINVAL` if it isn't a regular file any more.
  package func open(_ name: FileName) throws(SystemFailure) -> (file: File, status: stat) {
    // O_NONBLOCK: a fifo put in the file's place must not hang the backup.
    let opened: File
    do throws(SystemFailure) {
      opened = try open(name, O_RDONLY | O_NONBLOCK | salvor_o_noatime)
    } catch {
      guard error.number == EPERM else { throw error }
      opened = try open(name, O_RDONLY | O_NONBLOCK)
    }
    let status = try opened.status()
    guard status.st_mode & S_IFMT == S_IFREG else { throw SystemFailure("open", path: shown(name), number: EINVAL) }
    return (opened, status)
  }

  private func open(_ name: FileName, _ flags: Int32) throws(SystemFailure) -> File {
    let descriptor = name.withCString { pointer in
      retryingInterrupts { openat(file.descriptor, pointer, flags | O_NOFOLLOW | O_CLOEXEC) }
    }
    guard descriptor >= 0 else { throw SystemFailure("open", path: shown(name)) }
    return File(adopting: descriptor, path: shown(name))
  }

  private func linkTarget(_ name: FileName) throws(SystemFailure) -> [UInt8] {
    var size = 256
    while true {
      let target = withUnsafeTemporaryAllocation(byteCount: size, alignment: 1) { buffer -> [UInt8]? in
        let count = name.withCString { readlinkat(file.descriptor, $0, buffer.baseAddress!, size) }
        return count < 0 ? nil : Array(buffer[..<count])
      }
      guard let target else { throw SystemFailure("readlink", path: shown(name)) }
      if target.count < size { return target }
      size *= 4
    }
  }

  private func attributes(_ base: String, _ name: FileName? = nil) throws(SystemFailure) -> [ExtendedAttribute] {
    var path = Array(base.utf8)
    if let name { path += name.bytes }
    path.append(0)
    let shownName = name.map(shown) ?? shownPath
    return try path.withRawBytes { (raw) throws(SystemFailure) in
      guard let pointer = raw.assumingMemoryBound(to: CChar.self).baseAddress else { return [] }
      return try readAttributes(pointer, shownName)
    }
  }
}

/// Extended attributes of the file at `path`, which isn't followed; ascending by name.
private func readAttributes(
  _ path: UnsafePointer<CChar>, _ shown: String
) throws(SystemFailure) -> [ExtendedAttribute] {
  var list: [UInt8] = []
  while true {
    let needed = salvor_llistxattr(path, nil, 0)
    if needed <= 0 {
      if needed == 0 || errno == ENOTSUP { return [] }
      throw SystemFailure("listxattr", path: shown)
    }
    list = [UInt8](repeating: 0, count: needed)
    let got = list.withUnsafeMutableBytes { buffer in
      salvor_llistxattr(path, buffer.assumingMemoryBound(to: CChar.self).baseAddress, buffer.count)
    }
    if got >= 0 {
      list.removeLast(list.count - got)
      break
    }
    if errno != ERANGE { throw SystemFailure("listxattr", path: shown) }
  }
  var result: [ExtendedAttribute] = []
  for nameBytes in list.split(separator: 0) {
    let name = String(decoding: nameBytes, as: UTF8.self)
    var size = 256
    while true {
      let (count, value) = withUnsafeTemporaryAllocation(byteCount: size, alignment: 8) { buffer -> (Int, [UInt8]) in
        let count = salvor_lgetxattr(path, name, buffer.baseAddress, buffer.count)
        return (count, count < 0 ? [] : Array(buffer[..<count]))
      }
      if count >= 0 {
        result.append(ExtendedAttribute(name: name, value: value))
        break
      }
      if errno == ERANGE, size < 1 << 20 {
        size = 1 << 17
        if salvor_lgetxattr(path, name, nil, 0) > size { size = 1 << 20 }
        continue
      }
      // Gone between the two calls.
      if errno == ENODATA { break }
      throw SystemFailure("getxattr", path: shown)
    }
  }
  result.sort { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
  return result
}

extension FileName {
  package func withCString<T>(_ body: (UnsafePointer<CChar>) -> T) -> T {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: bytes.count + 1) { buffer in
      for (index, byte) in bytes.enumerated() { buffer[index] = CChar(bitPattern: byte) }
      buffer[bytes.count] = 0
      return body(UnsafePointer(buffer.baseAddress!))
    }
  }
}

extension FileMetadata {
  /// What stat(2) said.
  ///
  /// - Throws: `EINVAL` for a kind of file that POSIX doesn't know.
  package init(
    _ status: stat, target: [UInt8], attributes: [ExtendedAttribute], _ accounts: AccountNames
  ) throws(SystemFailure) {
    let kind: FileKind
    switch status.st_mode & S_IFMT {
    case S_IFREG: kind = .regular
    case S_IFDIR: kind = .directory
    case S_IFLNK: kind = .symbolicLink(target: target)
    case S_IFIFO: kind = .fifo
    case S_IFSOCK: kind = .socket
    case S_IFCHR: kind = .characterDevice(number: UInt64(status.st_rdev))
    case S_IFBLK: kind = .blockDevice(number: UInt64(status.st_rdev))
    default: throw SystemFailure("stat", number: EINVAL)
    }
    self.init(
      kind: kind, permissions: UInt16(status.st_mode & 0o7777), userID: status.st_uid, groupID: status.st_gid,
      userName: accounts.user(status.st_uid), groupName: accounts.group(status.st_gid),
      size: kind == .regular ? Int64(status.st_size) : 0, modified: Timestamp(status.st_mtim),
      accessed: Timestamp(status.st_atim), changed: Timestamp(status.st_ctim), device: UInt64(status.st_dev),
      inode: UInt64(status.st_ino), links: UInt64(status.st_nlink), extendedAttributes: attributes)
  }
}

extension Timestamp {
  /// Moments before 1678 or after 2261 become the first or the last there is.
  package init(_ time: timespec) {
    let (scaled, overflow) = Int64(time.tv_sec).multipliedReportingOverflow(by: 1_000_000_000)
    if overflow {
      self.init(nanoseconds: time.tv_sec < 0 ? .min : .max)
    } else {
      let (sum, carry) = scaled.addingReportingOverflow(Int64(time.tv_nsec))
      self.init(nanoseconds: carry ? .max : sum)
    }
  }

  package var timespec: timespec {
    var (seconds, nanos) = nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
    if nanos < 0 { (seconds, nanos) = (seconds - 1, nanos + 1_000_000_000) }
    return Glibc.timespec(tv_sec: Int(seconds), tv_nsec: Int(nanos))
  }
}

/// A whole tree's metadata at once.
package enum TreeReader {
  /// Every entry below `directory`, parents before children, siblings ascending by name; never follows a symbolic link
  /// below it.
  package static func scan(
    _ directory: String, accounts: AccountNames = .shared
  ) throws(SystemFailure) -> [TreeEntry] {
    var result: [TreeEntry] = []
    let root = try DirectoryReader(directory)
    // An explicit stack: the depth is the file system's to choose.
    var stack: [(directory: DirectoryReader, path: TreePath, names: ArraySlice<FileName>)] = [
      (root, TreePath(), try root.names()[...])
    ]
    while let top = stack.indices.last {
      guard let name = stack[top].names.popFirst() else {
        stack.removeLast()
        continue
      }
      let (directory, path) = (stack[top].directory, stack[top].path.appending(name))
      let metadata = try directory.metadata(of: name, accounts)
      result.append(TreeEntry(path: path, metadata: metadata))
      if metadata.kind == .directory {
        let child = try directory.directory(name)
        stack.append((child, path, try child.names()[...]))
      }
    }
    return result
  }
}
