/// A position in the write-ahead log, in bytes since its beginning.
///
/// Printed and parsed as PostgreSQL does: `0/3000148`, both halves hexadecimal.
struct LogSequenceNumber: Hashable, Comparable, Sendable, CustomStringConvertible {
  var value: UInt64

  init(_ value: UInt64) { self.value = value }

  init?(_ text: some StringProtocol) {
    let halves = text.split(separator: "/", omittingEmptySubsequences: false)
    guard halves.count == 2,
      halves.allSatisfy({ (1...8).contains($0.utf8.count) && $0.utf8.first != 43 && $0.utf8.first != 45 }),
      let high = UInt32(halves[0], radix: 16), let low = UInt32(halves[1], radix: 16)
    else { return nil }
    value = UInt64(high) << 32 | UInt64(low)
  }

  static func < (a: Self, b: Self) -> Bool { a.value < b.value }

  var description: String {
    String(value >> 32, radix: 16, uppercase: true) + "/" + String(value & 0xffff_ffff, radix: 16, uppercase: true)
  }
}

/// How a cluster cuts its write-ahead log into files and pages.
///
/// Source: PostgreSQL 15, src/include/access/xlog_internal.h.
struct LogGeometry: Equatable, Sendable {
  static let pageBytes: UInt64 = 8192
  /// sizeof(XLogLongPageHeaderData), at the start of each segment.
  static let longHeaderBytes: UInt64 = 40
  /// sizeof(XLogPageHeaderData), at the start of every other page.
  static let shortHeaderBytes: UInt64 = 24

  /// A power of two from 1 MiB to 1 GiB.
  let segmentBytes: UInt64

  init?(segmentBytes: UInt64) {
    guard (1 << 20...1 << 30).contains(segmentBytes), segmentBytes & (segmentBytes - 1) == 0 else { return nil }
    self.segmentBytes = segmentBytes
  }

  func segment(of position: LogSequenceNumber) -> UInt64 { position.value / segmentBytes }

  /// Such as `000000010000000000000003`.
  func fileName(timeline: UInt32, segment: UInt64) -> String {
    let perID = (1 << 32) / segmentBytes
    return hex(UInt64(timeline)) + hex(segment / perID) + hex(segment % perID)
  }

  /// Where the last record before `position` ended, as far as the position can tell.
  ///
  /// The server names as "next" the place after a page's header, recovery names as "end" the place before it: between
  /// them is no record, so both are the same point. Brings both to the page's start.
  func normalised(_ position: LogSequenceNumber) -> LogSequenceNumber {
    let inPage = position.value % Self.pageBytes
    let header = position.value % segmentBytes < Self.pageBytes ? Self.longHeaderBytes : Self.shortHeaderBytes
    return inPage <= header ? LogSequenceNumber(position.value - inPage) : position
  }

  private func hex(_ value: UInt64) -> String {
    let digits = String(value, radix: 16, uppercase: true)
    return String(repeating: "0", count: max(0, 8 - digits.count)) + digits
  }
}
