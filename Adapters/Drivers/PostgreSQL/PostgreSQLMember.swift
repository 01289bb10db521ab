import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// What an agent must know of PostgreSQL servers that replicate to each other.
package struct PostgreSQLMemberSettings: Sendable {
  package struct Peer: Sendable {
    package var name: MemberName
    package var host: String
    package var port: UInt16

    package init(name: MemberName, host: String, port: UInt16) {
      (self.name, self.host, self.port) = (name, host, port)
    }
  }

  package var name: MemberName
  /// Every member, this one too.
  package var peers: [Peer]
  /// Of this member; `nil` of a witness.
  package var dataDirectory: String?
  package var user = "postgres"
  package var database = "postgres"
  package var password: SecretReference?
  /// A file the server's own user can read, in the form of `.pgpass`: what standbys authenticate with.
  package var passwordFile: String?
  package var binDirectory: String?
  package var acknowledgements = 1
  package var isBounded = false
  /// How old a sign of life may be.
  package var freshness: Duration = .seconds(1)
  package var keptCopies = 3

  package init(name: MemberName, peers: [Peer]) { (self.name, self.peers) = (name, peers) }
}

/// One of several PostgreSQL servers that replicate by streaming; its agent runs beside it, as root or the server's user.
///
/// Detaching is `primary_conninfo` made empty by ALTER SYSTEM, which is flushed, and no WAL receiver left. Acknowledging
/// waits by `synchronous_standby_names`, in which standbys have their members' names.
/// Source: PostgreSQL 15, sections 20.6 "Replication", 27.2 "Log-Shipping Standby Servers" and 9.27.
package actor PostgreSQLMember: ReplicatedEngine {
  let settings: PostgreSQLMemberSettings
  let environment: DriverEnvironment
  let driver: PostgreSQLDriver
  private var asking: Connection?
  private var beating: Connection?
  private var lastBeat: Int64?
  /// When the last one began that was acknowledged.
  private var lastBeatBegan: Int64?
  /// When whose word counts was last changed by this process, all of it; `nil` if that isn't known to be done.
  private var votersSince: Int64?
  private var role: EngineFacts.Role?
  private var roleSince: Int64 = 0
  private var watch = PeerWatch()

  package init(_ settings: PostgreSQLMemberSettings, in environment: DriverEnvironment) {
    (self.settings, self.environment) = (settings, environment)
    let own = settings.peers.first { $0.name == settings.name }
    var address = ServerAddress(
      host: own?.host ?? "127.0.0.1", port: own?.port ?? 5432, user: settings.user, database: settings.database)
    address.applicationName = "salvor-agent"
    address.connectSeconds = 2
    driver = PostgreSQLDriver(
      store: StoreName(unchecked: settings.name.text), address: address, password: settings.password,
      dataDirectory: settings.dataDirectory ?? "/nonexistent", binDirectory: settings.binDirectory,
      startTimeout: .seconds(600), environment: environment)
  }

  var now: Int64 { environment.time.monotonicNanoseconds() / 1_000_000 }

  var isRunning: Bool {
    get async { await environment.pool.run { [driver] in isLive(driver.dataDirectory) } }
  }

  // MARK: Asking

  package func facts() async throws(DriverError) -> EngineFacts {
    guard await isRunning else {
      await drop()
      return became(.stopped, EngineFacts(role: .stopped))
    }
    let rows = try await ask(Self.question)
    guard let row = rows.first, row.count == 9 else { throw .queryFailed("the server doesn't say what it is") }
    let isStandby = row[0] == "t"
    var facts = EngineFacts(role: isStandby ? .standby : .primary)
    if let lineage = row[1].flatMap({ Int64($0, radix: 16) }), let offset = row[2].flatMap({ Int64($0) }) {
      facts.position = EnginePosition(lineage: lineage, offset: offset)
    }
    let fresh = settings.freshness.wholeNanoseconds / 1_000_000
    if isStandby {
      facts.following = member(in: row[3] ?? "")
      facts.heardMilliseconds = watch.heard(row[8], age: row[4].flatMap { Double($0) }.map { Int64($0) }, at: now)
      facts.isStreaming = row[5] == "streaming" && (facts.heardMilliseconds ?? .max) < fresh
    } else {
      watch.listed(
        row[6] ?? "", position: facts.position?.offset ?? 0, needed: max(1, settings.acknowledgements), at: now)
      facts.attached = watch.attached(at: now, fresh: max(fresh, 1000)).filter { name in
        settings.peers.contains { $0.name == name }
      }
      if settings.isBounded { (facts.lagMilliseconds, facts.lagBytes) = watch.lag(at: now) }
      facts.acknowledges = lastBeat.map { now - $0 < fresh } ?? false
      facts.isHeld = !(row[7] ?? "").isEmpty && settings.isBounded
      if !settings.isBounded {
        facts.voters = voters(in: row[7] ?? "")
        facts.votersHoldAll = votersSince.map { (lastBeatBegan ?? .min) > $0 } ?? false
        // A change that may have been left half done is made again.
        if votersSince == nil, let voters = facts.voters, voters.count < settings.peers.count - 1 { facts.voters = [] }
      }
    }
    return became(facts.role, facts)
  }

  /// One row: whether it is a standby, the newest timeline there is WAL of, the flushed position, whom it follows, how long
  /// ago it heard from there, how the receiver is, who streams with when it last said what, whom commits wait for, and when
  /// it heard from whom it follows. A standby's words carry the time of its own clock, which says nothing here.
  private static let question = """
    SELECT pg_is_in_recovery()::text::char(1),
      (SELECT max(substr(name, 1, 8)) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'),
      ((CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
        ELSE pg_current_wal_flush_lsn() END) - '0/0'::pg_lsn)::bigint,
      current_setting('primary_conninfo'),
      (SELECT round(extract(epoch FROM clock_timestamp() - last_msg_receipt_time) * 1000) FROM pg_stat_wal_receiver),
      (SELECT status FROM pg_stat_wal_receiver),
      (SELECT string_agg(application_name || '=' || extract(epoch FROM reply_time) || '='
          || (flush_lsn - '0/0'::pg_lsn)::bigint, ',')
        FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn IS NOT NULL),
      current_setting('synchronous_standby_names'),
      (SELECT extract(epoch FROM last_msg_receipt_time)::text FROM pg_stat_wal_receiver)
    """

  private func became(_ role: EngineFacts.Role, _ facts: EngineFacts) -> EngineFacts {
    if self.role != role { (self.role, roleSince) = (role, now) }
    var facts = facts
    facts.forMilliseconds = now - roleSince
    return facts
  }

  private func member(in connection: String) -> MemberName? {
    var values: [String: String] = [:]
    for word in connection.split(separator: " ") {
      let parts = word.split(separator: "=", maxSplits: 1)
      if parts.count == 2 { values[String(parts[0])] = parts[1].filter { $0 != "'" } }
    }
    return settings.peers.first { $0.host == values["host"] && String($0.port) == values["port"] }?.name
  }

  package func sight(of member: MemberName) async -> Sight {
    guard let peer = settings.peers.first(where: { $0.name == member }) else { return .silent }
    var address = driver.address
    (address.host, address.port) = (peer.host, peer.port)
    var secret: Secret?
    if let password = driver.password {
      guard let resolved = try? await environment.resolve(password) else { return .silent }
      secret = resolved
    }
    let (looked, shown, time) = (address, secret, environment.time)
    return await environment.pool.run { looked.look(password: shown, within: .seconds(1), time: time) }
  }

  package func beat() async throws(DriverError) {
    if beating == nil { beating = try await connect() }
    guard let connection = beating else { return }
    let began = now
    do throws(StatementFailure) {
      // A transaction of its own: what waits for standbys as any commit does.
      _ = try await connection.run("SELECT pg_logical_emit_message(true, 'salvor', 'beat')")
      (lastBeat, lastBeatBegan) = (now, began)
    } catch {
      beating = nil
      await connection.close()
      throw error.driverError("committing a sign of life")
    }
  }

  func ask(_ statement: String) async throws(DriverError) -> [[String?]] {
    if asking == nil { asking = try await connect() }
    guard let connection = asking else { return [] }
    do throws(StatementFailure) {
      return try await connection.run(statement).rows
    } catch {
      if asking === connection { asking = nil }
      await connection.close()
      throw error.driverError("asking the server of \(settings.name)")
    }
  }

  private func connect() async throws(DriverError) -> Connection {
    var secret: Secret?
    if let password = driver.password {
      do throws(AnyFailure) { secret = try await environment.resolve(password) } catch { throw DriverError(error) }
    }
    return try await Connection.open(driver.address, password: secret, pool: environment.pool)
  }

  private func drop() async {
    await asking?.close()
    await beating?.close()
    (asking, beating) = (nil, nil)
  }

  // MARK: Changing

  package func detach() async throws(DriverError) {
    guard await isRunning else {
      try await prepareStandby(following: nil)
      return
    }
    guard try await facts().role == .standby else { return }
    try await set("primary_conninfo", "")
    // A receiver that was just about to be started with the old setting is gone by the second look.
    var looks = 0
    let deadline = now + 10_000
    while looks < 3 {
      let isGone = try await ask("SELECT pid FROM pg_stat_wal_receiver").isEmpty
      looks = isGone ? looks + 1 : 0
      guard now < deadline else { throw .engineFailed("the WAL receiver doesn't end", log: "") }
      try await pause(.milliseconds(15))
    }
  }

  package func promote() async throws(DriverError) {
    if !(await isRunning) { try await start(detached: false) }
    let found = try await facts()
    // Fewer than all may be recorded; whoever decides that also makes them more again.
    let isChosen = found.role == .primary && found.voters.map { $0.count >= settings.acknowledgements } ?? false
    // A bounded primary may be held back, and only who knows how far its standbys are lets it go.
    let isHeld = found.role == .primary && settings.isBounded
    if !isChosen, !isHeld { try await set("synchronous_standby_names", acknowledging) }
    if found.role == .primary { return }
    _ = try await ask("SELECT pg_promote(true, 60)")
    guard try await facts().role == .primary else { throw .engineFailed("the server didn't become a primary", log: "") }
    try await set("primary_conninfo", "")
  }

  private var acknowledging: String {
    settings.isBounded ? "" : waiting(for: settings.peers.map(\.name).filter { $0 != settings.name })
  }

  private func waiting(for voters: [MemberName]) -> String {
    "ANY \(settings.acknowledgements) (\(voters.map { "\"\($0)\"" }.joined(separator: ", ")))"
  }

  /// Whom ``waiting(for:)`` names; `nil` if somebody else has written something else.
  private func voters(in text: String) -> [MemberName]? {
    let prefix = "ANY \(settings.acknowledgements) ("
    guard text.hasPrefix(prefix), text.hasSuffix(")") else { return nil }
    var names: [MemberName] = []
    for word in text.dropFirst(prefix.count).dropLast().split(separator: ",") {
      let name = MemberName(word.filter { $0 != "\"" && $0 != " " })
      guard let name, settings.peers.contains(where: { $0.name == name }) else { return nil }
      names.append(name)
    }
    return names
  }

  /// A sender that was there before may still hold the old setting: one whose word no longer counts is ended, and its
  /// successor reads the new one before anything else. Source: PostgreSQL 15, `walsender.c`, `syncrep.c`.
  package func acknowledge(by voters: [MemberName]) async throws(DriverError) {
    guard try await facts().role == .primary, !settings.isBounded else {
      throw .unsupported("\(settings.name) isn't a primary that waits for standbys")
    }
    votersSince = nil
    try await set("synchronous_standby_names", waiting(for: voters))
    let silenced = settings.peers.map(\.name).filter { $0 != settings.name && !voters.contains($0) }
    let names = silenced.map { "'\($0)'" }.joined(separator: ", ")
    if !silenced.isEmpty {
      let ended = try await ask(
        "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name IN (\(names))"
      ).compactMap(\.first).compactMap(\.self)
      let deadline = now + 5000
      while !ended.isEmpty {
        let left = try await ask(
          "SELECT pid FROM pg_stat_replication WHERE pid IN (\(ended.joined(separator: ", ")))")
        if left.isEmpty { break }
        guard now < deadline else { throw .engineFailed("a sender doesn't end", log: "") }
        try await pause(.milliseconds(15))
      }
    }
    votersSince = now
  }

  package func follow(_ primary: MemberName) async throws(DriverError) {
    if !(await isRunning) { return try await rejoin(primary) }
    guard try await facts().role == .standby else {
      throw .unsupported("\(settings.name) is a primary; it must be stopped and rejoined")
    }
    try await set("primary_conninfo", try connectionInfo(primary))
  }

  package func stop(inOrder: Bool) async throws(DriverError) {
    if inOrder {
      if await isRunning { try await driver.stopServer(driver.dataDirectory, mode: "fast") }
    } else {
      try await end()
    }
    // Not before: a sign of life may be waiting for standbys that will never confirm it.
    await drop()
  }

  /// At once, whatever state it is in: one that stands still would hear anything milder only when it goes on, and
  /// acknowledge something first. What it has is on its disk, as after any crash.
  private func end() async throws(DriverError) {
    let directory = driver.dataDirectory
    await environment.pool.run { endServer(directory) }
    let deadline = now + 10_000
    while await isRunning {
      guard now < deadline else { throw .serverRunning("the server on \(directory), although it was killed,") }
      try await pause(.milliseconds(10))
    }
  }

  package func start(detached: Bool) async throws(DriverError) {
    if await isRunning { return }
    if detached { try await prepareStandby(following: nil) }
    try await driver.start()
  }

  package func hold(_ holds: Bool) async throws(DriverError) {
    let others = settings.peers.filter { $0.name != settings.name }.map { "\"\($0.name)\"" }
    try await set(
      "synchronous_standby_names",
      holds ? "ANY \(max(1, settings.acknowledgements)) (\(others.joined(separator: ", ")))" : "")
  }

  // MARK: Settings

  /// Flushed by the server before it says so, and read again by all its processes.
  func set(_ name: String, _ value: String) async throws(DriverError) {
    let literal = value.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "''")
    if try await ask("SELECT current_setting('\(name)')").first?.first == value { return }
    _ = try await ask("ALTER SYSTEM SET \(name) = '\(literal)'")
    _ = try await ask("SELECT pg_reload_conf()")
    let deadline = now + 5000
    while try await ask("SELECT current_setting('\(name)')").first?.first != value {
      guard now < deadline else { throw .engineFailed("\(name) doesn't take effect", log: "") }
      try await pause(.milliseconds(5))
    }
  }

  func connectionInfo(_ primary: MemberName) throws(DriverError) -> String {
    guard let peer = settings.peers.first(where: { $0.name == primary }) else { throw .unreachable("\(primary)") }
    var text = "host=\(peer.host) port=\(peer.port) user=\(settings.user) application_name=\(settings.name)"
    // A stream that stands still is noticed and begun anew.
    text += " connect_timeout=2 keepalives_idle=2 keepalives_interval=1 keepalives_count=3"
    if let file = settings.passwordFile { text += " passfile=\(file)" }
    return text
  }

  /// For a server that doesn't run: a standby from its next start on.
  func prepareStandby(following primary: MemberName?, in place: String? = nil) async throws(DriverError) {
    let value = try primary.map { (name) throws(DriverError) in try connectionInfo(name) } ?? ""
    let directory = place ?? driver.dataDirectory
    let owner = try driver.serverUser(directory)
    do throws(SystemFailure) {
      try await environment.pool.run { () throws(SystemFailure) in
        let path = directory + "/postgresql.auto.conf"
        let old = String(decoding: try Files.read(path, limitBytes: 1 << 20), as: UTF8.self)
        let kept = old.split(separator: "\n").filter { !$0.hasPrefix("primary_conninfo") }
        try Files.replace(
          path, with: Array((kept + ["primary_conninfo = '\(value)'", ""]).joined(separator: "\n").utf8))
        try Files.replace(directory + "/standby.signal", with: [])
        if let owner {
          for file in [path, directory + "/standby.signal"] { chown(file, owner.userID, owner.groupID) }
        }
      }
    } catch { throw DriverError(error) }
  }

  func pause(_ duration: Duration) async throws(DriverError) {
    do { try await environment.time.sleep(for: duration) } catch { throw .cancelled }
  }
}
