import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Where a restore went beyond its copy's mark.
struct Reached: Sendable, Equatable {
  var position: LogPosition
  var commands: Int64
  var bytes: Int64
  /// Databases that the log selects are at least so many.
  var databases: Int
  var proof: String
}

extension RedisDriver {
  /// Puts the commands of a log after those of the copy, in its append-only file: the engine reads them as its own.
  ///
  /// - Parameters:
  ///   - increment: The copy's append-only file, checked already.
  ///   - spill: Where the log's bytes are put meanwhile.
  func goForward(
    _ replay: LogReplay, from capture: CaptureResult, increment: String, spill: String
  ) async throws(DriverError) -> Reached {
    try requireKnown(replay.target)
    guard let mark = Int64(capture.position.value), let id = capture.position.details["replid"] else {
      throw .corrupt("the snapshot doesn't say which offset it is of")
    }
    let log = try await fetch(replay.source, from: mark, replicationID: id, into: spill)
    let target = replay.target
    return try await environment.pool.run { () throws(DriverError) -> Reached in
      let file: File
      let output: File
      do throws(SystemFailure) {
        file = try File(spill, O_RDONLY)
        output = try File(increment, O_WRONLY | O_APPEND)
      } catch { throw DriverError(error) }
      let cut = try Self.cut(file, log.bytes, target, TimeMessage.channel(configuration.store))
      var scanner = CommandScanner(file, 0..<cut.bytes)
      let summary = try scanner.copy { (bytes) throws(SystemFailure) in try output.write(bytes) }
      do throws(SystemFailure) {
        try output.synchronize()
        try Files.removeTree(spill)
      } catch { throw DriverError(error) }
      let reached = log.identity(at: cut.bytes)
      var proof = "\(summary.commands) commands of the log, to offset \(mark + cut.bytes)"
      if case .time(let time) = target {
        proof += cut.time.map { ", noted at \($0)" } ?? ", the copy's own: no later time before \(time) is noted"
        if let next = cut.next { proof += "; the next noted is \(next)" }
      } else if cut.bytes < log.bytes {
        proof += ": what comes after is not a whole transaction"
      }
      return Reached(
        position: LogPosition(kind: "offset", value: String(mark + cut.bytes), details: ["replid": reached]),
        commands: summary.commands, bytes: summary.bytes, databases: summary.highestDatabase + 1, proof: proof)
    }
  }

  func requireKnown(_ target: LogTarget) throws(DriverError) {
    switch target {
    case .newest, .time: break
    case .name, .transaction:
      throw .unsupported("a Redis log has neither names nor transaction ids: say --newest, --to or --position")
    }
  }

  /// A log's bytes from the mark on, in one file.
  private struct Fetched: Sendable {
    var bytes: Int64 = 0
    /// Whose stream it is from a byte on.
    var identities: [(from: Int64, id: String)]

    func identity(at offset: Int64) -> String { (identities.last { $0.from < offset } ?? identities[0]).id }
  }

  private func fetch(
    _ source: any LogSource, from mark: Int64, replicationID: String, into path: String
  ) async throws(DriverError) -> Fetched {
    let pool = environment.pool
    do {
      let file = try await pool.run { () throws(SystemFailure) -> File in
        try File(path, O_RDWR | O_CREAT | O_TRUNC)
      }
      var log = Fetched(identities: [(0, replicationID)])
      for extent in try await source.extents() {
        guard let name = StreamFile(extent.file), extent.from >= 0, extent.from < extent.to else {
          throw DriverError.corrupt("the log has a file '\(extent.file)', which is none of its own")
        }
        // Offsets of the stream, told from the mark.
        let start = name.start - mark
        let (from, to) = (start + extent.from, start + extent.to)
        guard from <= log.bytes, log.bytes > 0 || log.identities[0].id == name.replicationID || from == 0 else {
          throw DriverError.logGap("the log goes on at offset \(mark + from), not at \(mark + log.bytes)")
        }
        guard log.bytes == 0 || from == log.bytes else {
          throw DriverError.logGap("the log goes on at offset \(mark + from), not at \(mark + log.bytes)")
        }
        if log.identities[log.identities.count - 1].id != name.replicationID {
          log.identities.append((log.bytes, name.replicationID))
        }
        let count = Counted()
        try await source.read(extent) { offset, bytes in
          let place = start + offset
          guard place >= from, place + Int64(bytes.count) <= to else {
            throw DriverError.corrupt("the log's \(extent.file) has bytes outside itself")
          }
          await count.add(Int64(bytes.count))
          let skipped = Int(min(Int64(bytes.count), max(0, -place)))
          guard skipped < bytes.count else { return }
          try await pool.run { () throws(SystemFailure) in
            try bytes.withRawBytes { (raw) throws(SystemFailure) -> Void in
              try file.write(UnsafeRawBufferPointer(rebasing: raw[skipped...]), at: place + Int64(skipped))
            }
          }
        }
        guard await count.bytes == to - from else {
          throw DriverError.corrupt("the log's \(extent.file) is not whole")
        }
        log.bytes = max(log.bytes, to)
      }
      return log
    } catch {
      if let inner = (error as? AnyFailure)?.underlying as? DriverError { throw inner }
      if let failure = error as? AnyFailure, failure.isCancellation { throw .cancelled }
      throw DriverError(error)
    }
  }

  private actor Counted {
    var bytes: Int64 = 0
    func add(_ count: Int64) { bytes += count }
  }

  struct Cut: Sendable, Equatable {
    var bytes: Int64 = 0
    /// What the stream says of when it was there, and the next time it says.
    var time: Timestamp?
    var next: Timestamp?
  }

  /// Where the log is to end: after a whole command, and outside a transaction. Blocks.
  ///
  /// A time is met by the last message of the follower that is known to have been published at or before it: nothing after
  /// that moment is in front of it.
  static func cut(_ file: File, _ size: Int64, _ target: LogTarget, _ channel: String) throws(DriverError) -> Cut {
    var splitter = StreamSplitter()
    var cut = Cut()
    var isOver = false
    /// The newest message of each session, whose time the next one tells.
    var pending: [String: (number: Int64, end: Int64)] = [:]
    var offset: Int64 = 0
    var buffer = [UInt8](repeating: 0, count: 1 << 18)
    while offset < size, !isOver {
      let wanted = Int(min(Int64(buffer.count), size - offset))
      let count: Int
      do throws(SystemFailure) {
        count = try buffer.withMutableRawBytes { (raw) throws(SystemFailure) -> Int in
          try file.read(at: offset, into: UnsafeMutableRawBufferPointer(rebasing: raw[..<wanted]))
        }
      } catch { throw DriverError(error) }
      guard count > 0 else { throw .corrupt("the log ends early") }
      offset += Int64(count)
      try buffer.withRawBytes { (raw) throws(DriverError) in
        try splitter.feed(UnsafeRawBufferPointer(rebasing: raw[..<count])) { command in
          guard !isOver, !command.isInTransaction else { return }
          guard case .time(let time) = target else {
            cut.bytes = command.end
            return
          }
          guard let message = TimeMessage(command, channel: channel) else { return }
          let before = pending[message.session]
          // Whoever follows does so alone: more than a few sessions are none of ours.
          if pending.count > 64 { pending = [:] }
          pending[message.session] = (message.number, command.end)
          guard let before, let last = message.last, before.number + 1 == message.number else { return }
          if last > time {
            cut.next = last
            isOver = true
          } else if before.end >= cut.bytes {
            (cut.bytes, cut.time) = (before.end, last)
          }
        }
      }
    }
    return cut
  }
}
