import Catalog
import Core

/// What is compared between two states of one store: a table, its columns, and those rows are known by.
package struct KeyedTable: Sendable, Codable, Hashable {
  package var name: String
  package var columns: [String]
  /// Empty: a row is known by all it says.
  package var key: [String]
  /// What asks for all of it.
  package var query: String

  package init(name: String, columns: [String], key: [String], query: String) {
    (self.name, self.columns, self.key, self.query) = (name, columns, key, query)
  }

  /// What asks an engine for its tables; `nil` if there is no such question.
  package static func question(_ driver: DriverName) -> String? {
    switch driver.text {
    case "postgresql":
      """
      SELECT n.nspname, c.relname, a.attname, CASE WHEN a.attnum = ANY(i.indkey) THEN '1' ELSE '0' END \
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
      LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary \
      WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname <> 'information_schema' \
      AND n.nspname !~ '^pg_' ORDER BY 1, 2, a.attnum
      """
    case "sqlite":
      """
      SELECT '', m.name, p.name, CASE WHEN p.pk > 0 THEN '1' ELSE '0' END FROM sqlite_schema m \
      JOIN pragma_table_info(m.name) p WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
      ORDER BY m.name, p.cid
      """
    default: nil
    }
  }

  /// Stores without tables: everything is one.
  package static func whole(_ driver: DriverName) -> KeyedTable? {
    switch driver.text {
    case "redis":
      KeyedTable(name: "keys", columns: ["key", "type", "value"], key: ["key"], query: "SCANVALUES *")
    case "files":
      KeyedTable(name: "files", columns: ["path", "size", "sha256"], key: ["path"], query: "digests **")
    default: nil
    }
  }

  /// Tables from the rows that answer ``question(_:)``.
  package static func tables(_ rows: [Row], _ driver: DriverName) -> [KeyedTable] {
    guard let dialect = SQLDialect(rawValue: driver.text) else { return [] }
    var found: [(name: String, quoted: String, columns: [String], key: [String])] = []
    for row in rows {
      guard row.count == 4, let schema = row[0], let table = row[1], let column = row[2] else { continue }
      let quoted = (schema.isEmpty ? "" : dialect.name(schema) + ".") + dialect.name(table)
      if found.last?.quoted != quoted {
        found.append((schema.isEmpty ? table : "\(schema).\(table)", quoted, [], []))
      }
      found[found.count - 1].columns.append(column)
      if row[3] == "1" { found[found.count - 1].key.append(column) }
    }
    return found.map { table in
      let columns = table.columns.map { column in
        dialect == .postgreSQL ? "\(dialect.name(column))::text" : dialect.name(column)
      }
      return KeyedTable(
        name: table.name, columns: table.columns, key: table.key,
        query: "SELECT \(columns.joined(separator: ", ")) FROM \(table.quoted)")
    }
  }
}

/// How two histories of one store differ, table by table.
package struct HistoryReport: Sendable, Codable, Hashable {
  package enum Kind: String, Sendable, Codable {
    case onlyLeft = "only-left"
    case onlyRight = "only-right"
    case changed
  }

  package struct Table: Sendable, Codable, Hashable {
    package var name: String
    package var key: [String]
    package var columns: [String]
    package var leftRows: Int64 = 0
    package var rightRows: Int64 = 0
    package var onlyLeft: Int64 = 0
    package var onlyRight: Int64 = 0
    package var changed: Int64 = 0
    /// There are more than are listed.
    package var isCut = false
    /// One side has no such table, or others columns.
    package var note: String?

    package init(_ shape: KeyedTable) { (name, key, columns) = (shape.name, shape.key, shape.columns) }

    package var found: Int64 { onlyLeft + onlyRight + changed }
  }

  package struct Difference: Sendable, Codable, Hashable {
    package var table: String
    package var kind: Kind
    package var key: [String]
    package var left: [Row]
    package var right: [Row]
  }

  package var store: StoreName
  package var left: String
  package var right: String
  package var tables: [Table]
  package var differences: [Difference]

  package init(store: StoreName, left: String, right: String) {
    (self.store, self.left, self.right, tables, differences) = (store, left, right, [], [])
  }

  package var found: Int64 { tables.reduce(0) { $0 + $1.found } }
}

/// Compares one table of two histories.
package enum HistoryComparison {
  /// Blocks.
  ///
  /// - Parameter limit: How many differences are listed.
  package static func compare(
    _ shape: KeyedTable, left: [Row], right: [Row], scratch: String, limit: Int
  ) throws -> (HistoryReport.Table, [HistoryReport.Difference]) {
    var table = HistoryReport.Table(shape)
    let hasKey = !shape.key.isEmpty
    let width = shape.columns.count
    let key =
      hasKey ? shape.key.compactMap { shape.columns.firstIndex(of: $0) } : Array(width..<width * 2)
    var plan = ComparisonPlan(
      name: "history", leftKey: key, rightKey: key,
      compared: hasKey ? (0..<width).filter { !key.contains($0) }.map { ($0, $0) } : [], onlyLeft: .missing,
      onlyRight: .orphan)
    plan.countsMatter = !hasKey
    var comparison = Comparison(plan, window: nil, scratch: scratch)
    for (rows, place) in [(left, Place.left), (right, .right)] {
      for row in rows {
        // A NULL is a value here, and must not be the text.
        try comparison.add(hasKey ? row : row + row.map { $0.map { "'" + $0 } ?? "NULL" }, to: place)
      }
    }
    var differences: [HistoryReport.Difference] = []
    var report = RuleReport("history", left: "left", right: "right")
    try comparison.finish(into: &report) { found in
      let kind: HistoryReport.Kind =
        found.kind == .changed ? .changed : found.leftCount > found.rightCount ? .onlyLeft : .onlyRight
      let count = hasKey ? 1 : abs(found.leftCount - found.rightCount)
      switch kind {
      case .changed: table.changed += count
      case .onlyLeft: table.onlyLeft += count
      case .onlyRight: table.onlyRight += count
      }
      guard differences.count < limit else {
        table.isCut = true
        return
      }
      differences.append(
        HistoryReport.Difference(
          table: shape.name, kind: kind, key: found.key, left: found.left.map { Array($0.prefix(width)) },
          right: found.right.map { Array($0.prefix(width)) }))
    }
    (table.leftRows, table.rightRows) = (report.leftRows, report.rightRows)
    return (table, differences)
  }
}
