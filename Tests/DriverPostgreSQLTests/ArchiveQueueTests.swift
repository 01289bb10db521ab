import DriverKit
import IO
import TestSupport
import Testing

@testable import DriverPostgreSQL

@Suite("Segments that wait for being archived") struct ArchiveQueueTests {
  private static let bytes = 1 << 20
  private static let name = "000000010000000000000003"

  /// A segment whose every page says where it belongs.
  private static func segment(cluster: UInt64 = 7) -> [UInt8] {
    var result = [UInt8](repeating: 0, count: bytes)
    result.withUnsafeMutableBytes { raw in
      for page in stride(from: 0, to: bytes, by: 8192) {
        raw.storeBytes(of: 0xd110, toByteOffset: page, as: UInt64.self)
        raw.storeBytes(of: UInt64(3 * bytes + page), toByteOffset: page + 8, as: UInt64.self)
      }
      raw.storeBytes(of: cluster, toByteOffset: 24, as: UInt64.self)
      raw.storeBytes(of: UInt32(bytes), toByteOffset: 32, as: UInt32.self)
    }
    return result
  }

  /// Reads it as the follower does.
  private func read(_ segment: [UInt8]) throws -> [UInt8] {
    let place = try TemporaryDirectory("queue")
    try Files.createDirectory(place.file("pg_wal"))
    try Files.replace(place.file("pg_wal/\(Self.name)"), with: segment)
    let queue = ArchiveQueue(data: place.path, directory: place.file("answers"), store: "shop-db")
    let geometry = try #require(LogGeometry(segmentBytes: UInt64(Self.bytes)))
    var result: [UInt8] = []
    for offset in stride(from: 0, to: Self.bytes, by: 1 << 18) {
      result += try queue.part(of: Self.name, at: Int64(offset), count: 1 << 18, "7", geometry)
    }
    return result
  }

  @Test func `one that was switched away from early is read to its empty end`() throws {
    var early = Self.segment()
    early.replaceSubrange(5 * 8192..<Self.bytes, with: repeatElement(0, count: Self.bytes - 5 * 8192))
    for segment in [Self.segment(), early] { #expect(try read(segment) == segment) }
  }

  @Test func `another cluster's, another place's, and a cut one are refused`() throws {
    var stale = Self.segment()
    // As a recycled file has them: pages of an earlier use.
    stale.withUnsafeMutableBytes {
      $0.storeBytes(of: UInt64(Self.bytes), toByteOffset: 100 * 8192 + 8, as: UInt64.self)
    }
    var beginning = Self.segment()
    beginning.replaceSubrange(0..<8192, with: repeatElement(0, count: 8192))
    for wrong in [Self.segment(cluster: 8), stale, beginning, Array(Self.segment().dropLast(8192))] {
      let error = #expect(throws: DriverError.self) { try read(wrong) }
      guard case .corrupt = error else {
        Issue.record("\(String(describing: error))")
        continue
      }
    }
  }
}
