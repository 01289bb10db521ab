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

  /// Runs the backup and keeps the replication slot, where the files are. The backup ends with it.
  private var control: Connection?
  /// Names positions, where the writers are; the same unless the files are a standby's.
  private var primary: Connection?
  private var cluster: ClusterFacts?
  private var hold: TableHold?
  private var tablespaces: [DataDirectory.Tablespace] = []
  private var ownFile: FileMetadata?
  private var start: LogSequenceNumber?
  private var stop: LogSequenceNumber?
  private var marked: (position: LogSequenceNumber, timeline: UInt32)?
  private var notes: [String] = []
  private var partBytes = RestoreFacts.formerPartBytes
  /// Whether what was taken over is the same server's, as far as that can be said.
  private var isOfOneServer = true
  /// From where on the log told what to read, and how much of it there was.
  private var reading: (since: LogSequenceNumber, logBytes: Int64)?

  init(_ driver: PostgreSQLDriver, _ context: CaptureContext) {
    (self.driver, self.context) = (driver, context)
    counter = ByteCounter(context.progress)
  }

  // MARK: Before the hold

  func prepare() async throws(DriverError) {
    let primary = try await driver.connect()
    self.primary = primary
    let leading = try await ClusterFacts.read(primary)
    try leading.requireCapturable()
    let (control, cluster): (Connection, ClusterFacts)
    if let standby = driver.standby {
      (control, cluster) = try await driver.source(of: leading)
      self.control = control
      isOfOneServer = false
      notes.append(
        "copied from the standby at \(standby.host):\(standby.port), whose configuration and places of tablespaces are in the copy"
      )
      try await requireTimeline(of: control, as: primary, standby)
    } else {
      (control, cluster) = (primary, leading)
      self.control = control
    }
    self.cluster = cluster
    try await driver.requireOwnDirectory(cluster, over: control)
    notes += leading.notes
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
    partBytes = ClusterCopy.partBytes(forClusterOf: cluster.sizeBytes)
    var copy = self.copy(verifyingSince: cluster.hasChecksums ? start : nil)
    copy.kept = try await whatIsKept(of: files, cluster, control, start)
    copy.partBytes = partBytes
    try await copy.copy(files)
    // Last, as it names the newest checkpoint; recovery starts from the label's in any case.
    let controlFile = driver.dataDirectory + "/global/pg_control"
    guard let metadata = readMetadata(controlFile) else { throw .corrupt("\(controlFile) is missing") }
    ownFile = metadata
    try await copy.copy(
      ClusterFile(path: controlFile, target: "data/global/pg_control", kind: .ordinary, metadata: metadata))
    try await copyOutsideConfiguration(copy)
    try await endBackup(copy, like: metadata)
    hold = try await driver.tableHold(primary, leading)
  }

  /// The log before a standby's last restartpoint must have the names that it has at the mark.
  private func requireTimeline(
    of control: Connection, as primary: Connection, _ standby: ServerAddress
  ) async throws(DriverError) {
    do throws(StatementFailure) {
      let timeline = try await control.value("SELECT timeline_id FROM pg_control_checkpoint()").flatMap { UInt32($0) }
      let now = try await Standing.read(primary).timeline
      guard timeline == now else {
        throw StatementFailure(
          code: "55000",
          message:
            "the standby at \(standby) made its last restartpoint on another timeline than \(now): wait for the next")
      }
    } catch { throw error.driverError("asking for the timeline") }
  }

  /// What of the files need not be read, for an earlier copy has it and the log says so.
  private func whatIsKept(
    of files: [ClusterFile], _ cluster: ClusterFacts, _ control: Connection, _ start: LogSequenceNumber
  ) async throws(DriverError) -> [TreePath: Increment.Parts] {
    do throws(DriverError) {
      let earlier: EarlierCapture?
      do throws(AnyFailure) { earlier = try await context.earlier() } catch {
        throw error.isCancellation ? .cancelled : .sink(error)
      }
      guard let earlier else { return [:] }
      let facts = try RestoreFacts(earlier.result.facts)
      // Parts of another length would all be new to the repository.
      partBytes = facts.partBytes
      let timeline: UInt32
      do throws(StatementFailure) {
        let text = try await control.value("SELECT timeline_id::text FROM pg_control_checkpoint()")
        guard let number = text.flatMap({ UInt32($0) }) else {
          throw StatementFailure(code: "XX000", message: "the server does not say which timeline it is on")
        }
        timeline = number
      } catch { throw error.driverError("asking for the timeline") }
      let increment = try await driver.increment(
        since: earlier, facts, cluster, start: start, timeline: timeline, scratch: context.scratch)
      var kept: [TreePath: Increment.Parts] = [:]
      for file in files {
        if let parts = try await increment.parts(of: file) { kept[file.target] = parts }
      }
      try await increment.examine(files, kept, driver.environment)
      counter.read(increment.logBytes)
      reading = (increment.since, increment.logBytes)
      isOfOneServer = increment.comparesBytes || !cluster.hasChecksums && isOfOneServer
      return kept
    } catch {
      if case .cancelled = error { throw error }
      notes.append("read in full: \(error.report.summary)")
      return [:]
    }
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
    if let reading {
      notes.append(
        "read \(counter.readBytes) of \(counter.value) bytes: what \(reading.logBytes) bytes of log since \(reading.since) changed"
      )
    }
    try copy.unjudged.check(against: stop)
    if copy.unjudged.count > 0 {
      notes.append("\(copy.unjudged.count) pages were caught while they were written; the log brings them whole")
    }
    try await copy.add("data/backup_label", like: metadata, bytes: Array(label.utf8))
    if let map = row[2], !map.isEmpty {
      try await copy.add("data/tablespace_map", like: metadata, bytes: Array(map.utf8))
    }
  }

  // MARK: The hold

  /// Whether the locks are held, as far as we did not let go of them.
  private var isHeld = false
  /// Databases that the hold does not cover, since they were made after it had been taken.
  private var uncovered: [String] = []
  private var readers: [DigestReader] = []

  func hold(limit: Duration) async throws(DriverError) {
    guard var hold else { throw .holdImpossible("the session is not prepared") }
    let result: Result<Void, DriverError>
    do throws(DriverError) { result = .success(try await hold.take(limit: limit)) } catch { result = .failure(error) }
    // With the connections that were opened meanwhile, to be closed whatever happened.
    self.hold = hold
    try result.get()
    isHeld = true
  }

  func mark() async throws(DriverError) -> LogPosition {
    guard let primary, let hold, let cluster else { throw .holdImpossible("the session is not prepared") }
    do throws(StatementFailure) {
      // Only under the locks do what a reader sees and what the log holds up to a position agree.
      if isHeld, context.wantsContentDigest { readers = try await hold.pinSnapshots() }
      let standing = try await Standing.read(primary)
      marked = (standing.position, standing.timeline)
      if isHeld { uncovered = hold.uncovered(of: standing.databases) }
      return standing.logPosition(cluster)
    } catch {
      throw error.driverError("naming the position")
    }
  }

  func release() async -> Bool {
    guard let hold else { return false }
    let wasHeld = await hold.release() && isHeld
    isHeld = false
    if !wasHeld {
      // What the readers see may be later than the mark.
      for reader in readers { await reader.abandon() }
      readers = []
    }
    if !uncovered.isEmpty {
      notes.append("made while writers waited, and not held: database \(uncovered.joined(separator: ", "))")
    }
    return wasHeld && uncovered.isEmpty
  }

  // MARK: After the hold

  func finish() async throws(DriverError) -> CaptureResult {
    guard let control, let primary, hold != nil, let cluster, let start, let stop, let marked, let ownFile else {
      throw .holdImpossible("there is no mark")
    }
    guard marked.position >= stop else {
      throw .logGap("the mark \(marked.position) lies before the backup's end \(stop)")
    }
    // Read at once, beside the log: who wants to alter a table waits for it.
    let readers = readers
    self.readers = []
    let time = driver.environment.time
    let outcome = await withTaskGroup(
      of: (log: Result<String, DriverError>?, read: Result<Digested, StatementFailure>?).self
    ) { group in
      group.addTask {
        do throws(DriverError) {
          return (.success(try await self.copyLog(control, primary, cluster, start, stop, marked, ownFile)), nil)
        } catch {
          return (.failure(error), nil)
        }
      }
      group.addTask {
        do throws(StatementFailure) { return (nil, .success(try await Digested.read(readers, time))) } catch {
          return (nil, .failure(error))
        }
      }
      var outcome: (log: Result<String, DriverError>?, read: Result<Digested, StatementFailure>?) = (nil, nil)
      for await next in group {
        if let log = next.log {
          outcome.log = log
          if case .failure = log { group.cancelAll() }
        }
        if let read = next.read {
          outcome.read = read
          if case .failure = read { group.cancelAll() }
        }
      }
      return outcome
    }
    let digested: Digested
    do throws(StatementFailure) { digested = try outcome.read?.get() ?? Digested() } catch {
      // What failed first made the other end.
      if case .failure(let log) = outcome.log, error.code == StatementFailure.cancelled.code { throw log }
      throw error.driverError("reading the rows for the content digest")
    }
    let logDigest = try outcome.log?.get()
    if !digested.coverage.lacking.isEmpty {
      let names = digested.coverage.lacking.sorted()
      notes.append(
        "no content digest of \(names.count) tables, which others waited for or made: "
          + names.prefix(10).joined(separator: ", ") + (names.count > 10 ? ", …" : ""))
    }
    return CaptureResult(
      version: cluster.version,
      position: Standing(position: marked.position, timeline: marked.timeline).logPosition(cluster),
      contentDigest: digested.parts.isEmpty && (readers.isEmpty || !digested.coverage.lacking.isEmpty)
        ? nil : ContentDigest(scheme: RowDigest.scheme, parts: digested.parts), sizeBytes: counter.value,
      facts: RestoreFacts(
        start: start.description, stop: stop.description, mark: marked.position.description, timeline: marked.timeline,
        systemIdentifier: cluster.systemIdentifier, segmentBytes: cluster.geometry.segmentBytes, major: cluster.major,
        tablespaceVersion: cluster.tablespaceVersion, tablespaces: tablespaces, dataDirectory: driver.dataDirectory,
        hasChecksums: cluster.hasChecksums, preloaded: cluster.settings["shared_preload_libraries"] ?? "",
        partBytes: partBytes, logDigest: logDigest, isOfOneServer: isOfOneServer,
        coverage: readers.isEmpty ? nil : digested.coverage
      ).encoded.merging(["readBytes": String(counter.readBytes)]) { first, _ in first }, notes: notes)
  }

  private func copyLog(
    _ control: Connection, _ primary: Connection, _ cluster: ClusterFacts, _ start: LogSequenceNumber,
    _ stop: LogSequenceNumber, _ marked: (position: LogSequenceNumber, timeline: UInt32), _ ownFile: FileMetadata
  ) async throws(DriverError) -> String {
    do throws(StatementFailure) {
      try await Standing.flush(primary)
      let flushed = try await primary.value("SELECT pg_current_wal_flush_lsn()").flatMap { LogSequenceNumber($0) }
      guard let flushed, flushed >= cluster.geometry.normalised(marked.position) else {
        throw StatementFailure(code: "XX000", message: "the log is not on disk up to the mark \(marked.position)")
      }
    } catch {
      throw error.driverError("flushing the log")
    }
    if let standby = driver.standby {
      try await standby.waitForLog(
        upTo: cluster.geometry.normalised(marked.position), over: control, driver.environment.time)
    }
    let log = LogCopy(
      directory: driver.dataDirectory + "/pg_wal", geometry: cluster.geometry, timeline: marked.timeline,
      systemIdentifier: UInt64(cluster.systemIdentifier) ?? 0, start: start, stop: stop, mark: marked.position,
      pool: driver.environment.pool)
    let digest = try await log.copy(into: copy(verifyingSince: nil), like: ownFile)
    // The log is safe: the server may drop its own again while the rows are read.
    await control.close()
    return digest
  }

  /// What all readers read.
  private struct Digested: Sendable {
    var parts: [String: ContentDigest.Part] = [:]
    var coverage = DigestCoverage()

    static func read(_ readers: [DigestReader], _ time: any Timekeeper) async throws(StatementFailure) -> Digested {
      let results = await withTaskGroup(of: Result<Digested, StatementFailure>.self) { group in
        for reader in readers {
          group.addTask {
            do throws(StatementFailure) {
              let found = try await reader.read(time)
              return .success(
                Digested(
                  parts: found.parts,
                  coverage: DigestCoverage(horizons: [reader.database: reader.horizon], lacking: found.lacking)))
            } catch { return .failure(error) }
          }
        }
        return await group.reduce(into: [Result<Digested, StatementFailure>]()) { $0.append($1) }
      }
      var all = Digested()
      for result in results {
        let one = try result.get()
        all.parts.merge(one.parts) { first, _ in first }
        all.coverage.horizons.merge(one.coverage.horizons) { first, _ in first }
        all.coverage.lacking.formUnion(one.coverage.lacking)
      }
      return all
    }
  }

  func close() async {
    for member in hold?.members ?? [] {
      await member.locks.close()
      await member.reader.close()
    }
    hold = nil
    await control?.close()
    await primary?.close()
    (control, primary) = (nil, nil)
  }
}

extension ServerAddress {
  /// How long a standby may stand still before it is given up.
  private static let patience: Duration = .seconds(300)

  /// Waits until a standby has the log on its disk.
  ///
  /// - Throws: ``DriverError/unreachable(_:)`` if nothing comes for minutes; ``DriverError/unsupported(_:)`` if it is none any
  ///   more.
  fileprivate func waitForLog(
    upTo mark: LogSequenceNumber, over connection: Connection, _ time: any Timekeeper
  ) async throws(DriverError) {
    var last: (position: LogSequenceNumber?, since: Int64) = (nil, time.monotonicNanoseconds())
    while true {
      let row: [String?]
      do throws(StatementFailure) {
        row =
          try await connection.run(
            "SELECT pg_is_in_recovery()::text, greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
          ).rows.first ?? []
      } catch { throw error.driverError("asking the standby how far it is") }
      guard row.count == 2, row[0] == "true" else {
        throw .unsupported("the standby at \(self) was promoted while it was copied: correct 'host' and 'standby'")
      }
      let position = row[1].flatMap { LogSequenceNumber($0) }
      if let position, position >= mark { return }
      let now = time.monotonicNanoseconds()
      if position != last.position { last = (position, now) }
      guard Duration.nanoseconds(now - last.since) < Self.patience else {
        throw .unreachable(
          "the standby at \(self) has the log up to \(position?.description ?? "nowhere") and not to the mark \(mark), and nothing comes: look whether it is connected to its primary"
        )
      }
      do { try await time.sleep(for: .milliseconds(20)) } catch { throw .cancelled }
    }
  }
}
