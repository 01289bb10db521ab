import Core

/// Writes the bytes `CanonicalJSON` would, thirty times as fast: a large catalog's digest is asked for often.
///
/// Members must be given in the order of their names; a test compares every kind of value with `CanonicalJSON`.
struct CanonicalWriter {
  private(set) var bytes: [UInt8] = []
  private var needsComma = false

  mutating func object(_ body: (inout CanonicalWriter) -> Void) { enclosed(123, 125, body) }

  mutating func array<Element>(_ elements: some Sequence<Element>, _ body: (inout CanonicalWriter, Element) -> Void) {
    enclosed(91, 93) { writer in
      for element in elements {
        writer.separate()
        body(&writer, element)
        writer.needsComma = true
      }
    }
  }

  /// `"name":` and whatever `body` writes.
  mutating func member(_ name: StaticString, _ body: (inout CanonicalWriter) -> Void) {
    separate()
    bytes.append(34)
    name.withUTF8Buffer { bytes.append(contentsOf: $0) }
    bytes.append(34)
    bytes.append(58)
    needsComma = false
    body(&self)
    needsComma = true
  }

  mutating func member(_ name: StaticString, _ text: String?) {
    if let text { member(name) { $0.text(text) } }
  }

  mutating func member(_ name: StaticString, _ duration: Duration?) {
    if let duration { member(name, duration.exactText) }
  }

  mutating func member(_ name: StaticString, _ number: Int) { member(name) { $0.number(Int64(number)) } }

  mutating func member(_ name: StaticString, _ value: Bool) { member(name) { $0.word(value ? "true" : "false") } }

  mutating func member(_ name: StaticString, _ names: [some Name]) {
    member(name) { $0.array(names) { $0.text($1.text) } }
  }

  /// A dictionary, its keys in the order of their Unicode scalars.
  mutating func dictionary<Value>(_ values: [String: Value], _ body: (inout CanonicalWriter, Value) -> Void) {
    enclosed(123, 125) { writer in
      for (key, value) in values.sorted(by: { $0.key < $1.key }) {
        writer.separate()
        writer.text(key)
        writer.bytes.append(58)
        writer.needsComma = false
        body(&writer, value)
        writer.needsComma = true
      }
    }
  }

  mutating func word(_ word: StaticString) { word.withUTF8Buffer { bytes.append(contentsOf: $0) } }

  mutating func number(_ number: Int64) { bytes.append(contentsOf: String(number).utf8) }

  mutating func text(_ text: String) {
    var text = text
    let isPlain = text.withUTF8 { utf8 in
      // What needs escaping is rare, and left to the one that defines how.
      guard utf8.allSatisfy({ $0 >= 32 && $0 != 34 && $0 != 92 && $0 != 127 }) else { return false }
      bytes.append(34)
      bytes.append(contentsOf: utf8)
      bytes.append(34)
      return true
    }
    if !isPlain { bytes.append(contentsOf: (try? CanonicalJSON.encode(text)) ?? []) }
  }

  mutating func value(_ value: JSONValue) {
    switch value {
    case .null: word("null")
    case .bool(let value): word(value ? "true" : "false")
    case .integer(let value): number(value)
    case .number(let value): bytes.append(contentsOf: (try? CanonicalJSON.encode(value)) ?? Array("null".utf8))
    case .string(let value): text(value)
    case .array(let values): array(values) { $0.value($1) }
    case .object(let members): dictionary(members) { $0.value($1) }
    }
  }

  /// As `CanonicalJSON` has it: for what a catalog has few of.
  mutating func encoded(_ value: some Encodable) {
    // Nothing in a catalog can't be encoded.
    bytes.append(contentsOf: (try? CanonicalJSON.encode(value)) ?? Array("null".utf8))
  }

  private mutating func separate() {
    if needsComma { bytes.append(44) }
    needsComma = false
  }

  private mutating func enclosed(_ open: UInt8, _ close: UInt8, _ body: (inout CanonicalWriter) -> Void) {
    bytes.append(open)
    needsComma = false
    body(&self)
    bytes.append(close)
    needsComma = true
  }
}
