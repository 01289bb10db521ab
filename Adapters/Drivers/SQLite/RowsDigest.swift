import Core
import DriverKit
import GRDBSQLite

extension Connection {
  /// The content digest `sqlite-rows-v1`: per table a SHA-256 over its typed rows in key order, and one of the schema.
  ///
  /// A part `table:<name>` per table that has rows of its own, the shadow tables of virtual tables among them; the virtual
  /// tables themselves need modules that may not be here and say nothing more. A row is, per column, one byte for the
  /// type (0 NULL, 1 integer, 2 real, 3 text, 4 blob), then eight bytes for a number, or the length in eight bytes and
  /// the bytes; all big-endian. The part `schema` covers type, name, table and SQL of every entry, and the pragmas
  /// `user_version` and `application_id`.
  ///
  /// Reads everything, in one transaction: the caller's, or one of its own.
  ///
  /// - Throws: ``DriverKit/DriverError/engineFailed(_:log:)`` if a table needs a function or collation of the application's.
  func rowsDigest() throws(DriverError) -> ContentDigest {
    let isInTransaction = sqlite3_get_autocommit(try handle()) == 0
    if !isInTransaction { try execute("BEGIN") }
    defer { if !isInTransaction { try? execute("ROLLBACK") } }
    var parts: [String: ContentDigest.Part] = ["schema": try schemaDigest()]
    for table in try tables() { parts["table:\(table.name)"] = try digest(of: table) }
    return ContentDigest(scheme: "sqlite-rows-v1", parts: parts)
  }

  private struct Table {
    var name: String
    var hasRowID: Bool
  }

  private func tables() throws(DriverError) -> [Table] {
    let statement = try Statement(
      self, "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow')")
    var result: [Table] = []
    while try statement.step() {
      guard let name = statement.text(0), name != "sqlite_schema" else { continue }
      result.append(Table(name: name, hasRowID: statement.integer(1) == 0))
    }
    return result
  }

  private func schemaDigest() throws(DriverError) -> ContentDigest.Part {
    var digest = RunningDigest()
    for pragma in ["user_version", "application_id"] {
      digest.update("\(pragma)=\(try integer("PRAGMA \(pragma)") ?? 0)\n")
    }
    let statement = try Statement(
      self, "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name, tbl_name")
    let count = try update(&digest, withRowsOf: statement)
    return .init(digest: digest.finish().hex, count: count)
  }

  private func digest(of table: Table) throws(DriverError) -> ContentDigest.Part {
    var digest = RunningDigest()
    let name = "\"" + table.name.replacing("\"", with: "\"\"") + "\""
    var columns = "*"
    var order = ""
    if table.hasRowID, let key = try freeRowIDName(of: table.name) {
      columns = "\(key), *"
      order = " ORDER BY \(key)"
    }
    // Without an index a table is read in the order of its key, also one that has no row id.
    let statement = try Statement(self, "SELECT \(columns) FROM main.\(name) NOT INDEXED\(order)")
    for index in 0..<statement.columnCount { digest.update("\(statement.columnName(index))\n") }
    let count = try update(&digest, withRowsOf: statement)
    return .init(digest: digest.finish().hex, count: count)
  }

  /// A name for the row id that no column has taken.
  private func freeRowIDName(of table: String) throws(DriverError) -> String? {
    let quoted = "'" + table.replacing("'", with: "''") + "'"
    let statement = try Statement(self, "SELECT lower(name) FROM pragma_table_xinfo(\(quoted))")
    var taken: Set<String> = []
    while try statement.step() { taken.insert(statement.text(0) ?? "") }
    return ["rowid", "_rowid_", "oid"].first { !taken.contains($0) }
  }

  private func update(_ digest: inout RunningDigest, withRowsOf statement: Statement) throws(DriverError) -> Int64 {
    var count: Int64 = 0
    var row: [UInt8] = []
    while try statement.step() {
      count += 1
      for index in 0..<statement.columnCount {
        switch statement.type(index) {
        case SQLITE_INTEGER: append(1, UInt64(bitPattern: statement.integer(index)), to: &row)
        case SQLITE_FLOAT: append(2, statement.real(index).bitPattern, to: &row)
        case SQLITE_NULL: row.append(0)
        case let type:
          statement.withBlob(index) { bytes in
            append(type == SQLITE_BLOB ? 4 : 3, UInt64(bytes.count), to: &row)
            row.append(contentsOf: bytes)
          }
        }
      }
      if row.count >= 65_536 {
        digest.update(row)
        row.removeAll(keepingCapacity: true)
      }
    }
    digest.update(row)
    return count
  }

  private func append(_ type: UInt8, _ word: UInt64, to row: inout [UInt8]) {
    row.append(type)
    withUnsafeBytes(of: word.bigEndian) { row.append(contentsOf: $0) }
  }
}
