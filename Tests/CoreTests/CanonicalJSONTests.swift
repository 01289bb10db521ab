import Core
import Foundation
import Testing

@Suite("Canonical JSON") struct CanonicalJSONTests {
  /// A value as an encoder sees it that does not know it.
  private struct Plain: Encodable {
    var value: JSONValue
    func encode(to encoder: any Encoder) throws { try value.encode(to: encoder) }
  }

  private static let scalars: [Unicode.Scalar] =
    (0..<0x80).map { Unicode.Scalar(UInt8($0)) } + ["\u{80}", "é", "\u{301}", "\u{2028}", "\u{fffd}", "\u{1F600}"]

  private static func value(_ chance: inout some RandomNumberGenerator, depth: Int) -> JSONValue {
    func text() -> String {
      var text = ""
      for _ in 0..<Int.random(in: 0...6, using: &chance) {
        text.unicodeScalars.append(scalars.randomElement(using: &chance) ?? "a")
      }
      return text
    }
    switch Int.random(in: 0...(depth > 0 ? 6 : 4), using: &chance) {
    case 0: return .null
    case 1: return .bool(.random(using: &chance))
    case 2: return .integer(.random(in: .min ... .max, using: &chance))
    case 3: return .number(.random(in: -1e9...1e9, using: &chance))
    case 4: return .string(text())
    case 5: return .array((0..<3).map { _ in value(&chance, depth: depth - 1) })
    default:
      var members: [String: JSONValue] = [:]
      for _ in 0..<5 { members[text()] = value(&chance, depth: depth - 1) }
      return .object(members)
    }
  }

  @Test func `values are spelled as an encoder spells them`() throws {
    var chance = SystemRandomNumberGenerator()
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    for _ in 0..<2000 {
      let value = Self.value(&chance, depth: 3)
      let expected = try encoder.encode(Plain(value: value))
      #expect(try CanonicalJSON.encode(value) == Array(expected), "\(value)")
    }
  }
}
