import Core
import DriverKit
import Glibc
import IO

/// Where a restore went beyond its copy's mark.
struct Reached: Sendable, Equatable {
  var position: LogPosition
  var transactions: Int64 = 0
  /// When the last one was seen, and the next one that is not in it.
  var time: Timestamp?
  var next: Timestamp?
  var isCut = false

  var proof: String {
    var text = "\(transactions) transactions of the log, to frame \(position.value)"
    if let time { text += ", seen at \(time)" }
    if let next { text += "; the next was seen at \(next)" }
    if isCut { text += "; what comes after is not a whole transaction" }
    return text
  }
}

extension SQLiteDriver {
  /// Puts the log's pages into a copy, transaction by transaction, as a checkpoint does.
  ///
  /// - Parameters:
  ///   - place: The copy, which nobody has open; it is changed.
  ///   - spill: Where the log's bytes are put meanwhile.
  func goForward(
    _ replay: LogReplay, from capture: CaptureResult, place: String, spill: String
  ) async throws(DriverError) -> Reached {
    try requireKnown(replay.target)
    let parts = try await fetch(replay.source, into: spill)
    let target = replay.target
    return try await pool.run { () throws(DriverError) -> Reached in
      let reached = try Self.apply(parts, spill: spill, to: place, from: capture.position, target)
      do throws(SystemFailure) { try Files.removeTree(spill) } catch { throw DriverError(error) }
      return reached
    }
  }

  func requireKnown(_ target: LogTarget) throws(DriverError) {
    switch target {
    case .newest, .time: break
    case .name, .transaction:
      throw .unsupported("an SQLite log has neither names nor transaction ids: say --newest, --to or --position")
    }
  }

  /// A stretch of one file, and where its bytes are in the spilled log.
  struct Part: Sendable, Equatable {
    var file: WALFile
    var extent: LogExtent
    var at: Int64
  }

  private func fetch(_ source: any LogSource, into path: String) async throws(DriverError) -> [Part] {
    let parts = try await SpilledPart.fetch(source, into: path, on: pool) { WALFile($0) != nil }
    return parts.compactMap { part in
      WALFile(part.extent.file).map { Part(file: $0, extent: part.extent, at: part.at) }
    }
  }

  /// Blocks.
  static func apply(
    _ parts: [Part], spill: String, to place: String, from mark: LogPosition, _ target: LogTarget
  ) throws(DriverError) -> Reached {
    var replay = Replay(reached: Reached(position: mark), target: target)
    do throws(SystemFailure) {
      replay.log = try File(spill, O_RDONLY)
      replay.database = try File(place, O_RDWR | O_NOFOLLOW)
    } catch { throw DriverError(error) }
    for (index, part) in parts.enumerated() where !replay.isOver {
      // The first stretch begins before the mark, or with it.
      try replay.take(part, after: index == 0 ? try frames(before: mark, in: part.file) : nil)
    }
    return try replay.finish()
  }

  /// How many frames of the log's first file are in the copy already.
  private static func frames(before mark: LogPosition, in file: WALFile) throws(DriverError) -> Int64 {
    if mark.value.hasPrefix("0@") { return file.first }
    let parts = mark.value.split(separator: ":")
    guard parts.count == 2, let frame = Int64(parts[1]), frame > 0 else {
      throw .corrupt("the snapshot's mark '\(mark.value)' is no frame")
    }
    // The mark may be the very end of the file before.
    return parts[0] == file.salts ? frame : file.first
  }

  private struct Replay {
    var reached: Reached
    var target: LogTarget
    var log: File!
    var database: File!
    var isOver = false
    /// Pages of the transaction under way, and where in the log they are.
    private var pages: [(number: UInt32, at: Int64)] = []
    private var pageSize = 0
    private var databasePages: UInt32?

    init(reached: Reached, target: LogTarget) { (self.reached, self.target) = (reached, target) }

    /// - Parameter mark: How many frames the copy has; `nil` after the first stretch.
    mutating func take(_ part: SQLiteDriver.Part, after mark: Int64?) throws(DriverError) {
      let file = part.file
      guard let first = file.frames(before: part.extent.from), let end = file.frames(before: part.extent.to) else {
        throw .corrupt("the log's \(file.name) is cut inside a frame")
      }
      guard pageSize == 0 || pageSize == file.pageSize else { throw .corrupt("the log's pages have two sizes") }
      pageSize = file.pageSize
      guard pages.isEmpty else { throw .corrupt("a transaction of the log goes on in another file") }
      let skipped = mark ?? first
      guard first <= skipped else {
        throw .logGap("the log begins after frame \(first), and the copy ends with \(skipped)")
      }
      // A whole head precedes the frames.
      let head = part.extent.from == 0 ? Int64(WALFile.head.count) : 0
      var sum: WALSum?
      var frame = first
      while frame < end, !isOver {
        let at = part.at + head + (frame - first) * Int64(file.recordBytes)
        frame += 1
        let record: [UInt8]
        do throws(SystemFailure) { record = try log.read(at: at, count: file.recordBytes) } catch {
          throw DriverError(error)
        }
        guard record.count == file.recordBytes else { throw .corrupt("the log ends early") }
        try check(record, file, frame, &sum)
        if frame > skipped { try take(record, at: at + Int64(record.count - pageSize), file, frame) }
      }
    }

    /// - Parameter sum: The frame before; the first of a stretch has none to be checked against.
    private func check(
      _ record: [UInt8], _ file: WALFile, _ frame: Int64, _ sum: inout WALSum?
    ) throws(DriverError) {
      let before = sum
      let isRight = record.withUnsafeBytes { raw -> Bool in
        let one = UnsafeRawBufferPointer(rebasing: raw[WALFile.timeBytes...])
        let found = WALSum(one, at: 16)
        sum = found
        guard Hex.encode(Array(one[8..<16])) == file.salts else { return false }
        guard let before else { return true }
        return [false, true].contains { isBigEndian in
          var running = before
          running.add(UnsafeRawBufferPointer(rebasing: one[..<8]), isBigEndian: isBigEndian)
          running.add(UnsafeRawBufferPointer(rebasing: one[WALFormat.frameHeaderBytes...]), isBigEndian: isBigEndian)
          return running == found
        }
      }
      guard isRight else { throw .corrupt("frame \(frame) of the log's \(file.name) fails its checksum") }
    }

    private mutating func take(
      _ record: [UInt8], at place: Int64, _ file: WALFile, _ frame: Int64
    ) throws(DriverError) {
      let (nanoseconds, page, commit) = record.withUnsafeBytes { raw in
        (
          raw.loadUnaligned(as: Int64.self).bigEndian, WALSum.word(raw, WALFile.timeBytes),
          WALSum.word(raw, WALFile.timeBytes + 4)
        )
      }
      let seen = Timestamp(nanoseconds: nanoseconds)
      if case .time(let time) = target, seen > time {
        (reached.next, isOver, pages) = (seen, true, [])
        return
      }
      guard page > 0 else { throw .corrupt("frame \(frame) of the log's \(file.name) has no page") }
      pages.append((page, place))
      guard commit > 0 else { return }
      for (number, at) in pages where number <= commit {
        do throws(SystemFailure) {
          let bytes = try log.read(at: at, count: pageSize)
          try bytes.withRawBytes { (raw) throws(SystemFailure) -> Void in
            try database.write(raw, at: Int64(number - 1) * Int64(pageSize))
          }
        } catch { throw DriverError(error) }
      }
      pages = []
      databasePages = commit
      reached.transactions += 1
      reached.time = seen
      reached.position = file.position(after: frame)
    }

    mutating func finish() throws(DriverError) -> Reached {
      reached.isCut = !pages.isEmpty
      do throws(SystemFailure) {
        if let databasePages { try database.truncate(to: Int64(databasePages) * Int64(pageSize)) }
        try database.synchronize()
      } catch { throw DriverError(error) }
      return reached
    }
  }
}
