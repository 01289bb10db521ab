import CShim
import Core
import Drills
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A place of a drill's own: the machine as it is, read-only, with the stores' directories emptied, and no network.
///
/// The catalog stays word for word what it is: the same paths, the same ports. What is behind them is the drill's own,
/// because the process that looks lives in namespaces of its own. All of it goes with its last process, whatever ended
/// that; what is left on disk is ``directory``. See decision 24.
package struct DrillRoom: Sendable, Codable, Equatable {
  /// A directory whose content the drill may change: it sees a copy, made of what is there and what it writes.
  struct Place: Sendable, Codable, Equatable {
    var path: String
    /// Names in it that are empty directories to the drill, or not there at all: the stores' state.
    var emptied: [String]
    /// How much the drill may write there; `nil` is what the disk has.
    var limitBytes: Int64?
  }

  /// Where production is reached; tried from inside, before anything is restored.
  struct Door: Sendable, Codable, Equatable {
    /// `nil` is a Unix socket.
    var port: UInt16?
    /// Name or address, or the socket's path.
    var host: String

    var text: String { port.map { host.contains(":") ? "[\(host)]:\($0)" : "\(host):\($0)" } ?? host }
  }

  var directory: String
  var places: [Place]
  /// Directories that are not there in this drill, such as the primary repository.
  var hidden: [String]
  var doors: [Door]
  /// The namespaces of whoever asked for the drill: to be in one of them is to be outside.
  var outside: [String: String]

  static let namespaces = ["net", "mnt", "pid", "ipc"]

  /// What the namespaces of this process are called.
  static func namespacesHere() throws(SystemFailure) -> [String: String] {
    var result: [String: String] = [:]
    for name in namespaces { result[name] = try link("/proc/self/ns/\(name)") }
    return result
  }

  private static func link(_ path: String) throws(SystemFailure) -> String {
    var buffer = [CChar](repeating: 0, count: 256)
    let count = readlink(path, &buffer, buffer.count)
    guard count > 0 else { throw SystemFailure("readlink", path: path) }
    return String(decoding: buffer.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  // MARK: From inside

  /// Makes the room, in the namespaces this process was put in. Blocks.
  ///
  /// - Throws: Before anything is mounted, if this process is outside still.
  func enter() throws(DrillError) {
    do throws(SystemFailure) {
      let here = try Self.namespacesHere()
      for name in Self.namespaces where here[name] == nil || here[name] == outside[name] {
        throw SystemFailure("unshare", path: "/proc/self/ns/\(name)", number: EPERM)
      }
    } catch { throw .notIsolated("this process is in a namespace of production's: \(error.report.summary)") }
    do throws(SystemFailure) {
      try Mounting.mount(nil, at: "/", flags: Mounting.recursive | Mounting.isPrivate)
      for entry in try Mounting.table() where !["/proc", "/dev", "/sys"].contains(where: entry.isBelow) {
        // What was mounted on something that is gone is reached by no path.
        guard Files.exists(entry.path) else { continue }
        try Mounting.mount(
          nil, at: entry.path, flags: Mounting.bind | Mounting.remount | Mounting.readOnly | entry.flags)
      }
      let own = try Mounting.table().last { directory == $0.path || $0.isAbove(directory) }
      try Mounting.mount(directory, at: directory, flags: Mounting.bind)
      try Mounting.mount(nil, at: directory, flags: Mounting.bind | Mounting.remount | (own?.flags ?? 0))
      for (number, place) in places.enumerated() { try cover(place, number) }
      for path in hidden where Files.exists(path) {
        try Mounting.mount("salvor-drill", at: path, type: "tmpfs", flags: Mounting.readOnly)
      }
      // A socket in the file system is a way through every network namespace; in the places above they are others' already.
      for door in doors where door.port == nil && Files.exists(door.host) && !Files.isDirectory(door.host) {
        if places.contains(where: { door.host.hasPrefix($0.path + "/") }) {
          unlink(door.host)
        } else {
          try Mounting.mount("/dev/null", at: door.host, flags: Mounting.bind)
        }
      }
      if Files.isDirectory("/dev/shm") { try Mounting.mount("salvor-drill", at: "/dev/shm", type: "tmpfs") }
      try Mounting.raiseLoopback()
    } catch { throw .notIsolated(error.report.summary) }
  }

  private func cover(_ place: Place, _ number: Int) throws(SystemFailure) {
    let own = "\(directory)/places/\(number)"
    try Files.createDirectory(own, mode: 0o755)
    if let limit = place.limitBytes {
      try Mounting.mount("salvor-drill", at: own, type: "tmpfs", data: "size=\(limit),mode=755")
    }
    let (upper, work) = ("\(own)/upper", "\(own)/work")
    try Files.createDirectory(upper)
    try Files.createDirectory(work)
    try copyOwner(of: place.path, to: upper)
    for name in place.emptied {
      let (below, above) = ("\(place.path)/\(name)", "\(upper)/\(name)")
      var parent = ""
      for part in name.split(separator: "/").dropLast() {
        parent += "/\(part)"
        try Files.createDirectory(upper + parent)
        try copyOwner(of: place.path + parent, to: upper + parent)
      }
      if Files.isDirectory(below) {
        try Files.createDirectory(above)
        try copyOwner(of: below, to: above)
        guard salvor_lsetxattr(above, "trusted.overlay.opaque", "y", 1) == 0 else {
          throw SystemFailure("setxattr", path: above)
        }
      } else {
        // To an overlay, a device of this number is nothing at all.
        guard mknod(above, S_IFCHR, 0) == 0 else { throw SystemFailure("mknod", path: above) }
      }
    }
    try Mounting.mount(
      "salvor-drill", at: place.path, type: "overlay",
      data: "lowerdir=\(place.path),upperdir=\(upper),workdir=\(work)")
  }

  private func copyOwner(of path: String, to other: String) throws(SystemFailure) {
    var information = stat()
    guard stat(path, &information) == 0 else { throw SystemFailure("stat", path: path) }
    guard chown(other, information.st_uid, information.st_gid) == 0, chmod(other, information.st_mode & 0o7777) == 0
    else { throw SystemFailure("chown", path: other) }
  }

  /// Tries every door of production's. Blocks; a second for each that doesn't answer.
  func tryDoors() -> [DrillRecord.Attempt] {
    doors.map { door in
      let number = door.port.map { Mounting.connect(door.host, port: $0) } ?? Mounting.connect(socket: door.host)
      return DrillRecord.Attempt(
        door: door.text, result: number == 0 ? "connected" : String(cString: strerror(number)), isReached: number == 0)
    }
  }
}

/// The system calls a room is made by.
enum Mounting {
  static let readOnly: UInt = 1
  static let remount: UInt = 32
  static let bind: UInt = 4096
  static let recursive: UInt = 16384
  static let isPrivate: UInt = 1 << 18

  struct Entry {
    var path: String
    /// Those that a remount must repeat.
    var flags: UInt

    func isBelow(_ directory: String) -> Bool { path == directory || path.hasPrefix(directory + "/") }
    func isAbove(_ other: String) -> Bool { path == "/" || other.hasPrefix(path + "/") }
  }

  static func mount(
    _ source: String?, at target: String, type: String? = nil, flags: UInt = 0, data: String? = nil
  ) throws(SystemFailure) {
    // Commas end an option of `data`, and colons a layer: whoever makes a room has looked.
    let result =
      data.map { Glibc.mount(source, target, type, flags, $0) } ?? Glibc.mount(source, target, type, flags, nil)
    guard result == 0 else { throw SystemFailure("mount", path: target) }
  }

  /// What is mounted, in order.
  ///
  /// Source: proc(5), /proc/pid/mountinfo.
  static func table() throws(SystemFailure) -> [Entry] {
    let text = String(decoding: try Files.read("/proc/self/mountinfo", limitBytes: 16 << 20), as: UTF8.self)
    return text.split(separator: "\n").compactMap { line in
      let words = line.split(separator: " ")
      guard words.count > 5 else { return nil }
      var flags: UInt = 0
      for option in words[5].split(separator: ",") {
        switch option {
        case "nosuid": flags |= 2
        case "nodev": flags |= 4
        case "noexec": flags |= 8
        case "noatime": flags |= 1024
        case "nodiratime": flags |= 2048
        case "relatime": flags |= 1 << 21
        default: break
        }
      }
      return Entry(path: unescaped(words[4]), flags: flags)
    }
  }

  private static func unescaped(_ text: Substring) -> String {
    var bytes: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
      if byte == 92, rest.count >= 3, let value = UInt8(String(decoding: rest.prefix(3), as: UTF8.self), radix: 8) {
        bytes.append(value)
        rest = rest.dropFirst(3)
      } else {
        bytes.append(byte)
      }
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// A new network namespace has a loopback device that is down.
  ///
  /// Source: netdevice(7), SIOCSIFFLAGS.
  static func raiseLoopback() throws(SystemFailure) {
    let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { throw SystemFailure("socket", path: "lo") }
    defer { close(descriptor) }
    var request = [UInt8](repeating: 0, count: 40)
    request.replaceSubrange(0..<2, with: Array("lo".utf8))
    request[16] = 1  // IFF_UP
    guard request.withUnsafeMutableBytes({ ioctl(descriptor, 0x8914, $0.baseAddress!) }) == 0 else {
      throw SystemFailure("ioctl", path: "lo")
    }
  }

  // MARK: Doors

  /// - Returns: 0 once connected, else the error's number.
  static func connect(_ host: String, port: UInt16) -> Int32 {
    var hints = addrinfo()
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    hints.ai_flags = AI_NUMERICSERV
    var found: UnsafeMutablePointer<addrinfo>?
    // Without a network no name is looked up; that too is not reaching it.
    guard getaddrinfo(host, "\(port)", &hints, &found) == 0, let first = found else { return EHOSTUNREACH }
    defer { freeaddrinfo(found) }
    var last = EHOSTUNREACH
    var next: UnsafeMutablePointer<addrinfo>? = first
    while let address = next {
      last = connect(address.pointee.ai_family, address.pointee.ai_addr, address.pointee.ai_addrlen)
      if last == 0 { return 0 }
      next = address.pointee.ai_next
    }
    return last
  }

  static func connect(socket path: String) -> Int32 {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8)
    let size = MemoryLayout.size(ofValue: address.sun_path)
    guard bytes.count < size else { return ENAMETOOLONG }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    return withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(AF_UNIX, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
  }

  private static func connect(_ family: Int32, _ address: UnsafePointer<sockaddr>?, _ length: socklen_t) -> Int32 {
    let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
    let descriptor = socket(family, kind, 0)
    guard descriptor >= 0 else { return errno }
    defer { close(descriptor) }
    if Glibc.connect(descriptor, address, length) == 0 { return 0 }
    guard errno == EINPROGRESS else { return errno }
    var waiting = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
    guard poll(&waiting, 1, 1000) > 0 else { return ETIMEDOUT }
    var (number, size) = (Int32(0), socklen_t(MemoryLayout<Int32>.size))
    getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &number, &size)
    return number
  }
}
