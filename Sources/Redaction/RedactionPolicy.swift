import Core

/// What becomes of everything a copy could hold. What it does not speak of is refused.
package struct RedactionPolicy: Sendable {
  package var name: String
  package var file: String
  package var key: SecretReference
  package var domains: [String: Domain]
  package var stores: [StoreName: StoreRules]
}

/// What becomes of a value.
package indirect enum ValueRule: Sendable, Equatable {
  case keep
  /// NULL; an empty text where there is no NULL.
  case null
  case constant(String)
  case pseudonym(domain: String)
  /// The HMAC-SHA-256 in hexadecimal, by a domain of this name.
  case hash(domain: String)
  /// The value is JSON (or a hash): one rule for every place in it.
  case fields([FieldRule])
  /// The value is an array, as the engine writes one, or a list: one rule for all its elements.
  case elements(ValueRule)
  /// The value is text with things in it; the rest stays.
  case replace([Replacement])
  /// The value is CSV with a line of names; one rule for each.
  case csv([FieldRule])
  /// Every line is JSON of its own.
  case lines(ValueRule)
}

/// A place in JSON: names with dots between them, `*` for any name, `[]` for any element.
package struct FieldRule: Sendable, Equatable {
  package var path: [String]
  package var rule: ValueRule

  package init(_ path: String, _ rule: ValueRule) {
    self.path = path.split(separator: ".").map(String.init)
    self.rule = rule
  }

  func fits(_ other: [String]) -> Bool {
    path.count == other.count && zip(path, other).allSatisfy { $0 == $1 || $0 == "*" && $1 != "[]" }
  }
}

/// What is found in a text by a regular expression, and its domain.
package struct Replacement: Sendable, Equatable {
  package var find: String
  package var rule: ValueRule

  package init(find: String, _ rule: ValueRule) { (self.find, self.rule) = (find, rule) }
}

package struct StoreRules: Sendable, Equatable {
  package enum TableRule: Sendable, Equatable {
    /// The table comes along with no row in it.
    case drop
    case columns([String: ValueRule])
  }

  package enum EntryRule: Sendable, Equatable {
    case drop
    case keep
    case content(ValueRule)
  }

  package struct Entry: Sendable, Equatable {
    package var pattern: NamePattern
    package var rule: EntryRule
    package init(_ pattern: NamePattern, _ rule: EntryRule) { (self.pattern, self.rule) = (pattern, rule) }
  }

  package var tables: [String: TableRule] = [:]
  /// The first that fits counts.
  package var entries: [Entry] = []
  /// Literals of the schema that may come along.
  package var literals: Set<String> = []
  package var others: [String: Bool] = [:]
  package var keepsComments = false

  package init() {}
}
