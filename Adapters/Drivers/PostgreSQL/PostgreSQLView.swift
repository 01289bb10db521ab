import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

extension PostgreSQLDriver {
  func liveView() async throws(DriverError) -> (any StoreView)? {
    var secret: Secret?
    if let password {
      do throws(AnyFailure) { secret = try await environment.resolve(password) } catch { throw DriverError(error) }
    }
    return PostgreSQLView(driver: self, address: address, password: secret, server: nil)
  }

  /// Starts a server of our own on what was proved, as it was proved: no network, a socket in a directory that nobody else
  /// may enter.
  func openBeside(_ request: RestoreRequest) async throws(DriverError) -> (any DisposableCopy)? {
    let facts = try RestoreFacts(request.capture.facts)
    let layout = RestoreLayout(request, facts, dataDirectory: dataDirectory)
    guard try await outcome(layout) != nil else {
      throw .unsupported("nothing is restored beside \(dataDirectory) under this id")
    }
    let data = layout.data.beside
    let owner = try serverUser(data)
    let server = BesideServer(data: data, control: layout.control, preloaded: facts.preloaded)
    let place = ServerAddress(host: server.socket, port: 5432, user: address.user, database: address.database)
    let view = PostgreSQLView(driver: self, address: place, password: nil, server: server)
    try await blocking { () throws(DriverError) in
      do throws(SystemFailure) { try server.writeFiles(owner: owner) } catch { throw DriverError(error) }
    }
    do throws(DriverError) { try await startBeside(server, owner: owner, facts) } catch {
      await view.close()
      throw error
    }
    return view
  }
}

/// A cluster, asked over a connection for each question.
struct PostgreSQLView: DisposableCopy {
  let driver: PostgreSQLDriver
  let address: ServerAddress
  let password: Secret?
  /// `nil` for the live server.
  let server: BesideServer?

  var environment: [String: String] {
    ["PGHOST": address.host, "PGPORT": String(address.port), "PGUSER": address.user, "PGDATABASE": address.database]
  }

  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    let connection = try await driver.connect(address, password: password)
    return try await driver.query(text, limit: limit, over: connection)
  }

  func contentDigest() async throws(DriverError) -> ContentDigest {
    var parts: [String: ContentDigest.Part] = [:]
    try await eachDatabase("reading every row") { (database, connection) throws(StatementFailure) in
      for table in try await RowDigest.tables(connection) {
        parts[database + "." + table.name] = try await RowDigest.part(connection, table.quoted)
      }
    }
    return ContentDigest(scheme: RowDigest.scheme, parts: parts)
  }

  func schema() async throws(DriverError) -> StoreSchema {
    var parts: [String: String] = [:]
    try await eachDatabase("reading the schema") { (database, connection) throws(StatementFailure) in
      for row in try await connection.run(Self.layout).rows where row.count == 3 {
        parts["\(row[0] ?? "") \(database).\(row[1] ?? "")"] = row[2] ?? ""
      }
    }
    return StoreSchema(parts: parts)
  }

  /// One moment of each database; between two of them there is none.
  private func eachDatabase(
    _ what: String, _ body: (String, Connection) async throws(StatementFailure) -> Void
  ) async throws(DriverError) {
    let first = try await driver.connect(address, password: password)
    let databases: Result<[String], StatementFailure>
    do throws(StatementFailure) {
      databases = .success(try await first.run(TableHold.databases).rows.compactMap { $0.first ?? nil })
    } catch { databases = .failure(error) }
    await first.close()
    do throws(StatementFailure) {
      for database in try databases.get() {
        let connection: Connection
        do throws(DriverError) {
          connection = try await driver.connect(address.database(database), password: password)
        } catch { throw StatementFailure(code: "08006", message: error.report.summary) }
        do throws(StatementFailure) {
          try await RowDigest.settle(connection)
          _ = try await connection.run("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
          try await body(database, connection)
        } catch {
          await connection.close()
          throw error
        }
        await connection.close()
      }
    } catch { throw error.driverError(what) }
  }

  func apply(_ script: StoreScript) async throws(DriverError) -> ScriptFailure? {
    let connection = try await driver.connect(address, password: password)
    let result: Result<ScriptFailure?, StatementFailure>
    do throws(StatementFailure) { result = .success(try await apply(script, over: connection)) } catch {
      result = .failure(error)
    }
    await connection.close()
    do throws(StatementFailure) { return try result.get() } catch { throw error.driverError("running a script") }
  }

  private func apply(
    _ script: StoreScript, over connection: Connection
  ) async throws(StatementFailure) -> ScriptFailure? {
    if script.isTransaction { _ = try await connection.run("BEGIN") }
    func refused(_ statement: String, _ line: Int?) async throws(StatementFailure) -> ScriptFailure? {
      do throws(StatementFailure) {
        _ = try await connection.run(statement)
        return nil
      } catch {
        // What ends the connection is no fault of the script's.
        if error.isConnectionLost || error.code == StatementFailure.cancelled.code { throw error }
        return ScriptFailure(line: line, message: error.message)
      }
    }
    // A connection that is closed rolls back what is open.
    for statement in ScriptStatements.split(script.text, .postgreSQL) {
      if let failure = try await refused(statement.text, statement.line) { return failure }
    }
    if let last = script.last, let failure = try await refused(last, nil) { return failure }
    // Constraints that were put off are looked at now.
    return script.isTransaction ? try await refused("COMMIT", nil) : nil
  }

  func close() async {
    guard let server else { return }
    if isLive(server.data) { try? await driver.stopServer(server.data, mode: "immediate") }
    // Whoever was cancelled runs no programs any more.
    await driver.environment.pool.run {
      if let process = serverProcess(server.data) { kill(process, SIGQUIT) }
      try? Files.removeTree(server.socket)
    }
  }

  /// Kind, name and definition of all that makes a schema.
  ///
  /// Source: PostgreSQL 15, chapter 53, "System Catalogs", and section 9.26.7, "System Catalog Information Functions".
  private static let layout = """
    WITH own AS (
      SELECT oid FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'
    )
    SELECT 'table', c.oid::regclass::text, c.relkind::text || ' ' || coalesce(string_agg(
      quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
      || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
      || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '') || a.attidentity::text || a.attgenerated::text,
      ', ' ORDER BY a.attnum), '')
    FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace IN (SELECT oid FROM own) AND c.relkind IN ('r', 'p', 'f', 'c') GROUP BY c.oid, c.relkind
    UNION ALL SELECT 'view', c.oid::regclass::text, pg_get_viewdef(c.oid) FROM pg_class c
    WHERE c.relnamespace IN (SELECT oid FROM own) AND c.relkind IN ('v', 'm')
    UNION ALL SELECT 'index', i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
      || CASE WHEN i.indisvalid THEN '' ELSE ' invalid' END
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace IN (SELECT oid FROM own)
    UNION ALL SELECT 'constraint', conrelid::regclass::text || ' ' || conname,
      pg_get_constraintdef(oid) || CASE WHEN convalidated THEN '' ELSE ' not valid' END
    FROM pg_constraint WHERE connamespace IN (SELECT oid FROM own)
    UNION ALL SELECT 'trigger', tgrelid::regclass::text || ' ' || tgname, pg_get_triggerdef(oid) || tgenabled::text
    FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'sequence', s.seqrelid::regclass::text,
      concat_ws(' ', format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcycle)
    FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid WHERE c.relnamespace IN (SELECT oid FROM own)
    UNION ALL SELECT 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid) FROM pg_proc p
    WHERE p.pronamespace IN (SELECT oid FROM own) AND p.prokind IN ('f', 'p')
      AND NOT EXISTS (SELECT 1 FROM pg_depend WHERE objid = p.oid AND deptype = 'e')
    UNION ALL SELECT 'enum', e.enumtypid::regtype::text, string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder)
    FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid WHERE t.typnamespace IN (SELECT oid FROM own)
    GROUP BY e.enumtypid
    UNION ALL SELECT 'domain', t.oid::regtype::text, format_type(t.typbasetype, t.typtypmod) FROM pg_type t
    WHERE t.typtype = 'd' AND t.typnamespace IN (SELECT oid FROM own)
    UNION ALL SELECT 'extension', extname, extversion FROM pg_extension
    """
}
