import Core

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// A string of JSON that still lies in its input. Valid only while the scanner runs.
struct JSONText {
  /// Between the quotes, escapes not resolved.
  let raw: UnsafeRawBufferPointer
  let isEscaped: Bool
  let offset: Int

  @inline(__always)
  static func == (text: JSONText, word: StaticString) -> Bool {
    guard !text.isEscaped else { return (try? text.string()) == word.description }
    return text.raw.count == word.utf8CodeUnitCount
      && (text.raw.isEmpty || memcmp(text.raw.baseAddress!, word.utf8Start, text.raw.count) == 0)
  }

  /// The digest that 64 lowercase digits spell.
  var digest: Digest? {
    guard raw.count == 64 else { return nil }
    return Self.digest(raw)
  }

  /// - Parameter digits: 64 bytes.
  /// - Returns: `nil` unless all are lowercase hexadecimal digits.
  static func digest(_ digits: UnsafeRawBufferPointer) -> Digest? {
    func word(_ offset: Int) -> UInt64? {
      guard let high = number(digits, offset), let low = number(digits, offset + 8) else { return nil }
      return high << 32 | low
    }
    guard let first = word(0), let second = word(16), let third = word(32), let fourth = word(48) else { return nil }
    return Digest(words: (first, second, third, fourth))
  }

  /// Eight digits at once, a byte of the word for each: an index has a digit for every bit of its blobs' names.
  @inline(__always)
  private static func number(_ digits: UnsafeRawBufferPointer, _ offset: Int) -> UInt64? {
    let ones: UInt64 = 0x0101_0101_0101_0101
    let text = UInt64(bigEndian: digits.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
    let isLetter = text >> 6 & ones
    let values = (text & (ones * 0x0f)) &+ isLetter &* 9
    // Written out again, they must be what they were.
    let needsLetter = (values &+ ones * 6) >> 4 & ones
    guard values & (ones * 0xf0) == 0, values &+ ones * 0x30 &+ needsLetter &* 39 == text else { return nil }
    let pairs = (values | values >> 4) & 0x00ff_00ff_00ff_00ff
    let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff
    return (fours | fours >> 16) & 0xffff_ffff
  }

  /// As text; what isn't UTF-8, and halves of surrogate pairs, become U+FFFD, as in Go.
  func string() throws(JSONFault) -> String {
    guard isEscaped else { return String(decoding: raw, as: UTF8.self) }
    return String(decoding: try unescaped(), as: UTF8.self)
  }

  /// The bytes the string stands for.
  func unescaped() throws(JSONFault) -> [UInt8] {
    var result: [UInt8] = []
    result.reserveCapacity(raw.count)
    var index = 0
    while index < raw.count {
      let byte = raw[index]
      index += 1
      guard byte == 0x5c else {
        result.append(byte)
        continue
      }
      guard index < raw.count else { throw fault(index) }
      let letter = raw[index]
      index += 1
      switch letter {
      case 0x22, 0x5c, 0x2f: result.append(letter)
      case 0x62: result.append(8)
      case 0x66: result.append(12)
      case 0x6e: result.append(10)
      case 0x72: result.append(13)
      case 0x74: result.append(9)
      case 0x75:
        var unit = try fourDigits(&index)
        if unit & 0xfc00 == 0xd800, index + 6 <= raw.count, raw[index] == 0x5c, raw[index + 1] == 0x75 {
          var after = index + 2
          let second = try fourDigits(&after)
          if second & 0xfc00 == 0xdc00 {
            unit = 0x10000 + (unit & 0x3ff) << 10 + second & 0x3ff
            index = after
          }
        }
        result.append(contentsOf: String(Unicode.Scalar(unit) ?? "\u{fffd}").utf8)
      default: throw fault(index)
      }
    }
    return result
  }

  private func fourDigits(_ index: inout Int) throws(JSONFault) -> UInt32 {
    guard raw.count - index >= 4 else { throw fault(index) }
    var value: UInt32 = 0
    for _ in 0..<4 {
      let byte = raw[index]
      let digit = byte >= 65 && byte <= 70 ? byte - 55 : hexValue(byte)
      guard digit < 16 else { throw fault(index) }
      value = value << 4 | UInt32(digit)
      index += 1
    }
    return value
  }

  private func fault(_ index: Int) -> JSONFault {
    JSONFault(offset: offset + index, reason: "an escape that isn't one")
  }
}

@inline(__always)
private func hexValue(_ byte: UInt8) -> UInt8 {
  if byte &- 48 < 10 { return byte - 48 }
  if byte &- 97 < 6 { return byte - 87 }
  return 255
}

/// Writes JSON the way Go does, into bytes.
struct JSONOutput {
  var bytes: [UInt8] = []

  mutating func raw(_ text: StaticString) {
    text.withUTF8Buffer { bytes.append(contentsOf: $0) }
  }

  mutating func byte(_ character: Unicode.Scalar) { bytes.append(UInt8(truncatingIfNeeded: character.value)) }

  mutating func number(_ value: Int) { bytes.append(contentsOf: String(value).utf8) }

  mutating func hex(_ digest: Digest) {
    byte("\"")
    for value in digest.bytes {
      bytes.append(Self.digits[Int(value >> 4)])
      bytes.append(Self.digits[Int(value & 15)])
    }
    byte("\"")
  }

  mutating func base64(_ raw: UnsafeRawBufferPointer) { Base64Text.encode(raw, into: &bytes) }

  /// A string with its quotes; `<`, `>`, `&`, U+2028 and U+2029 escaped, as Go's encoder does.
  mutating func string(_ text: String) {
    byte("\"")
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": raw(#"\""#)
      case "\\": raw(#"\\"#)
      case "\n": raw(#"\n"#)
      case "\r": raw(#"\r"#)
      case "\t": raw(#"\t"#)
      case "<", ">", "&", "\u{2028}", "\u{2029}": escape(scalar)
      default:
        if scalar.value < 0x20 { escape(scalar) } else { bytes.append(contentsOf: UTF8.encode(scalar)!) }
      }
    }
    byte("\"")
  }

  mutating func value(_ value: JSONValue) {
    switch value {
    case .null: raw("null")
    case .bool(let flag): flag ? raw("true") : raw("false")
    case .integer(let number): bytes.append(contentsOf: String(number).utf8)
    case .number(let number): bytes.append(contentsOf: String(number).utf8)
    case .string(let text): string(text)
    case .array(let elements):
      byte("[")
      for (index, element) in elements.enumerated() {
        if index > 0 { byte(",") }
        self.value(element)
      }
      byte("]")
    case .object(let members):
      byte("{")
      for (index, member) in members.sorted(by: { $0.key < $1.key }).enumerated() {
        if index > 0 { byte(",") }
        string(member.key)
        byte(":")
        self.value(member.value)
      }
      byte("}")
    }
  }

  private mutating func escape(_ scalar: Unicode.Scalar) {
    raw(#"\u"#)
    for shift in [12, 8, 4, 0] { bytes.append(Self.digits[Int(scalar.value >> UInt32(shift)) & 15]) }
  }

  private static let digits = Array("0123456789abcdef".utf8)
}

/// Base64 with padding, RFC 4648; here because secrets must not leave copies in Foundation's buffers.
enum Base64Text {
  private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

  static func encode(_ input: UnsafeRawBufferPointer, into output: inout [UInt8]) {
    var index = 0
    while index < input.count {
      let left = input.count - index
      let group =
        UInt32(input[index]) << 16 | (left > 1 ? UInt32(input[index + 1]) << 8 : 0)
        | (left > 2 ? UInt32(input[index + 2]) : 0)
      output.append(alphabet[Int(group >> 18)])
      output.append(alphabet[Int(group >> 12 & 63)])
      output.append(left > 1 ? alphabet[Int(group >> 6 & 63)] : 61)
      output.append(left > 2 ? alphabet[Int(group & 63)] : 61)
      index += 3
    }
  }

  /// - Returns: `nil` unless the input is whole groups of four, padded at the end only.
  static func decode(_ input: UnsafeRawBufferPointer) -> [UInt8]? {
    guard input.count.isMultiple(of: 4) else { return nil }
    var result: [UInt8] = []
    result.reserveCapacity(input.count / 4 * 3)
    var index = 0
    while index < input.count {
      var group: UInt32 = 0
      var padding = 0
      for offset in 0..<4 {
        let byte = input[index + offset]
        if byte == 61, index + 4 == input.count, offset >= 2 {
          padding += 1
          group <<= 6
          continue
        }
        guard padding == 0, let value = sextet(byte) else { return nil }
        group = group << 6 | value
      }
      result.append(UInt8(truncatingIfNeeded: group >> 16))
      if padding < 2 { result.append(UInt8(truncatingIfNeeded: group >> 8)) }
      if padding < 1 { result.append(UInt8(truncatingIfNeeded: group)) }
      index += 4
    }
    return result
  }

  private static func sextet(_ byte: UInt8) -> UInt32? {
    switch byte {
    case 65...90: UInt32(byte - 65)
    case 97...122: UInt32(byte - 71)
    case 48...57: UInt32(byte + 4)
    case 43: 62
    case 47: 63
    default: nil
    }
  }
}
