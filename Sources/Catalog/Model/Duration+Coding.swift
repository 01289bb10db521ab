import Core

// Durations in the model are written as people write them (`15m`), not as a pair of words.

extension Duration {
  /// The text in the largest unit that divides it, such as `90s`, `15m`, `500ms`; `Duration(text:)` reads it back.
  package var exactText: String {
    let nanoseconds = wholeNanoseconds
    for (unit, size) in exactUnits where nanoseconds.isMultiple(of: size) { return "\(nanoseconds / size)\(unit)" }
    return "\(nanoseconds)ns"
  }
}

private let exactUnits: [(String, Int64)] = [
  ("d", 86_400_000_000_000), ("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000),
  ("us", 1000),
]

extension KeyedEncodingContainer {
  mutating func encode(_ value: Duration, forKey key: Key) throws { try encode(value.exactText, forKey: key) }

  mutating func encodeIfPresent(_ value: Duration?, forKey key: Key) throws {
    if let value { try encode(value, forKey: key) }
  }
}

extension KeyedDecodingContainer {
  func decode(_ type: Duration.Type, forKey key: Key) throws -> Duration {
    let text = try decode(String.self, forKey: key)
    guard let value = Duration(text: text) else {
      throw DecodingError.dataCorruptedError(forKey: key, in: self, debugDescription: "not a duration: \(text)")
    }
    return value
  }

  func decodeIfPresent(_ type: Duration.Type, forKey key: Key) throws -> Duration? {
    contains(key) ? try decode(Duration.self, forKey: key) : nil
  }
}
