/// A name an operator chose: a type per kind, so that a store's name can't be passed where a service's belongs.
///
/// Names are DNS labels (RFC 1123): 1 to 63 of `a-z`, `0-9` and `-`, no `-` at either end.
package protocol Name: Hashable, Comparable, Sendable, Codable, CustomStringConvertible, ExpressibleByStringLiteral,
  CodingKeyRepresentable
where StringLiteralType == String {
  var text: String { get }
  init(unchecked text: String)
}

extension Name {
  /// - Returns: `nil` unless `text` is a DNS label.
  package init?(_ text: some StringProtocol) {
    guard isLabel(text) else { return nil }
    self.init(unchecked: String(text))
  }

  package init(stringLiteral value: String) {
    precondition(isLabel(value), "not a DNS label: \(value)")
    self.init(unchecked: value)
  }

  package static func < (a: Self, b: Self) -> Bool { a.text < b.text }

  package var description: String { text }

  package var codingKey: any CodingKey { NameKey(stringValue: text) }

  package init?(codingKey: some CodingKey) { self.init(codingKey.stringValue) }

  package init(from decoder: any Decoder) throws {
    let text = try decoder.singleValueContainer().decode(String.self)
    guard let value = Self(text) else {
      throw DecodingError.dataCorrupted(
        .init(codingPath: decoder.codingPath, debugDescription: "not a name (a-z, 0-9, '-'): \(text)"))
    }
    self = value
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(text)
  }
}

private struct NameKey: CodingKey {
  var stringValue: String
  var intValue: Int? { nil }
  init(stringValue: String) { self.stringValue = stringValue }
  init?(intValue: Int) { nil }
}

private func isLabel(_ text: some StringProtocol) -> Bool {
  let bytes = Array(text.utf8)
  guard (1...63).contains(bytes.count), bytes.first != 45, bytes.last != 45 else { return false }
  return bytes.allSatisfy { (97...122).contains($0) || (48...57).contains($0) || $0 == 45 }
}

/// A service, such as `ledger`.
package struct ServiceName: Name {
  package let text: String
  package init(unchecked text: String) { self.text = text }
}

/// A data store, unique in the catalog.
package struct StoreName: Name {
  package let text: String
  package init(unchecked text: String) { self.text = text }
}

/// A kind of store, as a driver registers it: `postgresql`, `sqlite`, `redis`, `files`.
package struct DriverName: Name {
  package let text: String
  package init(unchecked text: String) { self.text = text }
}

/// A set of stores that are marked together.
package struct GroupName: Name {
  package let text: String
  package init(unchecked text: String) { self.text = text }
}

/// A place backups go.
package struct RepositoryName: Name {
  package let text: String
  package init(unchecked text: String) { self.text = text }
}

/// A backup policy.
package struct PolicyName: Name {
  package let text: String
  package init(unchecked text: String) { self.text = text }
}

/// An invariant over several stores, or a validator of one.
package struct CheckName: Name {
  package let text: String
  package init(unchecked text: String) { self.text = text }
}

/// One of the copies of a store that can take another's place.
package struct MemberName: Name {
  package let text: String
  package init(unchecked text: String) { self.text = text }
}
