import Core
import DriverKit
import IO

/// A cluster whose server only we reach: what it holds, and its schema as text.
struct PrivateCluster: Sendable {
  struct Table: Sendable {
    var shape: TableShape
    /// With quotes.
    var sql: String
    var isPartitioned: Bool
    /// Columns that are not computed.
    var written: [String] { shape.columns.filter { !$0.isGenerated }.map(\.name) }
  }

  var driver: PostgreSQLDriver
  var data: String
  var socket: String
  var user: String
  /// Whether names have the database before them.
  var isPrefixed = false

  func connect(_ database: String) async throws(DriverError) -> Connection {
    try await driver.connect(ServerAddress(host: socket, port: 5432, user: user, database: database), password: nil)
  }

  /// The same, with who sees everything.
  func asSuperuser() async throws -> PrivateCluster {
    let connection = try await connect("postgres")
    var copy = self
    if let name = try await connection.value(
      "SELECT rolname FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid LIMIT 1")
    {
      copy.user = name
    }
    await connection.close()
    copy.isPrefixed = try await copy.databases().count > 1
    return copy
  }

  func prefix(_ database: String) -> String { isPrefixed ? database + "." : "" }

  /// Those that hold something of somebody's; the engine's own is one if it was used.
  private func databases() async throws -> [String] {
    let first = try await connect("postgres")
    let all = try await first.run(
      "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname"
    )
    .rows.compactMap { $0[0] }
    await first.close()
    var used: [String] = []
    for name in all {
      let connection = try await connect(name)
      let count = try await connection.value(
        """
        SELECT (SELECT count(*) FROM pg_class c WHERE c.oid >= 16384) + (SELECT count(*) FROM pg_proc p WHERE p.oid >= 16384)
          + (SELECT count(*) FROM pg_largeobject_metadata) + (SELECT count(*) FROM pg_type t WHERE t.oid >= 16384)
        """)
      await connection.close()
      if name != "postgres" || count != "0" { used.append(name) }
    }
    return used
  }

  // MARK: What it holds

  private struct Described: Decodable {
    struct Column: Decodable {
      var name: String
      var type: String
      var isNullable: Bool
      var isGenerated: Bool
    }
    struct Link: Decodable {
      var columns: [String]
      var table: String
      var targets: [String]
    }
    var name: String
    var sql: String
    var isPartitioned: Bool
    var columns: [Column]
    var keys: [[String]]
    var links: [Link]
  }

  private static let described = """
    SELECT json_build_object(
      'name', n.nspname || '.' || c.relname, 'sql', format('%I.%I', n.nspname, c.relname), 'isPartitioned', c.relkind = 'p',
      'columns', coalesce((SELECT json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
        'isNullable', NOT a.attnotnull, 'isGenerated', a.attgenerated <> '') ORDER BY a.attnum)
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'),
      'keys', coalesce((SELECT json_agg((SELECT json_agg(a.attname ORDER BY k.place)
          FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place) JOIN pg_attribute a ON a.attrelid = c.oid
          AND a.attnum = k.number WHERE k.place <= i.indnkeyatts) ORDER BY NOT i.indisprimary, i.indexrelid)
        FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indexprs IS NULL AND i.indpred IS NULL), '[]'),
      'links', coalesce((SELECT json_agg(json_build_object('table', fn.nspname || '.' || f.relname,
        'columns', (SELECT json_agg(a.attname ORDER BY k.place) FROM unnest(x.conkey) WITH ORDINALITY k(number, place)
          JOIN pg_attribute a ON a.attrelid = x.conrelid AND a.attnum = k.number),
        'targets', (SELECT json_agg(a.attname ORDER BY k.place) FROM unnest(x.confkey) WITH ORDINALITY k(number, place)
          JOIN pg_attribute a ON a.attrelid = x.confrelid AND a.attnum = k.number)) ORDER BY x.oid)
        FROM pg_constraint x JOIN pg_class f ON f.oid = x.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
        WHERE x.conrelid = c.oid AND x.contype = 'f' AND x.conparentid = 0), '[]'))::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
      AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY n.nspname, c.relname
    """

  /// Databases with their tables.
  func tables() async throws -> [(database: String, tables: [Table])] {
    var result: [(String, [Table])] = []
    for database in try await databases() {
      let connection = try await connect(database)
      let rows = try await connection.run(Self.described).rows.compactMap { $0[0] }
      await connection.close()
      result.append(
        (
          database,
          try rows.map { row in
            let one = try CanonicalJSON.decode(Described.self, from: Array(row.utf8))
            let shape = TableShape(
              prefix(database) + one.name,
              one.columns.map { .init($0.name, $0.type, isNullable: $0.isNullable, isGenerated: $0.isGenerated) },
              keys: one.keys,
              references: one.links.map { .init($0.columns, to: prefix(database) + $0.table, $0.targets) })
            return Table(shape: shape, sql: one.sql, isPartitioned: one.isPartitioned)
          }
        ))
    }
    return result
  }

  private static let isOwned = """
    EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
      AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i'))
    """

  static let freeSequences = """
    SELECT n.nspname || '.' || c.relname, format('%I.%I', n.nspname, c.relname) FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'S' AND c.oid >= 16384 AND NOT \(isOwned) ORDER BY 1
    """

  static let ownedSequences = """
    SELECT format('%I.%I', n.nspname, c.relname), format('%I.%I', tn.nspname, t.relname), quote_ident(a.attname) FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
      AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
    JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace tn ON tn.oid = t.relnamespace
    JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid WHERE c.relkind = 'S' ORDER BY 1
    """

  func shape() async throws -> StoreShape {
    var shape = StoreShape()
    shape.literals = SQLLiterals.find(in: try await roles())
    for (database, tables) in try await tables() {
      shape.tables += tables.map(\.shape)
      shape.literals += SQLLiterals.find(in: try await dump(database, ["--schema-only", "--no-comments"]))
      let connection = try await connect(database)
      for row in try await connection.run(Self.freeSequences).rows {
        if let name = row[0] { shape.others.append("sequence " + prefix(database) + name) }
      }
      if try await connection.value("SELECT count(*) FROM pg_largeobject_metadata") != "0" {
        shape.others.append(isPrefixed ? "large objects of \(database)" : "large objects")
      }
      for row in try await connection.run(
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'f' ORDER BY 1"
      ).rows {
        if let name = row[0] { shape.others.append("foreign table \(prefix(database))\(name)") }
      }
      await connection.close()
    }
    return shape
  }

  // MARK: Schema as text

  private func output(_ program: String, _ arguments: [String]) async throws -> String {
    let path = try await driver.program(program, major: await driver.majorOnDisk(data))
    // By a file: a schema may be long, and its end must not be missing. The socket's directory is the server's user's own.
    let file = "\(socket)/\(program).sql"
    try await ServerCommand(
      executable: path, arguments: ["-h", socket, "-p", "5432", "-U", user, "-w", "-f", file] + arguments,
      user: try driver.serverUser(data)
    ).run()
    return try await driver.environment.pool.run { () throws(SystemFailure) in
      let bytes = try Files.read(file, limitBytes: 256 << 20)
      try Files.removeTree(file)
      // Words for psql, which is not asked.
      return String(decoding: bytes, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
        .filter { !$0.hasPrefix("\\restrict") && !$0.hasPrefix("\\unrestrict") }.joined(separator: "\n")
    }
  }

  func dump(_ database: String, _ arguments: [String]) async throws -> String {
    try await output(
      "pg_dump",
      ["--no-publications", "--no-subscriptions", "--no-security-labels", "--no-tablespaces"] + arguments + [database])
  }

  func dumpRoles() async throws -> String {
    try await output("pg_dumpall", ["--roles-only", "--no-role-passwords", "--no-comments", "-l", "postgres"])
  }

  /// Without the one that a new cluster begins with.
  func roles() async throws -> String {
    try await dumpRoles().split(separator: "\n", omittingEmptySubsequences: false)
      .filter { $0 != "CREATE ROLE \(user);" && $0 != "CREATE ROLE \(identifier(user));" }.joined(separator: "\n")
  }

  func execute(_ sql: String, in database: String) async throws {
    let connection = try await connect(database)
    do throws(StatementFailure) { _ = try await connection.run(sql) } catch {
      await connection.close()
      throw error.driverError("making the schema of \(database) anew")
    }
    await connection.close()
  }

  /// Makes a database; the engine's own is there.
  func create(_ database: String, like old: PrivateCluster) async throws {
    if database == "postgres" { return }
    let source = try await old.connect("postgres")
    let statement = try await source.value(
      """
      SELECT format('CREATE DATABASE %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L OWNER %I', datname,
        pg_encoding_to_char(encoding), datcollate, datctype, pg_get_userbyid(datdba))
      FROM pg_database WHERE datname = $1
      """, [database])
    await source.close()
    try await execute(statement ?? "", in: "postgres")
  }

  /// Views that keep their rows are filled, those first on which others rest.
  func refresh(_ database: String) async throws {
    let connection = try await connect(database)
    var left = try await connection.run(
      "SELECT format('%I.%I', schemaname, matviewname) FROM pg_matviews ORDER BY 1"
    ).rows.compactMap { $0[0] }
    while !left.isEmpty {
      var failed: [String] = []
      var last: StatementFailure?
      for view in left {
        do throws(StatementFailure) { _ = try await connection.run("REFRESH MATERIALIZED VIEW \(view)") } catch {
          failed.append(view)
          last = error
        }
      }
      if let last, failed.count == left.count { throw last.driverError("filling the materialized views") }
      left = failed
    }
    await connection.close()
  }
}
