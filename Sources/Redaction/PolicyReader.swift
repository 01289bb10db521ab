import Catalog
import Core

extension RedactionPolicy {
  /// Reads a policy's file.
  ///
  /// - Throws: ``RedactionError/badPolicy(file:line:_:)`` for the first thing that is not understood: a word that was passed
  ///   over would be a rule that does not hold.
  package init(_ text: String, file: String) throws(RedactionError) {
    let documents: [YAMLValue]
    do throws(YAMLValue.Problem) { documents = try YAMLValue.documents(of: text) } catch {
      throw .badPolicy(file: file, line: error.line, error.message)
    }
    var reader = PolicyReader(file: file)
    guard documents.count == 1, let document = documents.first else {
      throw .badPolicy(file: file, line: 1, "a policy is one document, and there are \(documents.count)")
    }
    self = try reader.policy(document)
  }
}

private struct PolicyReader {
  let file: String
  var domains: [String: Domain] = [:]

  func problem(_ line: Int, _ message: String) -> RedactionError { .badPolicy(file: file, line: line, message) }

  func members(_ value: YAMLValue, _ what: String, known: [String]? = nil) throws(RedactionError) -> [YAMLValue.Member]
  {
    guard case .mapping(let members) = value.content else { throw problem(value.line, "\(what) is not a mapping") }
    if let known {
      for member in members where !known.contains(member.key) {
        throw problem(member.line, "\(what) has no '\(member.key)'; it has \(known.joined(separator: ", "))")
      }
    }
    return members
  }

  func scalar(_ value: YAMLValue?, _ what: String, _ line: Int) throws(RedactionError) -> String {
    guard let value, case .scalar(let text) = value.content else {
      throw problem(value?.line ?? line, "\(what) is missing, or not a word")
    }
    return text
  }

  func number(_ value: YAMLValue, _ what: String, _ range: ClosedRange<Int>) throws(RedactionError) -> Int {
    guard let number = Int(try scalar(value, what, value.line)), range.contains(number) else {
      throw problem(value.line, "\(what) is not a number from \(range.lowerBound) to \(range.upperBound)")
    }
    return number
  }

  mutating func policy(_ document: YAMLValue) throws(RedactionError) -> RedactionPolicy {
    let top = try members(document, "a policy", known: ["apiVersion", "kind", "metadata", "spec"])
    func member(_ key: String) -> YAMLValue? { top.first { $0.key == key }?.value }
    guard try scalar(member("apiVersion"), "apiVersion", 1) == "salvor.dev/v1" else {
      throw problem(1, "'apiVersion' is not salvor.dev/v1")
    }
    guard try scalar(member("kind"), "kind", 1) == "RedactionPolicy" else {
      throw problem(1, "'kind' is not RedactionPolicy")
    }
    guard let metadata = member("metadata"), let spec = member("spec") else {
      throw problem(1, "'metadata' or 'spec' is missing")
    }
    let name = try scalar(
      try members(metadata, "metadata", known: ["name"]).first?.value, "metadata.name", metadata.line)
    let fields = try members(spec, "spec", known: ["key", "domains", "stores"])
    let keyText = try scalar(fields.first { $0.key == "key" }?.value, "key", spec.line)
    guard let key = SecretReference(keyText) else {
      // Not repeated: it may be the key.
      throw problem(spec.line, "'key' is not a secret reference (file:…, env:… or command:…)")
    }
    if let declared = fields.first(where: { $0.key == "domains" })?.value {
      for member in try members(declared, "domains") { domains[member.key] = try domain(member) }
    }
    guard let declared = fields.first(where: { $0.key == "stores" })?.value else {
      throw problem(spec.line, "'stores' is missing")
    }
    var stores: [StoreName: StoreRules] = [:]
    for member in try members(declared, "stores") {
      guard let name = StoreName(member.key) else {
        throw problem(member.line, "'\(member.key)' can't be a store's name")
      }
      stores[name] = try store(member.value)
    }
    return RedactionPolicy(name: name, file: file, key: key, domains: domains, stores: stores)
  }

  private func domain(_ member: YAMLValue.Member) throws(RedactionError) -> Domain {
    let known = ["as", "bits", "length", "days"]
    var word = ""
    var numbers: [String: YAMLValue] = [:]
    if case .scalar(let text) = member.value.content {
      word = text
    } else {
      for field in try members(member.value, "a domain", known: known) {
        if field.key == "as" {
          word = try scalar(field.value, "as", field.line)
        } else {
          numbers[field.key] = field.value
        }
      }
    }
    func take(_ name: String, _ usual: Int, _ range: ClosedRange<Int>) throws(RedactionError) -> Int {
      guard let value = numbers.removeValue(forKey: name) else { return usual }
      return try number(value, name, range)
    }
    let shape: Domain.Shape
    switch word {
    case "integer": shape = .integer(bits: try take("bits", 31, 8...62))
    case "digits": shape = .digits
    case "text": shape = .text(length: try take("length", 20, 12...200))
    case "name": shape = .name
    case "email": shape = .email
    case "uuid": shape = .uuid
    case "date": shape = .date(days: try take("days", 365, 1...36_500))
    default:
      throw problem(
        member.line, "domain '\(member.key)' is as nothing known: integer, digits, text, name, email, uuid or date")
    }
    if let left = numbers.keys.sorted().first { throw problem(member.line, "a domain as \(word) has no '\(left)'") }
    return Domain(name: member.key, shape: shape)
  }

  private func store(_ value: YAMLValue) throws(RedactionError) -> StoreRules {
    var rules = StoreRules()
    for member in try members(value, "a store", known: ["tables", "keys", "paths", "literals", "comments", "others"]) {
      switch member.key {
      case "tables":
        for table in try members(member.value, "tables") { rules.tables[table.key] = try self.table(table) }
      case "keys", "paths":
        for entry in try members(member.value, member.key) {
          guard let pattern = NamePattern(entry.key) else { throw problem(entry.line, "'\(entry.key)' is no pattern") }
          for name in pattern.domains where domains[name] == nil {
            throw problem(entry.line, "there is no domain '\(name)'")
          }
          rules.entries.append(.init(pattern, try self.entry(entry)))
        }
      case "literals":
        guard case .sequence(let items) = member.value.content else {
          throw problem(member.line, "'literals' is not a list")
        }
        for item in items { rules.literals.insert(try scalar(item, "a literal", item.line)) }
      case "comments": rules.keepsComments = try choice(member) == "keep"
      default:
        for other in try members(member.value, "others") { rules.others[other.key] = try choice(other) == "keep" }
      }
    }
    return rules
  }

  private func choice(_ member: YAMLValue.Member) throws(RedactionError) -> String {
    let word = try scalar(member.value, member.key, member.line)
    guard word == "keep" || word == "drop" else {
      throw problem(member.line, "'\(member.key)' is neither keep nor drop")
    }
    return word
  }

  private func table(_ member: YAMLValue.Member) throws(RedactionError) -> StoreRules.TableRule {
    if case .scalar("drop") = member.value.content { return .drop }
    var columns: [String: ValueRule] = [:]
    for column in try members(member.value, "table \(member.key)") {
      columns[column.key] = try rule(column.value, column.line)
    }
    return .columns(columns)
  }

  private func entry(_ member: YAMLValue.Member) throws(RedactionError) -> StoreRules.EntryRule {
    switch member.value.content {
    case .scalar("drop"): .drop
    case .scalar("keep"): .keep
    default: .content(try rule(member.value, member.line))
    }
  }

  private func rule(_ value: YAMLValue, _ line: Int) throws(RedactionError) -> ValueRule {
    switch value.content {
    // A rule that was left open destroys; it never lets through.
    case .nothing, .scalar("null"): return .null
    case .scalar("keep"): return .keep
    case .scalar(let word): throw problem(line, "there is no action '\(word)': keep, null, or a mapping")
    case .sequence: throw problem(line, "a list is no action")
    case .mapping(let members):
      guard members.count == 1, let only = members.first else {
        throw problem(line, "an action is one word and what it needs")
      }
      return try rule(only)
    }
  }

  private func rule(_ only: YAMLValue.Member) throws(RedactionError) -> ValueRule {
    switch only.key {
    case "constant": return .constant(try scalar(only.value, "constant", only.line))
    case "pseudonym":
      let name = try scalar(only.value, "pseudonym", only.line)
      guard domains[name] != nil else { throw problem(only.line, "there is no domain '\(name)'") }
      return .pseudonym(domain: name)
    case "hash": return .hash(domain: try scalar(only.value, "hash", only.line))
    case "fields", "csv":
      var fields: [FieldRule] = []
      for member in try members(only.value, only.key) {
        fields.append(FieldRule(member.key, try rule(member.value, member.line)))
      }
      return only.key == "csv" ? .csv(fields) : .fields(fields)
    case "elements": return .elements(try rule(only.value, only.line))
    case "lines": return .lines(try rule(only.value, only.line))
    case "replace":
      var found: [Replacement] = []
      for member in try members(only.value, "replace") {
        guard (try? Regex(member.key)) != nil else { throw problem(member.line, "it is no regular expression") }
        found.append(Replacement(find: member.key, try rule(member.value, member.line)))
      }
      return .replace(found)
    default:
      throw problem(
        only.line,
        "there is no action '\(only.key)': keep, null, constant, pseudonym, hash, fields, elements, csv, lines or replace"
      )
    }
  }
}
