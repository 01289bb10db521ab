import Catalog
import Core

/// What a step's texts are filled in from.
package struct TemplateValues: Sendable {
  /// Which of all runs through the workflow this is, from 0.
  package var number: Int
  package var captures: [String: String] = [:]
  package var data: [String: JSONValue] = [:]
  package var secrets: [String: Secret] = [:]
  let randomness: SeededRandomness

  package init(number: Int, seed: UInt64) {
    self.number = number
    // Each run has numbers of its own: what it does doesn't depend on who was faster.
    randomness = SeededRandomness(seed: SeededRandomness(seed: seed &+ UInt64(number) &* 0x2545_F491_4F6C_DD1D).next())
  }
}

extension TemplateText {
  /// Where a text goes decides how what is filled in is written.
  package enum Place: Sendable { case address, header, json, plain }

  /// - Throws: ``LoadError/missing(_:)``, ``LoadError/unwritable(_:)``.
  package func filled(_ values: TemplateValues, in place: Place) throws(LoadError) -> String {
    var result = ""
    for piece in pieces {
      if case .text(let text) = piece {
        result += text
      } else {
        result += try Self.written(try value(of: piece, values), in: place)
      }
      guard result.utf8.count <= 16 << 20 else { throw .unwritable("a text of more than 16 MiB") }
    }
    return result
  }

  private func value(of piece: Piece, _ values: TemplateValues) throws(LoadError) -> String {
    switch piece {
    case .text(let text): return text
    case .number: return String(values.number)
    case .integer(let range):
      return String(range.lowerBound + (range.count == 1 ? 0 : values.randomness.below(range.count)))
    case .hexadecimal(let digits):
      return String(Hex.encode(values.randomness.bytes((digits + 1) / 2)).prefix(digits))
    case .uuid:
      var bytes = values.randomness.bytes(16)
      // Source: RFC 9562, section 5.4, "UUID Version 4".
      (bytes[6], bytes[8]) = (bytes[6] & 0x0f | 0x40, bytes[8] & 0x3f | 0x80)
      let text = Hex.encode(bytes)
      var result = ""
      for (index, character) in text.enumerated() {
        if [8, 12, 16, 20].contains(index) { result += "-" }
        result.append(character)
      }
      return result
    case .pick(let words): return words[values.randomness.below(words.count)]
    case .capture(let name):
      guard let value = values.captures[name] else { throw .missing("nothing was captured as '\(name)'") }
      return value
    case .data(let name):
      guard let value = values.data[name] else { throw .missing("the data has no '\(name)'") }
      return value.plainText
    case .secret(let name):
      guard let value = values.secrets[name] else { throw .missing("there is no secret '\(name)'") }
      return value.revealed()
    }
  }

  private static func written(_ value: String, in place: Place) throws(LoadError) -> String {
    switch place {
    case .plain: return value
    case .header:
      guard value.utf8.allSatisfy({ $0 >= 32 && $0 != 127 }) else { throw .unwritable("a header of several lines") }
      return value
    case .address:
      return value.utf8.reduce(into: "") { text, byte in
        let isPlain =
          (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
          || [45, 46, 95, 126].contains(byte)
        text += isPlain ? String(UnicodeScalar(byte)) : "%" + Hex.encode([byte]).uppercased()
      }
    case .json:
      let quoted = String(decoding: (try? CanonicalJSON.encode(value)) ?? [], as: UTF8.self)
      return String(quoted.dropFirst().dropLast())
    }
  }
}

extension JSONValue {
  /// As a person would write it: a string without its quotes.
  package var plainText: String {
    switch self {
    case .string(let text): text
    case .integer(let value): String(value)
    case .bool(let value): value ? "true" : "false"
    case .null: "null"
    case .number, .array, .object: String(decoding: (try? CanonicalJSON.encode(self)) ?? [], as: UTF8.self)
    }
  }

  /// The value a JSON pointer leads to; `nil` where it leads nowhere.
  ///
  /// Source: RFC 6901, section 4, "Evaluation".
  package func value(at pointer: String) -> JSONValue? {
    if pointer.isEmpty { return self }
    guard pointer.hasPrefix("/") else { return nil }
    var value = self
    for part in pointer.dropFirst().split(separator: "/", omittingEmptySubsequences: false) {
      let token = part.replacing("~1", with: "/").replacing("~0", with: "~")
      switch value {
      case .object(let members):
        guard let next = members[String(token)] else { return nil }
        value = next
      case .array(let elements):
        guard token == "0" || !token.hasPrefix("0"), token.utf8.allSatisfy({ (48...57).contains($0) }),
          let index = Int(token), index < elements.count
        else { return nil }
        value = elements[index]
      default: return nil
      }
    }
    return value
  }
}
