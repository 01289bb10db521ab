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

  static let quote: UInt8 = 0x22
  static let hexDigits = Array("0123456789abcdef".utf8)
  /// Bytes that every spelling leaves alone.
  private static let isPlain: [Bool] = (0..<256).map { byte in
    (0x20..<0x7f).contains(byte) && ![0x22, 0x5c, 0x3c, 0x3e, 0x26].contains(byte)
  }
}
