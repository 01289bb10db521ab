import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

extension RedisFollower {
  /// Commands, and transactions as a whole; what keeps a link alive and what is only said to listeners is none.
  func events(
    in log: any LogSource, from start: LogCursor, scratch: String, limit: Int
  ) async throws(DriverError) -> [LogEvent]? {
    let pool = driver.environment.pool
    let parts = try await SpilledPart.fetch(log, into: scratch, on: pool) { StreamFile($0) != nil }
    guard let first = StreamFile(start.file) else { throw .corrupt("'\(start.file)' is no file of the log") }
    let mark = first.start + start.offset
    return try await pool.run { () throws(DriverError) -> [LogEvent] in
      do throws(SystemFailure) {
        var reader = EventReader(file: try File(scratch, O_RDONLY), limit: limit)
        return try reader.read(parts, mark)
      } catch { throw DriverError(error) }
    }
  }
}

/// Reads a spilled stream command by command. Blocks.
private struct EventReader {
  /// A longer command is told by its first words.
  private static let wholeBytes: Int64 = 1 << 20

  let file: File
  let limit: Int
  private var splitter = StreamSplitter()
  private var events: [LogEvent] = []
  private var commands: [JSONValue] = []

  init(file: File, limit: Int) { (self.file, self.limit) = (file, limit) }

  mutating func read(_ parts: [SpilledPart], _ mark: Int64) throws(SystemFailure) -> [LogEvent] {
    for part in parts where events.count < limit {
      guard let name = StreamFile(part.extent.file) else { continue }
      let skipped = max(0, mark - name.start - part.extent.from)
      var offset = part.at + skipped
      let end = part.at + part.extent.to - part.extent.from
      // A command may begin in one file and end in the next: then its words are those that were kept.
      var begun: Int64? = offset
      while offset < end, events.count < limit {
        let bytes = try file.read(at: offset, count: Int(min(1 << 18, end - offset)))
        if bytes.isEmpty { throw SystemFailure("read", path: file.path, number: EIO) }
        var found: [StreamSplitter.Command] = []
        let before = splitter.received
        do throws(DriverError) {
          try bytes.withRawBytes { (raw) throws(DriverError) in try splitter.feed(raw) { found.append($0) } }
        } catch { throw SystemFailure("read", path: file.path, number: EBADMSG) }
        for command in found {
          let stop = offset + command.end - before
          let words = if let begun { try self.words(begun, stop) } else { nil as [String]? }
          begun = stop
          add(command, words ?? command.words, at: name.cursor(at: name.start + part.extent.from + stop - part.at))
        }
        offset += Int64(bytes.count)
      }
    }
    return events
  }

  private mutating func add(_ command: StreamSplitter.Command, _ words: [String], at end: LogCursor) {
    if events.count >= limit { return }
    if command.isLink || command.isMessage { return }
    commands.append(.array(words.map { .string($0) }))
    guard !command.isInTransaction else { return }
    let what = commands.map { ($0.array ?? []).compactMap(\.string).joined(separator: " ") }.joined(separator: "; ")
    events.append(
      LogEvent(end: end, what: String(what.prefix(200)), payload: ["commands": .array(commands)]))
    commands = []
  }

  /// All the words of a command that is not too long.
  private func words(_ start: Int64, _ end: Int64) throws(SystemFailure) -> [String]? {
    guard end > start, end - start <= Self.wholeBytes else { return nil }
    let bytes = try file.read(at: start, count: Int(end - start))
    var words: [String] = []
    var place = 0
    func number(after mark: UInt8) -> Int? {
      guard place < bytes.count, bytes[place] == mark, let stop = bytes[place...].firstIndex(of: 13) else { return nil }
      defer { place = stop + 2 }
      return Int(String(decoding: bytes[(place + 1)..<stop], as: UTF8.self))
    }
    guard let count = number(after: UInt8(ascii: "*")) else { return nil }
    for _ in 0..<count {
      guard let length = number(after: UInt8(ascii: "$")), length >= 0, place + length + 2 <= bytes.count else {
        return nil
      }
      words.append(String(decoding: bytes[place..<place + length], as: UTF8.self))
      place += length + 2
    }
    return words
  }
}
