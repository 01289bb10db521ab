import Core
import DriverKit

/// A file of the log of an account's streams, by its name: `<nanoseconds>-<eight digits>`.
///
/// What the server stored after the moment in its name is in that file or a later one, and so is what was seen after it. So a
/// copy of a moment finds where to go on from the names alone.
struct StreamLogFile: Hashable, Comparable, Sendable {
  var moment: Timestamp
  /// Drawn, so that no name comes twice.
  var mark: String

  /// A file has this much, and then as much as comes at once.
  static let bytes: Int64 = 64 << 20

  init(_ moment: Timestamp, mark: String) { (self.moment, self.mark) = (moment, mark) }

  init?(_ name: String) {
    let parts = name.split(separator: "-", omittingEmptySubsequences: false)
    guard parts.count == 2, parts[0].utf8.count == 19, parts[0].utf8.allSatisfy({ (48...57).contains($0) }),
      let moment = Int64(parts[0]), parts[1].utf8.count == 8,
      parts[1].utf8.allSatisfy({ (48...57).contains($0) || (97...102).contains($0) })
    else { return nil }
    self.init(Timestamp(nanoseconds: moment), mark: String(parts[1]))
  }

  var name: String {
    let digits = String(max(0, moment.nanoseconds))
    return String(repeating: "0", count: max(0, 19 - digits.count)) + digits + "-" + mark
  }

  static func < (a: Self, b: Self) -> Bool { a.moment < b.moment }
}

/// How far a stream's messages are in the log; what a session goes on from.
struct StreamPlace: Sendable, Equatable {
  /// As the server spells it: a stream that is made anew under a name has another one.
  var created: String
  /// The highest number that was seen or is known to have gone.
  var last: Int64
  /// When the message of that number was stored; 0 for one that nobody saw.
  var time: Int64

  static let prefix = "stream."

  var text: String { "\(last) \(time) \(created)" }

  init(created: String, last: Int64, time: Int64) { (self.created, self.last, self.time) = (created, last, time) }

  init?(_ text: String) {
    let words = text.split(separator: " ", omittingEmptySubsequences: false)
    guard words.count == 3, let last = Int64(words[0]), last >= 0, let time = Int64(words[1]), !words[2].isEmpty else {
      return nil
    }
    self.init(created: String(words[2]), last: last, time: time)
  }

  /// What a position of the log says of every stream.
  static func all(in position: LogPosition) throws(DriverError) -> [String: StreamPlace] {
    var result: [String: StreamPlace] = [:]
    for (key, text) in position.details where key.hasPrefix(prefix) {
      let name = String(key.dropFirst(prefix.count))
      guard StreamInfo.isName(name), let place = StreamPlace(text) else {
        throw StreamRecord.damaged("it doesn't say how far stream \(name) is")
      }
      result[name] = place
    }
    return result
  }
}

/// One record of the log of an account's streams.
///
/// As bytes: the length of what follows (4), a letter for what it is (1), a moment (8, nanoseconds since 1970), and the rest;
/// numbers are big-endian. A message's moment is the server's own; that of anything else is one at which it certainly was so:
/// a restore to an earlier one does not know of it. Streams are told by numbers that hold until the next `begin`.
enum StreamRecord: Sendable, Equatable {
  /// A session has begun.
  case begin
  /// A stream and its settings.
  case stream(number: UInt32, name: String, created: String, config: [String: JSONValue])
  case message(number: UInt32, StoredMessage)
  /// Messages before `first` are gone, and numbers up to `last` have been given.
  case bounds(number: UInt32, first: Int64, last: Int64)
  /// Messages of these numbers are gone.
  case removed(number: UInt32, [ClosedRange<Int64>])
  /// All durable consumers.
  case consumers(number: UInt32, [CapturedStream.Consumer])
  /// The stream is gone.
  case gone(number: UInt32)
  /// All that the server stored up to the moment is in front of this.
  case complete

  static let version: UInt8 = 1
  /// Letter and moment.
  static let headBytes = 9
  static let limitBytes = Client.payloadLimitBytes + (1 << 20)

  static func damaged(_ why: String) -> DriverError { .corrupt("the log of streams: \(why)") }

  func append(to bytes: inout [UInt8], at moment: Timestamp) throws(DriverError) {
    let start = bytes.count
    bytes.add(UInt32(0))
    bytes.append(letter)
    bytes.add(UInt64(bitPattern: moment.nanoseconds))
    switch self {
    case .begin: bytes.append(Self.version)
    case .stream(let number, let name, let created, let config):
      bytes.add(number)
      bytes += try Self.encoded(Declared(name: name, created: created, config: config))
    case .message(let number, let message):
      bytes.add(number)
      bytes.add(UInt64(message.sequence))
      let subject = Array(message.subject.utf8)
      bytes.add(UInt16(clamping: subject.count))
      bytes.add(UInt32(message.headers.count))
      bytes += subject
      bytes += message.headers
      bytes += message.payload
    case .bounds(let number, let first, let last):
      bytes.add(number)
      bytes.add(UInt64(first))
      bytes.add(UInt64(last))
    case .removed(let number, let ranges):
      bytes.add(number)
      for range in ranges {
        bytes.add(UInt64(range.lowerBound))
        bytes.add(UInt64(range.upperBound))
      }
    case .consumers(let number, let consumers):
      bytes.add(number)
      bytes += try Self.encoded(consumers)
    case .gone(let number): bytes.add(number)
    case .complete: break
    }
    let length = bytes.count - start - 4
    guard length <= Self.limitBytes else { throw .unsupported("a record of \(length) bytes can't be followed") }
    for index in 0..<4 { bytes[start + index] = UInt8(truncatingIfNeeded: length >> (24 - 8 * index)) }
  }

  private var letter: UInt8 {
    switch self {
    case .begin: UInt8(ascii: "B")
    case .stream: UInt8(ascii: "S")
    case .message: UInt8(ascii: "M")
    case .bounds: UInt8(ascii: "F")
    case .removed: UInt8(ascii: "R")
    case .consumers: UInt8(ascii: "C")
    case .gone: UInt8(ascii: "G")
    case .complete: UInt8(ascii: "E")
    }
  }

  /// - Parameter bytes: Without the length.
  init(_ bytes: [UInt8]) throws(DriverError) {
    guard bytes.count >= Self.headBytes else { throw Self.damaged("a record is too short") }
    var rest = bytes[Self.headBytes...]
    switch bytes[0] {
    case UInt8(ascii: "B"):
      guard rest.first == Self.version, rest.count == 1 else { throw Self.damaged("it is of a later version") }
      self = .begin
    case UInt8(ascii: "S"):
      let number = try rest.number()
      let declared: Declared = try Self.decoded(rest)
      guard StreamInfo.isName(declared.name), declared.config["name"]?.string == declared.name,
        Timestamp(declared.created) != nil
      else { throw Self.damaged("a stream is none") }
      self = .stream(number: number, name: declared.name, created: declared.created, config: declared.config)
    case UInt8(ascii: "M"):
      let number = try rest.number()
      let sequence = try rest.count64()
      let subject = Int(try rest.take(2))
      let headers = Int(try rest.take(4))
      guard sequence > 0, subject > 0, subject + headers <= rest.count else { throw Self.damaged("a message is none") }
      let text = String(decoding: rest.prefix(subject), as: UTF8.self)
      guard text.utf8.elementsEqual(rest.prefix(subject)), text.utf8.allSatisfy({ $0 > 32 && $0 != 127 }) else {
        throw Self.damaged("a subject is none")
      }
      rest = rest.dropFirst(subject)
      self = .message(
        number: number,
        StoredMessage(
          sequence: sequence, time: Self.moment(bytes), subject: text, headers: Array(rest.prefix(headers)),
          payload: Array(rest.dropFirst(headers))))
    case UInt8(ascii: "F"):
      let number = try rest.number()
      let (first, last) = (try rest.count64(), try rest.count64())
      guard rest.isEmpty, first >= 0, first <= last + 1 else { throw Self.damaged("a stream's bounds are none") }
      self = .bounds(number: number, first: first, last: last)
    case UInt8(ascii: "R"):
      let number = try rest.number()
      var ranges: [ClosedRange<Int64>] = []
      while !rest.isEmpty {
        let (from, to) = (try rest.count64(), try rest.count64())
        guard from > 0, from <= to else { throw Self.damaged("a range of numbers is none") }
        ranges.append(from...to)
      }
      self = .removed(number: number, ranges)
    case UInt8(ascii: "C"):
      let number = try rest.number()
      let consumers: [CapturedStream.Consumer] = try Self.decoded(rest)
      guard consumers.allSatisfy({ StreamInfo.isName($0.name) && $0.count >= 0 && $0.sequence >= 0 }) else {
        throw Self.damaged("a consumer is none")
      }
      self = .consumers(number: number, consumers)
    case UInt8(ascii: "G"):
      self = .gone(number: try rest.number())
      guard rest.isEmpty else { throw Self.damaged("a record is too long") }
    case UInt8(ascii: "E"):
      guard rest.isEmpty else { throw Self.damaged("a record is too long") }
      self = .complete
    default: throw Self.damaged("a record is of no kind that is known")
    }
  }

  static func moment(_ bytes: [UInt8]) -> Timestamp {
    Timestamp(nanoseconds: Int64(bitPattern: bytes[1..<9].reduce(0) { $0 << 8 | UInt64($1) }))
  }

  private struct Declared: Codable {
    var name: String
    var created: String
    var config: [String: JSONValue]
  }

  private static func encoded(_ value: some Encodable) throws(DriverError) -> [UInt8] {
    do { return try CanonicalJSON.encode(value) } catch { throw DriverError(error) }
  }

  private static func decoded<T: Decodable>(_ bytes: ArraySlice<UInt8>) throws(DriverError) -> T {
    do { return try CanonicalJSON.decode(T.self, from: Array(bytes)) } catch {
      throw damaged("a record is not readable")
    }
  }
}

extension [UInt8] {
  fileprivate mutating func add<T: FixedWidthInteger>(_ value: T) {
    Swift.withUnsafeBytes(of: value.bigEndian) { append(contentsOf: $0) }
  }
}

extension ArraySlice<UInt8> {
  fileprivate mutating func take(_ count: Int) throws(DriverError) -> UInt64 {
    guard self.count >= count else { throw StreamRecord.damaged("a record is too short") }
    let value = prefix(count).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    self = dropFirst(count)
    return value
  }

  fileprivate mutating func number() throws(DriverError) -> UInt32 { UInt32(try take(4)) }

  fileprivate mutating func count64() throws(DriverError) -> Int64 {
    guard let value = Int64(exactly: try take(8)), value < .max else { throw StreamRecord.damaged("a number is none") }
    return value
  }
}
