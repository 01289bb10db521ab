import Core
import IO

/// Writes entries of a snapshot as a tar archive: ustar, with pax records for what doesn't fit.
///
/// Source: POSIX.1-2008, pax, "ustar Interchange Format" and "pax Extended Header"; star's SCHILY.xattr.
package enum TarArchive {
  /// What comes before an entry's content; `nil` for a socket, which tar can't hold.
  package static func header(_ path: TreePath, _ node: TreeNode) -> [UInt8]? {
    let metadata = node.metadata
    var entry = Header()
    switch metadata.kind {
    case .regular:
      entry.type = UInt8(ascii: "0")
      entry.size = metadata.size
    case .directory: entry.type = UInt8(ascii: "5")
    case .symbolicLink(let target):
      entry.type = UInt8(ascii: "2")
      entry.link = target
    case .fifo: entry.type = UInt8(ascii: "6")
    case .characterDevice(let number):
      entry.type = UInt8(ascii: "3")
      entry.device = number
    case .blockDevice(let number):
      entry.type = UInt8(ascii: "4")
      entry.device = number
    case .socket: return nil
    }
    entry.name = Array(path.bytes(below: "").dropFirst()) + (metadata.kind.isDirectory ? [UInt8(ascii: "/")] : [])
    entry.metadata = metadata
    return entry.bytes()
  }

  /// Zeros up to the next block after `size` bytes of content.
  package static func padding(after size: Int64) -> [UInt8] {
    [UInt8](repeating: 0, count: Int((512 - size % 512) % 512))
  }

  package static let end = [UInt8](repeating: 0, count: 1024)

  private struct Header {
    var type: UInt8 = 0
    var name: [UInt8] = []
    var link: [UInt8] = []
    var size: Int64 = 0
    var device: UInt64 = 0
    var metadata = FileMetadata(kind: .regular, permissions: 0, modified: Timestamp(nanoseconds: 0), links: 1)

    func bytes() -> [UInt8] {
      let records = paxRecords()
      var result: [UInt8] = []
      if !records.isEmpty {
        result += Header.block(
          name: Array("PaxHeaders/entry".utf8), mode: 0o644, size: Int64(records.count), type: UInt8(ascii: "x"))
        result += records + TarArchive.padding(after: Int64(records.count))
      }
      return result
        + Header.block(
          name: name, mode: UInt64(metadata.permissions), user: UInt64(metadata.userID),
          group: UInt64(metadata.groupID), size: size, seconds: seconds, type: type, link: link,
          userName: Array(metadata.userName.utf8), groupName: Array(metadata.groupName.utf8), device: device)
    }

    private var seconds: Int64 { metadata.modified.nanoseconds / 1_000_000_000 }

    private func paxRecords() -> [UInt8] {
      var records: [UInt8] = []
      func add(_ key: String, _ value: [UInt8]) { records += Header.record(key, value) }
      if name.count > 100 || !isPlain(name) { add("path", name) }
      if link.count > 100 || !isPlain(link) { add("linkpath", link) }
      if size >= 1 << 33 { add("size", Array(String(size).utf8)) }
      if metadata.userID >= 1 << 21 { add("uid", Array(String(metadata.userID).utf8)) }
      if metadata.groupID >= 1 << 21 { add("gid", Array(String(metadata.groupID).utf8)) }
      if metadata.userName.utf8.count > 31 { add("uname", Array(metadata.userName.utf8)) }
      if metadata.groupName.utf8.count > 31 { add("gname", Array(metadata.groupName.utf8)) }
      let modified = metadata.modified.nanoseconds
      if modified < 0 || modified % 1_000_000_000 != 0 { add("mtime", Header.decimal(modified)) }
      for attribute in metadata.extendedAttributes { add("SCHILY.xattr.\(attribute.name)", attribute.value) }
      return records
    }

    private func isPlain(_ bytes: [UInt8]) -> Bool { bytes.allSatisfy { (32..<127).contains($0) } }

    /// Seconds with their fraction; negative before 1970.
    private static func decimal(_ nanoseconds: Int64) -> [UInt8] {
      let (whole, rest) = (nanoseconds.magnitude / 1_000_000_000, nanoseconds.magnitude % 1_000_000_000)
      let digits = String(rest)
      let fraction = String(repeating: "0", count: 9 - digits.count) + digits
      return Array("\(nanoseconds < 0 ? "-" : "")\(whole).\(fraction)".utf8)
    }

    /// Its length counts itself.
    private static func record(_ key: String, _ value: [UInt8]) -> [UInt8] {
      let rest = [32] + Array(key.utf8) + [61] + value + [10]
      var count = rest.count + 1
      while String(count).utf8.count + rest.count != count { count = String(count).utf8.count + rest.count }
      return Array(String(count).utf8) + rest
    }

    private static func block(
      name: [UInt8], mode: UInt64, user: UInt64 = 0, group: UInt64 = 0, size: Int64, seconds: Int64 = 0, type: UInt8,
      link: [UInt8] = [], userName: [UInt8] = [], groupName: [UInt8] = [], device: UInt64 = 0
    ) -> [UInt8] {
      var block = [UInt8](repeating: 0, count: 512)
      func put(_ bytes: [UInt8], at offset: Int, limit: Int) {
        for (index, byte) in bytes.prefix(limit).enumerated() { block[offset + index] = byte }
      }
      /// What doesn't fit stands in a pax record.
      func number(_ value: UInt64, at offset: Int, digits: Int) {
        let fits = value < 1 << UInt64(3 * digits)
        let text = String(fits ? value : 0, radix: 8)
        put(Array((String(repeating: "0", count: digits - text.count) + text).utf8), at: offset, limit: digits)
      }
      put(name, at: 0, limit: 100)
      number(mode, at: 100, digits: 7)
      number(user, at: 108, digits: 7)
      number(group, at: 116, digits: 7)
      number(UInt64(clamping: size), at: 124, digits: 11)
      number(UInt64(clamping: seconds), at: 136, digits: 11)
      block[156] = type
      put(link, at: 157, limit: 100)
      put(Array("ustar\u{0}00".utf8), at: 257, limit: 8)
      put(userName, at: 265, limit: 31)
      put(groupName, at: 297, limit: 31)
      // As the C library splits a device's number.
      number((device >> 8 & 0xfff) | (device >> 32 & ~0xfff), at: 329, digits: 7)
      number((device & 0xff) | (device >> 12 & ~0xff), at: 337, digits: 7)
      put(Array(repeating: 32, count: 8), at: 148, limit: 8)
      let sum = block.reduce(0) { $0 + UInt64($1) }
      number(sum, at: 148, digits: 6)
      (block[154], block[155]) = (0, 32)
      return block
    }
  }
}
