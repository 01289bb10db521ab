import CPQ
import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

extension PostgreSQLDriver {
  func rewriter() -> (any StoreRewriter)? { PostgreSQLRewriter(driver: self) }
}

/// Makes a cluster anew: initdb, the schema by pg_dump, rows by COPY, and then indexes, constraints and triggers, so that
/// they are checked against what is there.
struct PostgreSQLRewriter: StoreRewriter {
  let driver: PostgreSQLDriver

  /// A tablespace would be brought back beside production's own.
  func refusal(of capture: CaptureResult) -> String? {
    capture.facts.keys.contains { $0.hasPrefix("tablespace.") }
      ? "it has tablespaces outside of its data directory, and they would be brought back beside those in use" : nil
  }

  func shape() async throws(AnyFailure) -> StoreShape {
    try await wrapped { try await serving(driver.dataDirectory) { try await $0.shape() } }
  }

  func read(
    limit: Int, _ each: @escaping @Sendable (ContentPiece) throws(AnyFailure) -> Void
  ) async throws(AnyFailure) {
    try await wrapped {
      try await serving(driver.dataDirectory) { old in
        try each(.schema(try await old.dumpRoles()))
        for (database, tables) in try await old.tables() {
          try each(.schema(try await old.dump(database, ["--schema-only"])))
          let connection = try await old.connect(database)
          for table in tables {
            try await copyOut(connection, table, limit: limit) { values in try each(.row(values, of: table.shape)) }
          }
          await connection.close()
        }
      }
    }
  }

  func rewrite(to place: String, by rewriting: any ContentRewriting) async throws(AnyFailure) -> RewriteCount {
    try await wrapped {
      try await serving(driver.dataDirectory) { old in
        try await initialise(place, like: old)
        return try await serving(place, as: old.user) { new in
          var count = RewriteCount()
          count.role = new.user
          try await new.execute(try await old.roles(), in: "postgres")
          for other in try await old.shape().others where !other.hasPrefix("sequence ") {
            if try rewriting.carries(other) { throw DriverError.unsupported("\(other) can't be made anew: drop it") }
          }
          for (database, tables) in try await old.tables() {
            try await new.create(database, like: old)
            let flags = (rewriting.carriesComments ? [] : ["--no-comments"])
            try await new.execute(try await old.dump(database, ["--section=pre-data"] + flags), in: database)
            let (from, to) = (try await old.connect(database), try await new.connect(database))
            for table in tables {
              guard try rewriting.carriesRows(of: table.shape.name) else { continue }
              count.rows[table.shape.name] = try await carry(table, from, to, rewriting)
            }
            await from.close()
            await to.close()
            try await new.execute(try await old.dump(database, ["--section=post-data"] + flags), in: database)
            try await sequences(database, from: old, to: new, rewriting)
            try await new.refresh(database)
          }
          count.proofs = ["constraints and indexes were made over the rows"]
          return count
        }
      }
    }
  }

  // MARK: Servers nobody else reaches

  private func serving<T>(
    _ data: String, as user: String? = nil, _ body: (PrivateCluster) async throws -> T
  ) async throws -> T {
    let server = BesideServer(data: data, control: data + "-control", preloaded: "")
    let owner = try driver.serverUser(data)
    try await driver.blocking { () throws(DriverError) in
      do throws(SystemFailure) { try server.writeFiles(owner: owner) } catch { throw DriverError(error) }
    }
    let control = try await driver.program("pg_ctl", major: await driver.majorOnDisk(data))
    let result: Result<T, any Error>
    do {
      do throws(DriverError) {
        try await ServerCommand(
          executable: control,
          arguments: ["-D", data, "-l", server.log, "-w", "-t", "600", "-o", server.commandLine, "start"],
          user: owner
        ).run()
      } catch { throw driver.explained(error, log: server.log) }
      let first = PrivateCluster(driver: driver, data: data, socket: server.socket, user: user ?? driver.address.user)
      result = .success(try await body(try await first.asSuperuser()))
    } catch { result = .failure(error) }
    if isLive(data) { try? await driver.stopServer(data, mode: "fast") }
    await driver.environment.pool.run {
      try? Files.removeTree(server.socket)
      try? Files.removeTree(server.control)
    }
    return try result.get()
  }

  private func initialise(_ place: String, like old: PrivateCluster) async throws {
    let connection = try await old.connect("postgres")
    let row =
      try await connection.run(
        """
        SELECT pg_encoding_to_char(encoding), datcollate, datctype, current_setting('data_checksums')
        FROM pg_database WHERE datname = 'template0'
        """
      ).rows.first ?? []
    await connection.close()
    guard row.count == 4, let encoding = row[0], let collation = row[1], let type = row[2] else {
      throw DriverError.corrupt("the cluster has no template0")
    }
    let owner = try driver.serverUser(driver.dataDirectory)
    try await driver.blocking { () throws(DriverError) in
      do throws(SystemFailure) { try makeOwnDirectory(place, owner) } catch { throw DriverError(error) }
    }
    let program = try await driver.program("initdb", major: await driver.majorOnDisk(driver.dataDirectory))
    try await ServerCommand(
      executable: program,
      arguments: [
        "-D", place, "-U", old.user, "-E", encoding, "--lc-collate=\(collation)", "--lc-ctype=\(type)",
        "--lc-messages=C",
        "--auth-local=peer", "--auth-host=scram-sha-256", "--no-instructions",
      ] + (row[3] == "on" ? ["--data-checksums"] : []), user: owner
    ).run()
  }

  // MARK: Rows

  private func carry(
    _ table: PrivateCluster.Table, _ old: Connection, _ new: Connection, _ rewriting: any ContentRewriting
  ) async throws -> Int {
    let columns = table.written
    if columns.isEmpty { return 0 }
    let counted = Counted()
    try await driver.environment.pool.run { () throws(AnyFailure) in
      do {
        try new.withPointer { target in
          try begin(
            "COPY \(table.sql) (\(columns.map { identifier($0) }.joined(separator: ", "))) FROM STDIN", PGRES_COPY_IN,
            target)
          do {
            try rows(of: table, old, limit: nil) { values in
              let line = CopyText.line(try rewriting.row(values, of: table.shape))
              let sent = line.withUnsafeBytes {
                PQputCopyData(target, $0.baseAddress?.assumingMemoryBound(to: CChar.self), Int32($0.count))
              }
              guard sent == 1 else { throw StatementFailure(code: "", message: "the new server is gone") }
              counted.rows += 1
            }
          } catch {
            // The server's words of it hold the line; ours don't.
            PQputCopyEnd(target, "salvor")
            try? finish(target, table.shape.name)
            throw error
          }
          PQputCopyEnd(target, nil)
          try finish(target, table.shape.name)
        }
      } catch { throw failure(error) }
    }
    return counted.rows
  }

  private func copyOut(
    _ connection: Connection, _ table: PrivateCluster.Table, limit: Int,
    _ each: @escaping @Sendable ([RowValue]) throws -> Void
  ) async throws {
    if table.written.isEmpty { return }
    try await driver.environment.pool.run { () throws(AnyFailure) in
      do { try rows(of: table, connection, limit: limit, each) } catch { throw failure(error) }
    }
  }

  private func failure(_ error: any Error) -> AnyFailure {
    if let error = error as? StatementFailure { return AnyFailure(error.driverError("copying rows")) }
    return AnyFailure(error)
  }

  private func rows(
    of table: PrivateCluster.Table, _ connection: Connection, limit: Int?, _ each: ([RowValue]) throws -> Void
  ) throws {
    let columns = table.written.map { identifier($0) }.joined(separator: ", ")
    let only = table.isPartitioned ? "" : "ONLY "
    try connection.withPointer { pointer in
      try begin(
        "COPY (SELECT \(columns) FROM \(only)\(table.sql)\(limit.map { " LIMIT \($0)" } ?? "")) TO STDOUT",
        PGRES_COPY_OUT, pointer)
      while true {
        var buffer: UnsafeMutablePointer<CChar>?
        let count = PQgetCopyData(pointer, &buffer, 0)
        guard count > 0, let buffer else {
          if count == -2 { throw StatementFailure(code: "", message: "the old server is gone") }
          break
        }
        defer { PQfreemem(buffer) }
        try each(try CopyText.values(UnsafeRawBufferPointer(start: buffer, count: Int(count))))
      }
      try finish(pointer, table.shape.name)
    }
  }

  private func begin(_ statement: String, _ expected: ExecStatusType, _ connection: OpaquePointer) throws {
    let result = PQexec(connection, statement)
    defer { PQclear(result) }
    guard PQresultStatus(result) == expected else {
      throw StatementFailure(code: "XX000", message: String(cString: PQerrorMessage(connection)))
    }
  }

  /// Takes what follows a COPY. The server's detail holds values, so that only its first line is passed on.
  private func finish(_ connection: OpaquePointer, _ table: String) throws {
    var failure: StatementFailure?
    while let result = PQgetResult(connection) {
      defer { PQclear(result) }
      guard PQresultStatus(result) != PGRES_COMMAND_OK, failure == nil else { continue }
      // 67 is the code, 110 the name of a constraint, 99 that of a column.
      let parts = [67, 110, 99].compactMap { PQresultErrorField(result, Int32($0)).map { String(cString: $0) } }
      failure = StatementFailure(
        code: parts.first ?? "XX000",
        message: "table \(table) does not take a row of the copy: \(parts.joined(separator: ", "))")
    }
    if let failure { throw failure }
  }

  private final class Counted: @unchecked Sendable { var rows = 0 }

  /// A sequence that belongs to a column goes on after what the column holds now; others as the policy says.
  private func sequences(
    _ database: String, from old: PrivateCluster, to new: PrivateCluster, _ rewriting: any ContentRewriting
  ) async throws {
    let (from, to) = (try await old.connect(database), try await new.connect(database))
    let owned = try await to.run(PrivateCluster.ownedSequences).rows
    for row in owned {
      guard let sequence = row[0], let table = row[1], let column = row[2] else { continue }
      _ = try await to.run(
        """
        SELECT setval('\(sequence.replacingQuotes)'::regclass, m) FROM (SELECT max(\(column)) AS m FROM \(table)) x
        WHERE m > 0 AND m <= (SELECT seqmax FROM pg_sequence WHERE seqrelid = '\(sequence.replacingQuotes)'::regclass)
        """)
    }
    for row in try await from.run(PrivateCluster.freeSequences).rows {
      guard let name = row[0], let sql = row[1] else { continue }
      guard try rewriting.carries("sequence " + old.prefix(database) + name) else { continue }
      guard let state = try await from.run("SELECT last_value::text, is_called::text FROM \(sql)").rows.first,
        let value = state[0], let isCalled = state[1]
      else { continue }
      _ = try await to.run("SELECT setval('\(sql.replacingQuotes)'::regclass, \(value), \(isCalled))")
    }
    await from.close()
    await to.close()
  }
}

func identifier(_ name: String) -> String {
  "\"" + name.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\"\"") + "\""
}

extension String {
  var replacingQuotes: String { split(separator: "'", omittingEmptySubsequences: false).joined(separator: "''") }
}

/// Lines of COPY's text format.
///
/// Source: PostgreSQL 15, COPY, "Text Format".
enum CopyText {
  static func values(_ line: UnsafeRawBufferPointer) throws -> [RowValue] {
    var values: [RowValue] = []
    var field: [UInt8] = []
    var isNull = false
    var index = 0
    let end = line.count > 0 && line[line.count - 1] == 10 ? line.count - 1 : line.count
    func settled() throws -> RowValue {
      if isNull { return .null }
      let text = String(decoding: field, as: UTF8.self)
      guard text.utf8.elementsEqual(field) else { throw DriverError.corrupt("a value is not UTF-8") }
      return .text(text)
    }
    while index < end {
      let byte = line[index]
      index += 1
      if byte == 9 {
        values.append(try settled())
        (field, isNull) = ([], false)
      } else if byte == 92, index < end {
        let next = line[index]
        index += 1
        switch next {
        case 78: isNull = true
        case 98: field.append(8)
        case 102: field.append(12)
        case 110: field.append(10)
        case 114: field.append(13)
        case 116: field.append(9)
        case 118: field.append(11)
        default: field.append(next)
        }
      } else {
        field.append(byte)
      }
    }
    values.append(try settled())
    return values
  }

  static func line(_ values: [RowValue]) -> [UInt8] {
    var line: [UInt8] = []
    for (index, value) in values.enumerated() {
      if index > 0 { line.append(9) }
      switch value {
      case .null: line += [92, 78]
      case .integer(let number): line += String(number).utf8
      case .real(let number): line += "\(number)".utf8
      case .text(let text): escape(text.utf8, to: &line)
      case .bytes(let bytes): escape(bytes, to: &line)
      }
    }
    line.append(10)
    return line
  }

  private static func escape(_ bytes: some Sequence<UInt8>, to line: inout [UInt8]) {
    for byte in bytes {
      switch byte {
      case 9: line += [92, 116]
      case 10: line += [92, 110]
      case 13: line += [92, 114]
      case 92: line += [92, 92]
      default: line.append(byte)
      }
    }
  }
}
