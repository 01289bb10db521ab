import Core

/// The table in which a server keeps its events, as statements that make it again.
///
/// A server that asks nobody for rights defines no events, so a replay leaves their definitions out; and one that did would
/// disable them, as a replica does. So the table is taken at the mark, while nobody can change it, and put in its place.
enum EventTable {
  /// In the captured tree: a directory, and a file in it.
  static let directory = "events"
  static let file = "events.sql"
  static let limitBytes = 256 << 20
  /// What the server answers to a definition of an event.
  static let refusal = 1577

  struct Column: Sendable {
    var name: String
    var isBinary: Bool
  }

  static let settings = "SET SESSION time_zone = '+00:00', sql_mode = ''"

  static func columns(_ connection: Connection) async throws(StatementFailure) -> [Column] {
    try await connection.run(
      """
      SELECT COLUMN_NAME, DATA_TYPE FROM information_schema.COLUMNS
      WHERE TABLE_SCHEMA = 'mysql' AND TABLE_NAME = 'event' ORDER BY ORDINAL_POSITION
      """
    ).rows.compactMap { row in
      guard row.count == 2, let name = row[0], let type = row[1] else { return nil }
      return Column(name: name, isBinary: type.hasSuffix("blob") || type.hasSuffix("binary"))
    }
  }

  /// One statement for each event, behind one that removes all.
  static func statements(_ columns: [Column], _ connection: Connection) async throws(StatementFailure) -> [String] {
    if columns.isEmpty { return [] }
    let names = columns.map { RowDigest.quoted($0.name) }.joined(separator: ", ")
    let values = columns.map { "HEX(CAST(\(RowDigest.quoted($0.name)) AS BINARY))" }.joined(separator: ", ")
    let rows = try await connection.run("SELECT \(values) FROM mysql.event").rows
    return ["DELETE FROM mysql.event"]
      + rows.map { row in
        let literals = zip(columns, row).map { column, value -> String in
          guard let value else { return "NULL" }
          if value.isEmpty { return "''" }
          return column.isBinary ? "0x\(value)" : "CONVERT(0x\(value) USING utf8mb4)"
        }
        return "INSERT INTO mysql.event (\(names)) VALUES (\(literals.joined(separator: ", ")))"
      }
  }
}
