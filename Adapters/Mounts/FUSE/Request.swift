import CFUSE
import Core
import IO
import Vault

#if canImport(Glibc)
  import Glibc
#endif

/// Something the kernel asks, to be answered exactly once, from any thread.
struct Request: @unchecked Sendable {
  enum Question: Sendable {
    case lookUp(FileName, in: UInt64)
    case forget([(UInt64, UInt64)])
    case attributes(UInt64)
    case target(UInt64)
    case open(UInt64, fuse_file_info)
    case read(Handle, offset: Int64, count: Int)
    case openDirectory(UInt64, fuse_file_info)
    case list(Handle, offset: Int64, count: Int)
    case extendedAttribute(UInt64, String, count: Int)
    case extendedAttributes(UInt64, count: Int)
  }

  // libfuse's, which lets any thread answer.
  private let raw: fuse_req_t
  private let question: Question

  /// From the thread of the session.
  static func take(_ raw: fuse_req_t?, _ question: Question) {
    guard let raw, let data = fuse_req_userdata(raw) else { return }
    Unmanaged<Session.Box>.fromOpaque(data).takeUnretainedValue().yield(Request(raw: raw, question: question))
  }

  /// - Parameter number: An error number; 0 says that it was done.
  static func refuse(_ raw: fuse_req_t?, _ number: Int32) { if let raw { fuse_reply_err(raw, number) } }

  /// Snapshots don't change; what is said of them holds.
  private static let fixedSeconds = 3600.0

  func answer(_ files: any ReadOnlyFileSystem) async {
    do throws(MountFault) {
      switch question {
      case .lookUp(let name, let directory): reply(entry: try await files.lookUp(name, in: directory))
      case .forget(let pairs):
        for (number, count) in pairs { await files.forget(number, count: count) }
        fuse_reply_none(raw)
      case .attributes(let number):
        let found = try await files.attributes(of: number)
        var answer = found.status
        fuse_reply_attr(raw, &answer, found.isFixed ? Self.fixedSeconds : 1)
      case .target(let number):
        let target = try await files.target(of: number).map { CChar(bitPattern: $0) } + [0]
        fuse_reply_readlink(raw, target)
      case .open(let number, let info): reply(open: Handle(.file(try await files.open(number))), info)
      case .read(let handle, let offset, let count):
        guard case .file(let content) = handle.thing else { return Self.refuse(raw, EISDIR) }
        reply(bytes: try await files.read(content, offset: offset, count: count))
      case .openDirectory(let number, let info):
        reply(open: Handle(.directory(try await files.entries(of: number), number: number)), info)
      case .list(let handle, let offset, let count): reply(list: handle, offset, count)
      case .extendedAttribute(let number, let name, let count):
        guard let found = try await files.extendedAttributes(of: number).first(where: { $0.name == name }) else {
          return Self.refuse(raw, ENODATA)
        }
        reply(attribute: found.value, count)
      case .extendedAttributes(let number, let count):
        reply(attribute: try await files.extendedAttributes(of: number).flatMap { Array($0.name.utf8) + [0] }, count)
      }
    } catch { Self.refuse(raw, error.number) }
  }

  private func reply(entry: FileAttributes) {
    var answer = fuse_entry_param()
    (answer.ino, answer.attr) = (entry.number, entry.status)
    let seconds = entry.isFixed ? Self.fixedSeconds : 1
    (answer.attr_timeout, answer.entry_timeout) = (seconds, seconds)
    // If it isn't heard the kernel won't forget it either; the table is gone with the mount.
    fuse_reply_entry(raw, &answer)
  }

  private func reply(open handle: Handle, _ info: fuse_file_info) {
    var info = info
    info.fh = handle.retainedNumber()
    if case .file = handle.thing { info.keep_cache = 1 }
    if fuse_reply_open(raw, &info) != 0 { Handle.drop(info.fh) }
  }

  private func reply(bytes: [UInt8]) {
    bytes.withUnsafeBytes { bytes in
      _ = fuse_reply_buf(raw, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count)
    }
  }

  /// - Parameter count: 0 asks how long it is.
  private func reply(attribute bytes: [UInt8], _ count: Int) {
    if count == 0 {
      fuse_reply_xattr(raw, bytes.count)
    } else if bytes.count > count {
      Self.refuse(raw, ERANGE)
    } else {
      reply(bytes: bytes)
    }
  }

  private func reply(list handle: Handle, _ offset: Int64, _ count: Int) {
    guard case .directory(let entries, let number) = handle.thing else { return Self.refuse(raw, ENOTDIR) }
    var buffer = [CChar](repeating: 0, count: min(count, 1 << 20))
    var used = 0
    for index in max(0, Int(offset))..<max(max(0, Int(offset)), entries.count + 2) {
      var status = stat()
      let name: FileName
      switch index {
      case 0: (name, status.st_ino, status.st_mode) = (".", UInt(number), S_IFDIR)
      case 1: (name, status.st_ino, status.st_mode) = ("..", 1, S_IFDIR)
      default:
        let entry = entries[index - 2]
        // The kernel takes no longer ones, and would refuse the whole directory for one of them.
        if entry.name.bytes.count > 1024 { continue }
        (name, status.st_ino, status.st_mode) = (entry.name, UInt(entry.number), entry.kind.modeBits)
      }
      let size = buffer.withUnsafeMutableBufferPointer { buffer in
        name.withCString { name in
          fuse_add_direntry(
            raw, buffer.baseAddress.map { $0 + used }, buffer.count - used, name, &status, off_t(index + 1))
        }
      }
      if used + size > buffer.count { break }
      used += size
    }
    fuse_reply_buf(raw, buffer, used)
  }
}

extension MountFault {
  var number: Int32 {
    switch self {
    case .noEntry: ENOENT
    case .notDirectory: ENOTDIR
    case .isDirectory: EISDIR
    case .invalid: EINVAL
    case .inputOutput: EIO
    }
  }
}

extension FileKind {
  var modeBits: mode_t {
    switch self {
    case .regular: S_IFREG
    case .directory: S_IFDIR
    case .symbolicLink: S_IFLNK
    case .blockDevice: S_IFBLK
    case .characterDevice: S_IFCHR
    case .fifo: S_IFIFO
    case .socket: S_IFSOCK
    }
  }
}

extension FileAttributes {
  var status: stat {
    var status = stat()
    status.st_ino = UInt(number)
    status.st_mode = metadata.kind.modeBits | mode_t(metadata.permissions)
    status.st_nlink = nlink_t(metadata.links)
    (status.st_uid, status.st_gid) = (metadata.userID, metadata.groupID)
    status.st_size = off_t(metadata.size)
    status.st_blksize = 4096
    status.st_blocks = blkcnt_t(metadata.size / 512 + (metadata.size % 512 > 0 ? 1 : 0))
    switch metadata.kind {
    case .blockDevice(let number), .characterDevice(let number): status.st_rdev = dev_t(number)
    case .symbolicLink(let target): status.st_size = off_t(target.count)
    default: break
    }
    status.st_mtim = timespec(metadata.modified)
    status.st_atim = timespec(metadata.accessed)
    status.st_ctim = timespec(metadata.changed)
    return status
  }
}

extension timespec {
  fileprivate init(_ time: Timestamp) {
    var (seconds, rest) = (time.nanoseconds / 1_000_000_000, time.nanoseconds % 1_000_000_000)
    if rest < 0 { (seconds, rest) = (seconds - 1, rest + 1_000_000_000) }
    self.init(tv_sec: Int(seconds), tv_nsec: Int(rest))
  }
}
