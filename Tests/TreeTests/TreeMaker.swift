import CShim
import Core
import Foundation
import IO
import TestSupport

/// Makes a tree of files on disk, odd in every way a file system allows, the same for the same seed.
struct TreeMaker {
  let random: SeededRandomness
  private var budget: Int
  private var files: [[UInt8]] = []

  private let lossyLinks: Bool

  init(seed: UInt64, entries: Int, lossyLinks: Bool) {
    self.lossyLinks = lossyLinks
    random = SeededRandomness(seed: seed)
    budget = entries
  }

  /// - Parameter lossyLinks: Whether targets of symbolic links may be other than UTF-8, which restic 0.14 can't keep.
  static func make(seed: UInt64, at path: String, entries: Int = 60, lossyLinks: Bool = true) throws {
    var maker = TreeMaker(seed: seed, entries: entries, lossyLinks: lossyLinks)
    try Files.createDirectory(path)
    try maker.fill(Array(path.utf8), depth: 0)
  }

  private mutating func fill(_ directory: [UInt8], depth: Int) throws {
    let count = random.below(12) + (depth == 0 ? 8 : 0)
    var taken: Set<[UInt8]> = []
    for _ in 0..<count where budget > 0 {
      budget -= 1
      let name = name()
      guard taken.insert(name).inserted else { continue }
      let path = directory + [47] + name
      switch random.below(100) {
      case ..<50: try file(path)
      case ..<68:
        try check(withPath(path) { mkdir($0, 0o700) }, "mkdir")
        if depth < 8 { try fill(path, depth: depth + 1) }
        try attributes(path, isLink: false, isDirectory: true)
        try finish(path)
      case ..<78:
        var target = random.chance(0.2) ? [0xff, 0x2f, 0x41] : self.name()
        if !lossyLinks, String(validating: target, as: UTF8.self) == nil { target = Array("a \u{fffd} target".utf8) }
        try check(withPath(target) { target in withPath(path) { symlink(target, $0) } }, "symlink")
        try attributes(path, isLink: true, isDirectory: false)
        try finish(path, isLink: true)
      case ..<84 where !files.isEmpty:
        let old = files[random.below(files.count)]
        try check(withPath(old) { old in withPath(path) { link(old, $0) } }, "link")
      case ..<89: try node(path, S_IFIFO, 0)
      case ..<93: try node(path, S_IFSOCK, 0)
      case ..<96: try node(path, S_IFCHR, 0x103)
      case ..<98: try node(path, S_IFBLK, 0x700 + UInt64(random.below(8)))
      default: try file(path)
      }
    }
  }

  private func node(_ path: [UInt8], _ type: mode_t, _ number: UInt64) throws {
    try check(withPath(path) { mknod($0, type | 0o600, dev_t(number)) }, "mknod")
    try finish(path)
  }

  // MARK: Names

  private static let scalars: [UInt32] = [
    0x7f, 0x80, 0x85, 0xa0, 0xad, 0xe9, 0x300, 0x378, 0x600, 0x200b, 0x2028, 0x2029, 0x202e, 0x3000, 0x65e5, 0xd7ff,
    0xe000, 0xfdd0, 0xfeff, 0xfffc, 0xfffd, 0xffff, 0x10000, 0x1f600, 0x1f9ff, 0x1fae0, 0x20000, 0xe0001, 0x10ffff,
  ]

  private static let marks = Array("\"\\<>&'\n\t\r ~*?[]{}$`!;|".utf8)

  mutating func name() -> [UInt8] {
    var bytes: [UInt8] = []
    let length = random.chance(0.04) ? 255 : 1 + random.below(14)
    let style = random.below(5)
    while bytes.count < length {
      switch style {
      case 0, 1: bytes.append(UInt8(97 + random.below(26)))
      case 2: bytes.append(UInt8(1 + random.below(255)))
      case 3:
        let value = random.chance(0.5) ? Self.scalars[random.below(Self.scalars.count)] : UInt32(random.below(0x110000))
        if let scalar = Unicode.Scalar(value), value != 0 { bytes += Array(String(Character(scalar)).utf8) }
      default: bytes.append(Self.marks[random.below(Self.marks.count)])
      }
    }
    bytes = bytes.prefix(255).map { $0 == 47 || $0 == 0 ? 95 : $0 }
    return bytes == [46] || bytes == [46, 46] ? [95] : bytes
  }

  // MARK: Contents

  private mutating func file(_ path: [UInt8]) throws {
    let descriptor = withPath(path) { open($0, O_RDWR | O_CREAT | O_EXCL, 0o600) }
    try check(descriptor, "open")
    let file = File(adopting: descriptor, path: String(decoding: path, as: UTF8.self))
    switch random.below(20) {
    case ..<3: break
    case ..<13: try write(random.bytes(1 + random.below(3000)), 0, file)
    case ..<15: try write(random.bytes(4096 * (1 + random.below(3))), 0, file)
    case 15:  // The same in many files.
      try write([UInt8](repeating: 0x41, count: 10_000), 0, file)
    case 16:  // Holes before, between and after.
      try file.truncate(to: Int64(1 + random.below(1 << 20)))
      try write(random.bytes(1 + random.below(9000)), Int64(random.below(1 << 19)), file)
    case 17:  // Zeros that were written.
      try write([UInt8](repeating: 0, count: 1 + random.below(20_000)), 0, file)
      try write(random.bytes(100), Int64(random.below(10_000)), file)
    case 18: try file.truncate(to: Int64(random.below(1 << 20)))
    default: try write(noise((512 << 10) + random.below(1 << 20)), 0, file)
    }
    files.append(path)
    try attributes(path, isLink: false, isDirectory: false)
    try finish(path)
  }

  /// Incompressible, and quick to make.
  private func noise(_ count: Int) -> [UInt8] { makeNoise(count, seed: random.next()) }

  private func write(_ bytes: [UInt8], _ offset: Int64, _ file: File) throws {
    try bytes.withRawBytes { (raw) throws(SystemFailure) -> Void in try file.write(raw, at: offset) }
  }

  // MARK: Metadata

  private func attributes(_ path: [UInt8], isLink: Bool, isDirectory: Bool) throws {
    func set(_ name: String, _ value: [UInt8]) throws {
      try check(withPath(path) { salvor_lsetxattr($0, name, value, value.count) }, "setxattr \(name)")
    }
    if isLink {
      if random.chance(0.2) { try set("trusted.link", random.bytes(5)) }
      return
    }
    if random.chance(0.25) { try set("user.comment", random.bytes(random.below(200))) }
    if random.chance(0.1) { try set("user.ünïcode <&>", Array("value".utf8)) }
    if random.chance(0.1) { try set("user.empty", []) }
    if random.chance(0.05) { try set("trusted.salvor", random.bytes(40)) }
    if random.chance(0.15) { try set("system.posix_acl_access", accessList(user: UInt32(random.below(5000)))) }
    if isDirectory, random.chance(0.2) { try set("system.posix_acl_default", accessList(user: 33)) }
    if !isDirectory, random.chance(0.05) {
      // VFS_CAP_REVISION_2 with cap_net_bind_service, effective.
      try set("security.capability", [1, 0, 0, 2, 0, 4, 0, 0] + [UInt8](repeating: 0, count: 12))
    }
  }

  /// user::rw-, user:<id>:r--, group::r--, mask::r--, other::---, as the kernel keeps it.
  private func accessList(user: UInt32) -> [UInt8] {
    var bytes: [UInt8] = [2, 0, 0, 0]
    func entry(_ tag: UInt16, _ permissions: UInt16, _ id: UInt32 = .max) {
      withUnsafeBytes(of: tag.littleEndian) { bytes += $0 }
      withUnsafeBytes(of: permissions.littleEndian) { bytes += $0 }
      withUnsafeBytes(of: id.littleEndian) { bytes += $0 }
    }
    entry(1, 6)
    entry(2, 4, user)
    entry(4, 4)
    entry(0x10, 4)
    entry(0x20, 0)
    return bytes
  }

  private func finish(_ path: [UInt8], isLink: Bool = false) throws {
    let capability = isLink ? nil : self.capability(path)
    if random.chance(0.4) {
      try check(withPath(path) { lchown($0, uid_t(random.below(3000)), gid_t(random.below(3000))) }, "chown")
    }
    if !isLink {
      try check(withPath(path) { chmod($0, mode_t(random.below(0o10000))) }, "chmod")
      // A change of owner takes the capability away.
      if let capability {
        try check(
          withPath(path) { salvor_lsetxattr($0, "security.capability", capability, capability.count) }, "setxattr")
      }
    }
    let times = [
      timespec(tv_sec: random.below(4_000_000_000) - 1_000_000_000, tv_nsec: random.below(1_000_000_000)),
      timespec(
        tv_sec: random.below(4_000_000_000) - 1_000_000_000, tv_nsec: random.below(1000) * 1_000_000),
    ]
    try check(withPath(path) { utimensat(AT_FDCWD, $0, times, AT_SYMLINK_NOFOLLOW) }, "utimens")
  }

  private func capability(_ path: [UInt8]) -> [UInt8]? {
    var value = [UInt8](repeating: 0, count: 64)
    let count = withPath(path) { salvor_lgetxattr($0, "security.capability", &value, value.count) }
    return count > 0 ? Array(value.prefix(count)) : nil
  }
}

func withPath<T>(_ bytes: [UInt8], _ body: (UnsafePointer<CChar>) -> T) -> T {
  FileName(bytes: bytes).withCString(body)
}

func check(_ code: Int32, _ call: String) throws {
  if code < 0 { throw SystemFailure(call) }
}

func makeNoise(_ count: Int, seed: UInt64) -> [UInt8] {
  [UInt8](unsafeUninitializedCapacity: count) { buffer, initialised in
    var state = seed | 1
    for index in 0..<count {
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      buffer[index] = UInt8(truncatingIfNeeded: state >> 32)
    }
    initialised = count
  }
}
