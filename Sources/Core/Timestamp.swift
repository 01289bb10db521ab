/// A moment in UTC, in nanoseconds since 1970-01-01; leap seconds do not exist here, as in POSIX.
///
/// Covers the years 1678 to 2261. Printed and parsed as RFC 3339.
package struct Timestamp: Hashable, Comparable, Sendable {
  package var nanoseconds: Int64

  package init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  package init(seconds: Int64, nanoseconds: Int64 = 0) {
    self.nanoseconds = seconds &* 1_000_000_000 &+ nanoseconds
  }

  package static func < (a: Timestamp, b: Timestamp) -> Bool { a.nanoseconds < b.nanoseconds }

  package static func + (a: Timestamp, b: Duration) -> Timestamp {
    Timestamp(nanoseconds: a.nanoseconds &+ b.wholeNanoseconds)
  }

  package static func - (a: Timestamp, b: Duration) -> Timestamp {
    Timestamp(nanoseconds: a.nanoseconds &- b.wholeNanoseconds)
  }

  package static func - (a: Timestamp, b: Timestamp) -> Duration {
    .nanoseconds(a.nanoseconds &- b.nanoseconds)
  }
}

extension Timestamp: CustomStringConvertible {
  /// RFC 3339 in UTC, to the nanosecond where there is one: `2026-11-21T08:09:20.5Z`.
  package var description: String { format(fractionDigits: nil) }

  /// RFC 3339 in UTC.
  ///
  /// - Parameter fractionDigits: Digits after the second; `nil` prints as many as are needed, none for zero.
  package func format(fractionDigits: Int?) -> String {
    let (seconds, nanos) = nanoseconds.flooredDivision(by: 1_000_000_000)
    let (days, secondOfDay) = seconds.flooredDivision(by: 86_400)
    let date = CivilDate(days: days)
    var text = ""
    text += pad(date.year, 4) + "-" + pad(date.month, 2) + "-" + pad(date.day, 2) + "T"
    text += pad(secondOfDay / 3600, 2) + ":" + pad(secondOfDay / 60 % 60, 2) + ":" + pad(secondOfDay % 60, 2)
    var fraction = pad(nanos, 9)
    if let fractionDigits {
      fraction = String(fraction.prefix(max(0, min(9, fractionDigits))))
    } else {
      while fraction.last == "0" { fraction.removeLast() }
    }
    if !fraction.isEmpty { text += "." + fraction }
    return text + "Z"
  }

  /// Parses RFC 3339 (`2026-11-21T08:09:20.123456789+01:00`), a space instead of the `T`, or a bare date.
  package init?(_ text: some StringProtocol) {
    var scanner = Scanner(Array(text.utf8))
    guard let year = scanner.digits(4), scanner.skip("-"), let month = scanner.digits(2), scanner.skip("-"),
      let day = scanner.digits(2), (1...12).contains(month), (1...daysIn(month: month, year: year)).contains(day)
    else { return nil }
    let days = CivilDate(year: year, month: month, day: day).days
    if scanner.isAtEnd {
      self.init(checkedSeconds: days * 86_400, nanoseconds: 0)
      return
    }
    guard scanner.skip("T") || scanner.skip("t") || scanner.skip(" "),
      let hour = scanner.digits(2), scanner.skip(":"), let minute = scanner.digits(2), scanner.skip(":"),
      let second = scanner.digits(2), hour < 24, minute < 60, second < 60
    else { return nil }
    var nanos: Int64 = 0
    if scanner.skip(".") {
      var count = 0
      while let digit = scanner.digit() {
        if count < 9 { nanos = nanos * 10 + digit }
        count += 1
      }
      guard count > 0 else { return nil }
      while count < 9 {
        nanos *= 10
        count += 1
      }
    }
    var offset: Int64 = 0
    if scanner.skip("Z") || scanner.skip("z") {
      offset = 0
    } else {
      let sign: Int64
      if scanner.skip("+") { sign = 1 } else if scanner.skip("-") { sign = -1 } else { return nil }
      guard let hours = scanner.digits(2), scanner.skip(":"), let minutes = scanner.digits(2), hours < 24, minutes < 60
      else { return nil }
      offset = sign * (hours * 3600 + minutes * 60)
    }
    guard scanner.isAtEnd else { return nil }
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset
    self.init(checkedSeconds: seconds, nanoseconds: nanos)
  }

  private init?(checkedSeconds seconds: Int64, nanoseconds nanos: Int64) {
    let (scaled, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
    let (sum, overflow2) = scaled.addingReportingOverflow(nanos)
    guard !overflow, !overflow2 else { return nil }
    self.init(nanoseconds: sum)
  }
}

extension Timestamp {
  /// RFC 3339 with a zone's offset, to the nanosecond where there is one: `2026-11-21T09:09:20.5+01:00`.
  ///
  /// - Parameter utcOffsetSeconds: Whole minutes, less than a day.
  package func text(utcOffsetSeconds offset: Int64) -> String {
    guard offset != 0 else { return description }
    let local = Timestamp(nanoseconds: nanoseconds &+ offset * 1_000_000_000)
    let minutes = abs(offset) / 60
    return local.description.dropLast() + (offset < 0 ? "-" : "+") + pad(minutes / 60, 2) + ":" + pad(minutes % 60, 2)
  }

  /// The offset that an RFC 3339 text ends with, in seconds east of Greenwich; 0 for `Z` and for none.
  package static func utcOffsetSeconds(of text: some StringProtocol) -> Int64 {
    let tail = Array(text.utf8.suffix(6))
    guard tail.count == 6, tail[3] == UInt8(ascii: ":"), text.utf8.contains(UInt8(ascii: "T")) else { return 0 }
    var scanner = Scanner(tail)
    let sign: Int64
    if scanner.skip("+") { sign = 1 } else if scanner.skip("-") { sign = -1 } else { return 0 }
    guard let hours = scanner.digits(2), scanner.skip(":"), let minutes = scanner.digits(2), hours < 24, minutes < 60
    else { return 0 }
    return sign * (hours * 3600 + minutes * 60)
  }

  /// The day and the hour, 0 to 23, at a place so many seconds east of Greenwich.
  package func civil(utcOffsetSeconds offset: Int64) -> (date: CivilDate, hour: Int64) {
    let seconds = nanoseconds.flooredDivision(by: 1_000_000_000).quotient + offset
    let (days, second) = seconds.flooredDivision(by: 86_400)
    return (CivilDate(days: days), second / 3600)
  }
}

extension Timestamp: Codable {
  package init(from decoder: any Decoder) throws {
    let text = try decoder.singleValueContainer().decode(String.self)
    guard let value = Timestamp(text) else {
      throw DecodingError.dataCorrupted(
        .init(codingPath: decoder.codingPath, debugDescription: "not an RFC 3339 time: \(text)"))
    }
    self = value
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }
}

// MARK: Text

private func daysIn(month: Int64, year: Int64) -> Int64 {
  switch month {
  case 2: (year % 4 == 0 && year % 100 != 0) || year % 400 == 0 ? 29 : 28
  case 4, 6, 9, 11: 30
  default: 31
  }
}

private func pad(_ value: Int64, _ width: Int) -> String {
  let digits = String(value)
  return digits.count >= width ? digits : String(repeating: "0", count: width - digits.count) + digits
}

extension Int64 {
  func flooredDivision(by divisor: Int64) -> (quotient: Int64, remainder: Int64) {
    var (q, r) = quotientAndRemainder(dividingBy: divisor)
    if r < 0 {
      q -= 1
      r += divisor
    }
    return (q, r)
  }
}

private struct Scanner {
  private let bytes: [UInt8]
  private var index = 0

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  var isAtEnd: Bool { index == bytes.count }

  mutating func skip(_ character: Unicode.Scalar) -> Bool {
    guard index < bytes.count, UInt32(bytes[index]) == character.value else { return false }
    index += 1
    return true
  }

  mutating func digit() -> Int64? {
    guard index < bytes.count, (48...57).contains(bytes[index]) else { return nil }
    defer { index += 1 }
    return Int64(bytes[index] - 48)
  }

  mutating func digits(_ count: Int) -> Int64? {
    var value: Int64 = 0
    for _ in 0..<count {
      guard let digit = digit() else { return nil }
      value = value * 10 + digit
    }
    return value
  }
}
