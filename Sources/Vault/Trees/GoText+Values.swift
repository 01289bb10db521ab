import Core

/// Numbers, times, ids and base64.
extension GoText {
  static func append(_ value: UInt64, to out: inout [UInt8]) {
    if value < 10 { return out.append(48 + UInt8(value)) }
    append(value / 10, to: &out)
    out.append(48 + UInt8(value % 10))
  }

  /// - Returns: `nil` unless 64 hexadecimal digits begin there.
  static func digest(_ text: UnsafeRawBufferPointer, at start: Int) -> Digest? {
    guard start >= 0, text.count - start >= 64 else { return nil }
    return withUnsafeTemporaryAllocation(byteCount: 32, alignment: 8) { raw -> Digest? in
      for part in 0..<8 {
        let digits = UInt64(littleEndian: text.loadUnaligned(fromByteOffset: start + 8 * part, as: UInt64.self))
        guard let bytes = fourBytes(digits) else { return nil }
        raw.storeBytes(of: bytes.littleEndian, toByteOffset: 4 * part, as: UInt32.self)
      }
      return Digest(UnsafeRawBufferPointer(raw))
    }
  }

  /// Eight hexadecimal digits at once, the first in the lowest byte.
  private static func fourBytes(_ digits: UInt64) -> UInt32? {
    let ones: UInt64 = 0x0101_0101_0101_0101
    let letters = digits >> 6 & ones
    let values = (digits & 0x0f0f_0f0f_0f0f_0f0f) &+ letters &* 9
    // Whatever isn't a digit doesn't come back when it is spelled again.
    let above9 = (values &+ ones &* 6) >> 4 & ones
    guard values & 0xf0f0_f0f0_f0f0_f0f0 == 0, ones &* 0x30 &+ values &+ above9 &* 0x27 == digits | letters << 5 else {
      return nil
    }
    let pairs = (values << 4 | values >> 8) & 0x00ff_00ff_00ff_00ff
    let halves = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff
    return UInt32(truncatingIfNeeded: halves | halves >> 16)
  }

  /// Appends a quoted RFC 3339 time in UTC, trailing zeros of the fraction trimmed.
  static func append(_ time: Timestamp, to out: inout [UInt8]) {
    var (seconds, nanos) = time.nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
    if nanos < 0 { (seconds, nanos) = (seconds - 1, nanos + 1_000_000_000) }
    var days = seconds / 86_400
    var second = seconds % 86_400
    if second < 0 { (days, second) = (days - 1, second + 86_400) }
    let (year, month, day) = CivilDate.of(days: days)
    func pad(_ value: Int64, _ digits: Int) {
      var divisor: Int64 = 1
      for _ in 1..<digits { divisor *= 10 }
      while divisor > 0 {
        out.append(48 + UInt8(value / divisor % 10))
        divisor /= 10
      }
    }
    out.append(quote)
    pad(year, 4)
    out.append(45)
    pad(month, 2)
    out.append(45)
    pad(day, 2)
    out.append(84)
    pad(second / 3600, 2)
    out.append(58)
    pad(second / 60 % 60, 2)
    out.append(58)
    pad(second % 60, 2)
    if nanos > 0 {
      out.append(46)
      pad(nanos, 9)
      while out.last == 48 { out.removeLast() }
    }
    out.append(90)
    out.append(quote)
  }

  /// - Returns: `nil` unless `text` is RFC 3339; times outside ``Timestamp``'s years become its first or last moment.
  static func time(_ text: [UInt8]) -> Timestamp? { text.withUnsafeBytes { time($0) } }

  static func time(_ text: UnsafeRawBufferPointer) -> Timestamp? {
    // Three times per node, and most of what reading a tree costs: plain indices, no slices.
    var at = 0
    func next() -> UInt8? {
      guard at < text.count else { return nil }
      at += 1
      return text[at - 1]
    }
    func digits(_ count: Int) -> Int64? {
      var value: Int64 = 0
      for _ in 0..<count {
        guard let byte = next(), byte &- 48 < 10 else { return nil }
        value = value * 10 + Int64(byte - 48)
      }
      return value
    }
    guard let year = digits(4), next() == 45, let month = digits(2), (1...12).contains(month),
      next() == 45, let day = digits(2), (1...31).contains(day), next() == 84,
      let hour = digits(2), hour < 24, next() == 58, let minute = digits(2), minute < 60,
      next() == 58, let second = digits(2), second < 60
    else { return nil }
    var nanos: Int64 = 0
    if at < text.count, text[at] == 46 {
      at += 1
      var scale: Int64 = 100_000_000
      var count = 0
      while at < text.count, text[at] &- 48 < 10 {
        nanos += Int64(text[at] - 48) * scale
        scale /= 10
        count += 1
        at += 1
      }
      guard count > 0 else { return nil }
    }
    var offset: Int64 = 0
    switch next() {
    case 90: break
    case let sign? where sign == 43 || sign == 45:
      guard let hours = digits(2), hours < 24, next() == 58, let minutes = digits(2), minutes < 60
      else { return nil }
      offset = (hours * 3600 + minutes * 60) * (sign == 43 ? 1 : -1)
    default: return nil
    }
    guard at == text.count else { return nil }
    let days = CivilDate.days(year, month, day)
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset
    let (scaled, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
    if overflow { return Timestamp(nanoseconds: seconds < 0 ? .min : .max) }
    let (total, carry) = scaled.addingReportingOverflow(nanos)
    return Timestamp(nanoseconds: carry ? .max : total)
  }

  static func appendBase64(_ bytes: [UInt8], to out: inout [UInt8]) {
    out.append(quote)
    var index = 0
    while index < bytes.count {
      let left = bytes.count - index
      let word =
        UInt32(bytes[index]) << 16 | (left > 1 ? UInt32(bytes[index + 1]) << 8 : 0)
        | (left > 2 ? UInt32(bytes[index + 2]) : 0)
      out.append(base64Digits[Int(word >> 18)])
      out.append(base64Digits[Int(word >> 12 & 63)])
      out.append(left > 1 ? base64Digits[Int(word >> 6 & 63)] : 61)
      out.append(left > 2 ? base64Digits[Int(word & 63)] : 61)
      index += 3
    }
    out.append(quote)
  }

  /// - Returns: `nil` unless `text` is padded base64.
  static func base64(_ text: [UInt8]) -> [UInt8]? {
    guard text.count.isMultiple(of: 4) else { return nil }
    var out: [UInt8] = []
    out.reserveCapacity(text.count / 4 * 3)
    var index = 0
    while index < text.count {
      let isLast = index + 4 == text.count
      let padding = isLast ? (text[index + 3] == 61 ? (text[index + 2] == 61 ? 2 : 1) : 0) : 0
      var word: UInt32 = 0
      for offset in 0..<4 {
        var value: UInt32 = 0
        if offset < 4 - padding {
          guard let digit = base64Value(text[index + offset]) else { return nil }
          value = digit
        }
        word = word << 6 | value
      }
      out.append(UInt8(word >> 16 & 255))
      if padding < 2 { out.append(UInt8(word >> 8 & 255)) }
      if padding < 1 { out.append(UInt8(word & 255)) }
      index += 4
    }
    return out
  }

  private static func base64Value(_ byte: UInt8) -> UInt32? {
    switch byte {
    case 65...90: UInt32(byte) - 65
    case 97...122: UInt32(byte) - 71
    case 48...57: UInt32(byte) + 4
    case 43: 62
    case 47: 63
    default: nil
    }
  }

  static func append(_ id: BlobID, to out: inout [UInt8]) {
    out.append(quote)
    for byte in id.bytes {
      out.append(hexDigits[Int(byte >> 4)])
      out.append(hexDigits[Int(byte & 15)])
    }
    out.append(quote)
  }

  private static let base64Digits = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
}

/// Days since 1970-01-01 and the Gregorian calendar, extended to year 0.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
enum CivilDate {
  static func of(days: Int64) -> (year: Int64, month: Int64, day: Int64) {
    let shifted = days + 719_468
    let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
    let dayOfEra = shifted - era * 146_097
    let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let part = (5 * dayOfYear + 2) / 153
    let month = part < 10 ? part + 3 : part - 9
    return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, dayOfYear - (153 * part + 2) / 5 + 1)
  }

  static func days(_ year: Int64, _ month: Int64, _ day: Int64) -> Int64 {
    let y = month <= 2 ? year - 1 : year
    let era = (y >= 0 ? y : y - 399) / 400
    let yearOfEra = y - era * 400
    let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
    let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
    return era * 146_097 + dayOfEra - 719_468
  }
}
