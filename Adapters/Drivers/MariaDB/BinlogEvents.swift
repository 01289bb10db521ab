import Core

/// What an event of the binary log is, by its header.
///
/// Source: MariaDB, "Binlog Event Header".
struct BinlogEvent: Sendable {
  static let headerBytes = 19

  enum Kind {
    static let query: UInt8 = 2
    static let rotate: UInt8 = 4
    static let format: UInt8 = 15
    static let xid: UInt8 = 16
    static let heartbeat: UInt8 = 27
    static let xaPrepare: UInt8 = 38
    static let gtid: UInt8 = 162
    static let gtidList: UInt8 = 163
    static let encryption: UInt8 = 164
    static let compressedQuery: UInt8 = 165
    /// What may come before the one event of a transaction that needs no commit: numbers, variables, a file to load, the
    /// statement's text.
    static let preparations: Set<UInt8> = [5, 9, 13, 14, 17, 160]
  }

  /// When it happened, in seconds since 1970.
  var seconds: UInt32
  var kind: UInt8
  var server: UInt32
  /// In bytes, with header and checksum.
  var length: Int
  /// Where it ends in its file, the lower half; 0 for what is in no file.
  var end: UInt32
  var flags: UInt16

  /// - Returns: `nil` if it is shorter than any event.
  init?(_ raw: UnsafeRawBufferPointer) {
    guard raw.count >= Self.headerBytes else { return nil }
    seconds = raw.number(0)
    kind = raw[4]
    server = raw.number(5)
    length = Int(raw.number(9) as UInt32)
    end = raw.number(13)
    flags = raw.number(17)
    guard length >= Self.headerBytes else { return nil }
  }

  /// Made up for whoever listens: in no file.
  var isArtificial: Bool { end == 0 || flags & 0x20 != 0 }

  /// Whether the last four bytes of an event are the checksum of the others.
  static func isSound(_ raw: UnsafeRawBufferPointer) -> Bool {
    guard raw.count >= headerBytes + 4 else { return false }
    let body = UnsafeRawBufferPointer(rebasing: raw[..<(raw.count - 4)])
    return CRC32.of(body) == raw.number(raw.count - 4)
  }

  /// Whether events behind this description of the format have checksums; itself it always has one.
  static func announcesChecksums(_ format: UnsafeRawBufferPointer) -> Bool {
    format.count > headerBytes + 5 && format[format.count - 5] == 1
  }
}

extension UnsafeRawBufferPointer {
  func number<T: FixedWidthInteger>(_ offset: Int) -> T {
    T(littleEndian: loadUnaligned(fromByteOffset: offset, as: T.self))
  }
}

/// The checksum of Ethernet and zip, four bytes at a step.
enum CRC32 {
  private static let tables: [UInt32] = {
    var tables = [UInt32](repeating: 0, count: 1024)
    for index in 0..<256 {
      var value = UInt32(index)
      for _ in 0..<8 { value = value & 1 == 1 ? value >> 1 ^ 0xedb8_8320 : value >> 1 }
      tables[index] = value
    }
    for table in 1..<4 {
      for index in 0..<256 {
        let before = tables[(table - 1) * 256 + index]
        tables[table * 256 + index] = before >> 8 ^ tables[Int(before & 255)]
      }
    }
    return tables
  }()

  static func of(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
    tables.withUnsafeBufferPointer { tables in
      var (sum, place) = (~UInt32(0), 0)
      while place + 4 <= bytes.count {
        let word = sum ^ (bytes.number(place) as UInt32)
        sum =
          tables[768 + Int(word & 255)] ^ tables[512 + Int(word >> 8 & 255)] ^ tables[256 + Int(word >> 16 & 255)]
          ^ tables[Int(word >> 24)]
        place += 4
      }
      while place < bytes.count {
        sum = sum >> 8 ^ tables[Int((sum ^ UInt32(bytes[place])) & 255)]
        place += 1
      }
      return ~sum
    }
  }
}

/// A transaction's name: domain, server, number.
struct GTID: Hashable, Sendable, CustomStringConvertible {
  var domain: UInt32
  var server: UInt32
  var number: UInt64

  init(domain: UInt32, server: UInt32, number: UInt64) {
    (self.domain, self.server, self.number) = (domain, server, number)
  }

  init?(_ text: some StringProtocol) {
    let fields = text.split(separator: "-", omittingEmptySubsequences: false)
    guard fields.count == 3, let domain = UInt32(fields[0]), let server = UInt32(fields[1]),
      let number = UInt64(fields[2])
    else { return nil }
    self.init(domain: domain, server: server, number: number)
  }

  var description: String { "\(domain)-\(server)-\(number)" }
}

/// Finds where transactions begin and end, event by event.
///
/// Source: MariaDB, "GTID_EVENT", "Query_log_event" and "XID_EVENT".
struct TransactionScanner: Sendable {
  enum Step: Equatable {
    case nothing
    case began(GTID, seconds: UInt32)
    case ended(GTID, seconds: UInt32)
  }

  /// What each domain has come to by transactions that ended.
  var reached: GTIDList
  /// By the file's description of its format.
  var hasChecksums = true
  /// What has begun and not ended.
  private(set) var open: Open?

  struct Open: Equatable, Sendable {
    var gtid: GTID
    var seconds: UInt32
    /// It is a single event, and no commit follows.
    var isAlone: Bool

    init(gtid: GTID, seconds: UInt32, isAlone: Bool) {
      (self.gtid, self.seconds, self.isAlone) = (gtid, seconds, isAlone)
    }

    init?(_ text: String) {
      let fields = text.split(separator: " ")
      guard fields.count == 3, let gtid = GTID(fields[0]), let seconds = UInt32(fields[1]) else { return nil }
      self.init(gtid: gtid, seconds: seconds, isAlone: fields[2] == "1")
    }

    var text: String { "\(gtid) \(seconds) \(isAlone ? 1 : 0)" }
  }

  /// So much of an event is enough: one that ends a transaction is no longer.
  static let prefixBytes = 4096

  init(reached: GTIDList, open: Open? = nil) { (self.reached, self.open) = (reached, open) }

  /// Whether a log may end here.
  var isBetween: Bool { open == nil }

  /// - Parameter raw: The event, or as much of it as ``prefixBytes`` if it is longer.
  mutating func take(_ event: BinlogEvent, _ raw: UnsafeRawBufferPointer) -> Step {
    let header = BinlogEvent.headerBytes
    switch event.kind {
    case BinlogEvent.Kind.format:
      hasChecksums = BinlogEvent.announcesChecksums(raw)
      // A server that crashed in the middle of writing a transaction has begun another file.
      open = nil
    case BinlogEvent.Kind.gtidList:
      if raw.count == event.length, let list = Self.list(raw, hasChecksums) { reached = list }
    case BinlogEvent.Kind.gtid where raw.count >= header + 13:
      let gtid = GTID(domain: raw.number(header + 8), server: event.server, number: raw.number(header))
      open = Open(gtid: gtid, seconds: event.seconds, isAlone: raw[header + 12] & 1 != 0)
      return .began(gtid, seconds: event.seconds)
    default:
      guard let ended = open, ends(event, raw, ended.isAlone) else { return .nothing }
      open = nil
      reached.positions[ended.gtid.domain] = "\(ended.gtid.server)-\(ended.gtid.number)"
      return .ended(ended.gtid, seconds: ended.seconds)
    }
    return .nothing
  }

  private func ends(_ event: BinlogEvent, _ raw: UnsafeRawBufferPointer, _ isAlone: Bool) -> Bool {
    if isAlone { return !BinlogEvent.Kind.preparations.contains(event.kind) }
    switch event.kind {
    case BinlogEvent.Kind.xid, BinlogEvent.Kind.xaPrepare: return true
    case BinlogEvent.Kind.query:
      let text = text(event, raw)
      return text == "COMMIT" || text == "ROLLBACK"
    default: return false
    }
  }

  private func text(_ event: BinlogEvent, _ raw: UnsafeRawBufferPointer) -> String? {
    let fixed = BinlogEvent.headerBytes + 13
    guard raw.count == event.length, raw.count >= fixed else { return nil }
    let status: UInt16 = raw.number(fixed - 2)
    let start = fixed + Int(status) + Int(raw[fixed - 5]) + 1
    let end = raw.count - (hasChecksums ? 4 : 0)
    guard start <= end, end - start <= 16 else { return nil }
    return String(decoding: raw[start..<end], as: UTF8.self)
  }

  private static func list(_ raw: UnsafeRawBufferPointer, _ hasChecksums: Bool) -> GTIDList? {
    let start = BinlogEvent.headerBytes + 4
    let end = raw.count - (hasChecksums ? 4 : 0)
    guard end >= start else { return nil }
    let count = Int((raw.number(start - 4) as UInt32) & 0x0fff_ffff)
    guard count <= (end - start) / 16 else { return nil }
    var list = GTIDList()
    // Of a domain the newest comes last.
    for index in 0..<count {
      let place = start + index * 16
      let (server, number): (UInt32, UInt64) = (raw.number(place + 4), raw.number(place + 8))
      list.positions[raw.number(place)] = "\(server)-\(number)"
    }
    return list
  }
}

/// A file of the binary log as it is kept: its name, and when it was begun, for a server gives names again.
struct LogFileName: Equatable, Sendable {
  var name: String
  /// In seconds since 1970, by its first event.
  var begun: UInt32

  init(_ name: String, begun: UInt32) { (self.name, self.begun) = (name, begun) }

  /// `bin.000007@1763760124`.
  init?(_ text: String) {
    guard let at = text.lastIndex(of: "@"), let begun = UInt32(text[text.index(after: at)...]) else { return nil }
    let name = String(text[..<at])
    guard BinlogPosition.isName(name) else { return nil }
    self.init(name, begun: begun)
  }

  var text: String { "\(name)@\(begun)" }
}
