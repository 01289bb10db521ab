import Core
import DriverKit

extension RedactionPolicy {
  /// Everything of `shape` that no rule speaks of, and rules that contradict each other or the schema.
  ///
  /// - Returns: One line for each; empty if a copy can be made.
  package func problems(of store: StoreName, _ shape: StoreShape) -> [String] {
    guard let rules = stores[store] else { return ["store \(store) is not in the policy"] }
    var problems: [String] = []
    for table in shape.tables { problems += self.problems(of: table, in: shape, rules).map { "store \(store): \($0)" } }
    for entry in shape.entries ?? [] where !rules.entries.contains(where: { $0.pattern.fits(Array(entry.utf8)) }) {
      problems.append("store \(store): no rule fits '\(entry.prefix(200))'")
    }
    for literal in shape.literals where !rules.literals.contains(literal.text) {
      problems.append("store \(store): \(literal.place) holds a literal that is not among 'literals'")
    }
    for other in shape.others where rules.others[other] == nil {
      problems.append("store \(store): no rule speaks of \(other)")
    }
    return problems
  }

  private func problems(of table: TableShape, in shape: StoreShape, _ rules: StoreRules) -> [String] {
    guard let rule = rules.tables[table.name] else { return ["no rule speaks of table \(table.name)"] }
    guard case .columns(let columns) = rule else { return [] }
    var problems: [String] = []
    for column in table.columns where !column.isGenerated {
      switch columns[column.name] {
      case nil: problems.append("no rule speaks of column \(table.name).\(column.name)")
      case .null where !column.isNullable:
        problems.append("\(table.name).\(column.name) can't be null, and its rule makes it so")
      default: break
      }
    }
    for name in columns.keys.sorted() where table.index(of: name) == nil {
      problems.append("the rule for \(table.name).\(name) is for a column that is not there")
    }
    for key in table.keys where key.allSatisfy({ if case .constant = columns[$0] { true } else { false } }) {
      problems.append("\(table.name).\(key.joined(separator: "+")) is unique, and its rule makes all the same")
    }
    for reference in table.references { problems += self.problems(of: reference, from: table, columns, rules) }
    return problems
  }

  private func problems(
    of reference: TableShape.Reference, from table: TableShape, _ columns: [String: ValueRule], _ rules: StoreRules
  ) -> [String] {
    var problems: [String] = []
    for (column, target) in zip(reference.columns, reference.targets) {
      let place = "\(table.name).\(column)"
      if columns[column] == .null { continue }
      switch rules.tables[reference.table] {
      case .drop:
        problems.append("\(place) refers to \(reference.table), whose rows are dropped: drop these too, or null")
      case .columns(let others):
        if let rule = columns[column], let other = others[target], rule != other {
          problems.append(
            "\(place) refers to \(reference.table).\(target), and their rules differ: the same action and domain keep the reference"
          )
        }
      case nil: break
      }
    }
    return problems
  }
}
