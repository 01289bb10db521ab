import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

extension PostgreSQLDriver {
  func dumper() -> (any StoreDumper)? { PostgreSQLDumper(driver: self) }
}

/// Dumps of single databases and tables, by pg_dump and pg_restore.
///
/// Source: PostgreSQL 15, reference pages of pg_dump and pg_restore.
struct PostgreSQLDumper: StoreDumper {
  let driver: PostgreSQLDriver

  private var pool: BlockingPool { driver.environment.pool }

  // MARK: Taking

  func dump(
    _ request: DumpRequest, into directory: String, progress: @escaping @Sendable (_ doneBytes: Int64) -> Void
  ) async throws(DumpError) -> StoreDump {
    try await requireDatabase(request.database)
    let connection = try await connect(request.database)
    let result: Result<StoreDump, DumpError>
    do throws(DumpError) {
      result = .success(try await dump(request, into: directory, over: connection, progress))
    } catch { result = .failure(error) }
    // The snapshot goes with it.
    await connection.close()
    return try result.get()
  }

  private func dump(
    _ request: DumpRequest, into directory: String, over connection: Connection,
    _ progress: @escaping @Sendable (Int64) -> Void
  ) async throws(DumpError) -> StoreDump {
    let (version, major, snapshot, position) = try await export(connection)
    let program = try await program("pg_dump", atLeast: major)
    let tables = try DumpCatalog.decode(try await rows(connection, DumpCatalog.tables))
    let chosen = try await choose(request, tables, connection)
    let isWhole = request.tables.isEmpty
    try await requireRoom(chosen, isWhole, connection, at: Files.parent(of: directory))
    let creation = try await rows(connection, DumpCatalog.creation).first ?? []
    var facts: [String: String] = [:]
    for (name, value) in zip(["encoding", "collate", "ctype", "localeProvider", "locale"], creation) {
      facts[name] = value
    }
    var roles = Set(chosen.flatMap(\.roles))
    var extensions = Set(chosen.flatMap(\.extensions))
    if isWhole {
      roles.formUnion(try await rows(connection, DumpCatalog.roles).compactMap { $0.first ?? nil })
      extensions.formUnion(try await rows(connection, DumpCatalog.extensions).compactMap { $0.first ?? nil })
    }
    var arguments = [
      "--format=directory", "--jobs=\(request.jobs)", "--compress=0", "--snapshot=\(snapshot)", "--no-password",
      // Who holds a table this long is rebuilding it, and the dump can be taken later.
      "--lock-wait-timeout=600000", "--strict-names", "--file=\(directory)",
    ]
    if !isWhole {
      arguments += chosen.map { "--table=\(identifier($0.schema)).\(identifier($0.name))" }
    }
    try await run(
      program.path, arguments + ["--dbname=\(words(database: request.database))"], beside: directory,
      watching: directory, progress)
    return StoreDump(
      store: driver.store, database: request.database, isWhole: isWhole, version: version, program: program.version,
      position: position, tables: chosen, roles: roles.sorted(), extensions: extensions.sorted(), facts: facts)
  }

  /// Begins the transaction whose snapshot everything is read by.
  private func export(
    _ connection: Connection
  ) async throws(DumpError) -> (version: String, major: Int, snapshot: String, position: LogPosition) {
    try await asking("exporting a snapshot") { () async throws(StatementFailure) in
      _ = try await connection.run("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
      let snapshot = try await connection.value("SELECT pg_export_snapshot()")
      // After the snapshot: what that sees was in the log by then.
      let row =
        try await connection.run(
          """
          SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
            current_setting('server_version'), current_setting('server_version_num')
          """
        ).rows.first ?? []
      guard row.count == 3, let snapshot, let position = row[0], let version = row[1],
        let number = row[2].flatMap({ Int($0) })
      else { throw StatementFailure(code: "XX000", message: "the server does not say where it stands") }
      return (
        String(version.prefix { $0.isNumber || $0 == "." }), number / 10_000, snapshot,
        LogPosition(kind: "lsn", value: position)
      )
    }
  }

  /// The tables that are named, with their partitions; all if none is named.
  private func choose(
    _ request: DumpRequest, _ tables: [StoreDump.Table], _ connection: Connection
  ) async throws(DumpError) -> [StoreDump.Table] {
    if request.tables.isEmpty { return tables }
    var wanted: Set<String> = []
    var missing: [String] = []
    for name in request.tables {
      if let id = try await identify(name, connection), tables.contains(where: { $0.id == id }) {
        wanted.insert(id)
      } else {
        missing.append(name)
      }
    }
    guard missing.isEmpty else { throw .noSuchTables(missing, database: request.database) }
    return Self.withPartitions(tables.filter { wanted.contains($0.id) }, of: tables)
  }

  /// The object a name means, by the server's own rules; `nil` if there is none.
  private func identify(_ name: String, _ connection: Connection) async throws(DumpError) -> String? {
    do throws(StatementFailure) {
      _ = try await connection.run("SAVEPOINT name")
      return try await connection.value("SELECT to_regclass($1)::oid::text", [name])
    } catch {
      // What is no name at all is no table's either; class 42 is "Syntax Error or Access Rule Violation".
      guard error.code.hasPrefix("42") || error.code.hasPrefix("22") else {
        throw .driver(error.driverError("looking for table \(name)"))
      }
      _ = await connection.runToEnd("ROLLBACK TO SAVEPOINT name")
      return nil
    }
  }

  static func withPartitions(_ chosen: [StoreDump.Table], of tables: [StoreDump.Table]) -> [StoreDump.Table] {
    var names = Set(chosen.map(\.sql))
    var before = -1
    while before != names.count {
      before = names.count
      for table in tables { if let parent = table.parent, names.contains(parent) { names.insert(table.sql) } }
    }
    return tables.filter { names.contains($0.sql) }
  }

  private func requireRoom(
    _ tables: [StoreDump.Table], _ isWhole: Bool, _ connection: Connection, at place: String
  ) async throws(DumpError) {
    let ids = "{\(tables.map(\.id).joined(separator: ","))}"
    let size: String?
    do throws(StatementFailure) {
      // Who rebuilds a table would be waited for here: it is not known how large that will be anyway.
      _ = try await connection.run("SAVEPOINT size; SET LOCAL lock_timeout = '2s'")
      size = try await connection.value(
        """
        SELECT (SELECT coalesce(sum(pg_table_size(oid)), 0) FROM unnest($1::oid[]) AS oid)
          + CASE WHEN $2 = 'true' THEN pg_table_size('pg_largeobject'::regclass) ELSE 0 END
        """, [ids, "\(isWhole)"])
    } catch {
      guard !error.isConnectionLost, error.code != StatementFailure.cancelled.code else {
        throw .driver(error.driverError("measuring the tables"))
      }
      size = nil
    }
    _ = try await asking("measuring the tables") { () async throws(StatementFailure) in
      try await connection.run("ROLLBACK TO SAVEPOINT size")
    }
    let needed = (size.flatMap { Int64($0) } ?? 0) + 16 << 20
    let free = await pool.run { try? Files.freeBytes(at: place) }
    if let free, free < needed { throw .noRoom(neededBytes: needed, freeBytes: free, at: place) }
  }

  // MARK: Bringing back

  func plan(_ request: DumpRestoreRequest, from directory: String) async throws(DumpError) -> DumpPlan {
    let dump = request.dump
    let major = try await writableMajor()
    guard major >= Self.major(of: dump.version) else {
      throw .program("the dump is of PostgreSQL \(dump.version), and the server is older: \(major)")
    }
    // A program reads what older ones wrote.
    let program = try await program("pg_restore", atLeast: max(major, Self.major(of: dump.program)))
    let contents = try await contents(of: directory, program.path)
    let exists = try await databases().contains(request.into)
    let connection = try await connect(exists ? request.into : driver.address.database)
    let result: Result<DumpPlan, DumpError>
    do throws(DumpError) {
      result = .success(try await plan(request, contents, isNew: !exists, connection))
    } catch { result = .failure(error) }
    await connection.close()
    return try result.get()
  }

  private func plan(
    _ request: DumpRestoreRequest, _ contents: DumpContents, isNew: Bool, _ connection: Connection
  ) async throws(DumpError) -> DumpPlan {
    let dump = request.dump
    var tables = dump.tables
    if !request.tables.isEmpty {
      var named: [StoreDump.Table] = []
      var missing: [String] = []
      for name in request.tables {
        let parts = try await parts(of: name, connection)
        let found = tables.filter { table in
          parts.count == 2
            ? [table.schema, table.name] == parts : parts == [table.name] && table.schema == "public"
        }
        if found.isEmpty { missing.append(name) } else { named += found }
      }
      guard missing.isEmpty else { throw .notInDump(missing) }
      tables = Self.withPartitions(named, of: tables)
    }
    let isPart = !request.tables.isEmpty
    let present = isNew ? [] : try await relations(connection)
    let replaced = tables.map(\.sql).filter { present.contains($0) }
    if !replaced.isEmpty, !request.replaces { throw .exists(replaced, database: request.into) }
    let roles = isPart ? Set(tables.flatMap(\.roles)).sorted() : dump.roles
    if !request.dropsOwners {
      let known = Set(try await rows(connection, "SELECT rolname FROM pg_roles").compactMap { $0.first ?? nil })
      let missing = roles.filter { !known.contains($0) }
      guard missing.isEmpty else { throw .missingRoles(missing) }
    }
    let extensions = isPart ? Set(tables.flatMap(\.extensions)).sorted() : dump.extensions
    // Those of a whole database are made with it; a table finds its own or can't be made.
    let makes = dump.isWhole && (isNew || !isPart)
    let source = makes ? "SELECT name FROM pg_available_extensions" : DumpCatalog.extensions
    let having = isNew && !makes ? [] : try await rows(connection, source).compactMap { $0.first ?? nil }
    let missing = extensions.filter { !having.contains($0) }
    guard missing.isEmpty else { throw .missingExtensions(missing, database: request.into) }
    guard isPart || !dump.isWhole else {
      return DumpPlan(
        database: request.into, makesDatabase: isNew, tables: tables.map(\.sql), replaced: replaced)
    }
    let schemas = Set(
      isNew
        ? ["public"]
        : try await rows(connection, "SELECT nspname FROM pg_namespace").compactMap { $0.first ?? nil })
    let missingSchemas = Set(tables.map(\.schema)).subtracting(schemas)
    if !dump.isWhole, !isNew, !missingSchemas.isEmpty {
      throw .missingSchemas(missingSchemas.sorted(), database: request.into)
    }
    let chosen = contents.choose(
      tables, isPresent: { present.contains($0) }, makesDatabase: isNew, missingSchemas: missingSchemas)
    return DumpPlan(
      database: request.into, makesDatabase: isNew, tables: tables.map(\.sql), replaced: replaced,
      left: contents.left(of: chosen), schemas: dump.isWhole ? [] : missingSchemas.sorted(),
      entries: chosen.sorted(), files: contents.files(of: chosen))
  }

  func restore(
    _ request: DumpRestoreRequest, _ plan: DumpPlan, from directory: String
  ) async throws(DumpError) {
    let program = try await program("pg_restore", atLeast: Self.major(of: request.dump.program))
    var arguments = ["--no-password", "--exit-on-error"]
    if request.dropsOwners { arguments += ["--no-owner", "--no-privileges"] }
    if let entries = plan.entries {
      let list = Files.parent(of: directory) + "/entries"
      // In the order of the dump: it is the order in which they can be made.
      let order = try await contents(of: directory, program.path).entries.map(\.number)
      let wanted = Set(entries)
      let text = order.filter { wanted.contains($0) }.map { "\($0);" }.joined(separator: "\n") + "\n"
      try await writing(list, Array(text.utf8))
      arguments.append("--use-list=\(list)")
    }
    guard plan.makesDatabase else {
      // All or nothing: what is live is never left half-way.
      arguments.append("--single-transaction")
      if request.replaces { arguments += ["--clean", "--if-exists"] }
      return try await run(
        program.path, arguments + ["--dbname=\(words(database: plan.database))", directory], beside: directory)
    }
    let connection = try await connect(driver.address.database)
    let result: Result<Void, DumpError>
    do throws(DumpError) {
      result = .success(
        try await make(
          plan, like: request.dump, program.path, arguments + ["--jobs=\(request.jobs)"], directory,
          connection))
    } catch { result = .failure(error) }
    await connection.close()
    try result.get()
  }

  /// Makes a database under another name, fills it, and names it.
  private func make(
    _ plan: DumpPlan, like dump: StoreDump, _ program: String, _ arguments: [String], _ directory: String,
    _ connection: Connection
  ) async throws(DumpError) {
    let database = plan.database
    let draft = "salvor-restore-" + Hex.encode(driver.environment.randomness.bytes(6))
    _ = try await asking("making database \(draft)") { () async throws(StatementFailure) in
      try await connection.run(createDatabase(draft, like: dump.facts))
    }
    do throws(DumpError) {
      try await make(plan.schemas, in: draft)
      try await run(program, arguments + ["--dbname=\(words(database: draft))", directory], beside: directory)
      _ = try await asking("naming database \(database)") { () async throws(StatementFailure) in
        try await connection.run(
          "ALTER DATABASE \(identifier(draft)) RENAME TO \(identifier(database))")
      }
    } catch {
      // Also when cancelled. Whoever still works in it is ours.
      await connection.runToEnd("DROP DATABASE IF EXISTS \(identifier(draft)) WITH (FORCE)")
      throw error
    }
  }

  private func make(_ schemas: [String], in database: String) async throws(DumpError) {
    guard !schemas.isEmpty else { return }
    let connection = try await connect(database)
    let result: Result<Void, StatementFailure>
    do throws(StatementFailure) {
      for schema in schemas { _ = try await connection.run("CREATE SCHEMA \(identifier(schema))") }
      result = .success(())
    } catch { result = .failure(error) }
    await connection.close()
    try await asking("making schemas") { () throws(StatementFailure) in try result.get() }
  }

  // MARK: What is there

  private func databases() async throws(DumpError) -> [String] {
    let connection = try await connect(driver.address.database)
    let result: Result<[String], DumpError>
    do throws(DumpError) {
      result = .success(
        try await rows(connection, "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1")
          .compactMap { $0.first ?? nil })
    } catch { result = .failure(error) }
    await connection.close()
    return try result.get()
  }

  private func requireDatabase(_ name: String) async throws(DumpError) {
    let known = try await databases()
    guard known.contains(name) else { throw .noSuchDatabase(name, known: known) }
  }

  /// The major version of a server that can be written to.
  private func writableMajor() async throws(DumpError) -> Int {
    let connection = try await connect(driver.address.database)
    let result: Result<[String?]?, DumpError>
    do throws(DumpError) {
      result = .success(
        try await rows(connection, "SELECT current_setting('server_version_num'), pg_is_in_recovery()::text").first)
    } catch { result = .failure(error) }
    await connection.close()
    let row = try result.get() ?? []
    guard row.count == 2, let number = row[0].flatMap({ Int($0) }) else {
      throw .driver(.unsupported("the server does not say what it is; is it PostgreSQL?"))
    }
    guard row[1] == "false" else {
      throw .driver(
        .unsupported("the server is a standby, where nothing can be written: name the primary in the catalog"))
    }
    return number / 10_000
  }

  /// Everything a table could be in the way of, as a statement spells it.
  private func relations(_ connection: Connection) async throws(DumpError) -> Set<String> {
    Set(
      try await rows(
        connection,
        """
        SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'm', 'v', 'f', 'S')
        """
      ).compactMap { $0.first ?? nil })
  }

  /// The words of a name; none if it is no name.
  private func parts(of name: String, _ connection: Connection) async throws(DumpError) -> [String] {
    do throws(StatementFailure) {
      return try await connection.run("SELECT unnest(parse_ident($1))", [name]).rows.compactMap { $0.first ?? nil }
    } catch {
      guard error.code.hasPrefix("42") || error.code.hasPrefix("22") else {
        throw .driver(error.driverError("reading the name \(name)"))
      }
      return []
    }
  }

  private func contents(of directory: String, _ program: String) async throws(DumpError) -> DumpContents {
    let list = Files.parent(of: directory) + "/contents"
    do throws(DumpError) {
      try await run(program, ["--list", "--verbose", "--file=\(list)", directory], beside: directory)
    } catch {
      if case .failed(_, let log) = error { throw .unreadable(log) }
      throw error
    }
    let text = try await reading { () throws(SystemFailure) in
      let bytes = try Files.read(list, limitBytes: 1 << 30)
      try Files.removeTree(list)
      return String(decoding: bytes, as: UTF8.self)
    }
    return try DumpContents(text)
  }

  // MARK: Asking and running

  private func connect(_ database: String) async throws(DumpError) -> Connection {
    do throws(DriverError) { return try await driver.connect(database) } catch { throw .driver(error) }
  }

  private func asking<T>(
    _ what: String, _ body: () async throws(StatementFailure) -> T
  ) async throws(DumpError) -> T {
    do throws(StatementFailure) { return try await body() } catch { throw .driver(error.driverError(what)) }
  }

  private func rows(_ connection: Connection, _ statement: String) async throws(DumpError) -> [[String?]] {
    try await asking("asking what is there") { () async throws(StatementFailure) in
      try await connection.run(statement).rows
    }
  }

  private func reading<T: Sendable>(
    _ body: @escaping @Sendable () throws(SystemFailure) -> T
  ) async throws(DumpError) -> T {
    do throws(SystemFailure) { return try await pool.run(body) } catch { throw DumpError(error) }
  }

  private func writing(_ path: String, _ bytes: [UInt8]) async throws(DumpError) {
    try await reading { () throws(SystemFailure) in try Files.replace(path, with: bytes) }
  }

  /// Where to connect, in one word; a database's name may hold anything, and must not be taken for more than a name.
  ///
  /// Source: PostgreSQL 15, section 34.1.1, "Connection Strings".
  private func words(database: String) -> String {
    let address = driver.address
    func quoted(_ text: String) -> String {
      "'" + text.replacing("\\", with: "\\\\").replacing("'", with: "\\'") + "'"
    }
    return "host=\(quoted(address.host)) port=\(address.port) user=\(quoted(address.user)) dbname=\(quoted(database))"
      + " application_name='salvor dump'"
  }

  static func major(of version: String) -> Int { Int(version.prefix { $0.isNumber }) ?? 0 }

  /// - Throws: ``DumpError/program(_:)`` if it is missing, or older than `major`.
  private func program(
    _ name: String, atLeast major: Int
  ) async throws(DumpError) -> (path: String, version: String) {
    let path: String
    do throws(DriverError) { path = try await driver.program(name, major: major) } catch {
      if case .unsupported(let why) = error { throw .program(why) }
      throw .driver(error)
    }
    let said: String
    do throws(DriverError) {
      said = try await ServerCommand(executable: path, arguments: ["--version"], user: nil).run()
    } catch {
      if case .engineFailed(let what, let log) = error { throw .program("\(what): \(log)") }
      throw .driver(error)
    }
    // "pg_dump (PostgreSQL) 15.20 (Debian …)"
    let version = said.split(separator: ")", maxSplits: 1).last.map { $0.drop { $0 == " " } } ?? ""
    let number = String(version.prefix { $0.isNumber || $0 == "." })
    guard Self.major(of: number) >= major else {
      throw .program("\(path) is of version \(number), and \(major) or later is needed")
    }
    return (path, number)
  }

  /// Runs a program of PostgreSQL's as whoever we are, the password in a file of nobody else's.
  ///
  /// - Parameters:
  ///   - directory: The dump; files go beside it.
  ///   - watched: Where what it writes is measured.
  private func run(
    _ program: String, _ arguments: [String], beside directory: String, watching watched: String? = nil,
    _ progress: @escaping @Sendable (Int64) -> Void = { _ in }
  ) async throws(DumpError) {
    var command = ServerCommand(executable: program, arguments: arguments, user: nil)
    let passwords = Files.parent(of: directory) + "/passwords"
    if let reference = driver.password {
      let secret: Secret
      do throws(AnyFailure) { secret = try await driver.environment.resolve(reference) } catch {
        throw .driver(DriverError(error))
      }
      let line = secret.withBytes { bytes in
        Array("*:*:*:*:".utf8) + bytes.flatMap { $0 == 58 || $0 == 92 ? [92, $0] : [$0] } + [10]
      }
      try await writing(passwords, line)
      command.variables["PGPASSFILE"] = passwords
    }
    let ready = command
    let result = await withTaskGroup(of: Result<Void, DriverError>?.self) { group in
      group.addTask {
        do throws(DriverError) {
          try await ready.run()
          return .success(())
        } catch { return .failure(error) }
      }
      if let watched {
        group.addTask {
          while !Task.isCancelled {
            do { try await driver.environment.time.sleep(for: .milliseconds(500)) } catch { break }
            progress(await pool.run { Self.sizeBytes(of: watched) })
          }
          return nil
        }
      }
      defer { group.cancelAll() }
      while let ended = await group.next() { if let ended { return ended } }
      return .failure(.cancelled)
    }
    do throws(DriverError) { try result.get() } catch {
      if case .engineFailed(_, let log) = error {
        if Task.isCancelled { throw .driver(.cancelled) }
        throw .failed(program: Files.last(of: program), log: log)
      }
      throw .driver(error)
    }
  }

  private static func sizeBytes(of directory: String) -> Int64 {
    ((try? Files.names(in: directory)) ?? []).reduce(0) { sum, name in
      var status = stat()
      return stat("\(directory)/\(name.lossyText)", &status) == 0 ? sum + Int64(status.st_size) : sum
    }
  }
}
