import Core
import DriverKit
import Glibc
import IO
import Synchronization

extension NATSDriver {
  /// Reads a log up to where a restore is to end.
  ///
  /// - Parameter spill: Where its bytes are put; they stay there.
  func read(
    _ replay: LogReplay, from capture: CaptureResult, _ description: Description, spill: String
  ) async throws(DriverError) -> StreamHistory {
    switch replay.target {
    case .newest, .time: break
    case .name, .transaction:
      throw .unsupported("a log of streams has neither names nor transaction ids: say --newest, --to or --position")
    }
    guard capture.position.kind == "moment", let mark = Timestamp(capture.position.value) else {
      throw .corrupt("the snapshot doesn't say which moment it is of")
    }
    let parts = try await SpilledPart.fetch(replay.source, into: spill, on: environment.pool) {
      StreamLogFile($0) != nil
    }
    let target = replay.target
    return try await environment.pool.run { () throws(DriverError) -> StreamHistory in
      let log: File
      do throws(SystemFailure) { log = try File(spill, O_RDONLY) } catch { throw DriverError(error) }
      var history = StreamHistory(description, mark: mark, target: target)
      for part in parts where !history.isOver { try history.take(part, of: log) }
      try history.finish()
      return history
    }
  }
}

/// A file that is read in small pieces, one behind the other.
private struct LogWindow {
  private let log: File
  private var at: Int64 = 0
  private var held: [UInt8] = []

  init(_ log: File) { self.log = log }

  mutating func bytes(_ from: Int64, _ count: Int) throws(DriverError) -> [UInt8] {
    if from < at || from + Int64(count) > at + Int64(held.count) {
      do throws(SystemFailure) { held = try log.read(at: from, count: max(count, Self.usualBytes)) } catch {
        throw DriverError(error)
      }
      at = from
    }
    guard held.count - Int(from - at) >= count else { throw StreamRecord.damaged("it ends early") }
    return Array(held[Int(from - at)..<Int(from - at) + count])
  }

  private static let usualBytes = 256 << 10
}

/// What a log makes of a copy's streams, gathered before anything is written. Pure but for the reading.
struct StreamHistory: Sendable {
  struct Line: Sendable {
    var stream: CapturedStream
    /// It has messages in the copy.
    var isCopied: Bool
    /// The last message of the copy, and of it and the log together, with its time.
    var copied: Int64
    var last: Int64
    var time: Timestamp
    /// Where the log's messages are in the spilled file.
    var messages: [Stored] = []
    var first: Int64 = 0
    /// The highest number that is known to have been given.
    var given: Int64
    var removed: [ClosedRange<Int64>] = []
    /// A message came that is of after the target; what comes behind it is too.
    var isOver = false
    var isChanged: Bool
  }

  struct Stored: Sendable {
    var sequence: Int64
    var at: Int64
    var size: Int32
  }

  /// Of the moments between the two nobody knows what a stream held: messages came and went before anyone saw them.
  private struct Unseen: Sendable {
    var stream: String
    var from: Timestamp
    var until: Timestamp
  }

  private(set) var lines: [String: Line] = [:]
  private(set) var isOver = false
  private(set) var messages: Int64 = 0
  /// The latest moment of what was taken.
  private(set) var reached: Timestamp
  private(set) var next: Timestamp?
  private let mark: Timestamp
  /// The moment to end at; `nil` for the end of the log.
  private let until: Timestamp?
  private var names: [UInt32: String] = [:]
  private var unseen: [Unseen] = []
  /// Up to here the log is known to have everything.
  private var complete: Timestamp
  private var isBegun = false

  init(_ description: Description, mark: Timestamp, target: LogTarget) {
    self.mark = mark
    if case .time(let time) = target { until = time } else { until = nil }
    (reached, complete) = (mark, mark)
    for stream in description.streams {
      let last = description.contents[stream.name]?.last ?? 0
      lines[stream.name] = Line(
        stream: stream, isCopied: true, copied: last, last: last, time: mark, given: last, isChanged: false)
    }
  }

  private func isLate(_ moment: Timestamp) -> Bool { until.map { moment > $0 } ?? false }
  /// Between the copy's mark and the target.
  private func isNews(_ moment: Timestamp) -> Bool { moment > mark && !isLate(moment) }

  func reached(from position: LogPosition) -> LogPosition {
    LogPosition(
      kind: "moment", value: (until ?? reached).description, details: position.details.filter { $0.key == "account" })
  }

  // MARK: Reading

  mutating func take(_ part: SpilledPart, of log: File) throws(DriverError) {
    let end = part.at + part.extent.to - part.extent.from
    var (at, window) = (part.at, LogWindow(log))
    while at < end, !isOver {
      let head = try window.bytes(at, 4)
      let length = Int64(head.reduce(0) { $0 << 8 | UInt32($1) })
      guard length >= Int64(StreamRecord.headBytes), length <= Int64(StreamRecord.limitBytes), at + 4 + length <= end
      else { throw StreamRecord.damaged("a record has an impossible length") }
      let bytes = try window.bytes(at + 4, Int(length))
      try take(try StreamRecord(bytes), StreamRecord.moment(bytes), at: at + 4, size: Int32(length))
      at += 4 + length
    }
  }

  private mutating func take(
    _ record: StreamRecord, _ moment: Timestamp, at: Int64, size: Int32
  ) throws(DriverError) {
    if case .begin = record {
      (names, isBegun) = ([:], true)
      return
    }
    guard isBegun else { throw StreamRecord.damaged("it doesn't begin with a begin") }
    switch record {
    case .begin: break
    case .complete:
      complete = max(complete, moment)
      if let until, moment >= until { isOver = true }
    case .stream(let number, let name, let created, let config):
      names[number] = name
      try declare(number, name, created, config, moment)
    case .message(let number, let message): try take(message, of: number, at, size)
    case .bounds(let number, let first, let last):
      guard let name = names[number], var line = lines.removeValue(forKey: name) else { return }
      defer { lines[name] = line }
      if last > line.last, last > line.given, !line.isOver {
        // What came and went without being seen was there until then, as far as anyone knows.
        if moment > mark { unseen.append(Unseen(stream: line.stream.name, from: line.time, until: moment)) }
        if !isLate(moment) { line.given = last }
      }
      if isNews(moment) {
        line.first = max(line.first, first)
        line.isChanged = true
      }
    case .removed(let number, let ranges):
      guard isNews(moment), let name = names[number], var line = lines.removeValue(forKey: name) else { return }
      defer { lines[name] = line }
      line.removed += ranges
      line.isChanged = true
    case .consumers(let number, let consumers):
      guard isNews(moment), let name = names[number] else { return }
      lines[name]?.stream.consumers = consumers.sorted { $0.name < $1.name }
    case .gone(let number):
      guard let name = names[number], lines[name] != nil else { return }
      if moment > mark { unseen.append(Unseen(stream: name, from: complete, until: moment)) }
      names[number] = nil
      if isNews(moment) { lines[name] = nil }
    }
    if isNews(moment) { reached = max(reached, moment) }
  }

  private mutating func declare(
    _ number: UInt32, _ name: String, _ created: String, _ config: [String: JSONValue], _ moment: Timestamp
  ) throws(DriverError) {
    guard let born = Timestamp(created) else { throw StreamRecord.damaged("a stream is none") }
    if var line = lines[name] {
      if line.stream.created == created {
        // One that is declared only to say that it is gone has no settings.
        if isNews(moment), config.count > 1, line.stream.config != config {
          line.stream.config = config
          lines[name] = line
        }
        return
      }
      guard isNews(born), let old = Timestamp(line.stream.created), born > old else {
        names[number] = nil
        return
      }
      unseen.append(Unseen(stream: name, from: complete, until: born))
    }
    // One that the copy could have had and hasn't was gone by then.
    guard isNews(born), config.count > 1 else {
      names[number] = nil
      return
    }
    let stream = CapturedStream(name: name, created: created, config: config, consumers: [])
    lines[name] = Line(stream: stream, isCopied: false, copied: 0, last: 0, time: born, given: 0, isChanged: true)
  }

  private mutating func take(
    _ message: StoredMessage, of number: UInt32, _ at: Int64, _ size: Int32
  ) throws(DriverError) {
    // Taken out while it is changed: what has two owners is copied at every message.
    guard let name = names[number], var line = lines.removeValue(forKey: name) else { return }
    defer { lines[name] = line }
    if line.isOver { return }
    if message.sequence <= line.copied {
      guard message.time <= mark else {
        throw .logGap(
          "message \(message.sequence) of stream \(line.stream.name) came after the copy was taken, and the copy has that "
            + "number: the log is of another history")
      }
      return
    }
    // The copy had it, or it was gone by then.
    guard message.time > mark else {
      line.given = max(line.given, message.sequence)
      return
    }
    // A session that was killed may have been followed by one that had it again.
    guard message.sequence > line.last else { return }
    if message.sequence > line.last + 1, message.sequence > line.given + 1 {
      unseen.append(Unseen(stream: line.stream.name, from: line.time, until: message.time))
    }
    if isLate(message.time) {
      line.isOver = true
      next = min(next ?? message.time, message.time)
    } else {
      line.messages.append(Stored(sequence: message.sequence, at: at, size: size))
      (line.last, line.time) = (message.sequence, message.time)
      line.given = max(line.given, line.last)
      line.isChanged = true
      messages += 1
      reached = max(reached, message.time)
    }
  }

  /// - Throws: ``DriverError/logGap(_:)`` for a moment of which nobody knows what a stream held.
  mutating func finish() throws(DriverError) {
    if let until, until > mark, let one = unseen.first(where: { $0.from <= until && until < $0.until }) {
      throw .logGap(
        "messages of stream \(one.stream) came and went between \(one.from) and \(one.until) before anyone saw them: restore "
          + "to a moment before or after that")
    }
    for (name, var line) in lines {
      line.removed.sort { $0.lowerBound < $1.lowerBound }
      // No consumer is ahead of its stream.
      let last = max(line.last, line.given)
      for index in line.stream.consumers.indices {
        line.stream.consumers[index].sequence = min(line.stream.consumers[index].sequence, last)
      }
      lines[name] = line
    }
  }
}

/// Writes streams' messages anew: those of a copy, as a server reads them, and behind them those of a log.
final class StreamRewriting: Sendable {
  let history: StreamHistory
  private let directory: String
  private let log: File
  private struct State {
    var expected: [String: StreamContent] = [:]
    var lasts: [String: Int64] = [:]
  }
  private let state = Mutex(State())

  init(_ history: StreamHistory, in directory: String, log: String) throws(DriverError) {
    (self.history, self.directory) = (history, directory)
    do throws(SystemFailure) {
      self.log = try File(log, O_RDONLY)
      try Files.createDirectory(directory, mode: 0o700)
    } catch { throw DriverError(error) }
  }

  /// Numbers of messages without meaning, that are to be deleted again.
  var lasts: [String: Int64] { state.withLock { $0.lasts } }

  /// - Returns: What the copy has.
  func rewrite(_ name: String, from server: JetStream) throws(WireError) -> StreamContent {
    guard let line = history.lines[name], line.isCopied, line.isChanged else {
      let content = try server.digest(of: name)
      if history.lines[name]?.isCopied == true { state.withLock { $0.expected[name] = content } }
      return content
    }
    let info = try server.stream(name)
    var copied = RunningContent()
    do {
      var writing = try Writing(line, in: "\(directory)/\(name)")
      try server.scan(name) { message throws(WireError) in
        guard copied.add(message) else { throw .garbled("messages out of order") }
        do { try writing.add(message) } catch { throw .broken("\(AnyFailure(error).report.summary)") }
      }
      try finish(&writing, line, atLeast: info.lastSequence)
    } catch let error as WireError { throw error } catch { throw .broken("\(AnyFailure(error).report.summary)") }
    return copied.finish()
  }

  private func finish(_ writing: inout Writing, _ line: StreamHistory.Line, atLeast last: Int64) throws {
    var window = LogWindow(log)
    for stored in line.messages {
      let bytes = try window.bytes(stored.at, Int(stored.size))
      guard case .message(_, let message) = try StreamRecord(bytes), message.sequence == stored.sequence else {
        throw StreamRecord.damaged("a message is another one than it was")
      }
      try writing.add(message)
    }
    let (content, filler) = try writing.finish(atLeast: max(last, line.given))
    state.withLock { state in
      state.expected[line.stream.name] = content
      state.lasts[line.stream.name] = filler
    }
  }

  /// Puts what was written into an account's directory, with settings and consumers; streams that are gone go.
  ///
  /// - Returns: The streams, what each is to hold, and a line about it.
  func finish(
    in account: String
  ) throws(DriverError) -> (streams: [CapturedStream], expected: [String: StreamContent], proof: String) {
    var streams: [CapturedStream] = []
    do {
      let there = Files.exists("\(account)/streams") ? try Files.names(in: "\(account)/streams").map(\.lossyText) : []
      for name in there where history.lines[name]?.isCopied != true {
        try Files.removeTree("\(account)/streams/\(name)")
      }
      try Files.createDirectory("\(account)/streams", mode: 0o750)
      for (name, line) in history.lines.sorted(by: { $0.key < $1.key }) {
        let place = "\(account)/streams/\(name)"
        try Files.createDirectory(place, mode: 0o750)
        if line.isChanged {
          if !line.isCopied {
            var writing = try Writing(line, in: "\(directory)/\(name)")
            try finish(&writing, line, atLeast: 0)
          }
          try Files.removeTree("\(place)/msgs")
          try Files.rename("\(directory)/\(name)", to: "\(place)/msgs")
        }
        try StreamFiles.write(line.stream, in: account)
        streams.append(line.stream)
      }
      try Files.removeTree(directory)
    } catch { throw DriverError(error) }
    var proof = "\(history.messages) messages of the log, to \(history.reached)"
    if let next = history.next { proof += "; the next is of \(next)" }
    return (streams, state.withLock { $0.expected }, proof)
  }

  /// One stream while it is written.
  private struct Writing {
    private var blocks: MessageBlocks
    private var content = RunningContent()
    private let first: Int64
    private let removed: [ClosedRange<Int64>]
    private var index = 0
    private var lastTime = Timestamp(nanoseconds: 0)

    init(_ line: StreamHistory.Line, in directory: String) throws {
      blocks = try MessageBlocks(directory, of: line.stream.name)
      first = line.first
      removed = line.removed.merged()
    }

    mutating func add(_ message: StoredMessage) throws {
      lastTime = max(lastTime, message.time)
      guard message.sequence >= first else { return }
      while index < removed.count, removed[index].upperBound < message.sequence { index += 1 }
      if index < removed.count, removed[index].contains(message.sequence) { return }
      guard content.add(message) else { throw StreamRecord.damaged("messages out of order") }
      try blocks.append(message)
    }

    /// - Returns: Also the number of a message that is there for its number only.
    mutating func finish(atLeast last: Int64) throws -> (StreamContent, filler: Int64?) {
      var filler: Int64?
      if last > content.content.last {
        let message = StoredMessage(sequence: last, time: lastTime, subject: "salvor", headers: [], payload: [])
        try blocks.append(message)
        filler = last
      }
      try blocks.finish()
      return (content.finish(), filler)
    }
  }
}

extension [ClosedRange<Int64>] {
  /// Of ascending ranges those that touch or overlap as one.
  func merged() -> [ClosedRange<Int64>] {
    var result: [ClosedRange<Int64>] = []
    for range in self {
      if let last = result.last, range.lowerBound <= last.upperBound + 1 {
        result[result.count - 1] = last.lowerBound...Swift.max(last.upperBound, range.upperBound)
      } else {
        result.append(range)
      }
    }
    return result
  }
}
