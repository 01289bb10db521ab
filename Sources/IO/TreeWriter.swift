import CShim
import Core

#if canImport(Glibc)
  import Glibc
#endif

/// A directory that a tree is written into, and nothing outside of it, whatever links someone plants in it meanwhile.
///
/// Source: openat2(2), RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS. Every call blocks.
package final class TreeTarget: Sendable {
  private let root: File
  package let path: String

  /// Opens `path`, made with mode 0700 if it is absent. Symbolic links in `path` itself are followed.
  package init(_ path: String) throws(SystemFailure) {
    if !Files.exists(path) { try Files.createDirectory(path, mode: 0o700) }
    root = try File(path, O_RDONLY | O_DIRECTORY)
    self.path = path
  }

  package func isEmpty() throws(SystemFailure) -> Bool { try Files.names(in: path).isEmpty }

  /// Opens what stands at `relative` below the root; no component may be a symbolic link.
  ///
  /// Paths longer than the kernel takes at once are walked piece by piece.
  package func open(_ relative: TreePath, _ flags: Int32, mode: mode_t = 0o600) throws(SystemFailure) -> File {
    if relative.components.isEmpty { return try Self.open(root, [46], flags, mode, shown(relative)) }
    var from = root
    var piece: [UInt8] = []
    for (index, name) in relative.components.enumerated() {
      if piece.count + name.bytes.count > 3000 {
        from = try Self.open(from, piece, salvor_o_path | O_DIRECTORY, 0, shown(relative))
        piece = []
      }
      if !piece.isEmpty { piece.append(47) }
      piece += name.bytes
      if index == relative.components.count - 1 {
        return try Self.open(from, piece, flags, mode, shown(relative))
      }
    }
    return from
  }

  package func directory(_ relative: TreePath) throws(SystemFailure) -> TargetDirectory {
    TargetDirectory(try open(relative, O_RDONLY | O_DIRECTORY | O_NOFOLLOW), shown(relative))
  }

  /// Returns once everything on the target's file system is on stable storage.
  package func synchronize() throws(SystemFailure) {
    guard retryingInterrupts({ salvor_syncfs(root.descriptor) }) == 0 else { throw SystemFailure("syncfs", path: path) }
  }

  /// What new files below this directory get by themselves; `nil` if that can't be told beforehand.
  package func defaults() -> NewFileDefaults? {
    guard let status = try? root.status(), status.st_mode & S_ISGID == 0, status.st_gid == getegid(),
      let text = try? Files.read("/proc/self/status", limitBytes: 1 << 20),
      let line = String(decoding: text, as: UTF8.self).split(separator: "\n").first(where: { $0.hasPrefix("Umask:") }),
      let umask = UInt16(line.dropFirst(6).trimmingPrefix(while: \.isWhitespace), radix: 8)
    else { return nil }
    // A default ACL decides otherwise, and is inherited.
    let acl = salvor_lgetxattr("/proc/self/fd/\(root.descriptor)/.", "system.posix_acl_default", nil, 0)
    guard acl < 0, errno == ENODATA || errno == ENOTSUP else { return nil }
    return NewFileDefaults(userID: geteuid(), groupID: getegid(), umask: umask)
  }

  private func shown(_ relative: TreePath) -> String { relative.components.isEmpty ? path : "\(path)/\(relative)" }

  private static func open(
    _ from: File, _ path: [UInt8], _ flags: Int32, _ mode: mode_t, _ shown: String
  ) throws(SystemFailure) -> File {
    let descriptor = FileName(bytes: path).withCString { pointer in
      retryingInterrupts { salvor_open_beneath(from.descriptor, pointer, flags | O_NOFOLLOW, mode) }
    }
    guard descriptor >= 0 else { throw SystemFailure("open", path: shown) }
    return File(adopting: descriptor, path: shown)
  }
}

/// One open directory of a ``TreeTarget``. Names are single components; nothing that exists is replaced.
package final class TargetDirectory: Sendable {
  let file: File
  private let shownPath: String

  init(_ file: File, _ shownPath: String) { (self.file, self.shownPath) = (file, shownPath) }

  package func makeDirectory(_ name: FileName) throws(SystemFailure) {
    try check(name.withCString { mkdirat(file.descriptor, $0, 0o700) }, "mkdir", name)
  }

  /// Makes an empty file; fails if the name is taken.
  package func createFile(_ name: FileName, mode: UInt16 = 0o600) throws(SystemFailure) -> File {
    let descriptor = name.withCString { pointer in
      retryingInterrupts {
        openat(file.descriptor, pointer, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode_t(mode))
      }
    }
    try check(descriptor, "create", name)
    return File(adopting: descriptor, path: shown(name))
  }

  /// Opens a regular file that is there, for writing.
  package func openFile(_ name: FileName) throws(SystemFailure) -> File {
    let descriptor = name.withCString { pointer in
      retryingInterrupts { openat(file.descriptor, pointer, O_RDWR | O_NOFOLLOW | O_CLOEXEC) }
    }
    try check(descriptor, "open", name)
    return File(adopting: descriptor, path: shown(name))
  }

  /// Makes anything that is neither a regular file nor a directory.
  package func make(_ kind: FileKind, _ name: FileName) throws(SystemFailure) {
    switch kind {
    case .symbolicLink(let target):
      let code = FileName(bytes: target).withCString { target in
        name.withCString { symlinkat(target, file.descriptor, $0) }
      }
      try check(code, "symlink", name)
    case .fifo: try makeNode(S_IFIFO, 0, name)
    case .socket: try makeNode(S_IFSOCK, 0, name)
    case .characterDevice(let number): try makeNode(S_IFCHR, number, name)
    case .blockDevice(let number): try makeNode(S_IFBLK, number, name)
    case .regular, .directory: throw SystemFailure("mknod", path: shown(name), number: EINVAL)
    }
  }

  /// Removes an entry with all that is below it, if it is there; no link is followed.
  package func removeAll(_ name: FileName) throws(SystemFailure) {
    if name.withCString({ unlinkat(file.descriptor, $0, 0) }) == 0 || errno == ENOENT { return }
    guard errno == EISDIR || errno == EPERM else { throw SystemFailure("unlink", path: shown(name)) }
    let descriptor = name.withCString { pointer in
      retryingInterrupts { openat(file.descriptor, pointer, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) }
    }
    try check(descriptor, "open", name)
    let below = TargetDirectory(File(adopting: descriptor, path: shown(name)), shown(name))
    for name in try DirectoryReader.names(of: descriptor, shown: shown(name)) { try below.removeAll(name) }
    try check(name.withCString { unlinkat(file.descriptor, $0, AT_REMOVEDIR) }, "rmdir", name)
  }

  /// Makes `name` another name of `existing` in `directory`.
  package func link(_ existing: FileName, in directory: TargetDirectory, as name: FileName) throws(SystemFailure) {
    let code = existing.withCString { old in
      name.withCString { linkat(directory.file.descriptor, old, file.descriptor, $0, 0) }
    }
    try check(code, "link", name)
  }

  /// Owner, attributes, mode and times of an entry that isn't a regular file; never follows a link.
  package func apply(
    _ metadata: FileMetadata, to name: FileName, _ rights: RestoreRights
  ) throws(SystemFailure) {
    let descriptor = name.withCString { openat(file.descriptor, $0, salvor_o_path | O_NOFOLLOW | O_CLOEXEC) }
    try check(descriptor, "open", name)
    let entry = File(adopting: descriptor, path: shown(name))
    if rights.setsOwner {
      try check(salvor_chown_descriptor(descriptor, metadata.userID, metadata.groupID), "chown", name)
    }
    var proc = Array("/proc/self/fd/\(file.descriptor)/".utf8)
    proc += name.bytes
    for attribute in metadata.extendedAttributes {
      let code = FileName(bytes: proc).withCString { path in
        attribute.value.withUnsafeBytes { salvor_lsetxattr(path, attribute.name, $0.baseAddress, $0.count) }
      }
      if code != 0, !rights.mayLack(attribute.name, errno) {
        throw SystemFailure("setxattr \(attribute.name)", path: shown(name))
      }
    }
    if case .symbolicLink = metadata.kind {
    } else {
      let mode = mode_t(rights.permissions(metadata))
      try check(chmod("/proc/self/fd/\(descriptor)", mode), "chmod", name)
    }
    let times = [metadata.accessed.timespec, metadata.modified.timespec]
    try check(
      name.withCString { utimensat(file.descriptor, $0, times, AT_SYMLINK_NOFOLLOW) }, "utimens", name)
    withExtendedLifetime(entry) {}
  }

  package func shown(_ name: FileName) -> String { "\(shownPath)/\(name.lossyText)" }

  private func makeNode(_ type: mode_t, _ number: UInt64, _ name: FileName) throws(SystemFailure) {
    try check(name.withCString { mknodat(file.descriptor, $0, type | 0o600, dev_t(number)) }, "mknod", name)
  }

  private func check(_ code: Int32, _ call: String, _ name: FileName) throws(SystemFailure) {
    if code < 0 { throw SystemFailure(call, path: shown(name)) }
  }
}

/// Owner and mode of files that are just made.
package struct NewFileDefaults: Sendable {
  package var userID: UInt32
  package var groupID: UInt32
  package var umask: UInt16

  /// The mode to make a file with so that it needs neither chown(2) nor chmod(2); `nil` if it does.
  package func mode(for metadata: FileMetadata, _ rights: RestoreRights) -> UInt16? {
    let permissions = rights.permissions(metadata)
    guard permissions & (0o7000 | umask) == 0 else { return nil }
    return !rights.setsOwner || metadata.userID == userID && metadata.groupID == groupID ? permissions : nil
  }
}

/// What this process may set, so that a restore by an ordinary user does what it can.
package struct RestoreRights: Sendable {
  /// Only root can give files away.
  package var setsOwner: Bool
  package var userID: UInt32

  package init(setsOwner: Bool = geteuid() == 0, userID: UInt32 = geteuid()) {
    (self.setsOwner, self.userID) = (setsOwner, userID)
  }

  /// setuid and setgid bits are left out where the owner they speak of can't be set.
  func permissions(_ metadata: FileMetadata) -> UInt16 {
    setsOwner || metadata.userID == userID ? metadata.permissions : metadata.permissions & 0o1777
  }

  /// Whether an attribute that could not be set is one only root may set, and this isn't root.
  func mayLack(_ name: String, _ number: Int32) -> Bool {
    !setsOwner && (number == EPERM || number == EACCES)
      && (name.hasPrefix("security.") || name.hasPrefix("trusted."))
  }
}

extension File {
  /// Owner, attributes, mode and times of this regular file or directory, in the order in which none undoes another.
  ///
  /// - Parameter isOwned: Whether owner and mode are right already.
  package func apply(
    _ metadata: FileMetadata, _ rights: RestoreRights, isOwned: Bool = false
  ) throws(SystemFailure) {
    if !isOwned, rights.setsOwner, fchown(descriptor, metadata.userID, metadata.groupID) != 0 {
      throw SystemFailure("chown", path: path)
    }
    for attribute in metadata.extendedAttributes {
      let code = attribute.value.withUnsafeBytes {
        salvor_fsetxattr(descriptor, attribute.name, $0.baseAddress, $0.count)
      }
      if code != 0, !rights.mayLack(attribute.name, errno) {
        throw SystemFailure("setxattr \(attribute.name)", path: path)
      }
    }
    guard isOwned || fchmod(descriptor, mode_t(rights.permissions(metadata))) == 0 else {
      throw SystemFailure("chmod", path: path)
    }
    let times = [metadata.accessed.timespec, metadata.modified.timespec]
    guard futimens(descriptor, times) == 0 else { throw SystemFailure("utimens", path: path) }
  }
}
