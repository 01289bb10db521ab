import Core
import DriverKit
import IO

/// One physical copy of a running server, and the binary log from the copy up to a mark under a hold.
actor MariaDBCapture: CaptureSession {
  private let driver: MariaDBDriver
  private let context: CaptureContext
  private let counter: ByteCounter

  private var control: Connection?
  private var facts: ServerFacts?
  private var base: BaseCopy?
  private var owner: FileMetadata?
  /// Of the file in which the copy stands; kept open, so that the server can remove it and we still have it.
  private var firstLog: (file: File, header: [UInt8])?
  private var locks: Connection?
  private var hold: CommitHold?
  /// Sees what the tables of InnoDB said at the mark.
  private var reader: Connection?
  /// As they were before the hold; what is something else when it is read has no digest.
  private var tables: [RowDigest.Table] = []
  private var marked: Mark?
  private var eventColumns: [EventTable.Column] = []
  private var isHeld = false
  private var notes: [String] = []
  private var origin: CopyOrigin?
  /// Why no later copy can lean on this one.
  private var obstacle: String?
  private var partBytes = RestoreFacts.formerPartBytes

  private struct Mark: Sendable {
    var position: BinlogPosition
    /// What the binary log holds, per domain.
    var gtid: String
    /// What the server itself had replicated from others.
    var replicated: String
    /// The same, as the log knows it.
    var named: LogPosition
    /// Statements that make the table of events again: nobody changes it while held.
    var events: [String]
  }

  init(_ driver: MariaDBDriver, _ context: CaptureContext) {
    (self.driver, self.context) = (driver, context)
    counter = ByteCounter(context.progress)
  }

  private func copy() throws(DriverError) -> TreeCopy {
    guard let owner else { throw .holdImpossible("the session is not prepared") }
    return TreeCopy(
      sink: context.sink, pool: driver.environment.pool, counter: counter, owner: owner, partBytes: partBytes)
  }

  // MARK: Before the hold

  func prepare() async throws(DriverError) {
    let control = try await driver.connect()
    self.control = control
    let facts = try await ServerFacts.read(control)
    self.facts = facts
    try facts.requireCapturable()
    try await driver.requireOwnDirectory(facts)
    notes += facts.notes
    guard let owner = readMetadata(driver.dataDirectory) else {
      throw .unsupported("there is no directory \(driver.dataDirectory)")
    }
    self.owner = owner
    let directory = context.scratch + "/copy"
    let beginning = try await driver.beginning(control)
    var (base, copied) = try await copyFiles(to: directory, control, facts, beginning)
    // What a restore would refuse is no copy.
    _ = try await driver.blocking { () throws(DriverError) in try BesideServer.layout(in: directory) }
    if let position = base.position {
      // mariadb-backup tells where replication stands, which leaves out other servers' transactions in this log.
      do throws(StatementFailure) {
        let set = try await control.row(
          "SELECT BINLOG_GTID_POS(\(RowDigest.text(position.file)), \(position.offset))", 1)
        base.gtid = set[0] ?? base.gtid
      } catch { throw error.driverError("asking where the copy stands") }
    }
    self.base = base
    try await noteOrigin(beginning, facts, base)
    if facts.isHeld {
      guard let position = base.position else { throw .unsupported("the server does not say where its log stands") }
      do throws(StatementFailure) {
        try await control.run(EventTable.settings)
        eventColumns = try await EventTable.columns(control)
      } catch { throw error.driverError("looking for events") }
      let log = driver.binaryLog(facts)
      firstLog = try await driver.blocking { () throws(DriverError) in try log.open(position.file) }
      let locks = try await driver.connect()
      self.locks = locks
      hold = CommitHold(locks)
      if context.wantsContentDigest {
        let reader = try await driver.connect()
        self.reader = reader
        do throws(StatementFailure) { try await reader.run(RowDigest.settings) } catch {
          throw error.driverError("preparing to read")
        }
      }
    }
    var copy = try copy()
    copy.settled = copied.files
    try await copy.copy(directory, to: "data")
    try await copy.addDirectory(TreePath(SpaceList.directory))
    try await copy.add(
      TreePath(SpaceList.directory).appending(FileName(SpaceList.file)), bytes: copied.spaces.encoded)
    if let since = copied.since {
      notes.append(
        "took \(counter.readBytes) of \(counter.value) bytes from the server: what changed since InnoDB's \(since)")
    }
    if reader != nil {
      do throws(StatementFailure) { tables = try await RowDigest.tables(control) } catch {
        throw error.driverError("looking for tables")
      }
    }
    await driver.environment.pool.run { try? Files.removeTree(directory) }
  }

  /// What is in scratch, and which earlier copy it leans on.
  private struct Copied: Sendable {
    var files: [TreePath: Increment.Settled] = [:]
    var since: UInt64?
    var spaces: SpaceList
  }

  /// Only what changed, if there is a copy to lean on, and everything certain.
  private func copyFiles(
    to directory: String, _ control: Connection, _ facts: ServerFacts, _ beginning: MariaDBDriver.Beginning
  ) async throws(DriverError) -> (BaseCopy, Copied) {
    let pageBytes = facts.variables["innodb_page_size"].flatMap { Int($0) } ?? RestoreFacts.formerPartBytes
    let size = await driver.environment.pool.run { [driver] in (try? treeBytes(driver.dataDirectory)) ?? 0 }
    partBytes = InnoDBFile.partBytes(forServerOf: size, pageBytes: pageBytes)
    do throws(DriverError) {
      let earlier: EarlierCapture?
      do throws(AnyFailure) { earlier = try await context.earlier() } catch {
        throw error.isCancellation ? .cancelled : .sink(error)
      }
      if let earlier {
        let known = try RestoreFacts(earlier.result.facts)
        // Parts of another length would all be new to the repository.
        partBytes = max(known.partBytes, pageBytes)
        let increment = try await driver.increment(since: earlier, known, facts, beginning, control)
        let base = try await driver.copyFiles(to: directory, isLogged: facts.isLogged, since: increment.since)
        let now = try await UsedSpaces.read(control)
        let files = try await increment.settle(directory, now: now)
        let spaces = try await list(
          files.map { ($0.value.space, $0.key) }.filter { $0.0 > 0 }, beginning.used.staying(now), directory)
        return (base, Copied(files: files, since: increment.since, spaces: spaces))
      }
    } catch {
      if case .cancelled = error { throw error }
      notes.append("read in full: \(error.report.summary)")
      try await driver.blocking { () throws(DriverError) in
        do throws(SystemFailure) { try Files.removeTree(directory) } catch { throw DriverError(error) }
      }
    }
    let base = try await driver.copyFiles(to: directory, isLogged: facts.isLogged)
    let now = try await UsedSpaces.read(control)
    let found = try await driver.blocking { () throws(DriverError) in try SpaceList.found(in: directory, at: "data") }
    return (base, Copied(spaces: try await list(found, beginning.used.staying(now), directory)))
  }

  private func list(
    _ found: [(space: UInt32, path: TreePath)], _ used: UsedSpaces, _ directory: String
  ) async throws(DriverError) -> SpaceList {
    try await driver.blocking { () throws(DriverError) in
      try used.requireAll(in: directory, found: Set(found.map(\.space)))
    }
    return SpaceList(found, used: used)
  }

  /// What a later copy will need to lean on this one.
  private func noteOrigin(
    _ beginning: MariaDBDriver.Beginning, _ facts: ServerFacts, _ base: BaseCopy
  ) async throws(DriverError) {
    guard let position = base.position else {
      obstacle = "without a binary log nothing shows whether the server was set back"
      return
    }
    let log = driver.binaryLog(facts)
    do throws(DriverError) {
      let trail = try await driver.blocking { () throws(DriverError) in try log.trail(before: position) }
      origin = CopyOrigin(checkpoint: beginning.checkpoint, files: beginning.files, trail: trail)
    } catch {
      if case .cancelled = error { throw error }
      obstacle = error.report.summary
    }
  }

  // MARK: The hold

  func hold(limit: Duration) async throws(DriverError) {
    guard let facts else { throw .holdImpossible("the session is not prepared") }
    guard facts.isHeld else { return }
    guard let hold else { throw .holdImpossible("the session is not prepared") }
    try await hold.take(limit: limit, time: driver.environment.time)
    isHeld = true
  }

  func mark() async throws(DriverError) -> LogPosition {
    guard let control, let facts, let base else { throw .holdImpossible("the session is not prepared") }
    guard facts.isHeld else { return position(of: base) }
    let standing: Standing
    let events: [String]
    if !isHeld {
      // Without a hold nothing says that what a reader sees ends where the mark is.
      await reader?.close()
      reader = nil
    }
    do throws(StatementFailure) {
      if let reader { try await reader.run("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY") }
      standing = try await Standing.read(control)
      events = try await EventTable.statements(eventColumns, control)
    } catch {
      throw error.driverError("naming the position")
    }
    let named = try await driver.position(of: standing, facts)
    marked = Mark(
      position: standing.position, gtid: standing.gtid, replicated: standing.replicated, named: named, events: events)
    return named
  }

  private func position(of base: BaseCopy) -> LogPosition { LogPosition(kind: "lsn", value: base.lsn) }

  func release() async -> Bool {
    guard let hold, isHeld else { return false }
    isHeld = false
    let wasHeld = await hold.release()
    if !wasHeld {
      // What the reader sees may be later than the mark.
      await reader?.close()
      reader = nil
    }
    return wasHeld
  }

  // MARK: After the hold

  func finish() async throws(DriverError) -> CaptureResult {
    guard let control, let facts, let base else { throw .holdImpossible("the session is not prepared") }
    var restore = RestoreFacts(
      version: facts.version, lsn: base.lsn, dataDirectory: driver.dataDirectory,
      variables: facts.variables.filter { ServerFacts.replayed.contains($0.key) })
    restore.authentication = facts.authentication
    (restore.origin, restore.obstacle, restore.partBytes) = (origin, obstacle, partBytes)
    guard facts.isHeld else {
      return CaptureResult(
        version: facts.version, position: position(of: base), sizeBytes: counter.value,
        facts: encoded(restore), notes: notes)
    }
    guard let marked, let start = base.position else { throw .holdImpossible("there is no mark") }
    let files: [(name: String, size: Int64)]
    do throws(StatementFailure) {
      files = try await control.run("SHOW BINARY LOGS").rows.compactMap { row in
        guard row.count >= 2, let name = row[0], let size = row[1].flatMap({ Int64($0) }) else { return nil }
        return BinlogPosition.isName(name) ? (name, size) : nil
      }
    } catch { throw error.driverError("listing the binary logs") }
    let log = driver.binaryLog(facts)
    var known = files
    // Removed meanwhile, and still open here.
    if !known.contains(where: { $0.name == start.file }), let firstLog {
      known.insert((start.file, (try? Int64(firstLog.file.status().st_size)) ?? 0), at: 0)
    }
    let stretches = try BinaryLog.stretches(from: start, to: marked.position, in: known)
    let copy = try copy()
    try await copy.addDirectory("binlog")
    for (index, stretch) in stretches.enumerated() {
      let opened: (file: File, header: [UInt8])
      if index == 0, let firstLog {
        opened = firstLog
      } else {
        opened = try await driver.blocking { () throws(DriverError) in try log.open(stretch.file) }
      }
      let head = Int64(opened.header.count)
      let size = head + max(0, stretch.range.upperBound - max(head, stretch.range.lowerBound))
      try await copy.add(TreePath("binlog").appending(FileName(stretch.file)), size: size) {
        BinlogSource(opened, stretch.range)
      }
    }
    restore.replay = RestoreFacts.Replay(
      files: stretches.map(\.file), start: start.description, startGTID: base.gtid,
      mark: marked.position.description, markGTID: marked.gtid, replicated: marked.replicated,
      logBaseName: logInside(facts), events: max(0, marked.events.count - 1))
    try await copy.addDirectory(TreePath(EventTable.directory))
    try await copy.add(
      TreePath(EventTable.directory).appending(FileName(EventTable.file)),
      bytes: Array(marked.events.map { $0 + ";\n" }.joined().utf8))
    let digest = try await readDigest()
    return CaptureResult(
      version: facts.version, position: marked.named, contentDigest: digest, sizeBytes: counter.value,
      facts: encoded(restore), notes: notes)
  }

  private func encoded(_ facts: RestoreFacts) -> [String: String] {
    facts.encoded.merging(["readBytes": String(counter.readBytes)]) { first, _ in first }
  }

  /// The binary log's own name, where it is kept in the data directory: then it goes when the directory is swapped.
  private func logInside(_ facts: ServerFacts) -> String? {
    let path = facts.variables["log_bin_basename"] ?? ""
    let name = Files.last(of: path)
    return Files.parent(of: path) == ServerFacts.directory(facts.variables["datadir"] ?? "")
      && BinlogPosition.isName(name) ? name : nil
  }

  private func readDigest() async throws(DriverError) -> ContentDigest? {
    guard let reader else { return nil }
    var parts: [String: ContentDigest.Part] = [:]
    var lacking: [String] = []
    do throws(StatementFailure) {
      for table in tables {
        // A savepoint, so that a table is in nobody's way once it has been read.
        try await reader.run("SAVEPOINT salvor")
        if let part = try await RowDigest.part(reader, table) {
          parts[table.part] = part
        } else {
          lacking.append(table.part)
        }
        try await reader.run("ROLLBACK TO SAVEPOINT salvor")
      }
      try await reader.run("ROLLBACK")
    } catch {
      throw error.driverError("reading the rows for the content digest")
    }
    if !lacking.isEmpty {
      notes.append(
        "no content digest of \(lacking.count) tables, which others changed or made: "
          + lacking.prefix(10).joined(separator: ", ") + (lacking.count > 10 ? ", …" : ""))
    }
    return ContentDigest(scheme: RowDigest.scheme, parts: parts)
  }

  func close() async {
    if isHeld { _ = await hold?.release() }
    isHeld = false
    hold = nil
    // What a reader was told to do goes on in the server until it has an answer; so it is ended.
    if let reader, let control { await control.runToEnd("KILL CONNECTION \(reader.id)") }
    for connection in [locks, reader, control] { await connection?.close() }
    (locks, reader, control, firstLog) = (nil, nil, nil, nil)
    let directory = context.scratch + "/copy"
    await driver.environment.pool.run { try? Files.removeTree(directory) }
  }
}
