import Core
import DriverKit

/// One store's part of a policy, with the key: turns rows and entries into what their copy holds.
package struct Redactor: ContentRewriting {
  private let store: StoreName
  private let rules: StoreRules
  private let key: PseudonymKey
  private let pseudonymizers: [String: Pseudonymizer]

  package init(_ policy: RedactionPolicy, for store: StoreName, _ key: PseudonymKey) {
    self.store = store
    self.key = key
    rules = policy.stores[store] ?? StoreRules()
    pseudonymizers = policy.domains.mapValues { Pseudonymizer($0, key) }
  }

  package var carriesComments: Bool { rules.keepsComments }

  package func carries(_ other: String) throws(AnyFailure) -> Bool {
    guard let choice = rules.others[other] else {
      throw AnyFailure(RedactionError.unnamed("\(other) of store \(store)"))
    }
    return choice
  }

  // MARK: Rows

  package func carriesRows(of table: String) throws(AnyFailure) -> Bool {
    switch rules.tables[table] {
    case .drop: false
    case .columns: true
    case nil: throw AnyFailure(RedactionError.unnamed("table \(table) of store \(store)"))
    }
  }

  package func row(_ values: [RowValue], of table: TableShape) throws(AnyFailure) -> [RowValue] {
    do {
      guard case .columns(let columns) = rules.tables[table.name] else {
        throw RedactionError.unnamed("table \(table.name) of store \(store)")
      }
      let written = table.columns.filter { !$0.isGenerated }
      guard written.count == values.count else {
        throw RedactionError.notText(place: table.name, why: "a row has other columns")
      }
      var result: [RowValue] = []
      result.reserveCapacity(values.count)
      for (column, value) in zip(written, values) {
        let place = "\(table.name).\(column.name)"
        guard let rule = columns[column.name] else { throw RedactionError.unnamed("column \(place) of store \(store)") }
        result.append(try apply(rule, to: value, place))
      }
      return result
    } catch { throw AnyFailure(error) }
  }

  // MARK: Entries

  package func plan(_ entry: [UInt8]) throws(AnyFailure) -> EntryPlan {
    do {
      let rule = try rule(for: entry)
      if rule.rule == .drop { return .drop }
      let renamed = try rule.pattern.renamed(entry) { (domain, value) throws(RedactionError) -> [UInt8] in
        try pseudonym(RowText(bytes: value), domain, "the name of \(rule.pattern.text)").bytes
      }
      guard let renamed else { throw RedactionError.unnamed("an entry of store \(store)") }
      return rule.rule == .keep ? .keep(as: renamed) : .rewrite(as: renamed)
    } catch { throw AnyFailure(error) }
  }

  private func rule(for entry: [UInt8]) throws(RedactionError) -> StoreRules.Entry {
    guard let rule = rules.entries.first(where: { $0.pattern.fits(entry) }) else {
      throw .unnamed("entry '\(String(decoding: entry.prefix(200), as: UTF8.self))' of store \(store)")
    }
    return rule
  }

  package func content(_ content: EntryContent, of entry: [UInt8]) throws(AnyFailure) -> EntryContent {
    do {
      let rule = try rule(for: entry)
      guard case .content(let value) = rule.rule else { return content }
      return try apply(value, to: content, rule.pattern.text)
    } catch { throw AnyFailure(error) }
  }

  private func apply(_ rule: ValueRule, to content: EntryContent, _ place: String) throws(RedactionError)
    -> EntryContent
  {
    switch content {
    case .bytes(let bytes): return .bytes(try bytesOf(apply(rule, to: .bytes(bytes), place)))
    case .fields(let fields): return .fields(try apply(rule, to: fields, place))
    case .members(let members): return .members(try apply(rule, to: members, place))
    case .set(let members): return .set(try apply(rule, to: members, place))
    case .scored(let members):
      guard case .elements(let inner) = rule else {
        throw .notText(place: place, why: "it is a sorted set: use 'elements'")
      }
      return .scored(
        try members.map { (member) throws(RedactionError) in
          .init(try bytesOf(apply(inner, to: .bytes(member.name), place)), member.value)
        })
    case .stream(let messages):
      return .stream(
        try messages.map { (message) throws(RedactionError) in
          .init(id: message.id, try apply(rule, to: message.fields, place))
        })
    }
  }

  private func apply(_ rule: ValueRule, to members: [[UInt8]], _ place: String) throws(RedactionError) -> [[UInt8]] {
    guard case .elements(let inner) = rule else {
      throw .notText(place: place, why: "it is a list or a set: use 'elements'")
    }
    return try members.map { (member) throws(RedactionError) in try bytesOf(apply(inner, to: .bytes(member), place)) }
  }

  private func apply(_ rule: ValueRule, to fields: [EntryContent.Field], _ place: String) throws(RedactionError)
    -> [EntryContent.Field]
  {
    guard case .fields(let rules) = rule else { throw .notText(place: place, why: "it has fields: use 'fields'") }
    return try fields.map { (field) throws(RedactionError) in
      let name = String(decoding: field.name, as: UTF8.self)
      guard let rule = rules.first(where: { $0.path == [name] || $0.path == ["*"] }) else {
        throw .unnamed("field '\(name)' of \(place) in store \(store)")
      }
      return .init(field.name, try bytesOf(apply(rule.rule, to: .bytes(field.value), "\(place) \(name)")))
    }
  }

  private func bytesOf(_ value: RowValue) -> [UInt8] {
    switch value {
    case .null: []
    case .bytes(let bytes): bytes
    case .text(let text): Array(text.utf8)
    case .integer(let number): Array(String(number).utf8)
    case .real(let number): Array("\(number)".utf8)
    }
  }

  // MARK: Values

  private func pseudonym(_ value: RowText, _ domain: String, _ place: String) throws(RedactionError) -> RowText {
    guard let maker = pseudonymizers[domain] else { throw .unnamed("domain '\(domain)'") }
    return try maker.pseudonym(of: value, at: place)
  }

  func apply(_ rule: ValueRule, to value: RowValue, _ place: String) throws(RedactionError) -> RowValue {
    if value == .null { return .null }
    switch rule {
    case .keep: return value
    case .null: return .null
    case .constant(let text): return .text(text)
    case .pseudonym(let domain): return like(value, try pseudonym(RowText(bytes: bytesOf(value)), domain, place))
    case .hash(let domain):
      return like(value, RowText(Hex.encode(key.derived(for: "hash \(domain)").code(bytesOf(value)))))
    case .elements(let inner):
      return like(value, RowText(bytes: try elements(bytesOf(value), inner, place)))
    case .fields(let rules):
      guard let json = JSONText(bytesOf(value)) else { throw .notText(place: place, why: "it is no JSON") }
      return like(value, RowText(bytes: try apply(rules, to: json, at: [], place).written))
    case .replace(let replacements):
      let bytes = bytesOf(value)
      var text = String(decoding: bytes, as: UTF8.self)
      guard Array(text.utf8) == bytes else { throw .notText(place: place, why: "it is no text") }
      for one in replacements { text = try replace(one, in: text, place) }
      return like(value, RowText(text))
    case .csv(let rules): return like(value, RowText(bytes: try csv(bytesOf(value), rules, place)))
    case .lines(let inner):
      let lines = bytesOf(value).split(separator: 10, omittingEmptySubsequences: false)
      var result: [UInt8] = []
      for (index, line) in lines.enumerated() {
        if index > 0 { result.append(10) }
        if !line.isEmpty { result += try bytesOf(apply(inner, to: .bytes(Array(line)), place)) }
      }
      return like(value, RowText(bytes: result))
    }
  }

  /// In the kind the value had, so that a number stays one.
  private func like(_ value: RowValue, _ text: RowText) -> RowValue {
    switch value {
    case .integer: Int64(text.text).map { .integer($0) } ?? .text(text.text)
    case .bytes: .bytes(text.bytes)
    case .real: Double(text.text).map { .real($0) } ?? .text(text.text)
    case .text, .null: .text(text.text)
    }
  }

  private func apply(
    _ rules: [FieldRule], to json: JSONText, at path: [String], _ place: String
  ) throws(RedactionError) -> JSONText {
    if let rule = rules.first(where: { $0.fits(path) }) { return try apply(rule.rule, toJSON: json, path, place) }
    switch json {
    case .null: return .null
    case .object(let members):
      return .object(
        try members.map { (member) throws(RedactionError) in
          .init(member.name, try apply(rules, to: member.value, at: path + [member.name], place))
        })
    case .array(let items):
      return .array(
        try items.map { (item) throws(RedactionError) in try apply(rules, to: item, at: path + ["[]"], place) })
    case .bool, .number, .string:
      throw .unnamed("'\(path.joined(separator: "."))' in \(place) of store \(store)")
    }
  }

  private func apply(
    _ rule: ValueRule, toJSON json: JSONText, _ path: [String], _ place: String
  ) throws(RedactionError) -> JSONText {
    let place = "\(place) \(path.joined(separator: "."))"
    switch (rule, json) {
    case (.keep, _): return json
    case (.null, _): return .null
    case (.constant(let text), _): return .string(text)
    case (_, .null): return .null
    case (_, .string(let text)):
      return .string(String(decoding: bytesOf(try apply(rule, to: .text(text), place)), as: UTF8.self))
    case (_, .number(let text)):
      let result = String(decoding: bytesOf(try apply(rule, to: .text(text), place)), as: UTF8.self)
      return Int64(result) != nil && !result.hasPrefix("0") ? .number(result) : .string(result)
    case (.elements(let inner), .array(let items)):
      return .array(
        try items.map { (item) throws(RedactionError) in try apply(inner, toJSON: item, path + ["[]"], place) })
    case (.fields(let rules), _): return try apply(rules, to: json, at: [], place)
    default: throw .notText(place: place, why: "its rule is for a single value")
    }
  }

  private func replace(_ one: Replacement, in text: String, _ place: String) throws(RedactionError) -> String {
    guard let expression = try? Regex(one.find) else { throw .notText(place: place, why: "its expression is none") }
    var result = ""
    var end = text.startIndex
    for match in text.matches(of: expression) where !match.range.isEmpty {
      result += text[end..<match.range.lowerBound]
      let value = try apply(one.rule, to: .text(String(text[match.range])), place)
      result += String(decoding: bytesOf(value), as: UTF8.self)
      end = match.range.upperBound
    }
    return result + text[end...]
  }
}
