import Core

/// A name the engine derives, never an operator's choice: 1 to 200 of `a-z`, `0-9`, `-`, `.`, `_`, `/` and `:`.
package protocol Identifier: Hashable, Comparable, Sendable, Codable, CustomStringConvertible,
  ExpressibleByStringLiteral, CodingKeyRepresentable
where StringLiteralType == String {
  var text: String { get }
  init(unchecked text: String)
}

extension Identifier {
  /// - Returns: `nil` unless `text` has the shape of an identifier.
  package init?(_ text: some StringProtocol) {
    guard isIdentifier(text) else { return nil }
    self.init(unchecked: String(text))
  }

  package init(stringLiteral value: String) {
    precondition(isIdentifier(value), "not an identifier: \(value)")
    self.init(unchecked: value)
  }

  package static func < (a: Self, b: Self) -> Bool { a.text < b.text }

  package var description: String { text }

  package var codingKey: any CodingKey { IdentifierKey(stringValue: text) }

  package init?(codingKey: some CodingKey) { self.init(codingKey.stringValue) }

  package init(from decoder: any Decoder) throws {
    let text = try decoder.singleValueContainer().decode(String.self)
    guard let value = Self(text) else {
      throw DecodingError.dataCorrupted(
        .init(codingPath: decoder.codingPath, debugDescription: "not an identifier (a-z, 0-9, '-._/:'): \(text)"))
    }
    self = value
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(text)
  }
}

private struct IdentifierKey: CodingKey {
  var stringValue: String
  var intValue: Int? { nil }
  init(stringValue: String) { self.stringValue = stringValue }
  init?(intValue: Int) { nil }
}

private func isIdentifier(_ text: some StringProtocol) -> Bool {
  let bytes = text.utf8
  guard (1...200).contains(bytes.count) else { return false }
  return bytes.allSatisfy { (97...122).contains($0) || (45...58).contains($0) || $0 == 95 }
}

/// One run, such as `recovery-3f9a1c0b77de`: its kind and a digest of what it is about.
///
/// Derived, so that a second try under the same circumstances finds the first one's work.
package struct RunID: Identifier {
  package let text: String
  package init(unchecked text: String) { self.text = text }

  /// - Parameters:
  ///   - kind: Such as ``RunKind/recovery``.
  ///   - basis: All that makes this run this one and no other: system, recovery point, target, options.
  package static func derived(_ kind: RunKind, from basis: some Encodable) throws -> RunID {
    RunID(unchecked: "\(kind)-\(try CanonicalJSON.digest(basis).hex.prefix(12))")
  }
}

/// What a run is for: `backup`, `recovery`, `drill`.
package struct RunKind: Identifier {
  package let text: String
  package init(unchecked text: String) { self.text = text }

  package static let backup: RunKind = "backup"
  package static let recovery: RunKind = "recovery"
  package static let drill: RunKind = "drill"
  package static let release: RunKind = "release"
}

/// One step, unique within its run, such as `swap/ledger-db`.
package struct StepID: Identifier {
  package let text: String
  package init(unchecked text: String) { self.text = text }
}

/// What a step does and in which version of its meaning: `recovery.swap.v1`. Picks the ``StepHandler``.
package struct StepKind: Identifier {
  package let text: String
  package init(unchecked text: String) { self.text = text }
}

/// A number that only grows with every claim on a run. Of two who act, the one with the lower fence is a zombie.
package struct Fence: Hashable, Comparable, Sendable, Codable, CustomStringConvertible {
  package let value: Int64

  package init(_ value: Int64) { self.value = value }

  package static let none = Fence(0)

  package static func < (a: Fence, b: Fence) -> Bool { a.value < b.value }

  /// The fence of the next claim.
  package var next: Fence { Fence(value + 1) }

  package var description: String { "\(value)" }

  package init(from decoder: any Decoder) throws { value = try decoder.singleValueContainer().decode(Int64.self) }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(value)
  }
}
