import Core
import DriverKit
import GRDBSQLite
import IO

#if canImport(Glibc)
  import Glibc
#endif

extension SQLiteDriver {
  func rewriter() -> (any StoreRewriter)? { SQLiteRewriter(path: path, pool: pool) }
}

/// Makes a database anew: schema as it was written, rows one by one, indexes when they are all there.
struct SQLiteRewriter: StoreRewriter {
  let path: String
  let pool: BlockingPool

  func shape() async throws(AnyFailure) -> StoreShape {
    try await blocking { () throws(DriverError) in
      let database = try Connection(path, .immutable)
      defer { database.close() }
      return try SQLiteSchema(database).shape
    }
  }

  private func blocking<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws(AnyFailure) -> T {
    try await pool.run { () throws(AnyFailure) in do { return try body() } catch { throw AnyFailure(error) } }
  }

  func read(
    limit: Int, _ each: @escaping @Sendable (ContentPiece) throws(AnyFailure) -> Void
  ) async throws(AnyFailure) {
    try await blocking {
      let database = try Connection(path, .immutable)
      defer { database.close() }
      let schema = try SQLiteSchema(database)
      for object in schema.objects { try each(.schema(object.sql)) }
      for table in schema.shape.tables {
        try rows(of: table, in: database, limit: limit) { values in try each(.row(values, of: table)) }
      }
    }
  }

  private func rows(
    of table: TableShape, in database: Connection, limit: Int? = nil, _ each: ([RowValue]) throws -> Void
  ) throws {
    let names = table.columns.filter { !$0.isGenerated }.map { quoted($0.name) }
    if names.isEmpty { return }
    let select = try Statement(
      database,
      "SELECT \(names.joined(separator: ", ")) FROM \(quoted(table.name))" + (limit.map { " LIMIT \($0)" } ?? ""))
    while try select.step() {
      var values: [RowValue] = []
      for index in 0..<Int32(names.count) { values.append(try value(select, index, table)) }
      try each(values)
    }
  }

  private func value(_ row: Statement, _ index: Int32, _ table: TableShape) throws(DriverError) -> RowValue {
    switch row.type(index) {
    case SQLITE_NULL: return .null
    case SQLITE_INTEGER: return .integer(row.integer(index))
    case SQLITE_FLOAT: return .real(row.real(index))
    case SQLITE_BLOB: return .bytes(row.withBlob(index) { Array($0) })
    default:
      let bytes = row.withBlob(index) { Array($0) }
      let text = String(decoding: bytes, as: UTF8.self)
      guard text.utf8.elementsEqual(bytes) else { throw .corrupt("a text in table \(table.name) is not UTF-8") }
      return .text(text)
    }
  }

  // MARK: Making anew

  func rewrite(to place: String, by rewriting: any ContentRewriting) async throws(AnyFailure) -> RewriteCount {
    try await blocking {
      let old = try Connection(path, .immutable)
      defer { old.close() }
      let schema = try SQLiteSchema(old)
      try Files.replace(place, with: [])
      let new = try Connection(place, .readWrite)
      defer { new.close() }
      var count = RewriteCount()
      try settle(new, as: old)
      try new.execute("BEGIN")
      for object in schema.objects where object.type == "table" { try new.execute(object.sql) }
      for table in schema.shape.tables {
        guard try rewriting.carriesRows(of: table.name) else { continue }
        count.rows[table.name] = try fill(table, from: old, to: new, rewriting)
      }
      for other in schema.shape.others {
        if try rewriting.carries(other) { throw DriverError.unsupported("\(other) can't be made anew: drop it") }
      }
      for type in ["index", "view", "trigger"] {
        for object in schema.objects where object.type == type { try new.execute(object.sql) }
      }
      try new.execute("COMMIT")
      if schema.hasStatistics { try new.execute("ANALYZE") }
      count.proofs = try prove(new, old)
      if try isWriteAhead() { _ = try new.text("PRAGMA journal_mode = WAL") }
      return count
    }
  }

  /// What must be said before the first table, and what the file says about itself.
  private func settle(_ new: Connection, as old: Connection) throws(DriverError) {
    for name in ["page_size", "encoding", "auto_vacuum", "application_id", "user_version"] {
      guard let value = try old.text("PRAGMA \(name)") else { continue }
      try new.execute("PRAGMA \(name) = '\(value)'")
    }
    try new.execute("PRAGMA foreign_keys = OFF; PRAGMA journal_mode = MEMORY; PRAGMA trusted_schema = OFF")
  }

  private func fill(
    _ table: TableShape, from old: Connection, to new: Connection, _ rewriting: any ContentRewriting
  ) throws -> Int {
    let columns = table.columns.filter { !$0.isGenerated }
    let places = columns.map { _ in "?" }.joined(separator: ", ")
    let insert = try Insert(
      new,
      "INSERT INTO \(quoted(table.name)) (\(columns.map { quoted($0.name) }.joined(separator: ", "))) VALUES (\(places))",
      table.name)
    var count = 0
    try rows(of: table, in: old) { values in
      try insert.run(try rewriting.row(values, of: table))
      count += 1
    }
    return count
  }

  private func prove(_ new: Connection, _ old: Connection) throws(DriverError) -> [String] {
    let check = try new.text("PRAGMA integrity_check")
    guard check == "ok" else { throw .corrupt("the database made anew fails its integrity check: \(check ?? "")") }
    let broken = try new.integer("SELECT count(*) FROM pragma_foreign_key_check") ?? 0
    let before = try old.integer("SELECT count(*) FROM pragma_foreign_key_check") ?? 0
    guard broken <= before else {
      throw .corrupt("\(broken) references of the database made anew lead nowhere, and \(before) did before")
    }
    return ["integrity_check", "foreign_key_check"]
  }

  /// Source: sqlite.org, "Database File Format", 1.3: bytes 18 and 19.
  private func isWriteAhead() throws -> Bool {
    let header = try File(path, O_RDONLY).read(at: 18, count: 2)
    return header == [2, 2]
  }
}

private func quoted(_ name: String) -> String {
  "\"" + name.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\"\"") + "\""
}

/// One prepared INSERT.
private final class Insert {
  private let handle: OpaquePointer
  private let connection: Connection
  private let table: String

  init(_ connection: Connection, _ sql: String, _ table: String) throws(DriverError) {
    (self.connection, self.table) = (connection, table)
    var statement: OpaquePointer?
    let database = try connection.handle()
    let code = sqlite3_prepare_v2(database, sql, -1, &statement, nil)
    guard code == SQLITE_OK, let statement else { throw Connection.error(code, database, connection.path) }
    handle = statement
  }

  deinit { sqlite3_finalize(handle) }

  func run(_ values: [RowValue]) throws(DriverError) {
    let transient = unsafeBitCast(-1, to: sqlite3_destructor_type.self)
    for (index, value) in values.enumerated() {
      let place = Int32(index + 1)
      switch value {
      case .null: sqlite3_bind_null(handle, place)
      case .integer(let number): sqlite3_bind_int64(handle, place, number)
      case .real(let number): sqlite3_bind_double(handle, place, number)
      case .text(let text):
        var text = text
        text.withUTF8 { bytes in
          bytes.withMemoryRebound(to: CChar.self) {
            _ = sqlite3_bind_text(handle, place, $0.baseAddress, Int32($0.count), transient)
          }
        }
      case .bytes(let bytes):
        if bytes.isEmpty {
          sqlite3_bind_zeroblob(handle, place, 0)
        } else {
          bytes.withUnsafeBytes { _ = sqlite3_bind_blob(handle, place, $0.baseAddress, Int32($0.count), transient) }
        }
      }
    }
    let code = sqlite3_step(handle)
    sqlite3_reset(handle)
    // What the engine says names columns, and never values.
    guard code == SQLITE_DONE else {
      throw .engineFailed(
        "table \(table) does not take a row of the copy", log: String(cString: sqlite3_errmsg(try connection.handle())))
    }
  }
}

/// What a database's own catalog says.
private struct SQLiteSchema {
  struct Object {
    var type: String
    var name: String
    var sql: String
  }

  var objects: [Object] = []
  var shape = StoreShape()
  var hasStatistics = false

  init(_ database: Connection) throws(DriverError) {
    let shadows = Set(
      try Self.column(
        database, "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('shadow', 'virtual')"))
    let virtual = try Self.column(
      database, "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual'")
    let rows = try Statement(database, "SELECT type, name, sql, tbl_name FROM sqlite_schema ORDER BY rowid")
    while try rows.step() {
      let name = rows.text(1) ?? ""
      if name.hasPrefix("sqlite_stat") { hasStatistics = true }
      guard let sql = rows.text(2), !name.hasPrefix("sqlite_"), !shadows.contains(name),
        !shadows.contains(rows.text(3) ?? "")
      else { continue }
      objects.append(Object(type: rows.text(0) ?? "", name: name, sql: sql))
    }
    shape.others = virtual.sorted().map { "virtual table \($0)" }
    for object in objects where object.type == "table" { shape.tables.append(try Self.table(object.name, database)) }
    // A reference may spell its table in other capitals.
    let byName = Dictionary(shape.tables.map { ($0.name.lowercased(), $0) }, uniquingKeysWith: { first, _ in first })
    for index in shape.tables.indices {
      for number in shape.tables[index].references.indices {
        guard let target = byName[shape.tables[index].references[number].table.lowercased()] else { continue }
        shape.tables[index].references[number].table = target.name
        if shape.tables[index].references[number].targets.contains("") {
          shape.tables[index].references[number].targets = target.keys.first ?? []
        }
      }
    }
    let names = Set(objects.map(\.name) + shape.tables.flatMap { $0.columns.map(\.name) })
    for object in objects {
      shape.literals += SQLLiterals.find(in: object.sql, place: "\(object.type) \(object.name)", names: names)
    }
  }

  private static func column(_ database: Connection, _ sql: String) throws(DriverError) -> [String] {
    let statement = try Statement(database, sql)
    var result: [String] = []
    while try statement.step() { result.append(statement.text(0) ?? "") }
    return result
  }

  private static func literal(_ name: String) -> String {
    "'" + name.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "''") + "'"
  }

  private static func table(_ name: String, _ database: Connection) throws(DriverError) -> TableShape {
    var columns: [TableShape.Column] = []
    var key: [(Int64, String)] = []
    let rows = try Statement(
      database, "SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(\(literal(name)))")
    while try rows.step() {
      let column = rows.text(0) ?? ""
      if rows.integer(3) > 0 { key.append((rows.integer(3), column)) }
      columns.append(
        .init(
          column, rows.text(1) ?? "", isNullable: rows.integer(2) == 0 && rows.integer(3) == 0,
          isGenerated: rows.integer(4) > 1))
    }
    var keys = key.isEmpty ? [] : [key.sorted { $0.0 < $1.0 }.map(\.1)]
    for index in try column(
      database, "SELECT name FROM pragma_index_list(\(literal(name))) WHERE \"unique\" AND NOT partial ORDER BY seq")
    {
      let names = try column(
        database, "SELECT coalesce(name, '') FROM pragma_index_info(\(literal(index))) ORDER BY seqno")
      if !names.contains(""), !keys.contains(names) { keys.append(names) }
    }
    var references: [Int64: TableShape.Reference] = [:]
    let links = try Statement(
      database,
      "SELECT id, \"table\", \"from\", coalesce(\"to\", '') FROM pragma_foreign_key_list(\(literal(name))) ORDER BY id, seq"
    )
    while try links.step() {
      var reference = references[links.integer(0)] ?? TableShape.Reference([], to: links.text(1) ?? "", [])
      reference.columns.append(links.text(2) ?? "")
      reference.targets.append(links.text(3) ?? "")
      references[links.integer(0)] = reference
    }
    return TableShape(name, columns, keys: keys, references: references.sorted { $0.key < $1.key }.map(\.value))
  }
}
