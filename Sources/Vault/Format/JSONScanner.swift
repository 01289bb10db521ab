import Core

/// Where and why JSON could not be understood.
struct JSONFault: Error, Equatable {
  var offset: Int
  var reason: String
}

/// Reads JSON where it lies, member by member, without building a tree: indexes have millions of members.
///
/// Written for input nobody vouches for: every length is checked, depth is limited, numbers that don't fit are faults.
/// Lenient where Go's decoder is: any order, unknown members skipped, the last of two equal members wins.
///
/// Source: RFC 8259.
struct JSONScanner {
  static let depthLimit = 64

  private let input: UnsafeRawBufferPointer
  private(set) var offset = 0
  private var depth = 0

  private init(_ input: UnsafeRawBufferPointer) { self.input = input }

  /// Reads one value that is all of `bytes`.
  static func scan<T>(
    _ bytes: [UInt8], _ body: (inout JSONScanner) throws(JSONFault) -> T
  ) throws(JSONFault) -> T {
    try bytes.withRawBytes { (raw) throws(JSONFault) -> T in
      var scanner = JSONScanner(raw)
      let result = try body(&scanner)
      scanner.skipBlanks()
      guard scanner.offset == raw.count else { throw scanner.fault("something follows the end") }
      return result
    }
  }

  func fault(_ reason: String) -> JSONFault { JSONFault(offset: offset, reason: reason) }

  // MARK: Containers

  /// Reads an object; `member` must read or skip each value. `null` counts as an object without members.
  @inline(__always)
  mutating func object(_ member: (JSONText, inout JSONScanner) throws(JSONFault) -> Void) throws(JSONFault) {
    if try null() { return }
    try enter("{")
    if !take("}") {
      repeat {
        let key = try text()
        skipBlanks()
        guard take(":") else { throw fault("':' expected") }
        try member(key, &self)
      } while takeAfterBlanks(",")
      guard takeAfterBlanks("}") else { throw fault("',' or '}' expected") }
    }
    depth -= 1
  }

  /// Reads an array; `element` must read or skip each value. `null` counts as an empty array.
  @inline(__always)
  mutating func array(_ element: (inout JSONScanner) throws(JSONFault) -> Void) throws(JSONFault) {
    if try null() { return }
    try enter("[")
    if !take("]") {
      repeat { try element(&self) } while takeAfterBlanks(",")
      guard takeAfterBlanks("]") else { throw fault("',' or ']' expected") }
    }
    depth -= 1
  }

  private mutating func enter(_ bracket: Unicode.Scalar) throws(JSONFault) {
    skipBlanks()
    guard take(bracket) else { throw fault("'\(bracket)' expected") }
    depth += 1
    guard depth <= Self.depthLimit else { throw fault("nested deeper than \(Self.depthLimit)") }
    skipBlanks()
  }

  // MARK: Scalars

  /// A string, as it stands between its quotes.
  mutating func text() throws(JSONFault) -> JSONText {
    skipBlanks()
    guard take("\"") else { throw fault("a string expected") }
    let start = offset
    var escaped = false
    while offset < input.count {
      let byte = input[offset]
      if byte == 0x22 {
        let raw = UnsafeRawBufferPointer(rebasing: input[start..<offset])
        offset += 1
        return JSONText(raw: raw, isEscaped: escaped, offset: start)
      }
      if byte == 0x5c {
        escaped = true
        offset += 1
      } else if byte < 0x20 {
        throw fault("a control character in a string")
      }
      offset += 1
    }
    throw fault("a string without end")
  }

  mutating func string() throws(JSONFault) -> String { try text().string() }

  mutating func digest() throws(JSONFault) -> Digest {
    skipBlanks()
    // As it is written: 64 digits between quotes. Whatever else stands here is looked at by character.
    if input.count - offset >= 66, input[offset] == 0x22, input[offset + 65] == 0x22,
      let digest = JSONText.digest(UnsafeRawBufferPointer(rebasing: input[offset + 1..<offset + 65]))
    {
      offset += 66
      return digest
    }
    let text = try text()
    guard let digest = text.digest else {
      throw JSONFault(offset: text.offset, reason: "64 hexadecimal digits expected")
    }
    return digest
  }

  mutating func base64() throws(JSONFault) -> [UInt8] {
    let text = try text()
    guard let bytes = Base64Text.decode(text.raw) else {
      throw JSONFault(offset: text.offset, reason: "base64 expected")
    }
    return bytes
  }

  /// A whole number from 0 to 2^53.
  mutating func count() throws(JSONFault) -> Int {
    skipBlanks()
    let start = offset
    var value = 0
    while offset < input.count, case let digit = input[offset] &- 48, digit < 10 {
      value = value * 10 + Int(digit)
      guard value <= 1 << 53 else { throw fault("the number is too large") }
      offset += 1
    }
    guard offset > start, offset == input.count || !Self.continuesNumber(input[offset]) else {
      throw fault("a whole number expected")
    }
    return value
  }

  mutating func bool() throws(JSONFault) -> Bool {
    skipBlanks()
    if literal("true") { return true }
    if literal("false") { return false }
    throw fault("true or false expected")
  }

  mutating func null() throws(JSONFault) -> Bool {
    skipBlanks()
    return literal("null")
  }

  /// Passes over a value of any kind.
  mutating func skip() throws(JSONFault) { _ = try value() }

  /// Reads a value of any kind.
  mutating func value() throws(JSONFault) -> JSONValue {
    skipBlanks()
    guard offset < input.count else { throw fault("a value expected") }
    switch input[offset] {
    case 0x7b:
      var members: [String: JSONValue] = [:]
      try object { (key, scanner) throws(JSONFault) in members[try key.string()] = try scanner.value() }
      return .object(members)
    case 0x5b:
      var elements: [JSONValue] = []
      try array { (scanner) throws(JSONFault) in elements.append(try scanner.value()) }
      return .array(elements)
    case 0x22: return .string(try string())
    case 0x74, 0x66: return .bool(try bool())
    case 0x6e:
      guard try null() else { throw fault("a value expected") }
      return .null
    default: return try number()
    }
  }

  private mutating func number() throws(JSONFault) -> JSONValue {
    let start = offset
    while offset < input.count, Self.continuesNumber(input[offset]) { offset += 1 }
    let text = String(decoding: input[start..<offset], as: UTF8.self)
    if let whole = Int64(text) { return .integer(whole) }
    guard let value = Double(text), value.isFinite else { throw fault("a number expected") }
    return .number(value)
  }

  private static func continuesNumber(_ byte: UInt8) -> Bool {
    byte &- 48 < 10 || byte == 0x2d || byte == 0x2b || byte == 0x2e || byte == 0x65 || byte == 0x45
  }

  // MARK: Bytes

  private mutating func skipBlanks() {
    while offset < input.count, case let byte = input[offset], byte == 32 || byte == 10 || byte == 13 || byte == 9 {
      offset += 1
    }
  }

  private mutating func take(_ character: Unicode.Scalar) -> Bool {
    guard offset < input.count, UInt32(input[offset]) == character.value else { return false }
    offset += 1
    return true
  }

  private mutating func takeAfterBlanks(_ character: Unicode.Scalar) -> Bool {
    skipBlanks()
    return take(character)
  }

  private mutating func literal(_ word: StaticString) -> Bool {
    let size = word.utf8CodeUnitCount
    guard input.count - offset >= size, memcmp(input.baseAddress! + offset, word.utf8Start, size) == 0 else {
      return false
    }
    offset += size
    return true
  }
}

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif
