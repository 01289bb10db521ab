import Core

/// Moves through JSON without building values; every step is checked against the end of the bytes.
struct JSONCursor {
  private let bytes: UnsafeRawBufferPointer
  private var index = 0
  private var depth = 0

  init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

  func failure(_ why: String) -> TreeError { .malformed(why: why, offset: index) }

  // MARK: Structure

  /// - Parameter member: Gets each name, lent for the call.
  mutating func object(
    _ member: (inout JSONCursor, UnsafeRawBufferPointer) throws(TreeError) -> Void
  ) throws(TreeError) {
    try enter(0x7b)
    if take(0x7d) { return leave() }
    while true {
      if let field = try plainString() {
        try expect(0x3a)
        try member(&self, field)
      } else {
        try string().withRawBytes { (field) throws(TreeError) -> Void in
          try expect(0x3a)
          try member(&self, field)
        }
      }
      if take(0x2c) { continue }
      try expect(0x7d)
      return leave()
    }
  }

  mutating func array(_ element: (inout JSONCursor) throws(TreeError) -> Void) throws(TreeError) {
    try enter(0x5b)
    if take(0x5d) { return leave() }
    while true {
      try element(&self)
      if take(0x2c) { continue }
      try expect(0x5d)
      return leave()
    }
  }

  mutating func expectEnd() throws(TreeError) {
    skipSpace()
    if index != bytes.count { throw failure("something follows the end") }
  }

  mutating func skipValue() throws(TreeError) {
    skipSpace()
    guard index < bytes.count else { throw failure("a value is missing") }
    switch bytes[index] {
    case 0x7b: try object { (json, _) throws(TreeError) -> Void in try json.skipValue() }
    case 0x5b: try array { (json) throws(TreeError) -> Void in try json.skipValue() }
    case 0x22: _ = try string()
    default:
      let start = index
      while index < bytes.count, isLiteral(bytes[index]) { index += 1 }
      if index == start { throw failure("a value is missing") }
    }
  }

  /// The text of an object, as it stands.
  mutating func rawObject() throws(TreeError) -> [UInt8] {
    skipSpace()
    guard index < bytes.count, bytes[index] == 0x7b else { throw failure("an object is missing") }
    let start = index
    try skipValue()
    return Array(bytes[start..<index])
  }

  // MARK: Scalars

  mutating func takeNull() throws(TreeError) -> Bool {
    skipSpace()
    guard bytes.count - index >= 4, bytes[index] == 0x6e else { return false }
    guard bytes[index + 1] == 0x75, bytes[index + 2] == 0x6c, bytes[index + 3] == 0x6c else {
      throw failure("a value is neither null nor anything else")
    }
    index += 4
    return true
  }

  mutating func uint64() throws(TreeError) -> UInt64 {
    skipSpace()
    let start = index
    var value: UInt64 = 0
    while index < bytes.count, (48...57).contains(bytes[index]) {
      let (product, overflow) = value.multipliedReportingOverflow(by: 10)
      let (sum, carry) = product.addingReportingOverflow(UInt64(bytes[index] - 48))
      if overflow || carry { throw failure("a number is out of range") }
      value = sum
      index += 1
    }
    if index == start || index < bytes.count && isLiteral(bytes[index]) { throw failure("a whole number is missing") }
    return value
  }

  mutating func uint32() throws(TreeError) -> UInt32 {
    guard let value = UInt32(exactly: try uint64()) else { throw failure("a number is out of range") }
    return value
  }

  mutating func digest() throws(TreeError) -> BlobID {
    try expect(0x22)
    guard bytes.count - index > 64, bytes[index + 64] == 0x22 else { throw failure("an id is not 64 digits") }
    guard let value = GoText.digest(bytes, at: index) else { throw failure("an id is not hexadecimal") }
    index += 65
    return value
  }

  /// A string that stands there as it is, in ASCII and without escapes.
  ///
  /// - Returns: `nil`, with nothing taken, for any other.
  mutating func plainString() throws(TreeError) -> UnsafeRawBufferPointer? {
    let mark = index
    try expect(0x22)
    let start = index
    while index < bytes.count {
      let byte = bytes[index]
      if byte == 0x22 {
        index += 1
        return UnsafeRawBufferPointer(rebasing: bytes[start..<index - 1])
      }
      if byte == 0x5c || byte >= 0x80 || byte < 0x20 { break }
      index += 1
    }
    index = mark
    return nil
  }

  /// Lends a string's bytes.
  mutating func text<T>(_ body: (UnsafeRawBufferPointer) -> T) throws(TreeError) -> T {
    if let plain = try plainString() { return body(plain) }
    return try string().withUnsafeBytes { body($0) }
  }

  /// A string's bytes in UTF-8; what isn't UTF-8, and lone surrogates, become U+FFFD as in Go.
  mutating func string() throws(TreeError) -> [UInt8] {
    try expect(0x22)
    let start = index
    var isASCII = true
    while index < bytes.count {
      let byte = bytes[index]
      if byte == 0x22 {
        let slice = bytes[start..<index]
        index += 1
        return isASCII ? Array(slice) : Array(String(decoding: slice, as: UTF8.self).utf8)
      }
      if byte == 0x5c { return try escapedString(from: start) }
      if byte < 0x20 { throw failure("a control character stands in a string") }
      if byte >= 0x80 { isASCII = false }
      index += 1
    }
    throw failure("a string has no end")
  }

  private mutating func escapedString(from start: Int) throws(TreeError) -> [UInt8] {
    var out = Array(bytes[start..<index])
    while index < bytes.count {
      let byte = bytes[index]
      index += 1
      if byte == 0x22 { return Array(String(decoding: out, as: UTF8.self).utf8) }
      if byte < 0x20 { throw failure("a control character stands in a string") }
      guard byte == 0x5c else {
        out.append(byte)
        continue
      }
      guard index < bytes.count else { break }
      let escape = bytes[index]
      index += 1
      switch escape {
      case 0x22, 0x5c, 0x2f: out.append(escape)
      case 0x62: out.append(8)
      case 0x66: out.append(12)
      case 0x6e: out.append(10)
      case 0x72: out.append(13)
      case 0x74: out.append(9)
      case 0x75:
        var value = try fourDigits()
        if (0xd800..<0xdc00).contains(value), bytes.count - index >= 6, bytes[index] == 0x5c, bytes[index + 1] == 0x75 {
          let mark = index
          index += 2
          let low = try fourDigits()
          if (0xdc00..<0xe000).contains(low) {
            value = 0x10000 + (value - 0xd800) << 10 + (low - 0xdc00)
          } else {
            index = mark
          }
        }
        let scalar = Unicode.Scalar(value) ?? "\u{fffd}"
        out += Array(String(Character(scalar)).utf8)
      default: throw failure("an escape is unknown")
      }
    }
    throw failure("a string has no end")
  }

  private mutating func fourDigits() throws(TreeError) -> UInt32 {
    guard bytes.count - index >= 4 else { throw failure("an escape is cut short") }
    var value: UInt32 = 0
    for _ in 0..<4 {
      guard let digit = GoText.hexValue(bytes[index]) else { throw failure("an escape is not hexadecimal") }
      value = value << 4 | UInt32(digit)
      index += 1
    }
    return value
  }

  // MARK: Bytes

  private mutating func enter(_ byte: UInt8) throws(TreeError) {
    try expect(byte)
    depth += 1
    if depth > TreeLimits.jsonDepth { throw failure("the nesting is too deep") }
  }

  private mutating func leave() { depth -= 1 }

  private mutating func skipSpace() {
    while index < bytes.count {
      switch bytes[index] {
      case 0x20, 0x0a, 0x0d, 0x09: index += 1
      default: return
      }
    }
  }

  private mutating func take(_ byte: UInt8) -> Bool {
    skipSpace()
    guard index < bytes.count, bytes[index] == byte else { return false }
    index += 1
    return true
  }

  private mutating func expect(_ byte: UInt8) throws(TreeError) {
    if !take(byte) { throw failure("'\(Character(Unicode.Scalar(byte)))' is missing") }
  }

  private func isLiteral(_ byte: UInt8) -> Bool {
    switch byte {
    case 48...57, 65...90, 97...122, 43, 45, 46: true
    default: false
    }
  }
}
