import CFUSE
import Core
import IO
import Vault

#if canImport(Glibc)
  import Glibc
#endif

/// What libfuse calls, on the thread that takes requests: each becomes a ``Request`` and is answered later.
enum Operations {
  static var table: fuse_lowlevel_ops {
    var table = fuse_lowlevel_ops()
    table.lookup = { request, parent, name in
      guard let name else { return Request.refuse(request, EINVAL) }
      let bytes = UnsafeBufferPointer(start: name, count: strlen(name)).map { UInt8(bitPattern: $0) }
      Request.take(request, .lookUp(FileName(bytes: bytes), in: parent))
    }
    table.forget = { request, number, count in
      Request.take(request, .forget([(number, count)]))
    }
    table.forget_multi = { request, count, list in
      var pairs: [(UInt64, UInt64)] = []
      for index in 0..<count { if let item = list?[index] { pairs.append((item.ino, item.nlookup)) } }
      Request.take(request, .forget(pairs))
    }
    table.getattr = { request, number, _ in Request.take(request, .attributes(number)) }
    table.readlink = { request, number in Request.take(request, .target(number)) }
    table.open = { request, number, info in
      guard let info else { return Request.refuse(request, EINVAL) }
      if info.pointee.flags & O_ACCMODE != O_RDONLY { return Request.refuse(request, EROFS) }
      Request.take(request, .open(number, info.pointee))
    }
    table.read = { request, _, size, offset, info in
      guard let info, let file = Handle.find(info.pointee.fh) else { return Request.refuse(request, EBADF) }
      Request.take(request, .read(file, offset: Int64(offset), count: size))
    }
    table.release = { request, _, info in
      if let info { Handle.drop(info.pointee.fh) }
      Request.refuse(request, 0)
    }
    table.opendir = { request, number, info in
      guard let info else { return Request.refuse(request, EINVAL) }
      Request.take(request, .openDirectory(number, info.pointee))
    }
    table.readdir = { request, _, size, offset, info in
      guard let info, let file = Handle.find(info.pointee.fh) else { return Request.refuse(request, EBADF) }
      Request.take(request, .list(file, offset: Int64(offset), count: size))
    }
    table.releasedir = table.release
    table.getxattr = { request, number, name, size in
      guard let name else { return Request.refuse(request, EINVAL) }
      Request.take(request, .extendedAttribute(number, String(cString: name), count: size))
    }
    table.listxattr = { request, number, size in Request.take(request, .extendedAttributes(number, count: size)) }
    table.statfs = { request, _ in
      var answer = statvfs()
      (answer.f_bsize, answer.f_frsize, answer.f_namemax) = (4096, 4096, 255)
      fuse_reply_statfs(request, &answer)
    }
    return table
  }
}

/// An open file or directory, as the kernel holds on to it by a number.
final class Handle: Sendable {
  enum Thing: Sendable {
    case file(OpenContent)
    case directory([DirectoryEntry], number: UInt64)
  }

  let thing: Thing

  init(_ thing: Thing) { self.thing = thing }

  /// The kernel gives back exactly what it was given, until it releases it.
  func retainedNumber() -> UInt64 { UInt64(UInt(bitPattern: Unmanaged.passRetained(self).toOpaque())) }

  static func find(_ number: UInt64) -> Handle? {
    UnsafeRawPointer(bitPattern: UInt(number)).map { Unmanaged<Handle>.fromOpaque($0).takeUnretainedValue() }
  }

  static func drop(_ number: UInt64) {
    if let pointer = UnsafeRawPointer(bitPattern: UInt(number)) { Unmanaged<Handle>.fromOpaque(pointer).release() }
  }
}
