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
