import Core
import DriverKit

/// Made data as files that engines load.
package enum LoadText {
  private static func quoted(_ name: String) -> String {
    "\"" + name.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\"\"") + "\""
  }

  private static func identifier(_ table: String) -> String {
    table.split(separator: ".").suffix(2).map { quoted(String($0)) }.joined(separator: ".")
  }

  /// Types no fresh database has become text.
  private static func type(_ text: String, isPostgreSQL: Bool) -> String {
    if !isPostgreSQL { return text }
    let known = [
      "smallint", "integer", "bigint", "numeric", "real", "double", "boolean", "text", "character", "date", "time",
      "timestamp", "uuid",
      "json", "jsonb", "bytea",
    ]
    let word = text.prefix { $0.isLetter || $0.isNumber }
    return known.contains(String(word)) ? text : "text"
  }

  /// A table with its columns, keys and references, made of its shape: no default, no check, nothing of a schema's text.
  package static func create(_ table: TableShape, isPostgreSQL: Bool) -> String {
    var lines = table.columns.filter { !$0.isGenerated }.map { column in
      "  \(quoted(column.name)) \(type(column.type, isPostgreSQL: isPostgreSQL))\(column.isNullable ? "" : " NOT NULL")"
    }
    for (index, key) in table.keys.enumerated() {
      lines.append("  \(index == 0 ? "PRIMARY KEY" : "UNIQUE") (\(key.map(quoted).joined(separator: ", ")))")
    }
    for reference in table.references {
      lines.append(
        "  FOREIGN KEY (\(reference.columns.map(quoted).joined(separator: ", "))) REFERENCES \(identifier(reference.table)) (\(reference.targets.map(quoted).joined(separator: ", ")))"
      )
    }
    let parts = table.name.split(separator: ".")
    let schema =
      isPostgreSQL && parts.count > 1 && parts[parts.count - 2] != "public"
      ? "CREATE SCHEMA IF NOT EXISTS \(quoted(String(parts[parts.count - 2])));\n" : ""
    return schema + "CREATE TABLE \(identifier(table.name)) (\n\(lines.joined(separator: ",\n"))\n);\n"
  }

  package static func insert(_ table: TableShape, _ rows: [[RowValue]]) -> String {
    let columns = table.columns.filter { !$0.isGenerated }.map { quoted($0.name) }.joined(separator: ", ")
    return rows.map { row in
      let values = row.map { value in
        switch value {
        case .null: "NULL"
        case .integer(let number): String(number)
        case .real(let number): "\(number)"
        case .bytes(let bytes): "x'\(Hex.encode(bytes))'"
        case .text(let text):
          "'" + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "''") + "'"
        }
      }
      return "INSERT INTO \(identifier(table.name)) (\(columns)) VALUES (\(values.joined(separator: ", ")));\n"
    }.joined()
  }

  /// For COPY; what is made has no tab, backslash or line feed in it but by a public value.
  package static func copy(_ table: TableShape, _ rows: [[RowValue]]) -> String {
    let columns = table.columns.filter { !$0.isGenerated }.map { quoted($0.name) }.joined(separator: ", ")
    let lines = rows.map { row in
      row.map { value in
        switch value {
        case .null: "\\N"
        case .integer(let number): String(number)
        case .real(let number): "\(number)"
        case .bytes(let bytes): "\\\\x\(Hex.encode(bytes))"
        case .text(let text):
          text.replacing("\\", with: "\\\\").replacing("\t", with: "\\t").replacing("\n", with: "\\n").replacing(
            "\r", with: "\\r")
        }
      }.joined(separator: "\t") + "\n"
    }
    return "COPY \(identifier(table.name)) (\(columns)) FROM stdin;\n\(lines.joined())\\.\n"
  }

  /// A JSON object a line, for programs that ask a service with each.
  package static func lines(_ table: TableShape, _ rows: [[RowValue]]) -> String {
    let names = table.columns.filter { !$0.isGenerated }.map(\.name)
    return rows.map { row in
      var members: [String: JSONValue] = [:]
      for (name, value) in zip(names, row) {
        switch value {
        case .null: members[name] = .null
        case .integer(let number): members[name] = .integer(number)
        case .real(let number): members[name] = .number(number)
        case .bytes(let bytes): members[name] = .string(Hex.encode(bytes))
        case .text(let text): members[name] = .string(text)
        }
      }
      return ((try? CanonicalJSON.text(JSONValue.object(members), pretty: false)) ?? "{}") + "\n"
    }.joined()
  }
}
