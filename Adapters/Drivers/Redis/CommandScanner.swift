import Core
import DriverKit
import IO

/// Reads a stretch of a replication stream command by command, and copies what an append-only file holds.
///
/// A command is `*<n>\r\n` and *n* times `$<length>\r\n<bytes>\r\n`. `PING` and `REPLCONF` keep a link alive, messages
/// are for who listens; neither is part of the data. Values are skipped, not read: memory is one window, however large a value is. O(*n*) in
/// bytes. Source: Redis, "RESP protocol spec", arrays of bulk strings.
struct CommandScanner {
  struct Summary: Sendable, Equatable {
    var commands: Int64 = 0
    var dropped: Int64 = 0
    var bytes: Int64 = 0
    /// The highest database any command selected.
    var highestDatabase = 0
  }

  private let input: File
  private let end: Int64
  private var window: [UInt8]
  private var windowStart: Int64 = 0
  private var windowCount = 0
  private var position: Int64

  /// - Parameter range: Bytes of `input`; must begin where a command begins.
  init(_ input: File, _ range: Range<Int64>) {
    (self.input, self.end, position) = (input, range.upperBound, range.lowerBound)
    window = [UInt8](repeating: 0, count: 65_536)
  }

  /// Copies all commands but the link's own.
  ///
  /// - Throws: ``DriverError/logGap(_:)`` if the range doesn't end where a command or a transaction ends.
  mutating func copy(to output: (UnsafeRawBufferPointer) throws(SystemFailure) -> Void) throws(DriverError) -> Summary {
    var summary = Summary()
    var keptFrom = position
    var isInTransaction = false
    while position < end {
      let start = position
      let words = try command()
      switch words.first {
      case "PING", "REPLCONF", "PUBLISH", "SPUBLISH":
        summary.dropped += 1
        try copy(keptFrom..<start, to: output, &summary)
        keptFrom = position
      case "MULTI":
        isInTransaction = true
        summary.commands += 1
      case "EXEC":
        isInTransaction = false
        summary.commands += 1
      case "SELECT":
        if words.count > 1, let index = Int(words[1]) { summary.highestDatabase = max(summary.highestDatabase, index) }
        summary.commands += 1
      default: summary.commands += 1
      }
    }
    guard !isInTransaction else { throw .logGap("the replication stream ends inside a transaction") }
    try copy(keptFrom..<position, to: output, &summary)
    return summary
  }

  private mutating func copy(
    _ range: Range<Int64>, to output: (UnsafeRawBufferPointer) throws(SystemFailure) -> Void, _ summary: inout Summary
  ) throws(DriverError) {
    var offset = range.lowerBound
    var buffer = [UInt8](repeating: 0, count: Int(min(262_144, max(1, range.upperBound - range.lowerBound))))
    while offset < range.upperBound {
      let wanted = Int(min(Int64(buffer.count), range.upperBound - offset))
      do throws(SystemFailure) {
        let count = try buffer.withMutableRawBytes { (raw) throws(SystemFailure) -> Int in
          try input.read(at: offset, into: UnsafeMutableRawBufferPointer(rebasing: raw[..<wanted]))
        }
        guard count == wanted else { throw SystemFailure("read", path: input.path, number: 5) }
        try buffer.withRawBytes { (raw) throws(SystemFailure) -> Void in
          try output(UnsafeRawBufferPointer(rebasing: raw[..<wanted]))
        }
      } catch { throw DriverError(error) }
      offset += Int64(wanted)
    }
    summary.bytes += range.upperBound - range.lowerBound
  }

  /// Goes past one command.
  ///
  /// - Returns: Its name in capitals and its first argument, each only if it is short.
  private mutating func command() throws(DriverError) -> [String] {
    guard try byte() == UInt8(ascii: "*") else { throw broken("no command begins") }
    let count = try number()
    // An argument takes at least five bytes.
    guard count > 0, count <= (end - position) / 5 else { throw broken("a command of \(count) words") }
    var words: [String] = []
    for index in 0..<count {
      guard try byte() == UInt8(ascii: "$") else { throw broken("no word begins") }
      let length = try number()
      guard length >= 0, length <= end - position - 2 else { throw broken("a word of \(length) bytes") }
      if index < 2, length <= 32 {
        var text: [UInt8] = []
        for _ in 0..<length { text.append(try byte()) }
        let word = String(decoding: text, as: UTF8.self)
        words.append(index == 0 ? word.uppercased() : word)
      } else {
        position += length
        if index == 0 { words.append("") }
      }
      guard try byte() == 13, try byte() == 10 else { throw broken("a word doesn't end") }
    }
    return words
  }

  private mutating func number() throws(DriverError) -> Int64 {
    var value: Int64 = 0
    var digits = 0
    while true {
      let next = try byte()
      if next == 13 { break }
      guard (48...57).contains(next), digits < 15 else { throw broken("no number") }
      value = value * 10 + Int64(next - 48)
      digits += 1
    }
    guard digits > 0, try byte() == 10 else { throw broken("no number") }
    return value
  }

  private mutating func byte() throws(DriverError) -> UInt8 {
    guard position < end else { throw broken("it ends inside a command") }
    if position < windowStart || position >= windowStart + Int64(windowCount) {
      windowStart = position
      do throws(SystemFailure) {
        windowCount = try window.withMutableRawBytes { (raw) throws(SystemFailure) -> Int in
          try input.read(at: position, into: raw)
        }
      } catch { throw DriverError(error) }
      guard windowCount > 0 else { throw broken("it ends early") }
    }
    defer { position += 1 }
    return window[Int(position - windowStart)]
  }

  private func broken(_ why: String) -> DriverError {
    .logGap("the replication stream is no sequence of whole commands at byte \(position): \(why)")
  }
}
