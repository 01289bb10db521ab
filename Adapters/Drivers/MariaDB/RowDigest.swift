import Core
import DriverKit

/// A digest of what every InnoDB table says, whatever the order of its rows on disk: `mariadb-rows-v1`.
///
/// Per row the MD5 of its columns' MD5s, in the order of the columns, joined by commas; `-` stands for NULL. Virtual columns
/// are no data, and may depend on the day: they are left out. Per table
/// the number of rows and two sums: of the first fifteen hexadecimal digits of each row's, and of the next fifteen.
enum RowDigest {
  static let scheme = "mariadb-rows-v1"

  /// The same rows must print the same whatever the server is set to, and one transaction must see one moment.
  static let settings =
    "SET SESSION tx_isolation = 'REPEATABLE-READ', idle_transaction_timeout = 0, "
    + "idle_readonly_transaction_timeout = 0, time_zone = '+00:00', sql_mode = '', max_statement_time = 0, lock_wait_timeout = 30, "
    + "group_concat_max_len = 1048576, character_set_results = 'utf8mb4', collation_connection = 'utf8mb4_bin'"

  struct Table: Sendable, Hashable {
    var schema: String
    var name: String
    var isVersioned: Bool
    /// Names and types, in their order.
    var columns: [[String?]] = []

    /// As a part of a digest; quoted where a dot would make it another table's.
    var part: String { [schema, name].contains { $0.contains(".") } ? quoted : "\(schema).\(name)" }
    var quoted: String { RowDigest.quoted(schema) + "." + RowDigest.quoted(name) }
  }

  /// Tables with snapshots, and what they are made of; not sequences, which have no snapshots.
  static func tables(_ connection: Connection) async throws(StatementFailure) -> [Table] {
    let rows = try await connection.run(
      """
      SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE FROM information_schema.TABLES
      WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') AND ENGINE = 'InnoDB'
      AND TABLE_SCHEMA NOT IN \(ServerFacts.ownSchemas) ORDER BY TABLE_SCHEMA, TABLE_NAME
      """
    ).rows
    var tables: [Table] = []
    for row in rows {
      guard row.count == 3, let schema = row[0], let name = row[1] else { continue }
      var table = Table(schema: schema, name: name, isVersioned: row[2] == "SYSTEM VERSIONED")
      table.columns = try await columns(connection, table)
      tables.append(table)
    }
    return tables
  }

  static func columns(_ connection: Connection, _ table: Table) async throws(StatementFailure) -> [[String?]] {
    try await connection.run(
      """
      SELECT COLUMN_NAME, COLUMN_TYPE FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = \(text(table.schema))
      AND TABLE_NAME = \(text(table.name)) AND EXTRA NOT LIKE '%VIRTUAL GENERATED%' ORDER BY ORDINAL_POSITION
      """
    ).rows
  }

  /// - Returns: `nil` if the table is not there, or is no longer what the transaction's snapshot saw.
  static func part(_ connection: Connection, _ table: Table) async throws(StatementFailure) -> ContentDigest.Part? {
    do throws(StatementFailure) {
      // From here on nobody alters it; a column that came after the snapshot would be read with its default.
      try await connection.run("SELECT 1 FROM \(table.quoted) LIMIT 0")
      guard !table.columns.isEmpty, try await columns(connection, table) == table.columns else { return nil }
      let hashes = table.columns.map { "COALESCE(MD5(\(quoted(($0.first ?? nil) ?? ""))), '-')" }.joined(
        separator: ", ")
      let sums = try await connection.row(
        """
        SELECT COUNT(*), COALESCE(SUM(CAST(CONV(SUBSTR(h, 1, 15), 16, 10) AS UNSIGNED)), 0),
        COALESCE(SUM(CAST(CONV(SUBSTR(h, 16, 15), 16, 10) AS UNSIGNED)), 0)
        FROM (SELECT MD5(CONCAT_WS(',', \(hashes))) AS h FROM \(table.quoted)\(table.isVersioned ? " FOR SYSTEM_TIME ALL" : ""))
        AS salvor_rows
        """, 3
      ).map { $0 ?? "" }
      guard let count = Int64(sums[0]) else { return nil }
      return ContentDigest.Part(digest: Digest.of(sums.joined(separator: " ")).hex, count: count)
    } catch {
      // Changed, dropped, renamed, another column, locked by somebody, a view on it that broke.
      if [1412, 1146, 1049, 1054, 1205, 1356, 1932].contains(error.code) { return nil }
      throw error
    }
  }

  static func quoted(_ name: String) -> String {
    "`" + name.split(separator: "`", omittingEmptySubsequences: false).joined(separator: "``") + "`"
  }

  /// A string's literal, under whatever `sql_mode` the session has.
  static func text(_ value: String) -> String {
    value.isEmpty ? "''" : "CONVERT(0x\(Hex.encode(Array(value.utf8))) USING utf8mb4)"
  }
}
