/// JSON as it was written: numbers keep their digits, objects the order of their members.
///
/// Source: RFC 8259.
package indirect enum JSONText: Sendable, Equatable {
  case null
  case bool(Bool)
  case number(String)
  case string(String)
  case array([JSONText])
  case object([Member])

  package struct Member: Sendable, Equatable {
    package var name: String
    package var value: JSONText
    package init(_ name: String, _ value: JSONText) { (self.name, self.value) = (name, value) }
  }

  /// - Returns: `nil` for anything that is not one JSON text, or is nested more than 200 deep.
  package init?(_ bytes: [UInt8]) {
    var parser = JSONParser(bytes: bytes)
    guard let value = parser.value(0), parser.isAtEnd() else { return nil }
    self = value
  }

  package var written: [UInt8] {
    var output: [UInt8] = []
    write(to: &output)
    return output
  }

  private func write(to output: inout [UInt8]) {
    switch self {
    case .null: output += "null".utf8
    case .bool(let value): output += (value ? "true" : "false").utf8
    case .number(let text): output += text.utf8
    case .string(let text): Self.write(text, to: &output)
    case .array(let items):
      output.append(91)
      for (index, item) in items.enumerated() {
        if index > 0 { output.append(44) }
        item.write(to: &output)
      }
      output.append(93)
    case .object(let members):
      output.append(123)
      for (index, member) in members.enumerated() {
        if index > 0 { output.append(44) }
        Self.write(member.name, to: &output)
        output.append(58)
        member.value.write(to: &output)
      }
      output.append(125)
    }
  }

  private static func write(_ text: String, to output: inout [UInt8]) {
    let digits = Array("0123456789abcdef".utf8)
    output.append(34)
    for byte in text.utf8 {
      switch byte {
      case 34, 92: output += [92, byte]
      case 0..<32: output += [92, 117, 48, 48, digits[Int(byte >> 4)], digits[Int(byte & 15)]]
      default: output.append(byte)
      }
    }
    output.append(34)
  }
}

private struct JSONParser {
  let bytes: [UInt8]
  var index = 0

  mutating func skipBlanks() {
    while index < bytes.count, [32, 9, 10, 13].contains(bytes[index]) { index += 1 }
  }

  mutating func isAtEnd() -> Bool {
    skipBlanks()
    return index == bytes.count
  }

  private mutating func take(_ byte: UInt8) -> Bool {
    skipBlanks()
    guard index < bytes.count, bytes[index] == byte else { return false }
    index += 1
    return true
  }

  private mutating func take(word: String) -> Bool {
    let word = Array(word.utf8)
    guard bytes.count - index >= word.count, Array(bytes[index..<index + word.count]) == word else { return false }
    index += word.count
    return true
  }

  mutating func value(_ depth: Int) -> JSONText? {
    skipBlanks()
    guard depth < 200, index < bytes.count else { return nil }
    switch bytes[index] {
    case 123: return object(depth)
    case 91: return array(depth)
    case 34: return string().map { .string($0) }
    case 116: return take(word: "true") ? .bool(true) : nil
    case 102: return take(word: "false") ? .bool(false) : nil
    case 110: return take(word: "null") ? .null : nil
    default: return number()
    }
  }

  private mutating func object(_ depth: Int) -> JSONText? {
    index += 1
    var members: [JSONText.Member] = []
    if take(125) { return .object(members) }
    while true {
      skipBlanks()
      guard index < bytes.count, bytes[index] == 34, let name = string(), take(58), let value = value(depth + 1) else {
        return nil
      }
      members.append(.init(name, value))
      if take(125) { return .object(members) }
      guard take(44) else { return nil }
    }
  }

  private mutating func array(_ depth: Int) -> JSONText? {
    index += 1
    var items: [JSONText] = []
    if take(93) { return .array(items) }
    while true {
      guard let value = value(depth + 1) else { return nil }
      items.append(value)
      if take(93) { return .array(items) }
      guard take(44) else { return nil }
    }
  }

  private mutating func number() -> JSONText? {
    let start = index
    while index < bytes.count, (48...57).contains(bytes[index]) || [43, 45, 46, 69, 101].contains(bytes[index]) {
      index += 1
    }
    let text = String(decoding: bytes[start..<index], as: UTF8.self)
    return index > start && Double(text) != nil ? .number(text) : nil
  }

  private mutating func string() -> String? {
    index += 1
    var text: [UInt8] = []
    while index < bytes.count {
      let byte = bytes[index]
      index += 1
      switch byte {
      case 34:
        let result = String(decoding: text, as: UTF8.self)
        return Array(result.utf8) == text ? result : nil
      case 92: guard escape(&text) else { return nil }
      case 0..<32: return nil
      default: text.append(byte)
      }
    }
    return nil
  }

  private mutating func escape(_ text: inout [UInt8]) -> Bool {
    guard index < bytes.count else { return false }
    let byte = bytes[index]
    index += 1
    switch byte {
    case 34, 47, 92: text.append(byte)
    case 98: text.append(8)
    case 102: text.append(12)
    case 110: text.append(10)
    case 114: text.append(13)
    case 116: text.append(9)
    case 117:
      guard var unit = hex() else { return false }
      if (0xd800..<0xdc00).contains(unit) {
        guard take(word: "\\u"), let low = hex(), (0xdc00..<0xe000).contains(low) else { return false }
        unit = 0x10000 + (unit - 0xd800) << 10 + (low - 0xdc00)
      }
      guard let scalar = Unicode.Scalar(unit) else { return false }
      text += String(Character(scalar)).utf8
    default: return false
    }
    return true
  }

  private mutating func hex() -> UInt32? {
    guard bytes.count - index >= 4 else { return nil }
    let text = String(decoding: bytes[index..<index + 4], as: UTF8.self)
    index += 4
    return text.utf8.allSatisfy { $0 != 43 && $0 != 45 } ? UInt32(text, radix: 16) : nil
  }
}
