import CShim
import Core

#if canImport(Glibc)
  import Glibc
#endif

/// An open file descriptor; closed when the last owner lets go. Every call blocks.
package final class File: Sendable {
  package let descriptor: Int32
  package let path: String

  /// - Parameter flags: as for open(2); `O_CLOEXEC` is added.
  package init(_ path: String, _ flags: Int32, mode: mode_t = 0o600) throws(SystemFailure) {
    let descriptor = retryingInterrupts { open(path, flags | O_CLOEXEC, mode) }
    guard descriptor >= 0 else { throw SystemFailure("open", path: path) }
    (self.descriptor, self.path) = (descriptor, path)
  }

  /// Takes over a descriptor.
  package init(adopting descriptor: Int32, path: String) { (self.descriptor, self.path) = (descriptor, path) }

  /// A file without a name that holds `bytes`, to be read from its beginning: what a program is given to read, so that
  /// nobody waits for it to do so, and nothing breaks if it doesn't.
  package static func unnamed(_ bytes: [UInt8]) throws(SystemFailure) -> File {
    let descriptor = salvor_unnamed_file()
    guard descriptor >= 0 else { throw SystemFailure("memfd_create") }
    let file = File(adopting: descriptor, path: "an input")
    let written = bytes.withUnsafeBytes { buffer in Result { () throws(SystemFailure) in try file.write(buffer) } }
    try written.get()
    guard lseek(descriptor, 0, SEEK_SET) == 0 else { throw SystemFailure("lseek", path: file.path) }
    return file
  }

  deinit { close(descriptor) }

  /// - Returns: How many bytes were read; 0 at the end.
  package func read(into buffer: UnsafeMutableRawBufferPointer) throws(SystemFailure) -> Int {
    let count = retryingInterrupts { Glibc.read(descriptor, buffer.baseAddress, buffer.count) }
    guard count >= 0 else { throw SystemFailure("read", path: path) }
    return count
  }

  /// Reads up to `buffer.count` bytes at `offset`, fewer only at the end of the file.
  package func read(at offset: Int64, into buffer: UnsafeMutableRawBufferPointer) throws(SystemFailure) -> Int {
    var done = 0
    while done < buffer.count {
      let count = retryingInterrupts {
        pread(descriptor, buffer.baseAddress! + done, buffer.count - done, off_t(offset) + done)
      }
      guard count >= 0 else { throw SystemFailure("read", path: path) }
      if count == 0 { break }
      done += count
    }
    return done
  }

  /// Up to `count` bytes at `offset`, fewer only at the end of the file.
  package func read(at offset: Int64, count: Int) throws(SystemFailure) -> [UInt8] {
    var failure: SystemFailure?
    let result = [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
      do throws(SystemFailure) {
        initialized = try read(at: offset, into: UnsafeMutableRawBufferPointer(start: buffer.baseAddress, count: count))
      } catch { failure = error }
    }
    if let failure { throw failure }
    return result
  }

  /// Whether nobody but this machine changes what is in its file system: ext2 to ext4, XFS, Btrfs, tmpfs, F2FS, ZFS, bcachefs.
  package func isLocal() throws(SystemFailure) -> Bool {
    var type: UInt64 = 0
    guard salvor_file_system(descriptor, &type) == 0 else { throw SystemFailure("statfs", path: path) }
    return [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xF2F5_2010, 0x2FC1_2FC1, 0xCA45_1A4E].contains(type)
  }

  /// Writes the first `count` bytes of whole pages into an empty file, past the page cache where the file system can:
  /// what nobody reads again soon should not push out what is read.
  ///
  /// - Parameter pages: At a multiple of 4096, and as long as whole pages.
  package func writeUncached(_ pages: UnsafeMutableRawBufferPointer, count: Int) throws(SystemFailure) {
    let flags = fcntl(descriptor, F_GETFL)
    var done = 0
    // A file of a few pages isn't worth the calls.
    if count >= 1 << 16, flags >= 0, fcntl(descriptor, F_SETFL, flags | salvor_o_direct) == 0 {
      let whole = count & ~4095
      while done < whole {
        let written = retryingInterrupts { pwrite(descriptor, pages.baseAddress! + done, whole - done, off_t(done)) }
        // Some take the flag and then refuse the write.
        if written < 0, errno == EINVAL { break }
        guard written >= 0 else { throw SystemFailure("write", path: path) }
        done += written
        if written & 4095 != 0 { break }
      }
      guard fcntl(descriptor, F_SETFL, flags) == 0 else { throw SystemFailure("fcntl", path: path) }
    }
    try write(UnsafeRawBufferPointer(rebasing: pages[done..<count]), at: Int64(done))
  }

  package func write(_ buffer: UnsafeRawBufferPointer) throws(SystemFailure) {
    var done = 0
    while done < buffer.count {
      let count = retryingInterrupts { Glibc.write(descriptor, buffer.baseAddress! + done, buffer.count - done) }
      guard count >= 0 else { throw SystemFailure("write", path: path) }
      done += count
    }
  }

  package func write(_ buffer: UnsafeRawBufferPointer, at offset: Int64) throws(SystemFailure) {
    var done = 0
    while done < buffer.count {
      let count = retryingInterrupts {
        pwrite(descriptor, buffer.baseAddress! + done, buffer.count - done, off_t(offset) + done)
      }
      guard count >= 0 else { throw SystemFailure("write", path: path) }
      done += count
    }
  }

  /// Writes past the page cache what is whole pages of the file, where the file system can, and the rest as usual.
  ///
  /// - Parameter space: At a multiple of 4096, and as long as whole pages; what is written goes through it.
  package func writeUncached(
    _ bytes: UnsafeRawBufferPointer, at offset: Int64, through space: UnsafeMutableRawBufferPointer
  ) throws(SystemFailure) {
    let head = min(bytes.count, Int(-offset & 4095))
    let whole = (bytes.count - head) & ~4095
    func part(_ range: Range<Int>) -> UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: bytes[range]) }
    try write(part(0..<head), at: offset)
    var done = head
    let flags = fcntl(descriptor, F_GETFL)
    if whole > 0, flags >= 0, fcntl(descriptor, F_SETFL, flags | salvor_o_direct) == 0 {
      while done < head + whole {
        let count = min(space.count, head + whole - done)
        space.copyMemory(from: part(done..<done + count))
        let written = retryingInterrupts { pwrite(descriptor, space.baseAddress, count, off_t(offset) + done) }
        // Some take the flag and then refuse the write.
        if written < 0, errno == EINVAL { break }
        guard written >= 0 else { throw SystemFailure("write", path: path) }
        done += written
        if written & 4095 != 0 { break }
      }
      guard fcntl(descriptor, F_SETFL, flags) == 0 else { throw SystemFailure("fcntl", path: path) }
    }
    try write(part(done..<bytes.count), at: offset + Int64(done))
  }

  /// Lets the system begin to write a range to storage, so that less is left for the end; only a hint.
  package func beginWriting(_ range: Range<Int64>) {
    _ = salvor_begin_writing(descriptor, range.lowerBound, Int64(range.count))
  }

  /// Returns once the content is on stable storage.
  package func synchronize() throws(SystemFailure) {
    guard retryingInterrupts({ fsync(descriptor) }) == 0 else { throw SystemFailure("fsync", path: path) }
  }

  package func truncate(to size: Int64) throws(SystemFailure) {
    guard retryingInterrupts({ ftruncate(descriptor, off_t(size)) }) == 0 else {
      throw SystemFailure("truncate", path: path)
    }
  }

  package func status() throws(SystemFailure) -> stat {
    var result = stat()
    guard fstat(descriptor, &result) == 0 else { throw SystemFailure("stat", path: path) }
    return result
  }

  /// When the file was made, in nanoseconds since 1970; 0 where its file system doesn't know.
  package func birthNanoseconds() throws(SystemFailure) -> Int64 {
    var result: Int64 = 0
    guard salvor_birth(descriptor, &result) == 0 else { throw SystemFailure("statx", path: path) }
    return result
  }
}

/// Whole-file and directory operations. Every call blocks.
package enum Files {
  package static func read(_ path: String, limitBytes: Int = .max) throws(SystemFailure) -> [UInt8] {
    let file = try File(path, O_RDONLY)
    let size = Int(try file.status().st_size)
    if size > limitBytes { throw SystemFailure("read", path: path, number: EFBIG) }
    // One more than there should be: the end is seen without making room for more.
    var result = [UInt8](repeating: 0, count: max(size + 1, 4096))
    var count = 0
    while true {
      if count == result.count { result.append(contentsOf: repeatElement(0, count: result.count)) }
      let start = count
      let got = try result.withMutableRawBytes { (bytes) throws(SystemFailure) -> Int in
        try file.read(into: UnsafeMutableRawBufferPointer(rebasing: bytes[start...]))
      }
      if got == 0 { break }
      count += got
      if count > limitBytes { throw SystemFailure("read", path: path, number: EFBIG) }
    }
    result.removeLast(result.count - count)
    return result
  }

  /// Replaces `path` with `bytes`: temporary file in the same directory, fsync, rename, fsync of the directory.
  ///
  /// After any failure the old content is untouched; a leftover `.tmp-…` may remain after a crash.
  package static func replace(_ path: String, with bytes: [UInt8], mode: mode_t = 0o600) throws(SystemFailure) {
    let directory = parent(of: path)
    let temporary = "\(directory)/.tmp-\(getpid())-\(last(of: path))"
    do throws(SystemFailure) {
      let file = try File(temporary, O_WRONLY | O_CREAT | O_TRUNC, mode: mode)
      try bytes.withRawBytes { (raw) throws(SystemFailure) -> Void in try file.write(raw) }
      try file.synchronize()
      guard Glibc.rename(temporary, path) == 0 else { throw SystemFailure("rename", path: path) }
    } catch {
      unlink(temporary)
      throw error
    }
    try synchronizeDirectory(directory)
  }

  /// Whether nobody but this machine changes what is in the file system of `path`. What can't be looked at counts as not.
  package static func isLocal(_ path: String) -> Bool {
    do throws(SystemFailure) { return try File(path, O_RDONLY | O_DIRECTORY).isLocal() } catch { return false }
  }

  package static func synchronizeDirectory(_ path: String) throws(SystemFailure) {
    try File(path, O_RDONLY | O_DIRECTORY).synchronize()
  }

  /// Creates `path` and its missing parents. Existing directories are left as they are.
  package static func createDirectory(_ path: String, mode: mode_t = 0o755) throws(SystemFailure) {
    if mkdir(path, mode) == 0 || errno == EEXIST { return }
    guard errno == ENOENT, path.contains("/"), parent(of: path) != path else {
      throw SystemFailure("mkdir", path: path)
    }
    try createDirectory(parent(of: path), mode: mode)
    guard mkdir(path, mode) == 0 || errno == EEXIST else { throw SystemFailure("mkdir", path: path) }
  }

  /// Whether something is seen there; what can't be looked at counts as absent. Nothing that matters may be decided by
  /// it: that is for ``isThere(_:)``.
  package static func exists(_ path: String) -> Bool {
    var result = stat()
    return lstat(path, &result) == 0
  }

  /// Whether something has this name; a symbolic link counts as itself.
  ///
  /// - Throws: If nobody can tell: no right to look, a disk that fails.
  package static func isThere(_ path: String) throws(SystemFailure) -> Bool {
    var result = stat()
    if lstat(path, &result) == 0 { return true }
    guard errno == ENOENT || errno == ENOTDIR else { throw SystemFailure("lstat", path: path) }
    return false
  }

  package static func isDirectory(_ path: String) -> Bool {
    var result = stat()
    return stat(path, &result) == 0 && result.st_mode & S_IFMT == S_IFDIR
  }

  /// Names in a directory, ascending by their bytes, without `.` and `..`.
  package static func names(in path: String) throws(SystemFailure) -> [FileName] {
    guard let handle = opendir(path) else { throw SystemFailure("opendir", path: path) }
    defer { closedir(handle) }
    var result: [FileName] = []
    while true {
      errno = 0
      guard let entry = readdir(handle) else {
        if errno != 0 { throw SystemFailure("readdir", path: path) }
        break
      }
      let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        pointer.withMemoryRebound(to: UInt8.self, capacity: 256) { bytes in
          FileName(
            bytes: Array(
              UnsafeBufferPointer(
                start: bytes, count: strlen(UnsafeRawPointer(bytes).assumingMemoryBound(to: CChar.self)))))
        }
      }
      if name.bytes != [46], name.bytes != [46, 46] { result.append(name) }
    }
    result.sort()
    return result
  }

  /// Removes a file, or a directory with all that is in it; never follows a symbolic link. Nothing there is fine.
  package static func removeTree(_ path: String) throws(SystemFailure) {
    if unlink(path) == 0 || errno == ENOENT { return }
    guard errno == EISDIR || errno == EPERM else { throw SystemFailure("unlink", path: path) }
    for name in try names(in: path) {
      try removeTree(path + "/" + name.lossyText, exact: Array(path.utf8) + [47] + name.bytes)
    }
    guard rmdir(path) == 0 || errno == ENOENT else { throw SystemFailure("rmdir", path: path) }
  }

  private static func removeTree(_ shown: String, exact: [UInt8]) throws(SystemFailure) {
    let path = exact.map { CChar(bitPattern: $0) } + [0]
    if unlink(path) == 0 || errno == ENOENT { return }
    guard errno == EISDIR || errno == EPERM else { throw SystemFailure("unlink", path: shown) }
    guard let handle = opendir(path) else { throw SystemFailure("opendir", path: shown) }
    var children: [[UInt8]] = []
    while let entry = readdir(handle) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        pointer.withMemoryRebound(to: CChar.self, capacity: 256) {
          Array(UnsafeBufferPointer(start: $0, count: strlen($0)))
        }
      }.map { UInt8(bitPattern: $0) }
      if name != [46], name != [46, 46] { children.append(name) }
    }
    closedir(handle)
    for child in children {
      try removeTree(shown + "/" + String(decoding: child, as: UTF8.self), exact: exact + [47] + child)
    }
    guard rmdir(path) == 0 || errno == ENOENT else { throw SystemFailure("rmdir", path: shown) }
  }

  package static func rename(_ from: String, to: String) throws(SystemFailure) {
    guard Glibc.rename(from, to) == 0 else { throw SystemFailure("rename", path: from) }
  }

  /// Both names swap what they stand for, atomically.
  ///
  /// - Throws: EINVAL or ENOSYS where the file system can't.
  package static func exchange(_ a: String, _ b: String) throws(SystemFailure) {
    guard salvor_rename_exchange(a, b) == 0 else { throw SystemFailure("exchange", path: a) }
  }

  /// A rename that never replaces anything: EEXIST if `to` is there.
  package static func renameExclusive(_ from: String, to: String) throws(SystemFailure) {
    if salvor_rename_exclusive(from, to) == 0 { return }
    // Some file systems don't know the flag; the check is not atomic there.
    guard errno == EINVAL || errno == ENOSYS else { throw SystemFailure("rename", path: from) }
    guard !exists(to) else { throw SystemFailure("rename", path: to, number: EEXIST) }
    try rename(from, to: to)
  }

  /// Lifts this process's soft limit on open files to the hard one.
  ///
  /// - Returns: How many it may have open now.
  @discardableResult
  package static func raiseOpenFileLimit() -> Int {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 256 }
    if limit.rlim_cur < limit.rlim_max {
      limit.rlim_cur = limit.rlim_max
      setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
      getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }
    return Int(clamping: limit.rlim_cur)
  }

  /// Free bytes for an unprivileged writer on the file system that holds `path`.
  package static func freeBytes(at path: String) throws(SystemFailure) -> Int64 {
    var result = statvfs()
    guard statvfs(path, &result) == 0 else { throw SystemFailure("statvfs", path: path) }
    return Int64(result.f_bavail) * Int64(result.f_frsize)
  }

  package static func parent(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }

  package static func last(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return path }
    return String(path[path.index(after: slash)...])
  }
}
