import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A place in the binary log: a file and how many bytes of it.
struct BinlogPosition: Equatable, Sendable, CustomStringConvertible {
  var file: String
  var offset: Int64

  init?(file: String, offset: Int64) {
    guard Self.isName(file), offset >= 4 else { return nil }
    (self.file, self.offset) = (file, offset)
  }

  /// Of a file whose name was looked at before.
  init(_ file: String, _ offset: Int64) { (self.file, self.offset) = (file, offset) }

  /// `bin.000001:322`.
  init?(_ text: String) {
    guard let colon = text.lastIndex(of: ":"), let offset = Int64(text[text.index(after: colon)...]) else { return nil }
    self.init(file: String(text[..<colon]), offset: offset)
  }

  var description: String { "\(file):\(offset)" }

  /// Whether it can be a log's name: it becomes a path.
  static func isName(_ text: String) -> Bool {
    !text.isEmpty && text.utf8.count <= 200 && text.first != "." && text.first != "-"
      && text.utf8.allSatisfy { $0 > 32 && $0 < 127 && $0 != 47 && $0 != 92 }
  }
}

/// What each replication domain has come to: `0-1-57,1-1-3`.
struct GTIDList: Equatable, Sendable {
  /// Domain to server and number.
  var positions: [UInt32: String] = [:]

  init() {}

  init?(_ text: String) {
    for part in text.split(separator: ",") {
      let fields = part.filter { !$0.isWhitespace }.split(separator: "-")
      guard fields.count == 3, let domain = UInt32(fields[0]), let server = UInt32(fields[1]),
        let number = UInt64(fields[2])
      else { return nil }
      positions[domain] = "\(server)-\(number)"
    }
  }

  var description: String {
    positions.sorted { $0.key < $1.key }.map { "\($0.key)-\($0.value)" }.joined(separator: ",")
  }
}

/// The stretch of the binary log between a copy and a mark, as files that mariadb-binlog and a server can read.
///
/// Read from the server's own files, which only grow: up to a position it names they are whole.
/// Source: MariaDB, "Binlog Event Header".
struct BinaryLog: Sendable {
  struct Stretch: Sendable, Equatable {
    var file: String
    /// Bytes of the file, behind its header.
    var range: Range<Int64>
  }

  /// Where the files are.
  var directory: String

  private static let magic: [UInt8] = [0xfe, 0x62, 0x69, 0x6e]
  private static let eventHeaderBytes = 19
  /// What a file begins with, and nothing else: the lengths of all kinds of events, and the GTIDs it goes on from.
  private static let preamble: Set<UInt8> = [15, 163]
  private static let preambleLimit: Int64 = 1 << 20

  /// The stretches from `start` to `end`, by the names of all files in their order.
  static func stretches(
    from start: BinlogPosition, to end: BinlogPosition, in files: [(name: String, size: Int64)]
  ) throws(DriverError) -> [Stretch] {
    guard let first = files.firstIndex(where: { $0.name == start.file }) else {
      throw .logGap("\(start.file), where the copy stands, was removed by the server: keep binary logs for longer")
    }
    guard let last = files.firstIndex(where: { $0.name == end.file }), last >= first,
      last > first || end.offset >= start.offset
    else { throw .logGap("the mark \(end) is not behind the copy's position \(start)") }
    for (one, next) in zip(files[first..<last], files[(first + 1)...]) where number(one.name) + 1 != number(next.name) {
      throw .logGap("the server removed what came after \(one.name): keep binary logs for longer")
    }
    return files[first...last].enumerated().map { index, file in
      let from = index == 0 ? start.offset : 4
      let to = first + index == last ? end.offset : file.size
      return Stretch(file: file.name, range: from..<max(from, to))
    }
  }

  private static func number(_ name: String) -> Int64 {
    name.lastIndex(of: ".").flatMap { Int64(name[name.index(after: $0)...]) } ?? -2
  }

  /// When a file was begun, in seconds since 1970, by its first event. Blocks, for a read of a few bytes.
  func begun(_ name: String) throws(DriverError) -> UInt32 {
    let path = "\(directory)/\(name)"
    do throws(SystemFailure) {
      let head = try File(path, O_RDONLY).read(at: 0, count: 9)
      guard head.count == 9, head.starts(with: Self.magic), head[8] == BinlogEvent.Kind.format else {
        throw SystemFailure("read", path: path, number: EBADMSG)
      }
      return head.withUnsafeBytes { $0.number(4) }
    } catch { throw error.number == EBADMSG ? .corrupt("\(path) is no binary log") : DriverError(error) }
  }

  /// A file's header, and with it where its events begin; and the file itself, which stays readable when the server
  /// removes it. Blocks.
  func open(_ name: String) throws(DriverError) -> (file: File, header: [UInt8]) {
    let path = "\(directory)/\(name)"
    do throws(SystemFailure) {
      let file = try File(path, O_RDONLY)
      guard try file.read(at: 0, count: 4) == Self.magic else {
        throw SystemFailure("read", path: path, number: EBADMSG)
      }
      var end: Int64 = 4
      while true {
        let head = try file.read(at: end, count: Self.eventHeaderBytes)
        guard head.count == Self.eventHeaderBytes, Self.preamble.contains(head[4]) else { break }
        let length = head.withUnsafeBytes { UInt32(littleEndian: $0.loadUnaligned(fromByteOffset: 9, as: UInt32.self)) }
        end += Int64(length)
        guard length >= UInt32(Self.eventHeaderBytes), end <= Self.preambleLimit else {
          throw SystemFailure("read", path: path, number: EBADMSG)
        }
      }
      var header = try file.read(at: 0, count: Int(end))
      guard header.count == Int(end), end > 4, header[8] == 15 else {
        throw SystemFailure("read", path: path, number: EBADMSG)
      }
      // "In use": the file the server writes to now. The checksum is that without it.
      header[4 + 17] &= ~1
      return (file, header)
    } catch {
      if error.number == ENOENT { throw .logGap("\(path) was removed by the server: keep binary logs for longer") }
      if error.number == EBADMSG { throw .corrupt("\(path) is no binary log") }
      throw DriverError(error)
    }
  }
}

/// A header, and behind it a stretch of a file whose events are walked as they go by. Calls block.
final class BinlogSource: ByteSource {
  private let file: File
  private let header: [UInt8]
  private var offset: Int64
  private let end: Int64
  private var sent = 0
  /// Where the next event begins.
  private var next: Int64
  private var lengthBytes: [UInt8] = []

  init(_ opened: (file: File, header: [UInt8]), _ range: Range<Int64>) {
    (file, header) = opened
    offset = max(range.lowerBound, Int64(header.count))
    end = max(range.upperBound, offset)
    next = offset
  }

  func read(into buffer: UnsafeMutableRawBufferPointer) throws -> Int {
    if sent < header.count {
      let count = min(buffer.count, header.count - sent)
      header.withUnsafeBytes { buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[sent..<sent + count])) }
      sent += count
      return count
    }
    let wanted = Int(min(Int64(buffer.count), end - offset))
    guard wanted > 0 else {
      guard next == end else { throw DriverError.corrupt("\(file.path): no event ends at \(end)") }
      return 0
    }
    let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<wanted])
    let count = try file.read(at: offset, into: part)
    guard count > 0 else { throw DriverError.logGap("\(file.path) ends at \(offset), before \(end)") }
    try walk(UnsafeRawBufferPointer(rebasing: part[..<count]))
    offset += Int64(count)
    return count
  }

  /// Each event says how long it is, at its tenth byte.
  private func walk(_ bytes: UnsafeRawBufferPointer) throws(DriverError) {
    let limit = offset + Int64(bytes.count)
    while true {
      let place = next + 9 + Int64(lengthBytes.count)
      guard place < limit else { return }
      lengthBytes.append(bytes[Int(place - offset)])
      guard lengthBytes.count == 4 else { continue }
      let length = lengthBytes.reversed().reduce(Int64(0)) { $0 << 8 | Int64($1) }
      guard length >= 19, next + length <= end else {
        throw .corrupt("\(file.path): the event at \(next) says that it is \(length) bytes long")
      }
      next += length
      lengthBytes = []
    }
  }
}
