import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Where a recovery goes beyond its copy's mark.
struct RecoveryAim: Sendable {
  /// The log's last timeline.
  var timeline: UInt32
  /// Where the log ends.
  var end: LogSequenceNumber
  var target: LogTarget
  /// The target as the server's settings name it; `nil` for the end of the log.
  var setting: (name: String, value: String)?

  init(timeline: UInt32, end: LogSequenceNumber, target: LogTarget) throws(DriverError) {
    (self.timeline, self.end, self.target) = (timeline, end, target)
    switch target {
    case .newest: setting = nil
    case .time(let time):
      setting = ("recovery_target_time", time.format(fractionDigits: 6).replacing("Z", with: "+00"))
    case .name(let name):
      guard !name.isEmpty, name.utf8.count < 64, !name.utf8.contains(0) else {
        throw .unsupported("'\(name)' can't be the name of a restore point")
      }
      setting = ("recovery_target_name", name)
    case .transaction(let text):
      guard let id = UInt64(text), id > 2 else { throw .unsupported("'\(text)' can't be the id of a transaction") }
      setting = ("recovery_target_xid", String(id))
    }
  }

  var words: String {
    switch target {
    case .newest: "the end of the log"
    case .time(let time): "as it was at \(time)"
    case .name(let name): "the restore point '\(name)'"
    case .transaction(let id): "transaction \(id)"
    }
  }

  /// - Parameter isAsked: Whether the target is to be asked for; if not, recovery goes to the end of the log.
  func settings(asking isAsked: Bool) -> [(String, String)] {
    var result = [("recovery_target_timeline", String(timeline)), ("recovery_target_action", "promote")]
    if isAsked, let setting { result += [(setting.name, setting.value), ("recovery_target_inclusive", "on")] }
    return result
  }
}

extension PostgreSQLDriver {
  /// Puts a log beside the copied one, in `pg_wal`, where recovery finds it without being told. What is missing at the end
  /// of the last segment is zero: recovery ends there.
  func layLog(_ replay: LogReplay, _ facts: RestoreFacts, in data: String) async throws(DriverError) -> RecoveryAim {
    guard let geometry = LogGeometry(segmentBytes: facts.segmentBytes) else {
      throw .corrupt("the snapshot's facts make no sense")
    }
    do {
      let directory = data + "/pg_wal"
      for name in try await replay.source.attachments() where Self.isHistory(name) {
        let bytes = try await replay.source.attachment(name, limitBytes: 1 << 20)
        try await blocking { () throws(DriverError) in
          do throws(SystemFailure) { try Files.replace(directory + "/" + name, with: bytes) } catch {
            throw DriverError(error)
          }
        }
      }
      let extents = try await replay.source.extents()
      var last: (timeline: UInt32, position: LogSequenceNumber) = (
        facts.timeline, LogSequenceNumber(facts.mark) ?? LogSequenceNumber(0)
      )
      for extent in extents {
        guard let place = geometry.place(of: extent.end), extent.from >= 0, extent.from < extent.to else {
          throw DriverError.corrupt("the log has a file '\(extent.file)', which is none of its own")
        }
        let path = directory + "/" + extent.file
        let file = try await blocking { () throws(DriverError) in try Self.segment(path, extent, geometry) }
        try await replay.source.read(extent) { [self] offset, bytes in
          guard offset >= extent.from, offset + Int64(bytes.count) <= extent.to else {
            throw DriverError.corrupt("the log's \(extent.file) has bytes outside itself")
          }
          try await blocking { () throws(DriverError) in
            do throws(SystemFailure) {
              try bytes.withRawBytes { (raw) throws(SystemFailure) -> Void in try file.write(raw, at: offset) }
            } catch { throw DriverError(error) }
          }
        }
        try await blocking { () throws(DriverError) in
          do throws(SystemFailure) { try file.synchronize() } catch { throw DriverError(error) }
        }
        last = place
      }
      return try RecoveryAim(timeline: last.timeline, end: last.position, target: replay.target)
    } catch {
      if let inner = (error as? AnyFailure)?.underlying as? DriverError { throw inner }
      if let failure = error as? AnyFailure, failure.isCancellation { throw .cancelled }
      throw DriverError(error)
    }
  }

  /// A whole segment, in which the extent is about to be written. Blocks.
  private static func segment(
    _ path: String, _ extent: LogExtent, _ geometry: LogGeometry
  ) throws(DriverError) -> File {
    do throws(SystemFailure) {
      let isNew = !Files.exists(path)
      if isNew, extent.from > 0 { throw SystemFailure("open", path: path, number: ENOENT) }
      let file = try File(path, O_RDWR | O_CREAT | O_NOFOLLOW)
      // What the copy has after its mark is zero, and so is what the log has not.
      if extent.from == 0 { try file.truncate(to: 0) }
      try file.truncate(to: Int64(geometry.segmentBytes))
      return file
    } catch {
      if error.number == ENOENT {
        throw .logGap("the log begins in the middle of \(extent.file), and the copy has none of it")
      }
      throw DriverError(error)
    }
  }

  private static func isHistory(_ name: String) -> Bool {
    name.utf8.count == 16 && name.hasSuffix(".history")
      && name.utf8.prefix(8).allSatisfy { (48...57).contains($0) || (65...70).contains($0) }
  }

  /// Whether the record that begins where recovery ended is one that the log has not got whole.
  ///
  /// - Throws: ``DriverError/logGap(_:)`` if there is more log that recovery could not read: then it is damaged.
  func requireEnd(
    _ aim: RecoveryAim, reached: LogSequenceNumber, _ replay: LogReplay, _ facts: RestoreFacts
  ) async throws(DriverError) {
    guard let geometry = LogGeometry(segmentBytes: facts.segmentBytes) else { return }
    var place = geometry.normalised(reached)
    if place >= geometry.normalised(aim.end) { return }
    let inPage = place.value % LogGeometry.pageBytes
    if inPage == 0 {
      let isFirst = place.value % geometry.segmentBytes == 0
      place = LogSequenceNumber(place.value + (isFirst ? LogGeometry.longHeaderBytes : LogGeometry.shortHeaderBytes))
    }
    let bytes = try await tail(aim, from: place, replay, geometry)
    let left = aim.end.value - min(place.value, aim.end.value)
    // A record's length is never cut by a page's end; a header that is missing itself is a record that is not whole.
    guard bytes.count >= 4 else { return }
    let total = bytes.withUnsafeBytes { UInt64($0.loadUnaligned(as: UInt32.self)) }
    // Anything else in its place is no record that was cut off: longer than any, or not linked to one before it.
    // Source: PostgreSQL 15, src/include/access/xlogrecord.h; XLogRecordMaxSize is 1020 MiB.
    if total > 1 << 30 { throw unreadable(reached, aim) }
    if bytes.count >= 16, place.value % LogGeometry.pageBytes + 16 <= LogGeometry.pageBytes, total > 0 {
      let previous = bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self) }
      guard previous < place.value, place.value - previous <= 1 << 31 else { throw unreadable(reached, aim) }
    }
    let headers = (total / (LogGeometry.pageBytes - LogGeometry.shortHeaderBytes) + 2) * LogGeometry.longHeaderBytes
    if total > 0, total + headers >= left { return }
    if total == 0, bytes.allSatisfy({ $0 == 0 }),
      geometry.segment(of: place) == geometry.segment(of: LogSequenceNumber(aim.end.value - 1))
    {
      return
    }
    throw unreadable(reached, aim)
  }

  private func unreadable(_ reached: LogSequenceNumber, _ aim: RecoveryAim) -> DriverError {
    .logGap("recovery ended at \(reached), and the log goes on to \(aim.end): it can't be read there")
  }

  /// The log's bytes from `place` on, in that segment.
  private func tail(
    _ aim: RecoveryAim, from place: LogSequenceNumber, _ replay: LogReplay, _ geometry: LogGeometry
  ) async throws(DriverError) -> [UInt8] {
    let name = geometry.fileName(timeline: aim.timeline, segment: geometry.segment(of: place))
    let start = Int64(place.value % geometry.segmentBytes)
    do {
      guard let extent = try await replay.source.extents().last(where: { $0.file == name }), extent.to > start else {
        return []
      }
      let tail = Tail(Int(extent.to - start))
      try await replay.source.read(extent) { offset, bytes in await tail.put(bytes, at: offset - start) }
      return await tail.bytes
    } catch { throw DriverError(error) }
  }

  private actor Tail {
    var bytes: [UInt8]
    init(_ count: Int) { bytes = [UInt8](repeating: 0, count: count) }
    func put(_ piece: [UInt8], at offset: Int64) {
      for (index, byte) in piece.enumerated() {
        let place = Int(offset) + index
        if place >= 0, place < bytes.count { bytes[place] = byte }
      }
    }
  }
}
