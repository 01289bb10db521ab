import Core
import DriverKit

/// The running checksum of a WAL: each frame's goes on from the one before.
///
/// Source: sqlite.org, "WAL-mode File Format", section 1.2 and "Checksum Algorithm".
struct WALSum: Sendable, Equatable {
  private(set) var first: UInt32
  private(set) var second: UInt32

  init(_ first: UInt32, _ second: UInt32) { (self.first, self.second) = (first, second) }

  /// As a header has it.
  init(_ raw: UnsafeRawBufferPointer, at offset: Int) {
    self.init(WALSum.word(raw, offset), WALSum.word(raw, offset + 4))
  }

  /// - Parameter raw: A multiple of eight bytes.
  mutating func add(_ raw: UnsafeRawBufferPointer, isBigEndian: Bool) {
    var (a, b) = (first, second)
    var offset = 0
    while offset + 8 <= raw.count {
      let x = raw.loadUnaligned(fromByteOffset: offset, as: UInt32.self)
      let y = raw.loadUnaligned(fromByteOffset: offset + 4, as: UInt32.self)
      a = a &+ (isBigEndian ? x.bigEndian : x.littleEndian) &+ b
      b = b &+ (isBigEndian ? y.bigEndian : y.littleEndian) &+ a
      offset += 8
    }
    (first, second) = (a, b)
  }

  static func word(_ raw: UnsafeRawBufferPointer, _ offset: Int) -> UInt32 {
    raw.loadUnaligned(fromByteOffset: offset, as: UInt32.self).bigEndian
  }

  var text: String { String(first, radix: 16) + "." + String(second, radix: 16) }
}

enum WALFormat {
  static let headerBytes = 32
  static let frameHeaderBytes = 24
  static func isPageSize(_ size: Int) -> Bool { size >= 512 && size <= 65_536 && size & (size - 1) == 0 }
}

/// The name of a file of the mirrored log: one life of the WAL, from one beginning to the next, or the rest of it.
///
/// It has a head of 32 bytes, `SALVOR-WAL-1` and zeros, and then for each frame of the WAL the moment it was seen (eight bytes,
/// big-endian, nanoseconds since 1970) and the frame itself. So where a frame is follows from its number.
///
/// A file with a time has no frames. It says that at its place in the log all was in the database file, whose own time it is: as long
/// as that is so, nothing but what the WAL has can have come since.
struct WALFile: Sendable, Equatable {
  static let head: [UInt8] = Array("SALVOR-WAL-1".utf8) + [UInt8](repeating: 0, count: 20)
  static let timeBytes = 8

  /// In hexadecimal.
  var salts: String
  var pageSize: Int
  /// How many frames of the WAL come before it.
  var first: Int64
  /// The database file's own time, for a place at which all is in it.
  var modified: Timestamp?

  init(salts: String, pageSize: Int, first: Int64 = 0, modified: Timestamp? = nil) {
    (self.salts, self.pageSize, self.first, self.modified) = (salts, pageSize, first, modified)
  }

  init?(_ name: String) {
    let parts = name.split(separator: "-", omittingEmptySubsequences: false)
    guard parts.count == 3 || parts.count == 4, Self.isSalts(parts[0]), let size = Int(parts[1]),
      WALFormat.isPageSize(size), let first = Int64(parts[2]), (0...1 << 32).contains(first)
    else { return nil }
    (salts, pageSize, self.first) = (String(parts[0]), size, first)
    if parts.count == 4 {
      guard let nanoseconds = Int64(parts[3]), nanoseconds >= 0 else { return nil }
      modified = Timestamp(nanoseconds: nanoseconds)
    }
  }

  static func isSalts(_ text: some StringProtocol) -> Bool {
    text.utf8.count == 16 && text.utf8.allSatisfy { (48...57).contains($0) || (97...102).contains($0) }
  }

  var name: String { "\(salts)-\(pageSize)-\(first)" + (modified.map { "-\($0.nanoseconds)" } ?? "") }
  /// Of one frame, with its time.
  var recordBytes: Int { Self.timeBytes + WALFormat.frameHeaderBytes + pageSize }

  /// The place after so many frames of the WAL, none of which is before the file's first.
  func cursor(after frames: Int64) -> LogCursor {
    LogCursor(name, Int64(Self.head.count) + (frames - first) * Int64(recordBytes))
  }

  /// How many frames lie before a place; `nil` if it is in the middle of one.
  func frames(before offset: Int64) -> Int64? {
    if offset == 0 { return first }
    let rest = offset - Int64(Self.head.count)
    guard rest >= 0, rest % Int64(recordBytes) == 0 else { return nil }
    return first + rest / Int64(recordBytes)
  }

  func position(after frames: Int64, sum: WALSum? = nil, pages: UInt32? = nil) -> LogPosition {
    var details = ["salts": salts]
    if let sum { details["checksum"] = sum.text }
    if let pages { details["pages"] = "\(pages)" }
    if let modified { details["modified"] = modified.description }
    if let modified, frames == 0 { return LogPosition(kind: "frame", value: "0@\(modified)", details: details) }
    return LogPosition(kind: "frame", value: "\(salts):\(frames)", details: details)
  }
}
