import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Copies the write-ahead log from a backup's start to a mark, and cuts it there.
///
/// The last segment's bytes from the mark on are zero in the copy. Recovery, of whatever kind, ends where it finds no
/// valid record: so the copy recovers to the mark exactly, without a recovery target, with nothing but the server.
struct LogCopy: Sendable {
  var directory: String
  var geometry: LogGeometry
  var timeline: UInt32
  var systemIdentifier: UInt64
  var start: LogSequenceNumber
  /// Where the digest ends.
  var stop: LogSequenceNumber
  var mark: LogSequenceNumber
  var pool: BlockingPool

  /// Numbers of the segments that hold the stretch; never empty.
  var segments: ClosedRange<UInt64> {
    let end = geometry.normalised(mark)
    let last = end > start ? geometry.segment(of: LogSequenceNumber(end.value - 1)) : geometry.segment(of: start)
    return geometry.segment(of: start)...max(last, geometry.segment(of: start))
  }

  /// - Returns: A digest of the log from start to stop, by which a later capture knows it again.
  /// - Throws: ``DriverError/logGap(_:)`` for a segment that is missing, short, or not the log's.
  func copy(into copy: ClusterCopy, like metadata: FileMetadata) async throws(DriverError) -> String {
    var hash = RunningDigest()
    for segment in segments {
      try throwIfCancelled()
      let name = geometry.fileName(timeline: timeline, segment: segment)
      let path = directory + "/" + name
      let reader = self
      let bytes = try await pool.run { () throws(DriverError) in try reader.readSegment(segment, path) }
      let begin = segment * geometry.segmentBytes
      let (low, high) = (max(begin, start.value), min(begin + geometry.segmentBytes, stop.value))
      if low < high {
        bytes.withUnsafeBytes {
          hash.update(UnsafeRawBufferPointer(rebasing: $0[Int(low - begin)..<Int(high - begin)]))
        }
      }
      try await copy.add(TreePath("data/pg_wal/" + name), like: metadata, bytes: bytes)
    }
    let (directory, pool) = (directory, pool)
    let histories = try await pool.run { () throws(DriverError) -> [(String, [UInt8])] in
      do throws(SystemFailure) {
        var found: [(String, [UInt8])] = []
        for name in try Files.names(in: directory).map(\.lossyText) where name.hasSuffix(".history") {
          found.append((name, try Files.read(directory + "/" + name, limitBytes: 1 << 20)))
        }
        return found
      } catch { throw DriverError(error) }
    }
    for (name, bytes) in histories { try await copy.add(TreePath("data/pg_wal/" + name), like: metadata, bytes: bytes) }
    return hash.finish().hex
  }

  private func readSegment(_ segment: UInt64, _ path: String) throws(DriverError) -> [UInt8] {
    var bytes: [UInt8]
    do throws(SystemFailure) {
      bytes = try Files.read(path, limitBytes: Int(geometry.segmentBytes))
    } catch {
      if error.number == ENOENT { throw .logGap("\(path) is gone, and the copy needs it") }
      if error.number == EFBIG { throw .logGap("\(path) is longer than a segment") }
      throw DriverError(error)
    }
    guard bytes.count == Int(geometry.segmentBytes) else {
      throw .logGap("\(path) has \(bytes.count) bytes instead of \(geometry.segmentBytes)")
    }
    let begin = segment * geometry.segmentBytes
    if begin + geometry.segmentBytes > mark.value {
      let keep = mark.value > begin ? Int(mark.value - begin) : 0
      for index in keep..<bytes.count { bytes[index] = 0 }
    }
    try bytes.withRawBytes { (raw) throws(DriverError) -> Void in try check(raw, begin, path) }
    return bytes
  }

  /// Page headers name the timeline and the page's own place in the log; a recycled file names another.
  ///
  /// Source: PostgreSQL 15, src/include/access/xlog_internal.h, XLogPageHeaderData; after a switch record the rest of a
  /// segment is zero, headers too.
  private func check(_ raw: UnsafeRawBufferPointer, _ begin: UInt64, _ path: String) throws(DriverError) {
    let end = geometry.normalised(mark).value
    var isZero = false
    var offset = 0
    while offset < raw.count, begin + UInt64(offset) < end {
      let address = raw.loadUnaligned(fromByteOffset: offset + 8, as: UInt64.self)
      let pageTimeline = raw.loadUnaligned(fromByteOffset: offset + 4, as: UInt32.self)
      if address == 0, pageTimeline == 0, offset > 0 {
        isZero = true
      } else {
        guard !isZero, address == begin + UInt64(offset), pageTimeline != 0, pageTimeline <= timeline else {
          throw .logGap(
            "\(path): the page at \(LogSequenceNumber(begin + UInt64(offset))) belongs to another place in the log")
        }
      }
      offset += Int(LogGeometry.pageBytes)
    }
    // Zero up to the segment's very end is what a switch leaves; zero before a mark inside the segment is a hole.
    if isZero, end < begin + UInt64(raw.count) { throw .logGap("\(path): the log ends before the mark \(mark)") }
    let identifier = raw.loadUnaligned(fromByteOffset: 24, as: UInt64.self)
    guard identifier == systemIdentifier else {
      throw .logGap("\(path) belongs to another cluster, \(identifier)")
    }
  }
}
