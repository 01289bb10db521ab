import Catalog
import Core
import DriverKit

/// One thing that would set one finding right.
package struct Correction: Sendable, Codable, Hashable {
  package enum Action: Sendable, Codable, Hashable {
    /// Made by the store's driver.
    case change(StoreChange)
    /// A program of the catalog's, given the finding on its standard input.
    case run(Command, input: String)
  }

  /// Names it in records; the same for the same finding and the same action.
  package var id: String
  package var about: Discrepancy.Identity
  package var store: StoreName
  package var action: Action
}

/// What nothing is proposed for, and why.
package struct Unproposed: Sendable, Codable, Hashable {
  package var about: Discrepancy.Identity
  package var why: String
}

/// Everything that would set a report's findings right, to be reviewed as it is.
package struct Proposal: Sendable, Codable, Hashable {
  package var report: String
  package var reportDigest: String
  package var corrections: [Correction]
  package var unproposed: [Unproposed]

  /// What consent is given to.
  package func digest() throws -> Digest { try CanonicalJSON.digest(self) }

  /// - Parameters:
  ///   - rules: The catalog's, by name.
  ///   - drivers: Which engine a store is of.
  package init(
    _ report: ReconciliationReport, rules: [CheckName: ReconciliationRule], drivers: [StoreName: DriverName]
  ) throws {
    self.report = report.id
    reportDigest = try report.digest().hex
    (corrections, unproposed) = ([], [])
    let columns = Dictionary(report.rules.map { ($0.rule, $0) }, uniquingKeysWith: { a, _ in a })
    for finding in report.findings {
      let outcome: Proposer.Outcome
      if let rule = rules[finding.rule], let seen = columns[finding.rule] {
        outcome = try Proposer(rule: rule, seen: seen, drivers: drivers).propose(finding)
      } else {
        outcome = .nothing("an invariant says that it is wrong, and not which side is: write a Reconciliation")
      }
      switch outcome {
      case .nothing(let why): unproposed.append(Unproposed(about: finding.identity, why: why))
      case .actions(let actions):
        for (store, action) in actions {
          let basis = Basis(about: finding.identity, store: store, action: action)
          corrections.append(
            Correction(
              id: String(try CanonicalJSON.digest(basis).hex.prefix(16)), about: finding.identity, store: store,
              action: action))
        }
      }
    }
  }

  private struct Basis: Encodable {
    var about: Discrepancy.Identity
    var store: StoreName
    var action: Correction.Action
  }
}

/// Finds what would set findings of one rule right.
struct Proposer {
  enum Outcome {
    case nothing(String)
    case actions([(StoreName, Correction.Action)])
  }

  let rule: ReconciliationRule
  let seen: RuleReport
  let drivers: [StoreName: DriverName]

  private var truth: Place { rule.truth == .right ? .right : .left }
  private func side(_ place: Place) -> ReconciliationRule.Side { place == .left ? rule.left : rule.right }
  private func columns(_ place: Place) -> [String] { place == .left ? seen.leftColumns : seen.rightColumns }

  func propose(_ finding: Discrepancy) throws -> Outcome {
    let texts = finding.key + (finding.left + finding.right).flatMap { $0.compactMap { $0 } }
    if texts.contains(where: { $0.unicodeScalars.contains("\u{FFFD}") }) {
      return .nothing("its bytes are no text, and it can't be named for certain")
    }
    if let command = rule.compensations[finding.kind] { return try compensate(finding, command) }
    if rule.truth == .none { return .nothing("the rule says of neither side that it is right") }
    if finding.kind == .duplicate { return duplicate(finding) }
    let (right, wrong) = (finding.rows(truth), finding.rows(truth.other))
    if finding.count(truth) > 1 || finding.count(truth.other) > 1 {
      return .nothing("the key is there more than once: settle that first")
    }
    let target = side(truth.other)
    switch (right.first, wrong.first) {
    case (let row?, nil): return add(row, to: target, finding)
    case (nil, let row?): return remove(row, from: target, finding)
    case (let row?, let old?): return change(old, to: row, in: target, finding)
    case (nil, nil): return .nothing("neither side has it")
    }
  }

  /// Fields in braces are replaced by the finding's; the program itself is what the catalog says.
  private func compensate(_ finding: Discrepancy, _ command: Command) throws -> Outcome {
    var fields: [String: String] = [:]
    for place in [truth.other, truth] {
      for (column, value) in zip(columns(place), finding.rows(place).first ?? []) { fields[column] = value }
    }
    for (column, value) in zip(rule.key, finding.key) { fields[column] = value }
    var filled = command
    for index in command.words.indices.dropFirst() {
      guard let word = Self.fill(command.words[index], fields), !word.utf8.contains(0) else {
        return .nothing("a column that '\(command.words[index])' names is not known of it, or can't be an argument")
      }
      filled.words[index] = word
    }
    return .actions([(side(finding.place).store, .run(filled, input: try CanonicalJSON.text(finding)))])
  }

  /// - Returns: `nil` for a column that isn't there.
  static func fill(_ template: String, _ fields: [String: String]) -> String? {
    var result = ""
    var rest = template[...]
    while let open = rest.firstIndex(of: "{") {
      result += rest[..<open]
      guard let close = rest[open...].firstIndex(of: "}") else { return nil }
      guard let value = fields[String(rest[rest.index(after: open)..<close])] else { return nil }
      result += value
      rest = rest[rest.index(after: close)...]
    }
    return result + rest
  }

  private func fields(_ place: Place, _ row: Row) -> [String: String] {
    var result: [String: String] = [:]
    for (column, value) in zip(columns(place), row) { result[column] = value }
    return result
  }

  private func dialect(_ target: ReconciliationRule.Side) -> SQLDialect? {
    drivers[target.store].flatMap { SQLDialect(rawValue: $0.text) }
  }

  private func statement(_ text: String?, _ target: ReconciliationRule.Side) -> Outcome {
    guard let text else { return .nothing("a value of it can't be written in \(target.store)") }
    return .actions([(target.store, .change(.statement(text)))])
  }

  private static let noTarget = "the rule does not say how the store is changed: give 'table', 'entry' or 'compensate'"

  // MARK: Only one side has it

  private func add(_ row: Row, to target: ReconciliationRule.Side, _ finding: Discrepancy) -> Outcome {
    let known = fields(truth, row)
    if let table = target.table, let dialect = dialect(target) {
      let wanted = columns(truth.other)
      if let unknown = wanted.first(where: { !columns(truth).contains($0) }) {
        return .nothing("nobody knows what '\(unknown)' would be")
      }
      guard !wanted.isEmpty else { return .nothing("the columns of \(table) are not known: give 'columns'") }
      return statement(
        dialect.insert(into: table, SeenRow(wanted, wanted.map { known[$0] }), key: rule.key), target)
    }
    guard let entry = target.entry else { return .nothing(Self.noTarget) }
    guard let key = Self.fill(entry, known), let value = target.value.flatMap({ known[$0] }) else {
      return .nothing("nobody knows what would be stored under it")
    }
    let look = target.field.map { ["HGET", key, $0] } ?? ["GET", key]
    let write = target.field.map { ["HSET", key, $0, value] } ?? ["SET", key, value]
    return .actions([(target.store, .change(.commands(expecting: [ExpectedAnswer(look, nil)], run: [write])))])
  }

  private func remove(_ row: Row, from target: ReconciliationRule.Side, _ finding: Discrepancy) -> Outcome {
    let known = fields(truth.other, row)
    if let table = target.table, let dialect = dialect(target) {
      return statement(dialect.delete(from: table, SeenRow(columns(truth.other), row), key: rule.key), target)
    }
    if let file = target.file {
      guard let path = Self.fill(file, known), let size = known["size"].flatMap({ Int64($0) }) else {
        return .nothing("which file it is, and of what size, is not known: ask with 'digests' or 'list'")
      }
      return .actions([
        (target.store, .change(.setAside(path: path, sizeBytes: size, sha256: known["sha256"])))
      ])
    }
    guard let entry = target.entry else { return .nothing(Self.noTarget) }
    guard let key = Self.fill(entry, known) else { return .nothing("which key it is, is not known") }
    var expected = [ExpectedAnswer(["EXISTS", key], "1")]
    let value = target.value.flatMap { known[$0] }
    if let field = target.field {
      expected.append(ExpectedAnswer(["HGET", key, field], value))
    } else if let value {
      expected.append(ExpectedAnswer(["GET", key], value))
    }
    return .actions([(target.store, .change(.commands(expecting: expected, run: [["DEL", key]])))])
  }

  // MARK: Both have it

  private func change(_ old: Row, to new: Row, in target: ReconciliationRule.Side, _ finding: Discrepancy) -> Outcome {
    let (have, want) = (fields(truth.other, old), fields(truth, new))
    let names = columns(truth.other).filter {
      $0 != rule.time && !rule.key.contains($0) && columns(truth).contains($0) && !isSameText(have[$0], want[$0])
    }
    if let table = target.table, let dialect = dialect(target) {
      return statement(
        dialect.update(
          table, SeenRow(columns(truth.other), old), to: names.map { ($0, want[$0]) }, key: rule.key), target)
    }
    guard let entry = target.entry else { return .nothing(Self.noTarget) }
    guard let key = Self.fill(entry, have), let column = target.value, names == [column], let value = want[column]
    else { return .nothing("what differs is not what is stored under the key") }
    let look = target.field.map { ["HGET", key, $0] } ?? ["GET", key]
    let write = target.field.map { ["HSET", key, $0, value] } ?? ["SET", key, value, "KEEPTTL"]
    return .actions([
      (target.store, .change(.commands(expecting: [ExpectedAnswer(look, have[column])], run: [write])))
    ])
  }

  // MARK: One side has it twice

  private func duplicate(_ finding: Discrepancy) -> Outcome {
    let target = side(finding.place)
    let (rows, names) = (finding.rows(finding.place), columns(finding.place))
    guard let table = target.table, let dialect = dialect(target) else { return .nothing(Self.noTarget) }
    guard finding.count(finding.place) == Int64(rows.count), let first = rows.first else {
      return .nothing("there are more of it than were kept: look at it by hand")
    }
    if rows.allSatisfy({ isSame($0, first) }) {
      return statement(
        dialect.deleteCopies(from: table, SeenRow(names, first), key: rule.key, count: Int64(rows.count)), target)
    }
    // The other side knows which of them is right.
    let others = finding.rows(finding.place.other)
    guard finding.place != truth, others.count == 1, finding.count(truth) == 1, let right = others.first else {
      return .nothing("they differ, and nobody says which of them is right")
    }
    let want = fields(truth, right)
    let shared = names.filter { columns(truth).contains($0) && $0 != rule.time }
    let isRight = rows.map { row in
      let have = fields(finding.place, row)
      return shared.allSatisfy { isSameText(have[$0], want[$0]) }
    }
    guard isRight.filter({ $0 }).count == 1 else { return .nothing("they differ, and none or several are right") }
    var actions: [(StoreName, Correction.Action)] = []
    var told: [Row] = []
    for (row, isRight) in zip(rows, isRight) where !isRight && !told.contains(where: { isSame($0, row) }) {
      guard let text = dialect.delete(from: table, SeenRow(names, row), key: rule.key) else {
        return .nothing("a value of it can't be written in \(target.store)")
      }
      told.append(row)
      actions.append((target.store, .change(.statement(text))))
    }
    return .actions(actions)
  }

  private func isSame(_ a: Row, _ b: Row) -> Bool { a.count == b.count && zip(a, b).allSatisfy { isSameText($0, $1) } }
}
