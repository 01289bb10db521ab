import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Making a follower of whatever a member is; what was begun is written down, so that a crash anywhere is gone on with.
extension PostgreSQLMember {
  /// By pg_rewind where the histories have a common end, and the primary still has the log from there on; else by a base copy
  /// of the primary that takes the place of the data.
  package func rejoin(_ primary: MemberName) async throws(DriverError) {
    try await stop(inOrder: false)
    let directory = driver.dataDirectory
    if try await remembered().copying != nil { return try await copy(primary) }
    let isStandby = await environment.pool.run { Files.exists(directory + "/standby.signal") }
    if isStandby, try await goesOn(after: primary) { return try await remember { $0.hasEvidence = nil } }
    try await keepEvidence()
    do throws(DriverError) {
      try await removeSignal()
      if let end = try await recover(), let past = try await history(of: primary),
        try await !isShared(up: end, past, with: primary)
      {
        return try await copy(primary)
      }
      try await rewind(primary)
    } catch {
      // Who asks nobody learns nothing; that isn't a reason to begin anew.
      if case .unreachable = error { throw error }
      if case .cancelled = error { throw error }
      // It may have changed some files and not others: only a copy helps now.
      return try await copy(primary)
    }
    try await prepareStandby(following: primary)
    try await driver.start()
    try await remember { $0.hasEvidence = nil }
  }

  /// As the standby it is, if that is possible; else it is stopped again.
  private func goesOn(after primary: MemberName) async throws(DriverError) -> Bool {
    try await prepareStandby(following: nil)
    do throws(DriverError) {
      try await driver.start()
    } catch {
      if case .cancelled = error { throw error }
      // One that has heard of its successor's history, and isn't a beginning of it, doesn't start at all.
      try await stop(inOrder: false)
      return false
    }
    if try await canFollow(primary) {
      try await follow(primary)
      return true
    }
    try await stop(inOrder: true)
    return false
  }

  /// What only this member has is about to be undone; once per return.
  private func keepEvidence() async throws(DriverError) {
    if try await remembered().hasEvidence == true { return }
    try await KeptCopies(of: driver.dataDirectory, limit: settings.keptCopies).keep(
      at: environment.time.now(), on: environment.pool)
    try await remember { $0.hasEvidence = true }
  }

  // MARK: The shorter way

  /// Whether what a standby has is a beginning of what the primary has, and the primary still has what comes after it.
  private func canFollow(_ primary: MemberName) async throws(DriverError) -> Bool {
    guard let position = try await facts().position, let past = try await history(of: primary),
      past.includes(position), past.oldest <= position.offset
    else { return false }
    return try await isShared(up: position, past, with: primary)
  }

  private func history(of primary: MemberName) async throws(DriverError) -> TimelineHistory? {
    let rows = try await ask(
      primary,
      """
      SELECT timeline, (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint,
        (SELECT min(substr(name, 9)) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'),
        pg_read_file('pg_wal/' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) || '.history', 0, 1048576, true),
        (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size')
      FROM (SELECT substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) AS timeline) AS now
      """)
    guard let row = rows.first, row.count == 5, let timeline = row[0].flatMap({ Int64($0, radix: 16) }),
      let end = row[1].flatMap({ Int64($0) }), let size = row[4].flatMap({ Int64($0) }), let oldest = row[2],
      let segment = WALSegment(oldest, bytes: size)
    else { return nil }
    var history = TimelineHistory(row[3] ?? "", current: timeline, end: end)
    (history.oldest, history.segmentBytes) = (segment.start, size)
    return history
  }

  /// Two members can begin timelines with the same number, even at the same place: one of them promoted under an epoch
  /// nobody followed. What both have last of it tells; pg_rewind would take them for one.
  private func isShared(
    up position: EnginePosition, _ past: TimelineHistory, with primary: MemberName
  ) async throws(DriverError) -> Bool {
    guard position.lineage > 1, let end = past.ends[position.lineage] else { return true }
    let piece = WALPiece(
      timeline: position.lineage, before: min(position.offset, end), segmentBytes: past.segmentBytes)
    let directory = driver.dataDirectory
    let own = await environment.pool.run { piece.read(in: directory) }
    let theirs =
      try await ask(
        primary,
        "SELECT encode(pg_read_binary_file('pg_wal/\(piece.name)', \(piece.offset), \(piece.count), true), 'hex')"
      ).first?.first ?? nil
    guard let own, let theirs else { return false }
    return own.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() == theirs
  }

  /// As pg_rewind does before it looks: what a crash left is recovered, so that the end is known.
  private func recover() async throws(DriverError) -> EnginePosition? {
    let directory = driver.dataDirectory
    let (major, user) = (await driver.majorOnDisk(directory), try driver.serverUser(directory))
    let control = ServerCommand(
      executable: try await driver.program("pg_controldata", major: major), arguments: ["-D", directory], user: user)
    var found = ControlData(try await control.run())
    if !found.isClean {
      try await ServerCommand(
        executable: try await driver.program("postgres", major: major),
        arguments: ["--single", "-F", "-D", directory, "template0"], user: user
      ).run()
      found = ControlData(try await control.run())
    }
    return found.checkpoint
  }

  /// A standby that went another way is handled as the primary it was.
  private func removeSignal() async throws(DriverError) {
    let path = driver.dataDirectory + "/standby.signal"
    try await system { () throws(SystemFailure) in try Files.removeTree(path) }
  }

  private func rewind(_ primary: MemberName) async throws(DriverError) {
    let directory = driver.dataDirectory
    let program = try await driver.program("pg_rewind", major: await driver.majorOnDisk(directory))
    // It asks the primary's last checkpoint for its timeline, which right after a promotion is the one before.
    _ = try await ask(primary, "CHECKPOINT")
    try await ServerCommand(
      executable: program, arguments: ["--target-pgdata", directory, "--source-server", try source(primary)],
      user: try driver.serverUser(directory)
    ).run()
    // It takes the primary's configuration with it.
    try await ownConfiguration(to: directory)
    // It replays from the last checkpoint both had; pg_rewind doesn't ask whether that part of the log is still there.
    guard let first = await environment.pool.run({ firstSegment(directory) }) else { return }
    let found = try await ask(
      primary, "SELECT count(*) FROM pg_ls_waldir() WHERE substr(name, 9) = '\(first.suffix(16))'")
    guard found.first?.first.flatMap({ $0 }) != "0" else { throw .logGap("\(primary) doesn't have \(first) any more") }
  }

  /// One connection of its own: nobody asks another member often.
  private func ask(_ primary: MemberName, _ statement: String) async throws(DriverError) -> [[String?]] {
    guard let peer = settings.peers.first(where: { $0.name == primary }) else { throw .unreachable("\(primary)") }
    var address = driver.address
    (address.host, address.port) = (peer.host, peer.port)
    var secret: Secret?
    if let password = driver.password {
      do throws(AnyFailure) { secret = try await environment.resolve(password) } catch { throw DriverError(error) }
    }
    let connection = try await Connection.open(address, password: secret, pool: environment.pool)
    let result: Result<[[String?]], DriverError>
    do throws(StatementFailure) { result = .success(try await connection.run(statement).rows) } catch {
      result = .failure(error.driverError("asking \(primary)"))
    }
    await connection.close()
    return try result.get()
  }

  private func source(_ primary: MemberName) throws(DriverError) -> String {
    guard let peer = settings.peers.first(where: { $0.name == primary }) else { throw .unreachable("\(primary)") }
    var source = "host=\(peer.host) port=\(peer.port) user=\(settings.user) dbname=\(settings.database)"
    if let file = settings.passwordFile { source += " passfile=\(file)" }
    return source
  }

  // MARK: The longer way

  /// Each member's own.
  private static let configuration = [
    "postgresql.conf", "pg_hba.conf", "pg_ident.conf", "postgresql.auto.conf",
  ]

  /// A base copy beside, verified, then in the place of what is here. Begun anew after a crash.
  private func copy(_ primary: MemberName) async throws(DriverError) {
    let directory = driver.dataDirectory
    let target = directory + ".salvor-copy"
    try await keepEvidence()
    try await remember { $0.copying = primary }
    let spaces = try await environment.pool.run { () throws(DriverError) in
      do throws(SystemFailure) { return try Files.names(in: directory + "/pg_tblspc").count } catch {
        throw DriverError(error)
      }
    }
    guard spaces == 0 else {
      throw .unsupported("\(directory) has tablespaces: begin anew by hand, with pg_basebackup")
    }
    try await system { () throws(SystemFailure) in
      // What stands there was copied aside, or was never whole.
      try Files.removeTree(target)
      try Files.createDirectory(target, mode: 0o700)
    }
    let owner = try driver.serverUser(directory)
    if let owner { chown(target, owner.userID, owner.groupID) }
    let major = await driver.majorOnDisk(directory)
    try await ServerCommand(
      executable: try await driver.program("pg_basebackup", major: major),
      arguments: ["-D", target, "-d", try source(primary), "-X", "stream", "-c", "fast"], user: owner
    ).run()
    try await ServerCommand(
      executable: try await driver.program("pg_verifybackup", major: major), arguments: [target], user: owner
    ).run()
    try await ownConfiguration(to: target)
    try await prepareStandby(following: primary, in: target)
    try await ServerCommand(executable: "sync", arguments: ["-f", target], user: nil).run()
    try await system { () throws(SystemFailure) in
      try Files.exchange(target, directory)
      try Files.synchronizeDirectory(Files.parent(of: directory))
      try Files.removeTree(target)
    }
    try await driver.start()
    try await remember { ($0.copying, $0.hasEvidence) = (nil, nil) }
  }

  /// From the evidence: what stands in the data directory may be half another's.
  private func ownConfiguration(to target: String) async throws(DriverError) {
    let kept = KeptCopies(of: driver.dataDirectory, limit: settings.keptCopies)
    let owner = try driver.serverUser(driver.dataDirectory)
    try await system { () throws(SystemFailure) in
      guard let evidence = try kept.all().last else { throw SystemFailure("open", path: target, number: ENOENT) }
      for name in Self.configuration {
        // The primary's own, where this member has none, is nobody's here.
        guard Files.exists("\(evidence)/\(name)") else {
          unlink("\(target)/\(name)")
          continue
        }
        try Files.replace("\(target)/\(name)", with: try Files.read("\(evidence)/\(name)", limitBytes: 64 << 20))
        if let owner { chown("\(target)/\(name)", owner.userID, owner.groupID) }
      }
    }
  }

  private func system(_ body: @escaping @Sendable () throws(SystemFailure) -> Void) async throws(DriverError) {
    do throws(SystemFailure) { try await environment.pool.run(body) } catch { throw DriverError(error) }
  }

  private func remembered() async throws(DriverError) -> MemberMemory {
    let directory = driver.dataDirectory
    return try await environment.pool.run { () throws(DriverError) in try MemberMemory.read(directory) }
  }

  private func remember(_ change: (inout MemberMemory) -> Void) async throws(DriverError) {
    let before = try await remembered()
    var changed = before
    change(&changed)
    if changed == before { return }
    let (directory, written) = (driver.dataDirectory, changed)
    try await environment.pool.run { () throws(DriverError) in try written.write(directory) }
  }
}

/// Where a server begins to replay, by the label that pg_rewind and copies leave. Blocks.
private func firstSegment(_ directory: String) -> String? {
  guard let bytes = try? Files.read(directory + "/backup_label", limitBytes: 1 << 16) else { return nil }
  return String(decoding: bytes, as: UTF8.self).firstMatch(of: /START WAL LOCATION: .*\(file ([0-9A-F]{24})\)/)
    .map { String($0.1) }
}

/// Of which timelines a server's log is made, each up to where the next begins.
///
/// Source: PostgreSQL 15, src/backend/access/transam/timeline.c.
struct TimelineHistory: Equatable {
  private(set) var ends: [Int64: Int64] = [:]
  /// Where the log begins that the server still has.
  var oldest: Int64 = 0
  var segmentBytes: Int64 = 16 << 20

  /// - Parameters:
  ///   - text: A history file's: `1	0/3000060	reason` per line; empty of the first timeline.
  ///   - end: How far the current timeline reaches.
  init(_ text: String, current: Int64, end: Int64) {
    for line in text.split(whereSeparator: \.isNewline) {
      let fields = line.split(whereSeparator: { $0 == "\t" || $0 == " " })
      guard fields.count >= 2, let timeline = Int64(fields[0]) else { continue }
      let halves = fields[1].split(separator: "/")
      guard halves.count == 2, let high = Int64(halves[0], radix: 16), let low = Int64(halves[1], radix: 16),
        (0...0xffff_ffff).contains(high), (0...0xffff_ffff).contains(low), high < 1 << 31
      else { continue }
      ends[timeline] = high << 32 | low
    }
    ends[current] = end
  }

  /// Whether a log that ends at `position` is a beginning of this one.
  func includes(_ position: EnginePosition) -> Bool { ends[position.lineage].map { position.offset <= $0 } ?? false }
}

/// A segment of the log, by its name without the timeline.
struct WALSegment: Equatable {
  var start: Int64

  init?(_ name: String, bytes: Int64) {
    guard name.count == 16, let high = Int64(name.prefix(8), radix: 16), let low = Int64(name.suffix(8), radix: 16),
      high < 1 << 31, bytes > 0, low < (1 << 32) / bytes
    else { return nil }
    start = high << 32 | low * bytes
  }
}

/// The last page or less of a timeline's log before a place, within one segment.
struct WALPiece: Equatable {
  var name: String
  var offset: Int64
  var count: Int64

  init(timeline: Int64, before end: Int64, segmentBytes size: Int64) {
    let last = max(0, end - 1)
    let start = last / size * size
    count = min(8192, end - start)
    offset = end - start - count
    func hex(_ number: Int64) -> String {
      let digits = String(number, radix: 16, uppercase: true)
      return String(repeating: "0", count: max(0, 8 - digits.count)) + digits
    }
    name = hex(timeline) + hex(start >> 32) + hex((start & 0xffff_ffff) / size)
  }

  /// Blocks.
  func read(in directory: String) -> [UInt8]? {
    guard count > 0, let file = try? File("\(directory)/pg_wal/\(name)", O_RDONLY),
      let bytes = try? file.read(at: offset, count: Int(count)), bytes.count == Int(count)
    else { return nil }
    return bytes
  }
}

/// What pg_controldata prints.
struct ControlData {
  var isClean: Bool
  var checkpoint: EnginePosition?

  init(_ text: String) {
    var values: [Substring: String] = [:]
    for line in text.split(whereSeparator: \.isNewline) {
      guard let colon = line.firstIndex(of: ":") else { continue }
      values[line[..<colon]] = String(line[line.index(after: colon)...].drop { $0 == " " })
    }
    isClean = values["Database cluster state"].map { $0 == "shut down" || $0 == "shut down in recovery" } ?? false
    let halves = (values["Latest checkpoint location"] ?? "").split(separator: "/")
    guard halves.count == 2, let high = Int64(halves[0], radix: 16), let low = Int64(halves[1], radix: 16),
      high < 1 << 31, let timeline = values["Latest checkpoint's TimeLineID"].flatMap({ Int64($0) })
    else { return }
    checkpoint = EnginePosition(lineage: timeline, offset: high << 32 | low)
  }
}
