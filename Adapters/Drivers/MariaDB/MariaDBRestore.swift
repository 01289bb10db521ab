import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Where one restore's pieces are.
struct RestoreLayout: Sendable {
  var swap: PathSwap
  /// Socket, log and relay log of the server beside.
  var control: String { swap.workspace + "/control" }
  /// Written when everything is proved; with it there is nothing left to do.
  var outcome: String { swap.workspace + "/restored.json" }

  init(_ request: RestoreRequest, dataDirectory: String) {
    swap = PathSwap(live: dataDirectory, workspace: request.workspace(beside: dataDirectory))
  }
}

extension MariaDBDriver {
  func restoreBeside(_ request: RestoreRequest) async throws(DriverError) -> RestoredState {
    let facts = try RestoreFacts(request.capture.facts)
    let layout = RestoreLayout(request, dataDirectory: dataDirectory)
    if let done = try await outcome(layout) { return done.state }
    try await clear(layout)
    let done: RestoreOutcome
    do throws(DriverError) {
      let laid = try await materialise(request, facts, layout)
      done = try await prove(request, facts, laid, layout)
    } catch {
      await environment.pool.run { removeSockets(layout) }
      throw error
    }
    try await blocking { () throws(DriverError) in
      do {
        try Files.replace(layout.outcome, with: try CanonicalJSON.encode(done))
      } catch { throw DriverError(error) }
      try layout.swap.complete()
    }
    return done.state
  }

  func digestBeside(_ request: RestoreRequest) async throws(DriverError) -> ContentDigest? {
    guard let done = try await outcome(RestoreLayout(request, dataDirectory: dataDirectory)) else {
      throw .unsupported("nothing is restored beside \(dataDirectory) under this id")
    }
    return done.digest
  }

  func outcome(_ layout: RestoreLayout) async throws(DriverError) -> RestoreOutcome? {
    try await blocking { () throws(DriverError) in
      let (isComplete, isSwapped) = (try layout.swap.isComplete(), try layout.swap.isSwapped())
      guard isComplete || isSwapped else { return nil }
      do {
        guard try Files.isThere(layout.outcome) else { return nil }
        return try CanonicalJSON.decode(RestoreOutcome.self, from: try Files.read(layout.outcome, limitBytes: 1 << 28))
      } catch { throw DriverError(error) }
    }
  }

  /// Takes away what an earlier try left, its server too.
  private func clear(_ layout: RestoreLayout) async throws(DriverError) {
    try await endBeside(layout)
    try await blocking { () throws(DriverError) in
      guard try !layout.swap.isSwapped() else {
        throw .unsupported("\(layout.swap.workspace) holds a state that was kept: give it up, or swap it out, first")
      }
      do throws(SystemFailure) { try Files.removeTree(layout.swap.workspace) } catch { throw DriverError(error) }
      removeSockets(layout)
    }
  }

  /// Where a workspace lies too deep for a socket, that is elsewhere; nothing else would find it. Blocks.
  func removeSockets(_ layout: RestoreLayout) {
    let place = BesideServer(data: layout.swap.incomplete, control: layout.control, variables: [:]).socketDirectory
    if Files.parent(of: place) == "/tmp" { try? Files.removeTree(place) }
  }

  /// Ends a server that an earlier try left behind.
  func endBeside(_ layout: RestoreLayout) async throws(DriverError) {
    for directory in [layout.swap.incomplete, layout.swap.beside] {
      guard let process = await environment.pool.run({ serverProcess(directory) }) else { continue }
      try end(process, SIGKILL)
      try await waitUntilGone(directory, within: .seconds(60))
    }
  }

  /// Writes the captured files into the workspace, and readies them for a server.
  private func materialise(
    _ request: RestoreRequest, _ facts: RestoreFacts, _ layout: RestoreLayout
  ) async throws(DriverError) -> LaidLog? {
    let server = BesideServer(data: layout.swap.incomplete, control: layout.control, variables: facts.variables)
    try await blocking { () throws(DriverError) in
      try layout.swap.prepare(mode: 0o711)
      do throws(SystemFailure) { try makePassage(layout.control) } catch { throw DriverError(error) }
    }
    do throws(AnyFailure) {
      try await request.source.materialise("data", at: server.data, progress: request.progress)
      if facts.replay != nil {
        try await request.source.materialise("binlog", at: server.relay, progress: { _ in })
      }
      if facts.replay?.events != nil {
        try await request.source.materialise(TreePath(EventTable.directory), at: server.events, progress: { _ in })
      }
    } catch {
      if let inner = error.underlying as? DriverError { throw inner }
      throw error.isCancellation ? .cancelled : DriverError(error)
    }
    let owner = try serverUser(server.data)
    let files = facts.replay?.files ?? []
    try await blocking { () throws(DriverError) in
      do throws(SystemFailure) {
        try makeOwnDirectory(server.socketDirectory, owner)
        guard chmod(server.data, 0o700) == 0 else { throw SystemFailure("chmod", path: server.data) }
        try settleTree(server.data, owner: owner, hasLinks: false)
        if files.isEmpty { try makeOwnDirectory(server.relay, owner) }
        for (number, name) in files.enumerated() {
          try Files.renameExclusive(
            "\(server.relay)/\(name)", to: "\(server.relay)/\(BesideServer.relayName(number))")
        }
      } catch { throw Self.materialised(error) }
    }
    var names = files.indices.map(BesideServer.relayName)
    var laid: LaidLog?
    if let replay = request.replay {
      guard let captured = facts.replay else { throw .unsupported("a copy from outside the cut can't be gone on from") }
      let found = try await layLog(replay, captured, request.capture.position, in: server.relay, behind: names)
      (laid, names) = (found, found.files)
    }
    if names.isEmpty { return nil }
    let index = names.map { "\(server.relay)/\($0)\n" }.joined()
    try await blocking { () throws(DriverError) in
      do throws(SystemFailure) {
        try Files.replace(server.relay + "/relay.index", with: Array(index.utf8))
        try settleTree(server.relay, owner: owner, hasLinks: false)
      } catch { throw Self.materialised(error) }
    }
    return laid
  }

  private static func materialised(_ error: SystemFailure) -> DriverError {
    switch error.number {
    case EBADMSG: .corrupt("\(error.path ?? "the copy") is neither file nor directory")
    case ENOENT: .logGap("the copy lacks \(error.path ?? "a file") of the binary log")
    default: DriverError(error)
    }
  }

  /// Recovers, replays to the mark, has the engine check itself, and counts the content.
  private func prove(
    _ request: RestoreRequest, _ facts: RestoreFacts, _ laid: LaidLog?, _ layout: RestoreLayout
  ) async throws(DriverError) -> RestoreOutcome {
    let server = BesideServer(
      data: layout.swap.incomplete, control: layout.control, variables: facts.variables,
      authentication: facts.authentication)
    let owner = try serverUser(server.data)
    let settings = try await blocking { () throws(DriverError) in try BesideServer.layout(in: server.data) }
    var proofs: [String] = []
    try await ServerCommand(
      executable: try program("mariadb-backup"),
      arguments: ["--no-defaults", "--prepare", "--use-memory=128M", "--target-dir=\(server.data)"], user: owner
    ).run()
    proofs.append("mariadb-backup --prepare recovered to \(facts.lsn)")
    let path = try program("mariadbd")
    let started = try await blocking { () throws(DriverError) in
      try StartedServer.start(path, server.arguments(settings), user: owner, isDetached: false)
    }
    let result: Result<ContentDigest?, DriverError>
    do throws(DriverError) {
      let connection = try await answer(of: server, started)
      do throws(DriverError) {
        result = .success(try await examine(request, facts, laid, connection, server, proofs: &proofs))
        await connection.close()
      } catch {
        await connection.close()
        throw error
      }
    } catch { result = .failure(await explained(error, server, started)) }
    var isFailed = false
    if case .failure = result { isFailed = true }
    let isWhole = await end(started, isKilled: isFailed)
    let digest = try result.get()
    guard isWhole else {
      throw await explained(.engineFailed("the server beside did not stop cleanly", log: ""), server, started)
    }
    let size = try await tidy(server, facts, laid, owner)
    return RestoreOutcome(
      state: RestoredState(position: laid?.position ?? request.capture.position, sizeBytes: size, proofs: proofs),
      digest: digest)
  }

  private func answer(of server: BesideServer, _ started: StartedServer) async throws(DriverError) -> Connection {
    let place = ServerAddress(host: "", port: 0, socket: server.socket, user: "root")
    let deadline = environment.time.monotonicNanoseconds() + startTimeout.wholeNanoseconds
    while true {
      do throws(DriverError) {
        return try await Connection.open(place, password: nil, pool: environment.pool)
      } catch {
        let hasEnded = await environment.pool.run { started.hasEnded }
        guard case .unreachable = error, !hasEnded, environment.time.monotonicNanoseconds() < deadline else {
          throw .engineFailed("the server beside does not start", log: "")
        }
      }
      try await pause()
    }
  }

  /// - Returns: Whether it stopped by itself, with everything written.
  private func end(_ started: StartedServer, isKilled: Bool) async -> Bool {
    kill(started.process.pid, isKilled ? SIGKILL : SIGTERM)
    return await environment.pool.run { (try? started.process.waitForEnding()) == .exited(0) }
  }

  /// The end of the server's log says why.
  private func explained(_ error: DriverError, _ server: BesideServer, _ started: StartedServer) async -> DriverError {
    let what: String
    switch error {
    case .engineFailed(let text, let log): what = log.isEmpty ? text : "\(text): \(log)"
    case .unreachable(let text): what = text
    default: return error
    }
    return await environment.pool.run {
      let bytes = (try? Files.read(server.log, limitBytes: 1 << 24)) ?? []
      let text = String(decoding: bytes, as: UTF8.self)
      let errors = text.split(whereSeparator: \.isNewline).filter { $0.contains("[ERROR]") }.suffix(4)
      let said = errors.isEmpty ? lastLines(text, count: 4) + started.lastWords : errors.joined(separator: "; ")
      if ["corrupt", "Corrupt", "checksum mismatch", "crashed"].contains(where: said.contains) {
        return .corrupt("\(what): \(said)")
      }
      return .engineFailed(what, log: said)
    }
  }

  private func examine(
    _ request: RestoreRequest, _ facts: RestoreFacts, _ laid: LaidLog?, _ connection: Connection,
    _ server: BesideServer, proofs: inout [String]
  ) async throws(DriverError) -> ContentDigest? {
    do throws(StatementFailure) {
      // We stay who we are, and statements about users can be replayed.
      try await connection.run("FLUSH LOCAL PRIVILEGES")
    } catch { throw .engineFailed("reading the rights of users", log: error.message) }
    if let replay = facts.replay {
      try await self.replay(replay, laid, connection)
      if replay.events != nil { try await settleEvents(laid, connection, server, proofs: &proofs) }
      if let laid {
        proofs.append("replayed the binary log to \(laid.end), GTID \(laid.gtid.description), \(laid.words)")
      } else {
        proofs.append("replayed the binary log to \(replay.mark), GTID \(replay.markGTID)")
      }
    }
    do throws(StatementFailure) {
      proofs.append("CHECK TABLE of \(try await checkTables(connection)) tables")
      guard let recorded = request.capture.contentDigest else { return nil }
      try await connection.run(RowDigest.settings)
      var parts: [String: ContentDigest.Part] = [:]
      var uncompared = 0
      for table in try await RowDigest.tables(connection) {
        guard recorded.parts[table.part] != nil else {
          uncompared += 1
          continue
        }
        parts[table.part] = try await RowDigest.part(connection, table)
      }
      proofs.append("read every row of \(parts.count) tables")
      if uncompared > 0 {
        proofs.append("not compared, for the capture could not read them in time: \(uncompared) tables")
      }
      return ContentDigest(scheme: RowDigest.scheme, parts: parts)
    } catch {
      if error.isCancelled { throw .cancelled }
      if [1030, 126, 127, 144, 145, 1034, 1712, 1877, 2].contains(error.code) { throw .corrupt(error.message) }
      throw .engineFailed("reading what was restored", log: error.message)
    }
  }

  /// Errors of a replay that say that log and copy don't belong together, or that the log is damaged.
  private static let contradictions: Set<Int> = [
    1032, 1049, 1050, 1051, 1054, 1062, 1146, 1534, 1535, 1594, 1595, 1677,
  ]

  private func replay(
    _ replay: RestoreFacts.Replay, _ laid: LaidLog?, _ connection: Connection
  ) async throws(DriverError) {
    guard let start = GTIDList(replay.startGTID), let mark = laid?.gtid ?? GTIDList(replay.markGTID),
      let replicated = laid?.replicated ?? GTIDList(replay.replicated)
    else { throw .corrupt("the snapshot's facts make no sense") }
    do throws(StatementFailure) {
      try await connection.run("SET GLOBAL gtid_slave_pos = '\(start.description)'")
      try await connection.run(
        "CHANGE MASTER TO MASTER_HOST = 'salvor', RELAY_LOG_FILE = '\(BesideServer.relayName(0))', RELAY_LOG_POS = 4")
      try await connection.run("START SLAVE SQL_THREAD")
    } catch { throw error.isCancelled ? .cancelled : .engineFailed("replaying the binary log", log: error.message) }
    while true {
      let status: [String: String]
      do throws(StatementFailure) {
        let result = try await connection.run("SHOW SLAVE STATUS")
        status = Dictionary(
          zip(result.columns, result.rows.first ?? []).map { ($0, $1 ?? "") }, uniquingKeysWith: { first, _ in first })
      } catch { throw error.isCancelled ? .cancelled : .engineFailed("replaying the binary log", log: error.message) }
      if let code = status["Last_SQL_Errno"].flatMap({ Int($0) }), code != 0 {
        let why = "replaying the binary log: \(status["Last_SQL_Error"] ?? "") (\(code))"
        throw Self.contradictions.contains(code) ? .corrupt(why) : .engineFailed(why, log: "")
      }
      if status["Slave_SQL_Running"] != "Yes" { throw .engineFailed("the replay ended by itself", log: "") }
      if status["Slave_SQL_Running_State"]?.hasPrefix("Slave has read all relay log") == true { break }
      try await pause()
    }
    do throws(StatementFailure) {
      let reached = try await connection.value("SELECT @@GLOBAL.gtid_slave_pos") ?? ""
      guard GTIDList(reached) == mark else {
        throw StatementFailure(
          code: 1, message: "the binary log leads to \(reached), not to the mark \(mark.description)")
      }
      for statement in [
        "STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL gtid_slave_pos = '\(replicated.description)'",
      ] { try await connection.run(statement) }
    } catch {
      if error.code == 1 { throw .logGap(error.message) }
      throw error.isCancelled ? .cancelled : .engineFailed("ending the replay", log: error.message)
    }
  }

  /// Makes the table of events what it was at the mark.
  private func settleEvents(
    _ laid: LaidLog?, _ connection: Connection, _ server: BesideServer, proofs: inout [String]
  ) async throws(DriverError) {
    let bytes = try await blocking { () throws(DriverError) in
      do throws(SystemFailure) {
        return try Files.read("\(server.events)/\(EventTable.file)", limitBytes: EventTable.limitBytes)
      } catch { throw error.number == ENOENT ? .corrupt("the copy lacks its events") : DriverError(error) }
    }
    do throws(StatementFailure) {
      let leftOut = try await connection.run("SHOW GLOBAL STATUS LIKE 'Slave_skipped_errors'").rows.first?.last ?? nil
      if laid != nil, leftOut != "0" {
        proofs.append("events are as they were at the copy's mark: what was defined behind it is not replayed")
      }
      try await connection.run(EventTable.settings)
      for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
        try await connection.run(String(line.hasSuffix(";") ? line.dropLast() : line))
      }
    } catch { throw error.isCancelled ? .cancelled : .engineFailed("putting events in place", log: error.message) }
  }

  /// - Returns: How many tables were checked and are sound.
  private func checkTables(_ connection: Connection) async throws(StatementFailure) -> Int {
    let tables = try await connection.run(
      """
      SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES
      WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') AND ENGINE IN ('InnoDB', 'Aria', 'MyISAM')
      AND TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema')
      """
    ).rows.compactMap { row in row.count == 2 ? row[0].flatMap { a in row[1].map { (a, $0) } } : nil }
    for (schema, name) in tables {
      let rows = try await connection.run("CHECK TABLE \(RowDigest.quoted(schema)).\(RowDigest.quoted(name))").rows
      let last = rows.last ?? []
      guard last.count == 4, last[2] == "status", last[3] == "OK" || last[3] == "Table is already up to date",
        !rows.contains(where: { $0.count == 4 && ["error", "Error", "warning", "Warning"].contains($0[2] ?? "") })
      else {
        let said = rows.compactMap { $0.last ?? nil }.joined(separator: "; ")
        throw StatementFailure(code: 1034, message: "CHECK TABLE \(schema).\(name): \(said)")
      }
    }
    return tables.count
  }

  /// Removes what only the restore needed; where the binary log goes with the directory, its numbering goes on.
  private func tidy(
    _ server: BesideServer, _ facts: RestoreFacts, _ laid: LaidLog?, _ owner: SystemUser?
  ) async throws(DriverError) -> Int64 {
    try await blocking { () throws(DriverError) in
      do throws(SystemFailure) {
        for name in try Files.names(in: server.data).map(\.lossyText)
        where name.hasPrefix("xtrabackup_") || name == "backup-my.cnf" { unlink("\(server.data)/\(name)") }
        if let replay = facts.replay, let name = replay.logBaseName, let state = laid?.gtid ?? GTIDList(replay.markGTID)
        {
          let path = "\(server.data)/\(name).state"
          let lines = state.description.split(separator: ",").map { "\($0)\n" }.joined()
          try Files.replace(path, with: Array(lines.utf8), mode: 0o660)
          try settleTree(path, owner: owner, hasLinks: false)
        }
        try Files.removeTree(server.socketDirectory)
        try Files.removeTree(server.control)
        try synchronizeTree(server.data)
        return try treeBytes(server.data)
      } catch { throw DriverError(error) }
    }
  }
}

/// Makes durable what a server wrote, and left to the kernel. Blocks.
private func synchronizeTree(_ path: String) throws(SystemFailure) {
  for name in try Files.names(in: path) {
    let place = "\(path)/\(name.lossyText)"
    if Files.isDirectory(place) {
      try synchronizeTree(place)
    } else {
      try File(place, O_RDONLY | O_NOFOLLOW).synchronize()
    }
  }
  try Files.synchronizeDirectory(path)
}
