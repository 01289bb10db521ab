import CISAL
import DriverKit

/// Reads a log's records one after the other, and lets no doubt pass: every page is in its place, every record is whole,
/// true to its checksum, and linked to the one before it; the last ends where it should.
///
/// Source: PostgreSQL 15, src/include/access/xlog_internal.h, xlogrecord.h, and src/backend/access/transam/xlogreader.c.
struct RecordReader: Sendable {
  static let headerBytes = 24
  private static let pageBytes = Int(LogGeometry.pageBytes)
  /// XLogRecordMaxSize is 1020 MiB.
  private static let longestRecord = 1 << 30

  private let geometry: LogGeometry
  private let systemIdentifier: UInt64
  private let start: LogSequenceNumber
  private let end: LogSequenceNumber
  /// The page that comes next.
  private var page: UInt64
  private var magic: UInt16?
  private var timeline: UInt32 = 0
  /// A record that began in a page before, and how much of it is still to come.
  private var pending: [UInt8] = []
  private var missing = 0
  private var recordStart: UInt64 = 0
  private var previous: UInt64?
  /// Where a record began that a crash cut off, until the one that tells of it has come.
  private var overwritten: UInt64?
  /// The rest of the segment is of no use, and need not be given.
  private(set) var isSwitched = false
  private(set) var isFinished = false
  private(set) var count = 0

  /// - Parameters:
  ///   - start: Where a record begins.
  ///   - end: Where another one begins: the first that is not read.
  init(_ geometry: LogGeometry, of systemIdentifier: UInt64, from start: LogSequenceNumber, to end: LogSequenceNumber) {
    (self.geometry, self.systemIdentifier, self.start, self.end) = (geometry, systemIdentifier, start, end)
    page = start.value - start.value % LogGeometry.pageBytes
    isFinished = start == end
  }

  /// Takes whole pages, each the next one; after a switch, those of the next segment.
  ///
  /// - Throws: ``DriverError/logGap(_:)`` for anything that is not the log's; nothing it said before is worth anything then.
  mutating func read(
    _ pages: UnsafeRawBufferPointer, _ each: (UnsafeRawBufferPointer) throws(DriverError) -> Void
  ) throws(DriverError) {
    var offset = 0
    // After a switch the next page is a segment's first.
    if isSwitched {
      page += (geometry.segmentBytes - page % geometry.segmentBytes) % geometry.segmentBytes
      isSwitched = false
    }
    while offset + Self.pageBytes <= pages.count, !isFinished, !isSwitched {
      try enter(UnsafeRawBufferPointer(rebasing: pages[offset..<offset + Self.pageBytes]), each)
      offset += Self.pageBytes
      page += LogGeometry.pageBytes
    }
  }

  private mutating func enter(
    _ bytes: UnsafeRawBufferPointer, _ each: (UnsafeRawBufferPointer) throws(DriverError) -> Void
  ) throws(DriverError) {
    let isFirstOfSegment = page % geometry.segmentBytes == 0
    var at = try header(bytes, isFirstOfSegment)
    let flags = bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self)
    if page + UInt64(at) <= start.value {
      at = Int(start.value - page)
    } else {
      let continued = Int(bytes.loadUnaligned(fromByteOffset: 16, as: UInt32.self))
      if flags & 8 != 0, flags & 1 == 0, missing > 0 {
        // A crash cut the record off: it never happened, and the next one must say so.
        (overwritten, pending, missing) = (recordStart, [], 0)
      }
      guard (flags & 1 != 0 ? continued : 0) == missing else {
        throw damaged("the record at \(LogSequenceNumber(recordStart)) does not go on")
      }
    }
    while at < Self.pageBytes {
      if missing > 0 {
        let count = min(missing, Self.pageBytes - at)
        pending.append(contentsOf: bytes[at..<at + count])
        (at, missing) = (at + count, missing - count)
        if missing > 0 { return }
        let whole = pending
        pending = []
        var failure: DriverError?
        whole.withUnsafeBytes { raw in
          do throws(DriverError) { try accept(raw, each) } catch { failure = error }
        }
        if let failure { throw failure }
      } else {
        at = (at + 7) & ~7
        guard at < Self.pageBytes else { return }
        let place = page + UInt64(at)
        if place >= end.value {
          guard place == end.value else { throw damaged("no record begins at \(end)") }
          isFinished = true
          return
        }
        let total = Int(bytes.loadUnaligned(fromByteOffset: at, as: UInt32.self))
        guard (Self.headerBytes...Self.longestRecord).contains(total) else { throw damaged("it ends before \(end)") }
        recordStart = place
        if at + total <= Self.pageBytes {
          try accept(UnsafeRawBufferPointer(rebasing: bytes[at..<at + total]), each)
          at += total
        } else {
          missing = total
          continue
        }
      }
      if isSwitched { return }
    }
  }

  /// - Returns: How long it is.
  private mutating func header(_ bytes: UnsafeRawBufferPointer, _ isFirstOfSegment: Bool) throws(DriverError) -> Int {
    let magic = bytes.loadUnaligned(as: UInt16.self)
    let flags = bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self)
    let timeline = bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self)
    guard bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self) == page, magic != 0,
      self.magic.map({ $0 == magic }) ?? true, timeline >= self.timeline, timeline > 0,
      (flags & 2 != 0) == isFirstOfSegment
    else { throw damaged("the page at \(LogSequenceNumber(page)) belongs to another place") }
    if isFirstOfSegment {
      guard bytes.loadUnaligned(fromByteOffset: 24, as: UInt64.self) == systemIdentifier else {
        throw damaged("it belongs to another cluster")
      }
    }
    (self.magic, self.timeline) = (magic, timeline)
    return Int(isFirstOfSegment ? LogGeometry.longHeaderBytes : LogGeometry.shortHeaderBytes)
  }

  private mutating func accept(
    _ record: UnsafeRawBufferPointer, _ each: (UnsafeRawBufferPointer) throws(DriverError) -> Void
  ) throws(DriverError) {
    // The checksum is over what follows the header, then the header up to the checksum itself.
    var sum = checksum(UnsafeRawBufferPointer(rebasing: record[Self.headerBytes...]), 0xffff_ffff)
    sum = ~checksum(UnsafeRawBufferPointer(rebasing: record[..<20]), sum)
    guard sum == record.loadUnaligned(fromByteOffset: 20, as: UInt32.self) else {
      throw damaged("the record at \(LogSequenceNumber(recordStart)) fails its checksum")
    }
    let link = record.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
    guard previous.map({ $0 == link }) ?? (link < recordStart) else {
      throw damaged("the record at \(LogSequenceNumber(recordStart)) follows another than the one before it")
    }
    if let cut = overwritten {
      // XLOG_OVERWRITE_CONTRECORD; its data is short, and begins with that position.
      guard record[17] == 0, record[16] & 0xf0 == 0xd0, record.count >= 34, record[24] == 255,
        record.loadUnaligned(fromByteOffset: 26, as: UInt64.self) == cut
      else { throw damaged("the record at \(LogSequenceNumber(cut)) does not go on") }
      overwritten = nil
    }
    previous = recordStart
    count += 1
    try each(record)
    // Manager 0, XLOG_SWITCH.
    isSwitched = record[17] == 0 && record[16] & 0xf0 == 0x40
  }

  private func checksum(_ bytes: UnsafeRawBufferPointer, _ sum: UInt32) -> UInt32 {
    guard let start = bytes.assumingMemoryBound(to: UInt8.self).baseAddress, !bytes.isEmpty else { return sum }
    // Only reads; its declaration lacks a const.
    return crc32_iscsi(UnsafeMutablePointer(mutating: start), Int32(bytes.count), sum)
  }

  private func damaged(_ why: String) -> DriverError { .logGap("the log from \(start): \(why)") }
}
