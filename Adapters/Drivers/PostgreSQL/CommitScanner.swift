import Core

/// Reads the times of commits out of a log as it streams by.
///
/// Follows records from page to page and looks into those of transactions only; whatever it can't make sense of makes it
/// look for the next page that begins a record. Never waits for more, never keeps more than a record's first bytes.
///
/// Source: PostgreSQL 15, src/include/access/xlogrecord.h, xlog_internal.h and xact.h.
struct CommitScanner: Sendable {
  private enum Expecting: Equatable {
    /// The rest of this page is of no use; the next one says how long a record goes on into it.
    case page
    /// A record begins here, once aligned.
    case record
    /// So many bytes of a record are still to come, of which the first may be kept.
    case rest(UInt64)
  }

  /// A record's header, the ids of its data, and the time: no commit needs more to be told.
  private static let keptBytes = 64
  private static let headerBytes = 24

  private let geometry: LogGeometry
  /// What comes next.
  private var position: LogSequenceNumber?
  private var expecting: Expecting = .page
  /// A page's header so far.
  private var header: [UInt8] = []
  /// A record's beginning so far.
  private var kept: [UInt8] = []

  init(_ geometry: LogGeometry) { self.geometry = geometry }

  /// - Returns: Times of commits whose records came to light with these bytes, first and last of all.
  mutating func scan(_ bytes: [UInt8], at start: LogSequenceNumber) -> (first: Timestamp, last: Timestamp)? {
    if position != start {
      (expecting, header, kept) = (.page, [], [])
      position = start
    }
    var found: (first: Timestamp, last: Timestamp)?
    bytes.withUnsafeBytes { raw in
      var offset = 0
      while offset < raw.count {
        let place = start.value + UInt64(offset)
        let inPage = place % LogGeometry.pageBytes
        let needed =
          place % geometry.segmentBytes < LogGeometry.pageBytes
          ? LogGeometry.longHeaderBytes : LogGeometry.shortHeaderBytes
        if inPage < needed, inPage == UInt64(header.count) {
          let count = min(Int(needed - inPage), raw.count - offset)
          header += raw[offset..<offset + count]
          offset += count
          if header.count == Int(needed) {
            enterPage()
            header = []
          }
          continue
        }
        let left = min(Int(LogGeometry.pageBytes - inPage), raw.count - offset)
        offset += consume(UnsafeRawBufferPointer(rebasing: raw[offset..<offset + left]), at: place, &found)
      }
    }
    position = LogSequenceNumber(start.value + UInt64(bytes.count))
    return found
  }

  /// The header tells how much of a record goes on in this page.
  private mutating func enterPage() {
    let rest = header.withUnsafeBytes { UInt64($0.loadUnaligned(fromByteOffset: 16, as: UInt32.self)) }
    switch expecting {
    case .rest(let left) where left > 0 && left == rest: break
    case .record where rest == 0 && kept.isEmpty: break
    default:
      kept = []
      // One whose beginning was not seen is passed over.
      expecting = rest == 0 ? .record : .rest(rest)
      isSkipping = rest != 0
    }
  }

  /// The record under way was not seen from its beginning.
  private var isSkipping = false

  private mutating func consume(
    _ bytes: UnsafeRawBufferPointer, at place: UInt64, _ found: inout (first: Timestamp, last: Timestamp)?
  ) -> Int {
    switch expecting {
    case .page: return bytes.count
    case .record:
      if kept.isEmpty {
        let whole = passWhole(bytes, at: place, &found)
        if whole > 0 { return whole }
      }
      // Records begin at multiples of eight; before them is nothing.
      let padding = kept.isEmpty ? Int((8 - place % 8) % 8) : 0
      if padding >= bytes.count { return bytes.count }
      let count = min(4 - kept.count, bytes.count - padding)
      kept += bytes[padding..<padding + count]
      if kept.count == 4 {
        let total = kept.withUnsafeBytes { UInt64($0.loadUnaligned(as: UInt32.self)) }
        // Zero after a switch of segments; anything else below a header's length is no record.
        if total < Self.headerBytes || total > 1 << 30 {
          (expecting, kept) = (.page, [])
        } else {
          expecting = .rest(total - 4)
        }
        isSkipping = false
      }
      return padding + count
    case .rest(let left):
      let count = min(Int(min(left, UInt64(Int.max))), bytes.count)
      if !isSkipping, kept.count < Self.keptBytes {
        kept += bytes[..<min(count, Self.keptBytes - kept.count)]
      }
      if left > UInt64(count) {
        expecting = .rest(left - UInt64(count))
        return count
      }
      if !isSkipping, let time = kept.withUnsafeBytes({ Self.commitTime($0) }) { Self.note(time, in: &found) }
      (expecting, kept, isSkipping) = (.record, [], false)
      return count
    }
  }

  /// Passes the records that lie in these bytes from their first byte to their last, which nearly all do.
  ///
  /// - Returns: How many bytes they are; what comes then is for the long way.
  private mutating func passWhole(
    _ bytes: UnsafeRawBufferPointer, at place: UInt64, _ found: inout (first: Timestamp, last: Timestamp)?
  ) -> Int {
    var done = 0
    while true {
      let begin = done + Int((8 - (place + UInt64(done)) % 8) % 8)
      guard begin + Self.headerBytes <= bytes.count else { return done }
      let total = Int(bytes.loadUnaligned(fromByteOffset: begin, as: UInt32.self))
      guard total >= Self.headerBytes, total <= bytes.count - begin else { return done }
      // Manager 1 is that of transactions.
      if bytes[begin + 17] == 1 {
        let record = UnsafeRawBufferPointer(rebasing: bytes[begin..<begin + min(total, Self.keptBytes)])
        if let time = Self.commitTime(record) { Self.note(time, in: &found) }
      }
      isSkipping = false
      done = begin + total
    }
  }

  private static func note(_ time: Timestamp, in found: inout (first: Timestamp, last: Timestamp)?) {
    found = (min(found?.first ?? time, time), max(found?.last ?? time, time))
  }

  /// - Returns: `nil` for every record but a commit, of one phase or the second of two.
  private static func commitTime(_ record: UnsafeRawBufferPointer) -> Timestamp? {
    // Manager 1 is that of transactions; the operation is in bits 4 to 6.
    guard record.count > headerBytes + 2, record[17] == 1, [0x00, 0x30].contains(record[16] & 0x70) else { return nil }
    var offset = headerBytes
    while offset + 2 <= record.count {
      switch record[offset] {
      case 255: offset += 2
      case 254: offset += 5
      case 253:
        offset += 3
        continue
      case 252:
        offset += 5
        continue
      default: return nil
      }
      guard offset + 8 <= record.count else { return nil }
      return serverTime(record.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
    }
    return nil
  }
}
