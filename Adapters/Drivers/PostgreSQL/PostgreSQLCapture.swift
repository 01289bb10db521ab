import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// One physical copy of a running cluster: an online backup, and the log up to a mark under a hold.
///
/// Source: PostgreSQL 15, "Making a Base Backup Using the Low Level API".
actor PostgreSQLCapture: CaptureSession {
  private let driver: PostgreSQLDriver
  private let context: CaptureContext
  private let counter: ByteCounter

  /// Runs the backup, keeps the replication slot, reads positions. The backup ends with it.
  private var control: Connection?
  private var cluster: ClusterFacts?
  private var hold: TableHold?
  private var tablespaces: [DataDirectory.Tablespace] = []
  private var ownFile: FileMetadata?
  private var start: LogSequenceNumber?
  private var stop: LogSequenceNumber?
  private var marked: (position: LogSequenceNumber, timeline: UInt32)?
  private var notes: [String] = []

  init(_ driver: PostgreSQLDriver, _ context: CaptureContext) {
    (self.driver, self.context) = (driver, context)
    counter = ByteCounter(context.progress)
  }

  // MARK: Before the hold

  func prepare() async throws(DriverError) {
    let control = try await driver.connect()
    self.control = control
    let cluster = try await ClusterFacts.read(control)
    self.cluster = cluster
    try cluster.requireCapturable()
    try await driver.requireOwnDirectory(cluster)
    notes += cluster.notes
    do throws(StatementFailure) {
      // From here on the server keeps its log; the slot is dropped with the session.
      let name = "salvor_" + Hex.encode(driver.environment.randomness.bytes(8))
      _ = try await control.run("SELECT pg_create_physical_replication_slot($1, true, true)", [name])
      start = try await control.value("SELECT pg_backup_start('salvor', true)").flatMap { LogSequenceNumber($0) }
    } catch {
      throw error.driverError("beginning a backup")
    }
    guard let start else { throw .unsupported("the server did not say where the backup starts") }

    let directory = DataDirectory(
      path: driver.dataDirectory, tablespaceVersion: cluster.tablespaceVersion, segmentBlocks: cluster.segmentBlocks)
    let (spaces, files) = try await driver.environment.pool.run { () throws(DriverError) in
      let spaces = try directory.tablespaces()
      return (spaces, try directory.files(spaces))
    }
    tablespaces = spaces
    let copy = self.copy(verifyingSince: cluster.hasChecksums ? start : nil)
    try await copy.copy(files)
    // Last, as it names the newest checkpoint; recovery starts from the label's in any case.
    let controlFile = driver.dataDirectory + "/global/pg_control"
    guard let metadata = readMetadata(controlFile) else { throw .corrupt("\(controlFile) is missing") }
    ownFile = metadata
    try await copy.copy(
      ClusterFile(path: controlFile, target: "data/global/pg_control", kind: .ordinary, metadata: metadata))
    try await copyOutsideConfiguration(copy)
    try await endBackup(copy, like: metadata)
    hold = try await prepareHold(control, cluster)
  }

  private func copy(verifyingSince start: LogSequenceNumber?) -> ClusterCopy {
    ClusterCopy(sink: context.sink, pool: driver.environment.pool, verifyingSince: start, counter: counter)
  }

  /// Debian keeps its configuration in `/etc`: it goes along in `config`, for whoever restores by hand.
  private func copyOutsideConfiguration(_ copy: ClusterCopy) async throws(DriverError) {
    guard let file = cluster?.configurationFile, Files.parent(of: file) != driver.dataDirectory else { return }
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
      let path = Files.parent(of: file) + "/" + name
      guard let metadata = readMetadata(path), metadata.kind == .regular, access(path, R_OK) == 0 else { continue }
      try await copy.copy(
        ClusterFile(path: path, target: TreePath("config/" + name), kind: .ordinary, metadata: metadata))
    }
  }

  private func endBackup(_ copy: ClusterCopy, like metadata: FileMetadata) async throws(DriverError) {
    guard let control else { throw .unreachable("the session is closed") }
    let row: [String?]
    do throws(StatementFailure) {
      row = try await control.run("SELECT lsn, labelfile, spcmapfile FROM pg_backup_stop(false)").rows.first ?? []
    } catch {
      throw error.driverError("ending the backup")
    }
    guard row.count == 3, let stop = row[0].flatMap({ LogSequenceNumber($0) }), let label = row[1] else {
      throw .unsupported("the server did not say where the backup ends")
    }
    self.stop = stop
    try copy.unjudged.check(against: stop)
    if copy.unjudged.count > 0 {
      notes.append("\(copy.unjudged.count) pages were caught while they were written; the log brings them whole")
    }
    try await copy.add("data/backup_label", like: metadata, bytes: Array(label.utf8))
    if let map = row[2], !map.isEmpty {
      try await copy.add("data/tablespace_map", like: metadata, bytes: Array(map.utf8))
    }
  }

  private func prepareHold(_ control: Connection, _ cluster: ClusterFacts) async throws(DriverError) -> TableHold {
    do {
      var members: [TableHold.Member] = []
      // Not the templates: a connection to one would keep CREATE DATABASE waiting.
      let databases = try await control.run(
        "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY oid"
      ).rows
      for row in databases {
        guard let database = row.first ?? nil else { continue }
        let locks = try await driver.connect(database)
        let reader = try await driver.connect(database)
        try await RowDigest.settle(reader)
        members.append(TableHold.Member(database: database, locks: locks, reader: reader))
      }
      let timeout = cluster.settings["deadlock_timeout"].flatMap { Int64($0) } ?? 1000
      return TableHold(
        members: members, control: control, time: driver.environment.time, deadlockTimeout: .milliseconds(timeout))
    } catch let error as StatementFailure {
      throw error.driverError("looking for tables")
    } catch {
      throw DriverError(error)
    }
  }

  // MARK: The hold

  private var digestsContent = false

  func hold(limit: Duration) async throws(DriverError) {
    guard let hold else { throw .holdImpossible("the session is not prepared") }
    try await hold.take(limit: limit)
    // Only under the locks do what a reader sees and what the log holds up to a position agree.
    digestsContent = context.wantsContentDigest
  }

  func mark() async throws(DriverError) -> LogPosition {
    guard let control, let hold, let cluster else { throw .holdImpossible("the session is not prepared") }
    do throws(StatementFailure) {
      let row =
        try await control.run(
          "SELECT lsn, pg_walfile_name(lsn) FROM (SELECT pg_current_wal_insert_lsn() AS lsn) AS now"
        ).rows.first ?? []
      guard row.count == 2, let lsn = row[0].flatMap({ LogSequenceNumber($0) }),
        let timeline = row[1].flatMap({ UInt32($0.prefix(8), radix: 16) })
      else { throw StatementFailure(code: "XX000", message: "the server did not name its position") }
      marked = (lsn, timeline)
      if digestsContent { try await hold.pinSnapshots() }
      return position(lsn, timeline, cluster)
    } catch {
      throw error.driverError("naming the position")
    }
  }

  private func position(_ lsn: LogSequenceNumber, _ timeline: UInt32, _ cluster: ClusterFacts) -> LogPosition {
    LogPosition(
      kind: "lsn", value: lsn.description,
      details: ["timeline": String(timeline), "systemIdentifier": cluster.systemIdentifier])
  }

  func release() async -> Bool { await hold?.release() ?? false }

  // MARK: After the hold

  func finish() async throws(DriverError) -> CaptureResult {
    guard let control, let hold, let cluster, let start, let stop, let marked, let ownFile else {
      throw .holdImpossible("there is no mark")
    }
    guard marked.position >= stop else {
      throw .logGap("the mark \(marked.position) lies before the backup's end \(stop)")
    }
    do throws(StatementFailure) {
      // A commit of our own makes the server flush all that came before it. Not further than the local disk: a
      // standby that hangs must not hang us.
      _ = try await control.run(
        "BEGIN READ WRITE; SET LOCAL synchronous_commit = local; SELECT pg_logical_emit_message(true, 'salvor', 'mark'); COMMIT"
      )
      let flushed = try await control.value("SELECT pg_current_wal_flush_lsn()").flatMap { LogSequenceNumber($0) }
      guard let flushed, flushed >= cluster.geometry.normalised(marked.position) else {
        throw StatementFailure(code: "XX000", message: "the log is not on disk up to the mark \(marked.position)")
      }
    } catch {
      throw error.driverError("flushing the log")
    }
    let log = LogCopy(
      directory: driver.dataDirectory + "/pg_wal", geometry: cluster.geometry, timeline: marked.timeline,
      systemIdentifier: UInt64(cluster.systemIdentifier) ?? 0, start: start, mark: marked.position,
      pool: driver.environment.pool)
    try await log.copy(into: copy(verifyingSince: nil), like: ownFile)
    // The log is safe: the server may drop its own again while the rows are read.
    await control.close()
    return CaptureResult(
      version: cluster.version, position: position(marked.position, marked.timeline, cluster),
      contentDigest: digestsContent ? try await digest(hold) : nil, sizeBytes: counter.value,
      facts: RestoreFacts(
        start: start.description, stop: stop.description, mark: marked.position.description, timeline: marked.timeline,
        systemIdentifier: cluster.systemIdentifier, segmentBytes: cluster.geometry.segmentBytes, major: cluster.major,
        tablespaceVersion: cluster.tablespaceVersion, tablespaces: tablespaces, dataDirectory: driver.dataDirectory,
        hasChecksums: cluster.hasChecksums, preloaded: cluster.settings["shared_preload_libraries"] ?? ""
      ).encoded, notes: notes)
  }

  private func digest(_ hold: TableHold) async throws(DriverError) -> ContentDigest {
    var parts: [String: ContentDigest.Part] = [:]
    do throws(StatementFailure) {
      for member in hold.members {
        let found = try await RowDigest.parts(member.reader, database: member.database)
        parts.merge(found) { first, _ in first }
      }
    } catch {
      throw error.driverError("reading the rows for the content digest")
    }
    return ContentDigest(scheme: RowDigest.scheme, parts: parts)
  }

  func close() async {
    for member in hold?.members ?? [] {
      await member.locks.close()
      await member.reader.close()
    }
    hold = nil
    await control?.close()
    control = nil
  }
}
