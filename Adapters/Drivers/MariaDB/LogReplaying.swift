import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Where a replay ends, beyond its copy's mark.
struct LaidLog: Sendable {
  /// In the server's own files.
  var end: BinlogPosition
  var gtid: GTIDList
  /// What the server had replicated from others by then.
  var replicated: GTIDList
  var stream: String
  var begun: UInt32
  /// Of the relay log, in their order.
  var files: [String]
  var words: String

  var position: LogPosition {
    LogPosition(
      kind: "binlog", value: end.description,
      details: ["gtid": gtid.description, "stream": stream, "begun": String(begun)])
  }
}

extension MariaDBDriver {
  /// Puts a log behind the captured one, as further files of the relay log, and cuts it where the target is: always between
  /// two transactions.
  ///
  /// - Parameter files: Of the relay log, in their order; the last one ends at the mark.
  func layLog(
    _ replay: LogReplay, _ facts: RestoreFacts.Replay, _ mark: LogPosition, in relay: String, behind files: [String]
  ) async throws(DriverError) -> LaidLog {
    guard let start = BinlogPosition(facts.mark), let reached = GTIDList(facts.markGTID),
      let replicated = GTIDList(facts.replicated), let begun = mark.details["begun"].flatMap({ UInt32($0) }),
      let stream = mark.details["stream"], let last = files.last
    else { throw .unsupported("the point was taken by a version that can't be gone on from: take a new one") }
    if case .name = replay.target { throw .unsupported("MariaDB's log has no named moments: give a time or a GTID") }
    var wanted: GTID?
    if case .transaction(let text) = replay.target {
      guard let gtid = GTID(text) else { throw .unsupported("'\(text)' is no GTID: domain-server-number") }
      wanted = gtid
    }
    let path = relay + "/" + last
    let base = try await blocking { () throws(DriverError) in
      do throws(SystemFailure) { return try Int64(File(path, O_RDONLY).status().st_size) } catch {
        throw DriverError(error)
      }
    }
    var laid: [LaidFile] = [
      LaidFile(path: path, name: LogFileName(start.file, begun: begun), from: base, shift: start.offset - base)
    ]
    do {
      for extent in try await replay.source.extents() {
        guard let name = LogFileName(extent.file), extent.from >= 0, extent.from < extent.to else {
          throw DriverError.corrupt("the log has a file '\(extent.file)', which is none of its own")
        }
        let current = laid[laid.count - 1]
        if extent.file == current.name.text {
          guard extent.from <= start.offset, laid.count == 1 else {
            throw DriverError.logGap("\(extent.file) goes on at \(extent.from), and the copy ends at \(start)")
          }
        } else {
          guard extent.from == 0, let follows = extent.follows, follows.file == current.name.text,
            laid.count > 1 || follows.offset >= start.offset, files.count + laid.count < 999_999
          else { throw DriverError.logGap("\(extent.file) does not go on from \(current.name.name)") }
          let place = relay + "/" + BesideServer.relayName(files.count + laid.count - 1)
          laid.append(LaidFile(path: place, name: name, from: 4, shift: 0))
        }
        try await write(
          extent, laid[laid.count - 1], replay.source, from: extent.file == current.name.text ? start.offset : 0)
      }
    } catch {
      if let inner = (error as? AnyFailure)?.underlying as? DriverError { throw inner }
      if let failure = error as? AnyFailure, failure.isCancellation { throw .cancelled }
      throw DriverError(error)
    }
    let cutter = LogCutter(target: replay.target, wanted: wanted, replicated: replicated, stream: stream)
    let (found, whole) = (laid, files)
    return try await blocking { () throws(DriverError) in
      do throws(SystemFailure) { return try cutter.cut(found, reached: reached, behind: whole) } catch {
        if error.number == EBADMSG { throw .corrupt("\(error.path ?? "the log") is no binary log") }
        if error.number == ENODATA {
          throw .logGap("transaction \(cutter.wanted?.description ?? "") is not in the log behind \(start)")
        }
        throw DriverError(error)
      }
    }
  }

  private func write(
    _ extent: LogExtent, _ place: LaidFile, _ source: any LogSource, from start: Int64
  ) async throws {
    if extent.to <= start { return }
    let file = try await blocking { () throws(DriverError) in
      do throws(SystemFailure) { return try File(place.path, O_RDWR | O_CREAT | O_NOFOLLOW) } catch {
        throw DriverError(error)
      }
    }
    try await source.read(extent) { [self] offset, bytes in
      guard offset >= extent.from, offset + Int64(bytes.count) <= extent.to else {
        throw DriverError.corrupt("the log's \(extent.file) has bytes outside itself")
      }
      let skipped = Int(min(Int64(bytes.count), max(0, start - offset)))
      guard skipped < bytes.count else { return }
      try await blocking { () throws(DriverError) in
        do throws(SystemFailure) {
          try bytes.withRawBytes { (raw) throws(SystemFailure) -> Void in
            try file.write(UnsafeRawBufferPointer(rebasing: raw[skipped...]), at: offset + Int64(skipped) - place.shift)
          }
        } catch { throw DriverError(error) }
      }
    }
  }
}

/// A file of the relay log that is gone on with, or new.
struct LaidFile: Sendable {
  var path: String
  var name: LogFileName
  /// Where its new events begin.
  var from: Int64
  /// What has to be added for the place in the server's own file.
  var shift: Int64
}

/// Looks where a log that was laid is to end, and cuts it there. Blocks.
struct LogCutter: Sendable {
  var target: LogTarget
  var wanted: GTID?
  var replicated: GTIDList
  var stream: String

  private struct Boundary {
    var index: Int
    var offset: Int64
    var gtid: GTIDList
    var replicated: GTIDList
  }

  /// - Throws: ENODATA if the transaction that is wanted isn't there, EBADMSG for what is no log.
  func cut(_ laid: [LaidFile], reached: GTIDList, behind files: [String]) throws(SystemFailure) -> LaidLog {
    var scanner = TransactionScanner(reached: reached)
    scanner.hasChecksums = try Self.hasChecksums(laid[0].path)
    var boundary = Boundary(index: 0, offset: laid[0].from, gtid: reached, replicated: replicated)
    var isFound = wanted == nil
    scan: for (index, place) in laid.enumerated() {
      let file = try File(place.path, O_RDONLY)
      if index > 0, try file.read(at: 0, count: 4) != [0xfe, 0x62, 0x69, 0x6e] {
        throw SystemFailure("read", path: place.path, number: EBADMSG)
      }
      var walker = BinlogWalker(file: file, offset: place.from, end: Int64(try file.status().st_size))
      while let event = try walker.next() {
        let step = walker.withEvent { scanner.take(event, $0) }
        var isLast = false
        switch step {
        case .nothing: break
        case .began(_, let seconds):
          // A second is whole: what was committed in it is there.
          if case .time(let time) = target, Int64(seconds) > time.wholeSeconds { break scan }
        case .ended(let gtid, _):
          if "server-\(gtid.server)" != stream, boundary.replicated.positions[gtid.domain] != nil {
            boundary.replicated.positions[gtid.domain] = "\(gtid.server)-\(gtid.number)"
          }
          isLast = gtid == wanted
        }
        if scanner.isBetween {
          (boundary.index, boundary.offset, boundary.gtid) = (index, walker.offset, scanner.reached)
        }
        if isLast {
          isFound = true
          break scan
        }
      }
    }
    guard isFound else { throw SystemFailure("find", number: ENODATA) }
    for (index, place) in laid.enumerated() where index >= boundary.index {
      if index > boundary.index {
        unlink(place.path)
      } else {
        let file = try File(place.path, O_RDWR)
        try file.truncate(to: boundary.offset)
        try file.synchronize()
      }
    }
    let last = laid[boundary.index]
    return LaidLog(
      end: BinlogPosition(last.name.name, boundary.offset + last.shift), gtid: boundary.gtid,
      replicated: boundary.replicated, stream: stream, begun: last.name.begun,
      files: files + laid[1...].prefix(boundary.index).map { Files.last(of: $0.path) }, words: words)
  }

  private var words: String {
    switch target {
    case .newest: "the end of the log"
    case .time(let time): "as it was at \(time)"
    case .name(let name): name
    case .transaction(let gtid): "transaction \(gtid)"
    }
  }

  private static func hasChecksums(_ path: String) throws(SystemFailure) -> Bool {
    var walker = BinlogWalker(file: try File(path, O_RDONLY), offset: 4, end: 1 << 20)
    guard let event = try walker.next(), event.kind == BinlogEvent.Kind.format else {
      throw SystemFailure("read", path: path, number: EBADMSG)
    }
    return walker.withEvent { BinlogEvent.announcesChecksums($0) }
  }
}

/// Goes from event to event of a file, as far as they are whole. Blocks.
struct BinlogWalker {
  private let file: File
  private let end: Int64
  /// Behind the event that was given out last.
  private(set) var offset: Int64
  private var buffer: [UInt8] = []
  private var bufferStart: Int64 = 0
  private var event = 0..<0

  private static let bufferBytes = 1 << 20

  init(file: File, offset: Int64, end: Int64) { (self.file, self.offset, self.end) = (file, offset, end) }

  mutating func next() throws(SystemFailure) -> BinlogEvent? {
    guard try load(BinlogEvent.headerBytes), let found = withEvent({ BinlogEvent($0) }),
      offset + Int64(found.length) <= end, try load(min(found.length, TransactionScanner.prefixBytes))
    else { return nil }
    offset += Int64(found.length)
    return found
  }

  /// The event that was given out last, or the beginning of a long one.
  func withEvent<T>(_ body: (UnsafeRawBufferPointer) -> T) -> T {
    buffer.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[event])) }
  }

  /// - Returns: Whether there are so many bytes at the place.
  private mutating func load(_ count: Int) throws(SystemFailure) -> Bool {
    guard offset + Int64(count) <= end else { return false }
    if offset < bufferStart || offset + Int64(count) > bufferStart + Int64(buffer.count) {
      buffer = try file.read(at: offset, count: Int(min(Int64(Self.bufferBytes), end - offset)))
      bufferStart = offset
      guard buffer.count >= count else { return false }
    }
    let start = Int(offset - bufferStart)
    event = start..<start + count
    return true
  }
}

extension Timestamp {
  fileprivate var wholeSeconds: Int64 {
    let (quotient, rest) = nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
    return rest < 0 ? quotient - 1 : quotient
  }
}
