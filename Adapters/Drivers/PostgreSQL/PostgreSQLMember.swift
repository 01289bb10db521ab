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

  package init(name: MemberName, peers: [Peer]) { (self.name, self.peers) = (name, peers) }
}

/// One of several PostgreSQL servers that replicate by streaming; its agent runs beside it, as root or the server's user.
///
/// Detaching is `primary_conninfo` made empty by ALTER SYSTEM, which is flushed, and no WAL receiver left. Acknowledging
/// waits by `synchronous_standby_names`, in which standbys have their members' names.
/// Source: PostgreSQL 15, sections 20.6 "Replication", 27.2 "Log-Shipping Standby Servers" and 9.27.
package actor PostgreSQLMember: ReplicatedEngine {
  private let settings: PostgreSQLMemberSettings
  private let environment: DriverEnvironment
  private let driver: PostgreSQLDriver
  private var asking: Connection?
  private var beating: Connection?
  private var lastBeat: Int64?
  private var role: EngineFacts.Role?
  private var roleSince: Int64 = 0

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

  private var now: Int64 { environment.time.monotonicNanoseconds() / 1_000_000 }

  private var isRunning: Bool {
    get async { await environment.pool.run { [driver] in isLive(driver.dataDirectory) } }
  }

  // MARK: Asking

  package func facts() async throws(DriverError) -> EngineFacts {
    guard await isRunning else {
      await drop()
      return became(.stopped, EngineFacts(role: .stopped))
    }
    let rows = try await ask(Self.question)
    guard let row = rows.first, row.count == 8 else { throw .queryFailed("the server doesn't say what it is") }
    let isStandby = row[0] == "t"
    var facts = EngineFacts(role: isStandby ? .standby : .primary)
    if let lineage = row[1].flatMap({ Int64($0, radix: 16) }), let offset = row[2].flatMap({ Int64($0) }) {
      facts.position = EnginePosition(lineage: lineage, offset: offset)
    }
    let fresh = settings.freshness.wholeNanoseconds / 1_000_000
    if isStandby {
      facts.following = member(in: row[3] ?? "")
      facts.heardMilliseconds = row[4].flatMap { Double($0) }.map { Int64(max(0, $0)) }
      facts.isStreaming = row[5] == "streaming" && (facts.heardMilliseconds ?? .max) < fresh
    } else {
      facts.attached = (row[6] ?? "").split(separator: ",").compactMap { MemberName($0) }.filter { name in
        settings.peers.contains { $0.name == name }
      }
      facts.acknowledges = lastBeat.map { now - $0 < fresh } ?? false
      facts.isHeld = !(row[7] ?? "").isEmpty && settings.isBounded
    }
    return became(facts.role, facts)
  }

  /// One row: whether it is a standby, the newest timeline there is WAL of, the flushed position, whom it follows, when it
  /// heard from there, how the receiver is, who confirmed something in the last second, and whom commits wait for.
  private static let question = """
    SELECT pg_is_in_recovery()::text::char(1),
      (SELECT max(substr(name, 1, 8)) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'),
      ((CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
        ELSE pg_current_wal_flush_lsn() END) - '0/0'::pg_lsn)::bigint,
      current_setting('primary_conninfo'),
      (SELECT round(extract(epoch FROM clock_timestamp() - last_msg_receipt_time) * 1000) FROM pg_stat_wal_receiver),
      (SELECT status FROM pg_stat_wal_receiver),
      (SELECT string_agg(application_name, ',') FROM pg_stat_replication
        WHERE state = 'streaming' AND reply_time > clock_timestamp() - interval '1 second'),
      current_setting('synchronous_standby_names')
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
    (address.host, address.port, address.connectSeconds) = (peer.host, peer.port, 2)
    let (looked, driver) = (address, driver)
    do {
      return try await environment.time.withTimeLimit(.seconds(1)) {
        var secret: Secret?
        if let password = driver.password { secret = try await driver.environment.resolve(password) }
        let connection = try await Connection.open(looked, password: secret, pool: driver.environment.pool)
        let answer = try? await connection.value("SELECT pg_is_in_recovery()")
        await connection.close()
        return answer == "f" ? .serves : answer == nil ? .silent : .answers
      }
    } catch {
      guard case DriverError.unreachable(let text)? = error as? DriverError else { return .silent }
      if text.contains("Connection refused") { return .refused }
      return text.contains("starting up") || text.contains("shutting down") ? .answers : .silent
    }
  }

  package func beat() async throws(DriverError) {
    if beating == nil { beating = try await connect() }
    guard let connection = beating else { return }
    do throws(StatementFailure) {
      // A transaction of its own: what waits for standbys as any commit does.
      _ = try await connection.run("SELECT pg_logical_emit_message(true, 'salvor', 'beat')")
      lastBeat = now
    } catch {
      beating = nil
      await connection.close()
      throw error.driverError("committing a sign of life")
    }
  }

  private func ask(_ statement: String) async throws(DriverError) -> [[String?]] {
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
    try await set("synchronous_standby_names", acknowledging)
    if try await facts().role == .primary { return }
    _ = try await ask("SELECT pg_promote(true, 60)")
    guard try await facts().role == .primary else { throw .engineFailed("the server didn't become a primary", log: "") }
    try await set("primary_conninfo", "")
  }

  private var acknowledging: String {
    if settings.isBounded { return "" }
    let others = settings.peers.filter { $0.name != settings.name }.map { "\"\($0.name)\"" }
    return "ANY \(settings.acknowledgements) (\(others.joined(separator: ", ")))"
  }

  package func follow(_ primary: MemberName) async throws(DriverError) {
    if !(await isRunning) { return try await rejoin(primary) }
    guard try await facts().role == .standby else {
      throw .unsupported("\(settings.name) is a primary; it must be stopped and rejoined")
    }
    try await set("primary_conninfo", try connectionInfo(primary))
  }

  package func stop(inOrder: Bool) async throws(DriverError) {
    await drop()
    guard await isRunning else { return }
    try await driver.stopServer(driver.dataDirectory, mode: inOrder ? "fast" : "immediate")
  }

  package func start(detached: Bool) async throws(DriverError) {
    if await isRunning { return }
    if detached { try await prepareStandby(following: nil) }
    try await driver.start()
  }

  package func rejoin(_ primary: MemberName) async throws(DriverError) {
    try await stop(inOrder: false)
    let directory = driver.dataDirectory
    let wasStandby = await environment.pool.run { Files.exists(directory + "/standby.signal") }
    if !wasStandby {
      // Evidence first: what only this member has is about to be undone.
      let kept = "\(directory).kept-\("\(environment.time.now())".filter(\.isNumber))"
      try await ServerCommand(executable: "cp", arguments: ["-a", "--reflink=auto", directory, kept], user: nil).run()
      guard let peer = settings.peers.first(where: { $0.name == primary }) else { throw .unreachable("\(primary)") }
      var source = "host=\(peer.host) port=\(peer.port) user=\(settings.user) dbname=\(settings.database)"
      if let file = settings.passwordFile { source += " passfile=\(file)" }
      let rewind = try await driver.program("pg_rewind", major: await driver.majorOnDisk(directory))
      try await ServerCommand(
        executable: rewind, arguments: ["--target-pgdata", directory, "--source-server", source],
        user: try driver.serverUser(directory)
      ).run()
    }
    try await prepareStandby(following: primary)
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
  private func set(_ name: String, _ value: String) async throws(DriverError) {
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

  private func connectionInfo(_ primary: MemberName) throws(DriverError) -> String {
    guard let peer = settings.peers.first(where: { $0.name == primary }) else { throw .unreachable("\(primary)") }
    var text = "host=\(peer.host) port=\(peer.port) user=\(settings.user) application_name=\(settings.name)"
    // A stream that stands still is noticed and begun anew.
    text += " connect_timeout=2 keepalives_idle=2 keepalives_interval=1 keepalives_count=3"
    if let file = settings.passwordFile { text += " passfile=\(file)" }
    return text
  }

  /// For a server that doesn't run: a standby from its next start on.
  private func prepareStandby(following primary: MemberName?) async throws(DriverError) {
    let value = try primary.map { (name) throws(DriverError) in try connectionInfo(name) } ?? ""
    let directory = driver.dataDirectory
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

  private func pause(_ duration: Duration) async throws(DriverError) {
    do { try await environment.time.sleep(for: duration) } catch { throw .cancelled }
  }
}
