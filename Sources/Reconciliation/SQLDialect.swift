import Core

/// How an engine writes names and values. What comes from stores is hostile: nothing of it is ever read as SQL.
package enum SQLDialect: String, Sendable, Codable, CaseIterable {
  case postgreSQL = "postgresql"
  case mariaDB = "mariadb"
  case sqlite

  /// - Parameter path: A table's name, perhaps with its schema before a dot.
  package func table(_ path: String) -> String {
    path.split(separator: ".", omittingEmptySubsequences: false).map { name(String($0)) }.joined(separator: ".")
  }

  package func name(_ text: String) -> String {
    switch self {
    case .mariaDB: "`\(text.replacing("`", with: "``"))`"
    case .postgreSQL, .sqlite: "\"\(text.replacing("\"", with: "\"\""))\""
    }
  }

  /// A value as a literal that means the same whatever the session's settings are; `nil` for one the engine can't hold.
  package func literal(_ value: String?) -> String? {
    guard let value else { return "NULL" }
    let quoted = "'\(value.replacing("'", with: "''"))'"
    let isPlain = !value.utf8.contains { $0 == 92 || $0 < 32 || $0 == 127 }
    switch self {
    case .postgreSQL:
      if value.utf8.contains(0) { return nil }
      // `E` reads a backslash the same way under any setting; what is no text to look at is spelled out.
      return isPlain ? quoted : "E'\(escaped(value))'"
    case .mariaDB:
      return isPlain ? quoted : "_utf8mb4 X'\(Hex.encode(Array(value.utf8)))'"
    case .sqlite:
      return isPlain || !value.utf8.contains(0) && value.utf8.allSatisfy { $0 >= 32 && $0 != 127 }
        ? quoted : "CAST(X'\(Hex.encode(Array(value.utf8)))' AS TEXT)"
    }
  }

  private func escaped(_ value: String) -> String {
    var result = ""
    for scalar in value.unicodeScalars {
      switch scalar {
      case "'": result += "''"
      case "\\": result += "\\\\"
      case _ where scalar.value < 32 || scalar.value == 127:
        result += "\\x" + Hex.encode([UInt8(scalar.value)])
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result
  }

  /// True where a column is exactly what was seen, NULL and the last blank included.
  func isStill(_ column: String, _ value: String?) -> String? {
    guard let literal = literal(value) else { return nil }
    let column = name(column)
    switch self {
    case .postgreSQL: return "\(column) IS NOT DISTINCT FROM \(literal)"
    case .sqlite: return value == nil ? "\(column) IS NULL" : "CAST(\(column) AS TEXT) IS \(literal)"
    case .mariaDB:
      return value == nil
        ? "\(column) IS NULL"
        : "CAST(CONVERT(\(column) USING utf8mb4) AS BINARY) <=> CAST(CONVERT(\(literal) USING utf8mb4) AS BINARY)"
    }
  }

  /// True where a column has a key's value, in a way an index can be used for.
  func isKey(_ column: String, _ value: String) -> String? { literal(value).map { "\(name(column)) = \($0)" } }
}

/// A row as it was seen: columns and their values.
struct SeenRow {
  var fields: [(column: String, value: String?)]

  init(_ columns: [String], _ row: Row) { fields = Array(zip(columns, row)).map { ($0, $1) } }

  /// True for this row alone, as it was seen.
  func guarded(_ key: [String], _ dialect: SQLDialect) -> String? {
    var parts: [String] = []
    for (column, value) in fields {
      if key.contains(column), let value {
        guard let part = dialect.isKey(column, value) else { return nil }
        parts.append(part)
      }
    }
    for (column, value) in fields {
      guard let part = dialect.isStill(column, value) else { return nil }
      parts.append(part)
    }
    return parts.joined(separator: " AND ")
  }
}

extension SQLDialect {
  /// Adds a row, unless its key is there.
  func insert(into table: String, _ row: SeenRow, key: [String]) -> String? {
    var values: [String] = []
    var guards: [String] = []
    for (column, value) in row.fields {
      guard let literal = literal(value) else { return nil }
      values.append(literal)
      if key.contains(column), let value, let part = isKey(column, value) { guards.append(part) }
    }
    guard !guards.isEmpty else { return nil }
    let columns = row.fields.map { name($0.column) }.joined(separator: ", ")
    let from = self == .mariaDB ? " FROM DUAL" : ""
    return "INSERT INTO \(self.table(table)) (\(columns)) SELECT \(values.joined(separator: ", "))\(from)"
      + " WHERE NOT EXISTS (SELECT 1 FROM \(self.table(table)) WHERE \(guards.joined(separator: " AND ")))"
  }

  /// Sets columns of a row that is still as it was seen.
  func update(_ table: String, _ row: SeenRow, to values: [(column: String, value: String?)], key: [String]) -> String?
  {
    guard let condition = row.guarded(key, self), !values.isEmpty else { return nil }
    var parts: [String] = []
    for (column, value) in values {
      guard let literal = literal(value) else { return nil }
      parts.append("\(name(column)) = \(literal)")
    }
    return "UPDATE \(self.table(table)) SET \(parts.joined(separator: ", ")) WHERE \(condition)"
  }

  /// Removes a row that is still as it was seen.
  func delete(from table: String, _ row: SeenRow, key: [String]) -> String? {
    row.guarded(key, self).map { "DELETE FROM \(self.table(table)) WHERE \($0)" }
  }

  /// Removes all but one of rows that are the same in every column that was seen.
  func deleteCopies(from table: String, _ row: SeenRow, key: [String], count: Int64) -> String? {
    guard let condition = row.guarded(key, self), count > 1 else { return nil }
    let name = self.table(table)
    switch self {
    case .postgreSQL:
      return "DELETE FROM \(name) WHERE ctid IN (SELECT ctid FROM \(name) WHERE \(condition) ORDER BY ctid OFFSET 1)"
    case .sqlite:
      return "DELETE FROM \(name) WHERE rowid IN (SELECT rowid FROM \(name) WHERE \(condition)"
        + " ORDER BY rowid LIMIT -1 OFFSET 1)"
    case .mariaDB:
      return "DELETE FROM \(name) WHERE \(condition) AND \(count) = "
        + "(SELECT n FROM (SELECT COUNT(*) AS n FROM \(name) WHERE \(condition)) AS seen) LIMIT \(count - 1)"
    }
  }
}
