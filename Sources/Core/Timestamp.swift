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
    let (year, month, day) = civil(fromDays: days)
    var text = ""
    text += pad(year, 4) + "-" + pad(month, 2) + "-" + pad(day, 2) + "T"
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
    let days = days(fromCivil: year, month, day)
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

// MARK: The proleptic Gregorian calendar

/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
private func days(fromCivil year: Int64, _ month: Int64, _ day: Int64) -> Int64 {
  let y = month <= 2 ? year - 1 : year
  let era = (y >= 0 ? y : y - 399) / 400
  let yearOfEra = y - era * 400
  let dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1
  let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
  return era * 146_097 + dayOfEra - 719_468
}

/// Source: the same, civil_from_days.
private func civil(fromDays days: Int64) -> (year: Int64, month: Int64, day: Int64) {
  let z = days + 719_468
  let era = (z >= 0 ? z : z - 146_096) / 146_097
  let dayOfEra = z - era * 146_097
  let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
  let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
  let shifted = (5 * dayOfYear + 2) / 153
  let month = shifted < 10 ? shifted + 3 : shifted - 9
  return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, dayOfYear - (153 * shifted + 2) / 5 + 1)
}

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
  fileprivate func flooredDivision(by divisor: Int64) -> (quotient: Int64, remainder: Int64) {
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
