import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A row and the key it is sorted by.
package struct KeyedRow: Sendable, Equatable {
  package var key: [String]
  package var row: Row

  package init(key: [String], row: Row) { (self.key, self.row) = (key, row) }

  /// By the bytes of the key's fields, whatever an engine's collation thinks.
  static func isBefore(_ a: [String], _ b: [String]) -> Bool {
    for (x, y) in zip(a, b) {
      if x.utf8.elementsEqual(y.utf8) { continue }
      return x.utf8.lexicographicallyPrecedes(y.utf8)
    }
    return a.count < b.count
  }

  static func isSame(_ a: [String], _ b: [String]) -> Bool {
    a.count == b.count && zip(a, b).allSatisfy { $0.utf8.elementsEqual($1.utf8) }
  }

  var costBytes: Int {
    64 + key.reduce(0) { $0 + $1.utf8.count + 16 } + row.reduce(0) { $0 + ($1?.utf8.count ?? 0) + 16 }
  }
}

/// Sorts more rows than fit into memory: runs are sorted and written to files, then merged. Every call blocks.
///
/// Memory: `limitBytes`, and one row for each run while they are merged.
package struct RowSorter: ~Copyable {
  private let directory: String
  private let limitBytes: Int
  private var rows: [KeyedRow] = []
  private var bytes = 0
  private var runs: [String] = []
  package private(set) var count: Int64 = 0

  /// - Parameter directory: An empty one of the caller's, who removes it.
  package init(directory: String, limitBytes: Int = 64 << 20) {
    (self.directory, self.limitBytes) = (directory, limitBytes)
  }

  package mutating func add(_ row: KeyedRow) throws(SystemFailure) {
    count += 1
    bytes += row.costBytes
    rows.append(row)
    if bytes > limitBytes { try spill() }
  }

  private mutating func spill() throws(SystemFailure) {
    rows.sort { KeyedRow.isBefore($0.key, $1.key) }
    let path = "\(directory)/run-\(runs.count)"
    try Files.createDirectory(directory, mode: 0o700)
    let file = try RunWriter(path)
    for row in rows { try file.write(row) }
    try file.finish()
    runs.append(path)
    rows.removeAll(keepingCapacity: false)
    bytes = 0
  }

  /// The rows in order; the sorter is empty afterwards.
  package consuming func sorted() throws(SystemFailure) -> SortedRows {
    rows.sort { KeyedRow.isBefore($0.key, $1.key) }
    var sources: [SortedRows.Source] = [.init(rows: rows)]
    for run in runs { sources.append(.init(reader: try RunReader(run))) }
    return try SortedRows(sources)
  }
}

/// Sorted rows, one after the other, from several sorted runs.
package final class SortedRows {
  final class Source {
    private var rows: ArraySlice<KeyedRow>
    private let reader: RunReader?
    var head: KeyedRow?

    init(rows: [KeyedRow]) { (self.rows, reader) = (rows[...], nil) }
    init(reader: RunReader) { (rows, self.reader) = ([], reader) }

    func advance() throws(SystemFailure) { head = if let reader { try reader.next() } else { rows.popFirst() } }
  }

  private var sources: [Source]

  init(_ sources: [Source]) throws(SystemFailure) {
    self.sources = sources
    for source in sources { try source.advance() }
    self.sources.removeAll { $0.head == nil }
  }

  package func peek() -> KeyedRow? { smallest().map { sources[$0].head } ?? nil }

  package func next() throws(SystemFailure) -> KeyedRow? {
    guard let index = smallest() else { return nil }
    let row = sources[index].head
    try sources[index].advance()
    if sources[index].head == nil { sources.remove(at: index) }
    return row
  }

  /// O(runs); there are few.
  private func smallest() -> Int? {
    var best: Int?
    for index in sources.indices {
      guard let head = sources[index].head else { continue }
      if let found = best, let other = sources[found].head, !KeyedRow.isBefore(head.key, other.key) { continue }
      best = index
    }
    return best
  }
}

/// Fields as a length and bytes, little end first; -1 for NULL.
private final class RunWriter {
  private let file: File
  private var buffer: [UInt8] = []

  init(_ path: String) throws(SystemFailure) {
    file = try File(path, O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
  }

  func write(_ row: KeyedRow) throws(SystemFailure) {
    number(row.key.count)
    for field in row.key { text(field) }
    number(row.row.count)
    for field in row.row { if let field { text(field) } else { number(-1) } }
    if buffer.count > 1 << 18 { try flush() }
  }

  func finish() throws(SystemFailure) { try flush() }

  private func flush() throws(SystemFailure) {
    try buffer.withRawBytes { (bytes) throws(SystemFailure) -> Void in try file.write(bytes) }
    buffer.removeAll(keepingCapacity: true)
  }

  private func number(_ value: Int) {
    let bits = UInt32(bitPattern: Int32(clamping: value))
    for shift in [0, 8, 16, 24] { buffer.append(UInt8(truncatingIfNeeded: bits >> UInt32(shift))) }
  }

  private func text(_ value: String) {
    number(value.utf8.count)
    buffer.append(contentsOf: value.utf8)
  }
}

final class RunReader {
  private let file: File
  private let path: String
  private var buffer: [UInt8] = []
  private var place = 0

  init(_ path: String) throws(SystemFailure) {
    self.path = path
    file = try File(path, O_RDONLY)
  }

  func next() throws(SystemFailure) -> KeyedRow? {
    guard try fill(4) else { return nil }
    var key: [String] = []
    for _ in 0..<(try number()) { key.append(try text() ?? "") }
    var row: Row = []
    for _ in 0..<(try number()) { row.append(try text()) }
    return KeyedRow(key: key, row: row)
  }

  private func number() throws(SystemFailure) -> Int {
    guard try fill(4) else { throw SystemFailure("read", path: path, number: EBADMSG) }
    var bits: UInt32 = 0
    for shift in 0..<4 { bits |= UInt32(buffer[place + shift]) << UInt32(8 * shift) }
    place += 4
    return Int(Int32(bitPattern: bits))
  }

  private func text() throws(SystemFailure) -> String? {
    let count = try number()
    if count < 0 { return nil }
    guard try fill(count) else { throw SystemFailure("read", path: path, number: EBADMSG) }
    defer { place += count }
    return String(decoding: buffer[place..<place + count], as: UTF8.self)
  }

  /// Whether so many bytes are there to be read.
  private func fill(_ count: Int) throws(SystemFailure) -> Bool {
    while buffer.count - place < count {
      if place > 0 {
        buffer.removeFirst(place)
        place = 0
      }
      let more = try file.readSome(max(1 << 18, count - buffer.count))
      if more.isEmpty { return false }
      buffer += more
    }
    return true
  }
}

extension File {
  fileprivate func readSome(_ count: Int) throws(SystemFailure) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    let got = try bytes.withMutableRawBytes { (raw) throws(SystemFailure) -> Int in try read(into: raw) }
    bytes.removeLast(count - got)
    return bytes
  }
}
