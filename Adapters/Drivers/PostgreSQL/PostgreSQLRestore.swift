import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

extension PostgreSQLDriver {
  func restoreBeside(_ request: RestoreRequest) async throws(DriverError) -> RestoredState {
    let facts = try RestoreFacts(request.capture.facts)
    let layout = RestoreLayout(request, facts, dataDirectory: dataDirectory)
    if let done = try await outcome(layout) { return done.state }
    try await clear(layout)
    let (sizeBytes, aim) = try await materialise(request, facts, layout)
    let done = try await prove(request, facts, layout, aim, sizeBytes: sizeBytes)
    try await blocking { () throws(DriverError) in
      do {
        try Files.replace(layout.outcome, with: try CanonicalJSON.encode(done))
      } catch { throw DriverError(error) }
    }
    return done.state
  }

  func digestBeside(_ request: RestoreRequest) async throws(DriverError) -> ContentDigest? {
    let layout = RestoreLayout(request, try RestoreFacts(request.capture.facts), dataDirectory: dataDirectory)
    guard let done = try await outcome(layout) else {
      throw .unsupported("nothing is restored beside \(dataDirectory) under this id")
    }
    return done.digest
  }

  func outcome(_ layout: RestoreLayout) async throws(DriverError) -> RestoreOutcome? {
    try await blocking { () throws(DriverError) in
      do {
        guard try Files.isThere(layout.outcome) else { return nil }
        return try CanonicalJSON.decode(RestoreOutcome.self, from: try Files.read(layout.outcome, limitBytes: 1 << 28))
      } catch { throw DriverError(error) }
    }
  }

  func blocking<T: Sendable>(_ body: @escaping @Sendable () throws(DriverError) -> T) async throws(DriverError) -> T {
    try await environment.pool.run(body)
  }

  /// Takes away what an earlier try left, its server too.
  private func clear(_ layout: RestoreLayout) async throws(DriverError) {
    if isLive(layout.data.beside) { try await stopServer(layout.data.beside, mode: "immediate") }
    try await blocking { () throws(DriverError) in
      for swap in [layout.data] + layout.spaces.map(\.swap) {
        guard try !swap.isSwapped() else {
          throw .unsupported("\(swap.workspace) holds a state that was kept: give it up, or swap it out, first")
        }
        do throws(SystemFailure) { try Files.removeTree(swap.workspace) } catch { throw DriverError(error) }
      }
    }
  }

  /// Writes the captured files into the workspaces, and readies them for a recovery beside.
  private func materialise(
    _ request: RestoreRequest, _ facts: RestoreFacts, _ layout: RestoreLayout
  ) async throws(DriverError) -> (sizeBytes: Int64, aim: RecoveryAim?) {
    try await blocking { () throws(DriverError) in
      do throws(SystemFailure) {
        for swap in [layout.data] + layout.spaces.map(\.swap) { try makePassage(swap.workspace) }
      } catch { throw DriverError(error) }
    }
    do throws(AnyFailure) {
      try await request.source.materialise("data", at: layout.data.beside, progress: request.progress)
      for space in layout.spaces {
        let root = TreePath("tablespaces/\(space.oid)/\(layout.version)")
        try await request.source.materialise(root, at: space.swap.beside, progress: { _ in })
      }
    } catch {
      if let inner = error.underlying as? DriverError { throw inner }
      throw error.isCancellation ? .cancelled : DriverError(error)
    }
    var aim: RecoveryAim?
    if let replay = request.replay { aim = try await layLog(replay, facts, in: layout.data.beside) }
    let owner = try serverUser(layout.data.beside)
    let sizeBytes = try await blocking { () throws(DriverError) in
      do throws(SystemFailure) { return try ready(layout, owner) } catch { throw DriverError(error) }
    }
    return (sizeBytes, aim)
  }

  /// Gives a tablespace's location to the server's user, if that is what it was made for: the path comes from a snapshot,
  /// and a directory that holds anything else is not ours to give away.
  private func own(_ location: String, _ owner: SystemUser) throws(SystemFailure) {
    let directory = try File(location, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
    if try directory.status().st_uid == owner.userID { return }
    let names = try Files.names(in: location)
    guard names.allSatisfy({ $0.lossyText.hasPrefix(".salvor-") || $0.lossyText.hasPrefix("PG_") }) else {
      throw SystemFailure("chown", path: location, number: EPERM)
    }
    guard fchown(directory.descriptor, owner.userID, owner.groupID) == 0 else {
      throw SystemFailure("chown", path: location)
    }
  }

  /// Blocks.
  private func ready(_ layout: RestoreLayout, _ owner: SystemUser?) throws(SystemFailure) -> Int64 {
    let data = layout.data.beside
    guard chmod(data, 0o700) == 0 else { throw SystemFailure("chmod", path: data) }
    for space in layout.spaces {
      // The server wants to own a tablespace's location, and after a loss it is us who made it.
      if let owner { try own(space.location, owner) }
      try makePassage(space.linkTarget)
      let link = space.linkTarget + "/" + layout.version
      guard symlink("../beside", link) == 0 || errno == EEXIST else { throw SystemFailure("symlink", path: link) }
    }
    if !layout.spaces.isEmpty { try Files.replace(data + "/tablespace_map", with: Array(layout.tablespaceMap.utf8)) }
    try Files.replace(data + "/recovery.signal", with: [])
    var total = try settleTree(data, owner: owner, hasLinks: true)
    for space in layout.spaces { total += try settleTree(space.swap.beside, owner: owner, hasLinks: true) }
    return total
  }

  /// Recovers to the mark, has the engine check itself, and counts the content.
  private func prove(
    _ request: RestoreRequest, _ facts: RestoreFacts, _ layout: RestoreLayout, _ aim: RecoveryAim?, sizeBytes: Int64
  ) async throws(DriverError) -> RestoreOutcome {
    let data = layout.data.beside
    let owner = try serverUser(data)
    var server = BesideServer(data: data, control: layout.control, preloaded: facts.preloaded)
    try await blocking { [server] () throws(DriverError) in
      do throws(SystemFailure) { try server.writeFiles(owner: owner) } catch { throw DriverError(error) }
    }
    var position = request.capture.position
    var proofs: [String] = []
    var digest: ContentDigest?
    do throws(DriverError) {
      if let aim, let replay = request.replay {
        let reached = try await recover(&server, owner: owner, facts, to: aim, replay)
        position = LogPosition(
          kind: "lsn", value: reached.description,
          details: ["timeline": String(aim.timeline), "systemIdentifier": facts.systemIdentifier])
        proofs.append("recovered to \(reached), \(aim.words)")
      } else {
        try await startBeside(server, owner: owner, facts)
        let reached = try await blocking { () throws(DriverError) in
          let reached = try endOfRecovery(data, facts.timeline)
          try requireMark(reached, facts)
          return reached
        }
        proofs.append("recovered to \(reached)")
      }
      digest = try await examine(request, facts, server, owner: owner, proofs: &proofs)
      try await stopServer(data, mode: "fast")
      if facts.hasChecksums { proofs.append(try await checkPages(data, facts, owner)) }
    } catch {
      if isLive(data) { try? await stopServer(data, mode: "immediate") }
      throw error
    }
    try await blocking { [server] () throws(DriverError) in
      for name in ["backup_label.old", "tablespace_map.old"] { unlink(data + "/" + name) }
      do throws(SystemFailure) {
        try Files.removeTree(server.socket)
        try Files.synchronizeDirectory(data)
      } catch { throw DriverError(error) }
    }
    return RestoreOutcome(
      state: RestoredState(position: position, sizeBytes: sizeBytes, proofs: proofs), digest: digest)
  }

  /// Runs `body` with a server on what was restored beside, and ends the server.
  func serving<T: Sendable>(
    _ layout: RestoreLayout, _ facts: RestoreFacts, _ body: (ServerAddress) async throws(DriverError) -> T
  ) async throws(DriverError) -> T {
    let data = layout.data.beside
    let owner = try serverUser(data)
    let server = BesideServer(data: data, control: layout.control, preloaded: facts.preloaded)
    try await blocking { () throws(DriverError) in
      do throws(SystemFailure) { try server.writeFiles(owner: owner) } catch { throw DriverError(error) }
    }
    let result: Result<T, DriverError>
    do throws(DriverError) {
      try await startBeside(server, owner: owner, facts)
      result = .success(
        try await body(
          ServerAddress(host: server.socket, port: 5432, user: address.user, database: address.database)))
      try await stopServer(data, mode: "fast")
    } catch {
      if isLive(data) { try? await stopServer(data, mode: "immediate") }
      throw error
    }
    try await blocking { () throws(DriverError) in
      do throws(SystemFailure) { try Files.removeTree(server.socket) } catch { throw DriverError(error) }
    }
    return try result.get()
  }

  func startBeside(
    _ server: BesideServer, owner: SystemUser?, _ facts: RestoreFacts
  ) async throws(DriverError) {
    let control = try await program("pg_ctl", major: facts.major)
    let limit = max(1, startTimeout.components.seconds)
    do throws(DriverError) {
      try await ServerCommand(
        executable: control,
        arguments: [
          "-D", server.data, "-l", server.log, "-w", "-t", String(limit), "-o", server.commandLine, "start",
        ], user: owner
      ).run()
    } catch {
      throw explained(error, log: server.log)
    }
    // pg_ctl is content once recovery has begun; connections are let in once it has ended.
    let place = ServerAddress(host: server.socket, port: 5432, user: address.user, database: address.database)
    let deadline = environment.time.monotonicNanoseconds() + startTimeout.wholeNanoseconds
    while true {
      do throws(DriverError) {
        return await (try connect(place, password: nil)).close()
      } catch {
        if case .cancelled = error { throw error }
        guard case .unreachable = error, isLive(server.data), environment.time.monotonicNanoseconds() < deadline else {
          throw explained(.engineFailed("recovery did not come to its end", log: error.report.summary), log: server.log)
        }
      }
      try await pause()
    }
  }

  /// Recovers along the log to the aim.
  ///
  /// A time after the last commit is reached with the log's end, which the server takes for a target missed; whether the
  /// log is known to reach beyond that time was seen before the restore.
  private func recover(
    _ server: inout BesideServer, owner: SystemUser?, _ facts: RestoreFacts, to aim: RecoveryAim, _ replay: LogReplay
  ) async throws(DriverError) -> LogSequenceNumber {
    server.recovery = aim.settings(asking: true)
    var isAtEnd = aim.setting == nil
    do throws(DriverError) {
      try await startBeside(server, owner: owner, facts)
    } catch {
      guard case .engineFailed(let what, let log) = error,
        log.contains("recovery ended before configured recovery target was reached")
      else { throw error }
      guard case .time = aim.target else {
        throw .logGap("\(what): the log holds no \(aim.setting.map { "\($0.name) \($0.value)" } ?? "such place")")
      }
      if isLive(server.data) { try await stopServer(server.data, mode: "immediate") }
      server.recovery = aim.settings(asking: false)
      isAtEnd = true
      try await startBeside(server, owner: owner, facts)
    }
    let data = server.data
    let reached = try await blocking { () throws(DriverError) in try endOfRecovery(data, aim.timeline) }
    if isAtEnd { try await requireEnd(aim, reached: reached, replay, facts) }
    return reached
  }

  /// Where recovery ended, by what the server itself wrote: the history of its new timeline names the point at which it
  /// left the old one. Blocks.
  private func endOfRecovery(_ data: String, _ timeline: UInt32) throws(DriverError) -> LogSequenceNumber {
    let lines: [Substring]
    do throws(SystemFailure) {
      let histories = try Files.names(in: data + "/pg_wal").map(\.lossyText)
        .filter { $0.hasSuffix(".history") && (UInt32($0.dropLast(8), radix: 16) ?? 0) > timeline }
      guard let newest = histories.max() else {
        throw SystemFailure("open", path: data + "/pg_wal/*.history", number: ENOENT)
      }
      let bytes = try Files.read(data + "/pg_wal/" + newest, limitBytes: 1 << 20)
      lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n").filter { $0.first?.isNumber == true }
    } catch { throw DriverError(error) }
    let fields = lines.last?.split(whereSeparator: \.isWhitespace) ?? []
    guard fields.count >= 2, UInt32(fields[0]) == timeline, let reached = LogSequenceNumber(fields[1]) else {
      throw .engineFailed("the server did not say where recovery ended", log: lines.last.map(String.init) ?? "")
    }
    return reached
  }

  /// - Throws: ``DriverError/logGap(_:)`` unless recovery ended at the mark.
  private func requireMark(_ reached: LogSequenceNumber, _ facts: RestoreFacts) throws(DriverError) {
    guard let mark = LogSequenceNumber(facts.mark), let geometry = LogGeometry(segmentBytes: facts.segmentBytes) else {
      throw .corrupt("the snapshot's facts make no sense")
    }
    let (a, b) = (geometry.normalised(reached), geometry.normalised(mark))
    guard a == b else {
      throw .logGap("recovery ended at \(reached), \(a < b ? "before" : "after") the mark \(mark)")
    }
  }

  /// Runs pg_amcheck where the extension is, and computes the digest.
  private func examine(
    _ request: RestoreRequest, _ facts: RestoreFacts, _ server: BesideServer, owner: SystemUser?, proofs: inout [String]
  ) async throws(DriverError) -> ContentDigest? {
    let place = ServerAddress(host: server.socket, port: 5432, user: address.user, database: address.database)
    let first = try await connect(place, password: nil)
    var parts: [String: ContentDigest.Part] = [:]
    var uncompared = 0
    do throws(StatementFailure) {
      let identifier = try await first.value("SELECT system_identifier::text FROM pg_control_system()")
      guard identifier == facts.systemIdentifier else {
        throw StatementFailure(code: "XX001", message: "another cluster: \(identifier ?? "")")
      }
      let databases = try await first.run(TableHold.databases).rows.compactMap { $0.first ?? nil }
      for database in databases {
        let connection: Connection
        do throws(DriverError) {
          connection = try await connect(place.database(database), password: nil)
        } catch { throw StatementFailure(code: "08006", message: error.report.summary) }
        if try await connection.value("SELECT 1 FROM pg_extension WHERE extname = 'amcheck'") != nil {
          do throws(DriverError) {
            try await checkIndexes(place.database(database), facts, owner)
          } catch { throw StatementFailure(code: "XX002", message: error.report.summary) }
          proofs.append("pg_amcheck of \(database)")
        }
        if let recorded = request.capture.contentDigest {
          try await RowDigest.settle(connection)
          _ = try await connection.run("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
          for table in try await RowDigest.tables(connection) {
            if facts.coverage?.covers(table, of: database, recorded: recorded) ?? true {
              parts[database + "." + table.name] = try await RowDigest.part(connection, table.quoted)
            } else {
              uncompared += 1
            }
          }
        }
        await connection.close()
      }
      await first.close()
    } catch {
      await first.close()
      switch error.code {
      case "XX001", "XX002": throw .corrupt(error.message)
      case StatementFailure.cancelled.code: throw .cancelled
      default: throw .engineFailed("reading what was restored", log: error.message)
      }
    }
    if request.capture.contentDigest == nil { return nil }
    proofs.append("read every row of \(parts.count) tables")
    if uncompared > 0 {
      proofs.append("not compared, for the capture could not read them in time: \(uncompared) tables")
    }
    return ContentDigest(scheme: RowDigest.scheme, parts: parts)
  }

  private func checkIndexes(_ place: ServerAddress, _ facts: RestoreFacts, _ owner: SystemUser?)
    async throws(DriverError)
  {
    let program = try await program("pg_amcheck", major: facts.major)
    try await ServerCommand(
      executable: program,
      arguments: ["-h", place.host, "-p", String(place.port), "-U", place.user, "-w", "-d", place.database], user: owner
    ).run()
  }

  private func checkPages(_ data: String, _ facts: RestoreFacts, _ owner: SystemUser?) async throws(DriverError)
    -> String
  {
    let program = try await program("pg_checksums", major: facts.major)
    do throws(DriverError) {
      try await ServerCommand(executable: program, arguments: ["--check", "-D", data], user: owner).run()
    } catch {
      guard case .engineFailed(_, let log) = error else { throw error }
      throw .corrupt("pg_checksums: \(log)")
    }
    return "pg_checksums of every page"
  }
}
