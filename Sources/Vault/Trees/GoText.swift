import Core

/// The spellings of Go's standard library that a tree's bytes, and so its id, depend on.
///
/// Source: Go 1.19, packages strconv (Quote, Unquote), encoding/json (HTML escaping on) and time (RFC3339Nano).
enum GoText {
  // MARK: Strings

  /// Appends a file name: strconv.Quote without the quotes, then as a JSON string.
  static func appendQuotedName(_ bytes: [UInt8], to out: inout [UInt8]) {
    out.append(quote)
    if bytes.allSatisfy({ isPlain[Int($0)] }) {
      out += bytes
    } else {
      var quoted: [UInt8] = []
      quoted.reserveCapacity(bytes.count * 2)
      appendGoQuoted(bytes, to: &quoted)
      appendJSONEscaped(quoted, to: &out)
    }
    out.append(quote)
  }

  /// Appends a JSON string; bytes that aren't UTF-8 become U+FFFD, as Go has it.
  static func appendString(_ bytes: some Collection<UInt8>, to out: inout [UInt8]) {
    out.append(quote)
    if bytes.allSatisfy({ isPlain[Int($0)] }) { out += bytes } else { appendJSONEscaped(Array(bytes), to: &out) }
    out.append(quote)
  }

  static func appendGoQuoted(_ bytes: [UInt8], to out: inout [UInt8]) {
    var index = 0
    while index < bytes.count {
      let byte = bytes[index]
      if byte < 0x80 {
        index += 1
        switch byte {
        case 0x22, 0x5c: out += [0x5c, byte]
        case 0x20...0x7e: out.append(byte)
        case 7: out += [0x5c, 0x61]
        case 8: out += [0x5c, 0x62]
        case 9: out += [0x5c, 0x74]
        case 10: out += [0x5c, 0x6e]
        case 11: out += [0x5c, 0x76]
        case 12: out += [0x5c, 0x66]
        case 13: out += [0x5c, 0x72]
        default: appendHexEscape(byte, to: &out)
        }
        continue
      }
      guard let (scalar, length) = decodeScalar(bytes, at: index) else {
        appendHexEscape(byte, to: &out)
        index += 1
        continue
      }
      if isPrint(scalar) {
        out += bytes[index..<index + length]
      } else if scalar.value < 0x10000 {
        out += [0x5c, 0x75]
        appendHex(scalar.value, digits: 4, to: &out)
      } else {
        out += [0x5c, 0x55]
        appendHex(scalar.value, digits: 8, to: &out)
      }
      index += length
    }
  }

  private static func appendJSONEscaped(_ bytes: [UInt8], to out: inout [UInt8]) {
    var index = 0
    while index < bytes.count {
      let byte = bytes[index]
      if byte < 0x80 {
        index += 1
        switch byte {
        case 0x22, 0x5c: out += [0x5c, byte]
        case 10: out += [0x5c, 0x6e]
        case 13: out += [0x5c, 0x72]
        case 9: out += [0x5c, 0x74]
        case 0..<0x20, 0x3c, 0x3e, 0x26: appendUnicodeEscape(UInt32(byte), to: &out)
        default: out.append(byte)
        }
        continue
      }
      guard let (scalar, length) = decodeScalar(bytes, at: index) else {
        appendUnicodeEscape(0xfffd, to: &out)
        index += 1
        continue
      }
      if scalar.value == 0x2028 || scalar.value == 0x2029 {
        appendUnicodeEscape(scalar.value, to: &out)
      } else {
        out += bytes[index..<index + length]
      }
      index += length
    }
  }

  /// strconv.Unquote for what stands between double quotes.
  ///
  /// - Returns: `nil` for anything Go refuses.
  static func unquote(_ text: [UInt8]) -> [UInt8]? {
    if !text.contains(0x5c) { return text.contains(0x22) || text.contains(10) ? nil : text }
    var out: [UInt8] = []
    out.reserveCapacity(text.count)
    var index = 0
    while index < text.count {
      let byte = text[index]
      index += 1
      if byte == 0x22 || byte == 10 { return nil }
      guard byte == 0x5c else {
        out.append(byte)
        continue
      }
      guard index < text.count else { return nil }
      let escape = text[index]
      index += 1
      switch escape {
      case 0x61: out.append(7)
      case 0x62: out.append(8)
      case 0x66: out.append(12)
      case 0x6e: out.append(10)
      case 0x72: out.append(13)
      case 0x74: out.append(9)
      case 0x76: out.append(11)
      case 0x5c, 0x22: out.append(escape)
      case 0x78:
        guard let value = hex(text, at: &index, digits: 2) else { return nil }
        out.append(UInt8(truncatingIfNeeded: value))
      case 0x30...0x37:
        guard index + 2 <= text.count, (0x30...0x37).contains(text[index]), (0x30...0x37).contains(text[index + 1])
        else { return nil }
        let value = UInt32(escape - 48) << 6 | UInt32(text[index] - 48) << 3 | UInt32(text[index + 1] - 48)
        guard value < 256 else { return nil }
        out.append(UInt8(value))
        index += 2
      case 0x75, 0x55:
        guard let value = hex(text, at: &index, digits: escape == 0x75 ? 4 : 8), let scalar = Unicode.Scalar(value)
        else { return nil }
        out += UTF8.encode(scalar).map { Array($0) } ?? []
      default: return nil
      }
    }
    return out
  }

  private static func hex(_ text: [UInt8], at index: inout Int, digits: Int) -> UInt32? {
    guard text.count - index >= digits else { return nil }
    var value: UInt32 = 0
    for _ in 0..<digits {
      guard let digit = hexValue(text[index]) else { return nil }
      value = value << 4 | UInt32(digit)
      index += 1
    }
    return value
  }

  static func hexValue(_ byte: UInt8) -> UInt8? {
    switch byte {
    case 48...57: byte - 48
    case 97...102: byte - 87
    case 65...70: byte - 55
    default: nil
    }
  }

  /// Go's unicode.IsPrint: letters, marks, numbers, punctuation, symbols and the ASCII space.
  ///
  /// Go 1.19, which Debian's restic is built with, knows Unicode 13; what is younger counts as unprintable there.
  /// Either spelling reads back as the same name.
  static func isPrint(_ scalar: Unicode.Scalar) -> Bool {
    if scalar.value < 0x7f { return scalar.value >= 0x20 }
    let properties = scalar.properties
    guard let age = properties.age, age.major <= 13 else { return false }
    switch properties.generalCategory {
    case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter, .nonspacingMark,
      .spacingMark, .enclosingMark, .decimalNumber, .letterNumber, .otherNumber, .connectorPunctuation,
      .dashPunctuation, .openPunctuation, .closePunctuation, .initialPunctuation, .finalPunctuation,
      .otherPunctuation, .mathSymbol, .currencySymbol, .modifierSymbol, .otherSymbol:
      return true
    default: return false
    }
  }

  /// - Returns: `nil` unless a whole, shortest-form scalar begins at `index`.
  static func decodeScalar(_ bytes: [UInt8], at index: Int) -> (Unicode.Scalar, Int)? {
    let first = bytes[index]
    let length: Int
    var value: UInt32
    switch first {
    case 0..<0x80: return (Unicode.Scalar(first), 1)
    case 0xc2..<0xe0: (length, value) = (2, UInt32(first & 0x1f))
    case 0xe0..<0xf0: (length, value) = (3, UInt32(first & 0x0f))
    case 0xf0..<0xf5: (length, value) = (4, UInt32(first & 0x07))
    default: return nil
    }
    guard bytes.count - index >= length else { return nil }
    for offset in 1..<length {
      let byte = bytes[index + offset]
      guard byte & 0xc0 == 0x80 else { return nil }
      value = value << 6 | UInt32(byte & 0x3f)
    }
    if length == 3 && value < 0x800 || length == 4 && value < 0x10000 { return nil }
    guard let scalar = Unicode.Scalar(value) else { return nil }
    return (scalar, length)
  }

  private static func appendHexEscape(_ byte: UInt8, to out: inout [UInt8]) {
    out += [0x5c, 0x78]
    appendHex(UInt32(byte), digits: 2, to: &out)
  }

  private static func appendUnicodeEscape(_ value: UInt32, to out: inout [UInt8]) {
    out += [0x5c, 0x75]
    appendHex(value, digits: 4, to: &out)
  }

  private static func appendHex(_ value: UInt32, digits: Int, to out: inout [UInt8]) {
    for shift in stride(from: (digits - 1) * 4, through: 0, by: -4) {
      out.append(hexDigits[Int(value >> UInt32(shift) & 15)])
    }
  }

  // MARK: Numbers, times, base64

  static func append(_ value: UInt64, to out: inout [UInt8]) {
    if value < 10 { return out.append(48 + UInt8(value)) }
    append(value / 10, to: &out)
    out.append(48 + UInt8(value % 10))
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
  static func time(_ text: some Collection<UInt8>) -> Timestamp? {
    var rest = text[...]
    func digits(_ count: Int) -> Int64? {
      var value: Int64 = 0
      for _ in 0..<count {
        guard let byte = rest.popFirst(), (48...57).contains(byte) else { return nil }
        value = value * 10 + Int64(byte - 48)
      }
      return value
    }
    guard let year = digits(4), rest.popFirst() == 45, let month = digits(2), (1...12).contains(month),
      rest.popFirst() == 45, let day = digits(2), (1...31).contains(day), rest.popFirst() == 84,
      let hour = digits(2), hour < 24, rest.popFirst() == 58, let minute = digits(2), minute < 60,
      rest.popFirst() == 58, let second = digits(2), second < 60
    else { return nil }
    var nanos: Int64 = 0
    if rest.first == 46 {
      rest.removeFirst()
      var scale: Int64 = 100_000_000
      var count = 0
      while let byte = rest.first, (48...57).contains(byte) {
        nanos += Int64(byte - 48) * scale
        scale /= 10
        count += 1
        rest.removeFirst()
      }
      guard count > 0 else { return nil }
    }
    var offset: Int64 = 0
    switch rest.popFirst() {
    case 90: break
    case let sign? where sign == 43 || sign == 45:
      guard let hours = digits(2), hours < 24, rest.popFirst() == 58, let minutes = digits(2), minutes < 60
      else { return nil }
      offset = (hours * 3600 + minutes * 60) * (sign == 43 ? 1 : -1)
    default: return nil
    }
    guard rest.isEmpty else { return nil }
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

  private static let quote: UInt8 = 0x22
  private static let hexDigits = Array("0123456789abcdef".utf8)
  private static let base64Digits = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
  /// Bytes that every spelling leaves alone.
  private static let isPlain: [Bool] = (0..<256).map { byte in
    (0x20..<0x7f).contains(byte) && ![0x22, 0x5c, 0x3c, 0x3e, 0x26].contains(byte)
  }
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
