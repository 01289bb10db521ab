import Core

/// JSON in one spelling, which another language can write as well: RFC 8785, with whole numbers only.
///
/// No white space; members in ascending order of their names' UTF-16 code units; strings escape `"`, `\` and the
/// characters below U+0020 (`\b`, `\t`, `\n`, `\f`, `\r`, else `\u00` and two lowercase digits) and nothing else;
/// numbers are whole and within ±(2⁵³ − 1), so that no parser rounds them. Unlike ``Core/CanonicalJSON`` it doesn't
/// depend on a library's taste.
enum CanonicalText {
  /// Deeper nesting than anything Salvor writes.
  static let depthLimit = 64
  static let largestInteger: Int64 = 9_007_199_254_740_991

  static func encode(_ value: JSONValue) throws(EvidenceError) -> [UInt8] {
    var bytes: [UInt8] = []
    try append(value, to: &bytes, depth: 0)
    return bytes
  }

  private static func append(_ value: JSONValue, to bytes: inout [UInt8], depth: Int) throws(EvidenceError) {
    guard depth < depthLimit else { throw .notRepresentable("it is nested deeper than \(depthLimit) levels") }
    switch value {
    case .null: bytes += "null".utf8
    case .bool(let value): bytes += (value ? "true" : "false").utf8
    case .integer(let value):
      guard (-largestInteger...largestInteger).contains(value) else {
        throw .notRepresentable("\(value) is beyond what every JSON parser reads exactly")
      }
      bytes += String(value).utf8
    case .number(let value): throw .notRepresentable("\(value) is not a whole number")
    case .string(let text): append(text, to: &bytes)
    case .array(let elements):
      bytes.append(UInt8(ascii: "["))
      for (index, element) in elements.enumerated() {
        if index > 0 { bytes.append(UInt8(ascii: ",")) }
        try append(element, to: &bytes, depth: depth + 1)
      }
      bytes.append(UInt8(ascii: "]"))
    case .object(let members):
      bytes.append(UInt8(ascii: "{"))
      let sorted = members.sorted { $0.key.utf16.lexicographicallyPrecedes($1.key.utf16) }
      for (index, member) in sorted.enumerated() {
        if index > 0 { bytes.append(UInt8(ascii: ",")) }
        append(member.key, to: &bytes)
        bytes.append(UInt8(ascii: ":"))
        try append(member.value, to: &bytes, depth: depth + 1)
      }
      bytes.append(UInt8(ascii: "}"))
    }
  }

  private static func append(_ text: String, to bytes: inout [UInt8]) {
    bytes.append(UInt8(ascii: "\""))
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "\""): bytes += "\\\"".utf8
      case UInt8(ascii: "\\"): bytes += "\\\\".utf8
      case 8: bytes += "\\b".utf8
      case 9: bytes += "\\t".utf8
      case 10: bytes += "\\n".utf8
      case 12: bytes += "\\f".utf8
      case 13: bytes += "\\r".utf8
      case 0..<32: bytes += "\\u00\(Hex.encode([byte]))".utf8
      default: bytes.append(byte)
      }
    }
    bytes.append(UInt8(ascii: "\""))
  }

  /// Reads what ``encode(_:)`` writes, and nothing else: another spelling of the same value is refused. O(*n*).
  static func decode(_ bytes: [UInt8]) throws(EvidenceError) -> JSONValue {
    var reader = Reader(bytes: bytes)
    let value = try reader.value(depth: 0)
    guard reader.place == bytes.count else { throw .trailingData(bytes: bytes.count - reader.place) }
    // What the reader let pass that is no canonical spelling ends here.
    guard try encode(value) == bytes else { throw .notCanonical(offset: 0) }
    return value
  }

  private struct Reader {
    let bytes: [UInt8]
    var place = 0

    private var fault: EvidenceError { .notJSON("byte \(place) is not what the format has there") }

    private mutating func skip(_ byte: Character) throws(EvidenceError) {
      guard place < bytes.count, bytes[place] == byte.asciiValue else { throw fault }
      place += 1
    }

    private mutating func has(_ byte: Character) -> Bool {
      guard place < bytes.count, bytes[place] == byte.asciiValue else { return false }
      place += 1
      return true
    }

    mutating func value(depth: Int) throws(EvidenceError) -> JSONValue {
      guard depth < CanonicalText.depthLimit, place < bytes.count else { throw fault }
      switch bytes[place] {
      case UInt8(ascii: "{"):
        place += 1
        var members: [String: JSONValue] = [:]
        if has("}") { return .object(members) }
        repeat {
          let name = try string()
          try skip(":")
          guard members.updateValue(try value(depth: depth + 1), forKey: name) == nil else { throw fault }
        } while has(",")
        try skip("}")
        return .object(members)
      case UInt8(ascii: "["):
        place += 1
        var elements: [JSONValue] = []
        if has("]") { return .array(elements) }
        repeat { elements.append(try value(depth: depth + 1)) } while has(",")
        try skip("]")
        return .array(elements)
      case UInt8(ascii: "\""): return .string(try string())
      case UInt8(ascii: "n"): return try word("null", .null)
      case UInt8(ascii: "t"): return try word("true", .bool(true))
      case UInt8(ascii: "f"): return try word("false", .bool(false))
      default:
        let end = bytes[place...].firstIndex { $0 != 45 && !(48...57).contains($0) } ?? bytes.count
        guard end - place <= 17, let number = Int64(String(decoding: bytes[place..<end], as: UTF8.self)) else {
          throw fault
        }
        place = end
        return .integer(number)
      }
    }

    private mutating func word(_ word: String, _ value: JSONValue) throws(EvidenceError) -> JSONValue {
      guard bytes[place...].starts(with: word.utf8) else { throw fault }
      place += word.utf8.count
      return value
    }

    private mutating func string() throws(EvidenceError) -> String {
      try skip("\"")
      var content: [UInt8] = []
      while true {
        guard let end = bytes[place...].firstIndex(where: { $0 == 34 || $0 == 92 || $0 < 32 }) else { throw fault }
        content += bytes[place..<end]
        place = end + 1
        if bytes[end] == 34 { break }
        guard bytes[end] == 92, place < bytes.count else { throw fault }
        let escape = bytes[place]
        place += 1
        switch escape {
        case 34, 92: content.append(escape)
        case UInt8(ascii: "b"): content.append(8)
        case UInt8(ascii: "t"): content.append(9)
        case UInt8(ascii: "n"): content.append(10)
        case UInt8(ascii: "f"): content.append(12)
        case UInt8(ascii: "r"): content.append(13)
        case UInt8(ascii: "u"):
          guard place + 4 <= bytes.count,
            let code = Hex.decode(String(decoding: bytes[place..<place + 4], as: UTF8.self)), code[0] == 0
          else { throw fault }
          content.append(code[1])
          place += 4
        default: throw fault
        }
      }
      guard let text = String(validating: content, as: UTF8.self) else { throw fault }
      return text
    }
  }

  /// Where the object that `bytes` begin with ends; `nil` if it doesn't, or they begin with something else.
  ///
  /// Looks at braces and strings only; whether it is JSON is for a parser to say.
  static func endOfObject(_ bytes: [UInt8]) -> Int? {
    guard bytes.first == UInt8(ascii: "{") else { return nil }
    var depth = 0
    var isInString = false
    var isEscaped = false
    for (index, byte) in bytes.enumerated() {
      if isEscaped {
        isEscaped = false
      } else if isInString {
        if byte == UInt8(ascii: "\\") { isEscaped = true }
        if byte == UInt8(ascii: "\"") { isInString = false }
      } else if byte == UInt8(ascii: "\"") {
        isInString = true
      } else if byte == UInt8(ascii: "{") {
        depth += 1
      } else if byte == UInt8(ascii: "}") {
        depth -= 1
        if depth == 0 { return index + 1 }
      }
    }
    return nil
  }
}
