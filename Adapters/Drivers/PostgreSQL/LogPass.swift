import Core
import DriverKit
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// One reading of the log between two positions, segment by segment: what it changed, and a digest of its beginning, by which
/// it is told from the log of another history.
final class LogPass: Sendable {
  struct Outcome: Sendable {
    var changes: ChangedBlocks
    var digest: String
    var bytes: Int64
  }

  private struct State {
    var reader: RecordReader
    var changes: ChangedBlocks
    var hash = RunningDigest()
    var bytes: Int64 = 0
  }

  private static let pieceBytes = 256 << 10

  private let geometry: LogGeometry
  private let from: LogSequenceNumber
  private let digested: LogSequenceNumber
  private let end: LogSequenceNumber
  private let state: Mutex<State>

  /// - Parameter digested: Where the digest of the beginning ends.
  init(
    _ geometry: LogGeometry, of systemIdentifier: UInt64, from: LogSequenceNumber, digested: LogSequenceNumber,
    to end: LogSequenceNumber, into changes: ChangedBlocks
  ) {
    (self.geometry, self.from, self.digested, self.end) = (geometry, from, digested, end)
    let reader = RecordReader(geometry, of: systemIdentifier, from: from, to: end)
    state = Mutex(State(reader: reader, changes: changes))
  }

  /// Reads one segment: the next one. Blocks.
  ///
  /// - Throws: ``DriverError/logGap(_:)`` if the file isn't the segment, or is renamed while it is read, as the server does
  ///   with what it needs no more.
  func read(_ segment: UInt64, at path: String) throws(DriverError) {
    let begin = segment * geometry.segmentBytes
    let first = max(begin, from.value - from.value % LogGeometry.pageBytes)
    let last = min(begin + geometry.segmentBytes, end.value - end.value % LogGeometry.pageBytes + LogGeometry.pageBytes)
    func unreadable(_ why: String) -> DriverError { .logGap("\(path) can't be read to its end: \(why)") }
    let (file, before): (File, stat)
    do throws(SystemFailure) {
      file = try File(path, O_RDONLY)
      before = try file.status()
    } catch { throw unreadable(error.report.summary) }
    guard UInt64(before.st_size) == geometry.segmentBytes else { throw unreadable("it is no whole segment") }
    var place = first
    var isOver = false
    while place < last {
      let bytes: [UInt8]
      do throws(SystemFailure) {
        bytes = try file.read(at: Int64(place - begin), count: Int(min(UInt64(Self.pieceBytes), last - place)))
      } catch { throw unreadable(error.report.summary) }
      if bytes.isEmpty { throw unreadable("it is shorter than a segment") }
      let isPadding = isOver
      isOver = try bytes.withRawBytes { (raw) throws(DriverError) in try take(raw, at: place, isPadding) }
      place += UInt64(bytes.count)
      // What is behind a switch counts in the digest only.
      if isOver, place >= digested.value { break }
    }
    var after = stat()
    guard stat(path, &after) == 0, after.st_ino == before.st_ino, after.st_dev == before.st_dev else {
      throw unreadable("the server used the file for something else meanwhile")
    }
  }

  /// - Returns: Whether the rest of the segment is of no use.
  private func take(
    _ raw: UnsafeRawBufferPointer, at place: UInt64, _ isPadding: Bool
  ) throws(DriverError) -> Bool {
    try state.withLock { (state) throws(DriverError) in
      let low = max(place, from.value)
      let high = min(place + UInt64(raw.count), digested.value)
      if low < high { state.hash.update(UnsafeRawBufferPointer(rebasing: raw[Int(low - place)..<Int(high - place)])) }
      state.bytes += Int64(raw.count)
      if isPadding { return true }
      var changes = state.changes
      // In place: there is one owner.
      state.changes = ChangedBlocks(segmentBlocks: 1, partBlocks: 1)
      try state.reader.read(raw) { (record) throws(DriverError) in try changes.take(record) }
      state.changes = changes
      return state.reader.isSwitched || state.reader.isFinished
    }
  }

  /// - Throws: ``DriverError/logGap(_:)`` unless the last record ended where the next backup begins.
  func finish() throws(DriverError) -> Outcome {
    try state.withLock { (state) throws(DriverError) in
      guard state.reader.isFinished else { throw .logGap("the log does not lead from \(from) to \(end)") }
      return Outcome(changes: state.changes, digest: state.hash.finish().hex, bytes: state.bytes)
    }
  }
}
