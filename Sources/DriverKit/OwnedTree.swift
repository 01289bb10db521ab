import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A directory for us, or for the server's user, alone. What is there already must be such a one. Blocks.
package func makeOwnDirectory(_ path: String, _ owner: SystemUser?) throws(SystemFailure) {
  if mkdir(path, 0o700) != 0, errno != EEXIST { throw SystemFailure("mkdir", path: path) }
  let directory = try File(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
  let status = try directory.status()
  guard status.st_uid == geteuid() || status.st_uid == owner?.userID else {
    throw SystemFailure("mkdir", path: path, number: EEXIST)
  }
  guard fchmod(directory.descriptor, 0o700) == 0 else { throw SystemFailure("chmod", path: path) }
  if let owner, fchown(directory.descriptor, owner.userID, owner.groupID) != 0 {
    throw SystemFailure("chown", path: path)
  }
}

/// Gives a tree to `owner`, links themselves and not what they lead to; a no-op where it is theirs. Blocks.
///
/// - Parameter hasLinks: Whether symbolic links and special files may be in it.
/// - Returns: Bytes in regular files.
/// - Throws: EBADMSG for what may not be in it.
@discardableResult
package func settleTree(_ path: String, owner: SystemUser?, hasLinks: Bool) throws(SystemFailure) -> Int64 {
  var status = stat()
  guard lstat(path, &status) == 0 else { throw SystemFailure("stat", path: path) }
  let kind = status.st_mode & S_IFMT
  guard hasLinks || kind == S_IFREG || kind == S_IFDIR else {
    throw SystemFailure("restore", path: path, number: EBADMSG)
  }
  if let owner, status.st_uid != owner.userID || status.st_gid != owner.groupID,
    lchown(path, owner.userID, owner.groupID) != 0
  {
    throw SystemFailure("chown", path: path)
  }
  switch kind {
  case S_IFREG: return Int64(status.st_size)
  case S_IFDIR:
    var total: Int64 = 0
    for name in try Files.names(in: path) {
      total += try settleTree(path + "/" + name.lossyText, owner: owner, hasLinks: hasLinks)
    }
    return total
  default: return 0
  }
}

/// Kind, rights, owner and times of what is at `path`. Blocks.
///
/// - Returns: `nil` if there is nothing, or no longer.
package func readMetadata(_ path: String) -> FileMetadata? {
  var status = stat()
  guard lstat(path, &status) == 0 else { return nil }
  let kind: FileKind
  switch status.st_mode & S_IFMT {
  case S_IFREG: kind = .regular
  case S_IFDIR: kind = .directory
  case S_IFLNK: kind = .symbolicLink(target: Array((readLink(path) ?? "").utf8))
  default: kind = .fifo
  }
  func time(_ value: timespec) -> Timestamp {
    Timestamp(seconds: Int64(value.tv_sec), nanoseconds: Int64(value.tv_nsec))
  }
  return FileMetadata(
    kind: kind, permissions: UInt16(status.st_mode & 0o7777), userID: status.st_uid, groupID: status.st_gid,
    userName: SystemUser(userID: status.st_uid)?.name ?? "",
    groupName: getgrgid(status.st_gid).map { String(cString: $0.pointee.gr_name) } ?? "", size: Int64(status.st_size),
    modified: time(status.st_mtim), accessed: time(status.st_atim), changed: time(status.st_ctim),
    device: UInt64(status.st_dev), inode: UInt64(status.st_ino), links: UInt64(status.st_nlink))
}

package func readLink(_ path: String) -> String? {
  var buffer = [CChar](repeating: 0, count: 4097)
  let count = readlink(path, &buffer, 4096)
  guard count > 0 else { return nil }
  return String(decoding: buffer[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
