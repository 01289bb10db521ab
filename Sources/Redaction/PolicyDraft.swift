import Core
import DriverKit

/// Writes a first policy: everything a store holds, each with what its name and content look like.
///
/// What looks like nobody's gets the word `decide`, which no policy may hold: somebody has to.
package struct PolicyDraft: Sendable {
  private var domains: [String: String] = [:]
  private var stores: [String] = []

  package init() {}

  /// - Parameter samples: A few values of each column, as `table.column`.
  package mutating func add(_ store: StoreName, _ shape: StoreShape, isFiles: Bool, samples: [String: [String]]) {
    var lines = ["    \(store):"]
    if !shape.tables.isEmpty { lines.append("      tables:") }
    let byReference = referenceDomains(shape)
    for table in shape.tables {
      lines.append("        \(Self.quoted(table.name)):")
      for column in table.columns where !column.isGenerated {
        let place = "\(table.name).\(column.name)"
        let guess: Guess? = byReference[place].map { identity($0, column.type) } ?? Guess(column, samples[place] ?? [])
        if let guess, let domain = guess.domain { domains[domain] = guess.shape }
        let action =
          guess.map { guess in guess.domain.map { "{pseudonym: \(Self.quoted($0))}" } ?? guess.shape } ?? "decide"
        lines.append(
          "          \(Self.quoted(column.name)): \(action)  # \(column.type)\(guess.map { ", \($0.why)" } ?? "")")
      }
      if table.columns.allSatisfy(\.isGenerated) { lines[lines.count - 1] += " {}" }
    }
    if let entries = shape.entries {
      lines.append("      \(isFiles ? "paths" : "keys"):")
      for pattern in Self.patterns(entries) { lines.append("        \(Self.quoted(pattern)): decide") }
      if entries.isEmpty { lines[lines.count - 1] += " {}" }
    }
    if !shape.literals.isEmpty {
      lines.append("      literals:")
      for text in Set(shape.literals.map(\.text)).sorted() { lines.append("        - \(Self.quoted(text))") }
    }
    if !shape.others.isEmpty {
      lines.append("      others:")
      for other in shape.others { lines.append("        \(Self.quoted(other)): drop") }
    }
    if lines.count == 1 { lines[0] += " {}" }
    stores += lines
  }

  package func text(name: String) -> String {
    var lines = [
      "# Everything the stores hold. 'decide' is not an action: put keep, null, or another in its place.",
      "# Look at what is kept with care; docs/operating/redaction.md explains every action.",
      "apiVersion: salvor.dev/v1", "kind: RedactionPolicy", "metadata: {name: \(name)}", "spec:",
      "  key: file:/etc/salvor/redaction.key", "  domains:" + (domains.isEmpty ? " {}" : ""),
    ]
    for (name, shape) in domains.sorted(by: { $0.key < $1.key }) { lines.append("    \(Self.quoted(name)): \(shape)") }
    return (lines + ["  stores:"] + stores).joined(separator: "\n") + "\n"
  }

  private func identity(_ domain: String, _ type: String) -> Guess {
    let word = type.lowercased()
    let shape =
      word.contains("uuid")
      ? "uuid" : word.contains("bigint") || word == "integer" || word.contains("int") ? "integer" : "text"
    return Guess(domain: domain, shape: shape, why: "a key")
  }

  /// Keys others refer to, and what refers to them, by one domain.
  private func referenceDomains(_ shape: StoreShape) -> [String: String] {
    var result: [String: String] = [:]
    for table in shape.tables {
      for reference in table.references {
        for (column, target) in zip(reference.columns, reference.targets) {
          let last = reference.table.split(separator: ".").last.map(String.init) ?? reference.table
          let name = result["\(reference.table).\(target)"] ?? "\(last)-\(target)"
          result["\(reference.table).\(target)"] = name
          result["\(table.name).\(column)"] = name
        }
      }
    }
    return result
  }

  /// Names with their numbers and long words taken for somebody's.
  static func patterns(_ entries: [String]) -> [String] {
    var seen: Set<String> = []
    var result: [String] = []
    for entry in entries {
      var pattern = ""
      var piece = ""
      func settled() -> String { piece.contains(where: \.isNumber) ? "*" : piece }
      for character in entry {
        if character == "/" || character == ":" || character == "." {
          pattern += settled() + String(character)
          piece = ""
        } else {
          piece.append(character)
        }
      }
      pattern += settled()
      if seen.insert(pattern).inserted { result.append(pattern) }
      if result.count >= 500 { break }
    }
    return result
  }

  static func quoted(_ text: String) -> String {
    let isPlain = text.utf8.allSatisfy {
      (48...57).contains($0) || (65...90).contains($0) || (97...122).contains($0) || [45, 46, 95].contains($0)
    }
    let words = ["null", "true", "false", "yes", "no", "on", "off", "~", ""]
    if isPlain, let first = text.utf8.first, first > 57, !words.contains(text.lowercased()) { return text }
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"", "\\": result += "\\\(scalar)"
      case "\n": result += "\\n"
      case "\t": result += "\\t"
      case _ where scalar.value < 32: result += "\\x" + Hex.encode([UInt8(scalar.value)])
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }
}

/// What a column looks like.
struct Guess {
  var domain: String?
  /// The domain's shape, or the action if there is no domain.
  var shape: String
  var why: String

  init(domain: String?, shape: String, why: String) { (self.domain, self.shape, self.why) = (domain, shape, why) }

  /// - Returns: `nil` for what looks like nobody's.
  init?(_ column: TableShape.Column, _ samples: [String]) {
    let name = column.name.lowercased()
    func says(_ words: String...) -> Bool { words.contains { name.contains($0) } }
    let type = column.type.lowercased()
    if type.hasPrefix("bool") {
      self.init(domain: nil, shape: "keep", why: "yes or no")
    } else if says("mail") || Self.most(samples, Self.isEmail) {
      self.init(domain: "email", shape: "email", why: "looks like an address for mail")
    } else if says("phone", "mobile", "telefon", "fax") || Self.most(samples, Self.isPhone) {
      self.init(domain: "phone", shape: "digits", why: "looks like a telephone number")
    } else if says("card", "iban", "account_n", "ssn", "passport", "tax_id") || Self.most(samples, Self.isCard) {
      self.init(domain: "number", shape: "digits", why: "looks like a number of somebody's")
    } else if says("birth", "dob") {
      self.init(domain: "birthday", shape: "{as: date, days: 365}", why: "looks like a date of birth")
    } else if says("first_name", "last_name", "full_name", "surname", "holder", "owner", "person") || name == "name" {
      self.init(domain: "person", shape: "name", why: "looks like a name")
    } else if says("password", "secret", "token", "api_key", "session") {
      self.init(domain: "secret", shape: "text", why: "looks like a secret")
    } else if says("street", "address", "zip", "postal", "note", "comment", "message", "ip_addr", "description"),
      column.isNullable
    {
      self.init(domain: nil, shape: "\"null\"", why: "looks like something about somebody")
    } else {
      return nil
    }
  }

  private static func most(_ samples: [String], _ test: (String) -> Bool) -> Bool {
    !samples.isEmpty && samples.count(where: test) * 2 > samples.count
  }

  static func isEmail(_ text: String) -> Bool {
    let parts = text.split(separator: "@", omittingEmptySubsequences: false)
    return parts.count == 2 && !parts[0].isEmpty && parts[1].contains(".") && !text.contains(" ")
  }

  static func isPhone(_ text: String) -> Bool {
    text.hasPrefix("+") && (7...15).contains(text.count(where: \.isNumber))
      && text.allSatisfy { $0.isNumber || " +-()/".contains($0) }
  }

  /// Source: ISO/IEC 7812-1, annex B, the Luhn formula.
  static func isCard(_ text: String) -> Bool {
    let digits = text.utf8.filter { $0 != 32 && $0 != 45 }
    guard (13...19).contains(digits.count), digits.allSatisfy({ (48...57).contains($0) }) else { return false }
    let sum = digits.reversed().enumerated().reduce(0) { total, item in
      let value = Int(item.element - 48)
      return total + (item.offset % 2 == 0 ? value : value * 2 > 9 ? value * 2 - 9 : value * 2)
    }
    return sum % 10 == 0
  }
}
