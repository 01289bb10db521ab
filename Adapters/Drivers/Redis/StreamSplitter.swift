import Core
import DriverKit

/// Tells where commands begin and end in a replication stream that comes piece by piece.
///
/// A value that is never whole in memory: of each command only the first words are kept, and those only if they are short.
/// Source: Redis, "RESP protocol spec", arrays of bulk strings.
struct StreamSplitter: Sendable {
  /// One whole command.
  struct Command: Sendable, Equatable {
    /// The first three words, each as far as it is short; the name in capitals.
    var words: [String]
    /// How many bytes had come when it ended.
    var end: Int64
    /// More of the same transaction follows.
    var isInTransaction: Bool

    var name: String { words.first ?? "" }
    /// Keeps a link alive, and is no part of the data.
    var isLink: Bool { name == "PING" || name == "REPLCONF" }
    /// Asks who listens; not part of the data either.
    var isMessage: Bool { name == "PUBLISH" || name == "SPUBLISH" }
  }

  private enum State: Sendable {
    case command, count, countEnd, word, length, lengthEnd, body, bodyEnd, bodyEndLine
  }

  private static let keptWords = 3
  private static let keptBytes = 160
  /// `proto-max-bulk-len` can be set higher, but no command of that size has ever done anyone good.
  private static let longestWord: Int64 = 1 << 40

  private(set) var received: Int64 = 0
  private var state = State.command
  private var number: Int64 = 0
  private var digits = 0
  private var wordsLeft: Int64 = 0
  private var bytesLeft: Int64 = 0
  private var words: [String] = []
  private var wordIndex = 0
  private var text: [UInt8] = []
  private var keeps = false
  private(set) var isInTransaction = false

  /// - Throws: ``DriverError/logGap(_:)`` for what is no command; the splitter is of no use after it.
  mutating func feed(_ bytes: UnsafeRawBufferPointer, _ each: (Command) -> Void) throws(DriverError) {
    var index = 0
    while index < bytes.count {
      if state == .body {
        let count = Int(min(bytesLeft, Int64(bytes.count - index)))
        if keeps { text.append(contentsOf: bytes[index..<index + count]) }
        bytesLeft -= Int64(count)
        index += count
        received += Int64(count)
        if bytesLeft == 0 { state = .bodyEnd }
        continue
      }
      let byte = bytes[index]
      index += 1
      received += 1
      try take(byte, each)
    }
  }

  private mutating func take(_ byte: UInt8, _ each: (Command) -> Void) throws(DriverError) {
    switch state {
    case .command:
      guard byte == UInt8(ascii: "*") else { throw broken("no command begins") }
      begin(.count)
    case .count, .length:
      if byte == 13 {
        guard digits > 0 else { throw broken("no number") }
        state = state == .count ? .countEnd : .lengthEnd
        return
      }
      guard (48...57).contains(byte), digits < 15 else { throw broken("no number") }
      number = number * 10 + Int64(byte - 48)
      digits += 1
    case .countEnd:
      guard byte == 10, number > 0 else { throw broken("a command of \(number) words") }
      (wordsLeft, wordIndex, words) = (number, 0, [])
      state = .word
    case .word:
      guard byte == UInt8(ascii: "$") else { throw broken("no word begins") }
      begin(.length)
    case .lengthEnd:
      guard byte == 10, number <= Self.longestWord else { throw broken("a word of \(number) bytes") }
      bytesLeft = number
      keeps = wordIndex < Self.keptWords && number <= Self.keptBytes
      text.removeAll(keepingCapacity: true)
      state = number == 0 ? .bodyEnd : .body
    case .body: break
    case .bodyEnd:
      guard byte == 13 else { throw broken("a word doesn't end") }
      state = .bodyEndLine
    case .bodyEndLine:
      guard byte == 10 else { throw broken("a word doesn't end") }
      if wordIndex < Self.keptWords {
        let word = keeps ? String(decoding: text, as: UTF8.self) : ""
        words.append(wordIndex == 0 ? word.uppercased() : word)
      }
      wordIndex += 1
      wordsLeft -= 1
      state = wordsLeft > 0 ? .word : .command
      if wordsLeft == 0 { end(each) }
    }
  }

  private mutating func begin(_ next: State) { (state, number, digits) = (next, 0, 0) }

  private mutating func end(_ each: (Command) -> Void) {
    switch words.first {
    case "MULTI": isInTransaction = true
    case "EXEC", "DISCARD": isInTransaction = false
    default: break
    }
    each(Command(words: words, end: received, isInTransaction: isInTransaction))
  }

  private func broken(_ why: String) -> DriverError {
    .logGap("the replication stream is no sequence of whole commands at byte \(received): \(why)")
  }
}

/// A message that the follower publishes so that the stream says when its commands were run.
///
/// `1 <session> <number> <before> <last>`: `before` is the server's clock before this message was published, `last` its
/// clock after the one before it was, in microseconds, or `-`. So whatever was acknowledged before `before` comes before the
/// message in the stream, and what comes before the message of the number before was run before `last`.
struct TimeMessage: Sendable, Equatable {
  var session: String
  var number: Int64
  var before: Timestamp
  var last: Timestamp?

  static func channel(_ store: StoreName) -> String { "salvor:\(store)" }

  var text: String {
    "1 \(session) \(number) \(before.nanoseconds / 1000) \(last.map { String($0.nanoseconds / 1000) } ?? "-")"
  }

  init(session: String, number: Int64, before: Timestamp, last: Timestamp?) {
    (self.session, self.number, self.before, self.last) = (session, number, before, last)
  }

  init?(_ text: String) {
    let fields = text.split(separator: " ")
    guard fields.count == 5, fields[0] == "1", fields[1].utf8.count <= 16, let number = Int64(fields[2]), number >= 0,
      let before = Self.time(fields[3])
    else { return nil }
    (session, self.number, self.before) = (String(fields[1]), number, before)
    if fields[4] != "-" {
      guard let last = Self.time(fields[4]) else { return nil }
      self.last = last
    }
  }

  init?(_ command: StreamSplitter.Command, channel: String) {
    guard command.name == "PUBLISH", command.words.count == 3, command.words[1] == channel else { return nil }
    self.init(command.words[2])
  }

  private static func time(_ text: Substring) -> Timestamp? {
    guard let microseconds = Int64(text), microseconds >= 0, microseconds < 9_000_000_000_000_000 else { return nil }
    return Timestamp(nanoseconds: microseconds * 1000)
  }
}

/// The name of a file of the mirrored stream: whose stream it is, and the offset before its first byte.
struct StreamFile: Sendable, Equatable {
  var replicationID: String
  var start: Int64

  init(_ replicationID: String, at start: Int64) { (self.replicationID, self.start) = (replicationID, start) }

  init?(_ name: String) {
    let parts = name.split(separator: "-", omittingEmptySubsequences: false)
    guard parts.count == 2, Self.isID(parts[0]), parts[1].utf8.count == 20, let start = Int64(parts[1]), start >= 0
    else { return nil }
    (replicationID, self.start) = (String(parts[0]), start)
  }

  var name: String {
    let digits = String(start)
    return "\(replicationID)-\(String(repeating: "0", count: max(0, 20 - digits.count)))\(digits)"
  }

  func cursor(at offset: Int64) -> LogCursor { LogCursor(name, offset - start) }

  static func isID(_ text: some StringProtocol) -> Bool {
    text.utf8.count == 40 && text.utf8.allSatisfy { (48...57).contains($0) || (97...102).contains($0) }
  }
}
