import Core
import DriverKit
import Glibc
import IO

/// One of several MariaDB servers that replicate by GTID; its agent runs beside it, as root or the server's user.
///
/// A commit is in the binary log before it waits for one standby's acknowledgement, and nobody sees it before that
/// (`AFTER_SYNC`); it never stops waiting. At rest a member is read-only and follows nobody: so it is started, and what it
/// was is in ``MemberMemory``. A standby acknowledges what is in its relay log, and a server that is started anew drops that:
/// such a one doesn't know its position until it has caught up with a primary again.
///
/// The lineage is a row in `salvor.member`, written at each promotion before anybody else can write.
/// Source: MariaDB 10.11, "Semisynchronous Replication", "Global Transaction ID", "init-rpl-role" and sql/slave.cc.
package actor MariaDBMember: ReplicatedEngine {
  let settings: MariaDBMemberSettings
  let environment: DriverEnvironment
  let driver: MariaDBDriver
  private var asking: Connection?
  private var beating: Connection?
  private var process: Int32?
  private var memory: MemberMemory?
  private var lastBeat: Int64?
  private var role: EngineFacts.Role?
  private var roleSince: Int64 = 0
  /// When bytes or a heartbeat were seen to come; of a standby.
  private var heard: (signs: String, at: Int64)?
  /// What a standby must have before it has all it ever confirmed, and in which process.
  private var wanted: (sequence: Int64, process: String)?

  package init(_ settings: MariaDBMemberSettings, in environment: DriverEnvironment) {
    (self.settings, self.environment) = (settings, environment)
    let own = settings.peers.first { $0.name == settings.name }
    driver = MariaDBDriver(
      store: StoreName(unchecked: settings.name.text),
      address: ServerAddress(
        host: own?.host ?? "127.0.0.1", port: own?.port ?? 3306, socket: settings.socket, user: settings.user,
        connectSeconds: 2), password: settings.password, dataDirectory: settings.dataDirectory ?? "/nonexistent",
      binDirectory: settings.binDirectory, configFile: settings.configFile, startTimeout: .seconds(3600),
      environment: environment)
  }

  var now: Int64 { environment.time.monotonicNanoseconds() / 1_000_000 }

  private var freshness: Int64 { settings.freshness.wholeNanoseconds / 1_000_000 }

  // MARK: Asking

  /// What a server says of its part in replication.
  struct Standing {
    var isPrimary: Bool
    var isHeld: Bool
    /// Sequence numbers in the one domain that is replicated; `nil` if there are others.
    var logged: Int64?
    var applied: Int64?
    var lineage: Int64?
    /// `SHOW SLAVE STATUS`; empty if it never followed, or was told to forget it.
    var slave: [String: String]

    var receives: Bool { (slave["Slave_IO_Running"] ?? "No") != "No" }
    var received: Int64? { slave["Gtid_IO_Pos"].flatMap { GTIDPosition($0) }?.sequence }
    /// All that was received is in the data.
    var isDrained: Bool { (received ?? 0) <= (applied ?? 0) }
  }

  package func facts() async throws(DriverError) -> EngineFacts {
    guard let process = await running() else {
      await drop()
      return became(.stopped, EngineFacts(role: .stopped))
    }
    let standing = try await look()
    var facts = EngineFacts(role: standing.isPrimary ? .primary : .standby)
    facts.isHeld = settings.isBounded && standing.isPrimary && standing.isHeld
    if standing.isPrimary {
      if let lineage = standing.lineage, let logged = standing.logged {
        facts.position = EnginePosition(lineage: lineage, offset: logged)
      }
      facts.acknowledges = lastBeat.map { now - $0 < freshness } ?? false
      // Each that is connected confirms every commit; when none was confirmed, nobody knows who still does.
      if facts.acknowledges { facts.attached = try await connected() }
      return became(.primary, facts)
    }
    facts.position = try await position(standing, process)
    guard standing.receives else { return became(.standby, facts) }
    facts.following = following(standing)
    let signs = "\(standing.slave["Read_Master_Log_Pos"] ?? "") \(standing.slave["heartbeats"] ?? "")"
    if heard?.signs != signs { heard = (signs, now) }
    facts.heardMilliseconds = heard.map { now - $0.at }
    // What is received and can't be applied is no use to anybody who reads there, or is to take over.
    facts.isStreaming =
      standing.slave["Slave_IO_Running"] == "Yes" && standing.slave["Slave_SQL_Running"] == "Yes"
      && (facts.heardMilliseconds ?? .max) < freshness
    return became(.standby, facts)
  }

  /// Of a standby: what it has received, as long as nothing of that can be dropped.
  private func position(_ standing: Standing, _ process: Int32) async throws(DriverError) -> EnginePosition? {
    guard let lineage = standing.lineage, let applied = standing.applied, let identity = ProcessIdentity(pid: process)
    else { return nil }
    let received = max(applied, standing.received ?? 0)
    // The lineage of what is still to be applied isn't known.
    if !standing.receives, !standing.isDrained { return nil }
    if try await remembered().complete != identity.description {
      guard standing.receives, let primary = following(standing) else { return nil }
      if wanted?.process != identity.description {
        wanted = await sequence(of: primary).map { ($0, identity.description) }
      }
      guard let wanted, received >= wanted.sequence else { return nil }
      try await remember { $0.complete = identity.description }
    }
    return EnginePosition(lineage: lineage, offset: received)
  }

  /// How far a primary's log reaches now.
  private func sequence(of primary: MemberName) async -> Int64? {
    let text = await ask(primary, "SELECT @@gtid_binlog_pos") ?? ""
    return text.flatMap { GTIDPosition($0)?.sequence }
  }

  /// One value from another member; `nil` if it doesn't answer within a second.
  private func ask(_ member: MemberName, _ statement: String) async -> String?? {
    guard let peer = settings.peers.first(where: { $0.name == member }) else { return nil }
    let driver = driver
    return try? await environment.time.withTimeLimit(.seconds(1)) {
      let address = ServerAddress(host: peer.host, port: peer.port, user: driver.address.user, connectSeconds: 1)
      let connection = try await Connection.open(
        address, password: try await driver.secret(), pool: driver.environment.pool)
      let value = try? await connection.value(statement)
      await connection.close()
      return value ?? nil
    }
  }

  private func following(_ standing: Standing) -> MemberName? {
    settings.peers.first {
      $0.host == standing.slave["Master_Host"] && String($0.port) == standing.slave["Master_Port"]
    }?.name
  }

  /// Members that receive the log: they tell where they take connections themselves.
  private func connected() async throws(DriverError) -> [MemberName] {
    let answer = try await run("SHOW SLAVE HOSTS")
    let names = answer.rows.compactMap { row -> MemberName? in
      guard row.count >= 3 else { return nil }
      return settings.peers.first { $0.host == row[1] && String($0.port) == row[2] }?.name
    }
    return Set(names).sorted { $0.text < $1.text }
  }

  private func became(_ role: EngineFacts.Role, _ facts: EngineFacts) -> EngineFacts {
    if self.role != role { (self.role, roleSince, heard) = (role, now, nil) }
    var facts = facts
    facts.forMilliseconds = now - roleSince
    return facts
  }

  package func beat() async throws(DriverError) {
    if beating == nil { beating = try await driver.connect() }
    guard let connection = beating else { return }
    do throws(StatementFailure) {
      try await connection.run("UPDATE salvor.member SET beat = beat + 1 WHERE id = 1")
      lastBeat = now
    } catch {
      beating = nil
      await connection.close()
      throw error.driverError("committing a sign of life")
    }
  }

  func look() async throws(DriverError) -> Standing {
    let values = try await run(
      "SELECT @@read_only, @@rpl_semi_sync_master_enabled, @@gtid_binlog_pos, @@gtid_current_pos"
    ).rows.first.map { $0.map { $0 ?? "" } }
    guard let values, values.count == 4 else { throw .queryFailed("the server doesn't say what it is") }
    let status = try await run("SHOW SLAVE STATUS")
    var slave: [String: String] = [:]
    for (name, value) in zip(status.columns, status.rows.first ?? []) { slave[name] = value }
    if !slave.isEmpty {
      slave["heartbeats"] = try await run("SHOW STATUS LIKE 'Slave_received_heartbeats'").rows.first?.last ?? ""
    }
    let (logged, applied) = (GTIDPosition(values[2]), GTIDPosition(values[3]))
    return Standing(
      isPrimary: values[0] == "0" && slave["Slave_IO_Running"] ?? "No" == "No", isHeld: values[1] == "1",
      logged: logged?.sequence, applied: applied?.sequence, lineage: try await lineage(), slave: slave)
  }

  private func lineage() async throws(DriverError) -> Int64? {
    do throws(DriverError) {
      return try await run("SELECT lineage FROM salvor.member WHERE id = 1").rows.first?.first??.asInteger
    } catch {
      // No such schema, no such table.
      guard case .queryFailed = error else { throw error }
      return nil
    }
  }

  /// Runs a statement; one that isn't answered in time costs the connection.
  @discardableResult
  func run(_ statement: String, within limit: Duration = .seconds(5)) async throws(DriverError) -> QueryResult {
    if asking == nil {
      let opened = try await driver.connect()
      if asking == nil { asking = opened } else { await opened.close() }
    }
    guard let connection = asking else { throw .cancelled }
    do {
      return try await environment.time.withTimeLimit(limit) { try await connection.run(statement) }
    } catch {
      let failure = error as? StatementFailure
      if failure.map({ $0.isConnectionLost || $0.isCancelled }) ?? true {
        if asking === connection { asking = nil }
        await connection.close()
      }
      if Task.isCancelled { throw .cancelled }
      throw failure?.driverError("asking \(settings.name)") ?? .unreachable("\(settings.name) doesn't answer")
    }
  }

  private func drop() async {
    await asking?.close()
    beating?.interrupt()
    (asking, beating, wanted) = (nil, nil, nil)
  }

  // MARK: Changing

  package func detach() async throws(DriverError) {
    guard await running() != nil else {
      return try await remember {
        $0.role = .standby
        $0.following = nil
      }
    }
    let standing = try await look()
    if standing.isPrimary { return }
    // Whether it has all it ever confirmed can be asked of its primary now, and of nobody later.
    if let process { _ = try await position(standing, process) }
    try await remember {
      $0.role = .standby
      $0.following = nil
    }
    // Or it waits for a primary that may be gone.
    try await run("SET GLOBAL rpl_semi_sync_slave_kill_conn_timeout = 1")
    try await run("STOP SLAVE IO_THREAD", within: .seconds(60))
    guard try await look().receives == false else { throw .engineFailed("the server goes on receiving", log: "") }
    // What it has received counts once it is applied, which can take longer than anybody waits here.
    if try await drained(within: 5000) { try await forget() }
  }

  /// Whether all that was received is in the data by then.
  private func drained(within milliseconds: Int64) async throws(DriverError) -> Bool {
    let deadline = now + milliseconds
    while true {
      let standing = try await look()
      if standing.isDrained { return true }
      if standing.slave["Slave_SQL_Running"] != "Yes" || now >= deadline { return false }
      try await pause(.milliseconds(10))
    }
  }

  /// The engine itself keeps that it follows nobody, whatever its options say.
  private func forget() async throws(DriverError) {
    try await run("STOP SLAVE", within: .seconds(60))
    try await run("RESET SLAVE ALL", within: .seconds(60))
  }

  package func promote() async throws(DriverError) {
    try await bringUp(recovering: try await remembered().role == .primary ? .primary : .standby)
    let standing = try await look()
    if standing.isPrimary {
      // Of a primary that was one before anybody looked after it.
      if standing.lineage == nil { try await begin(max(1, try await remembered().lineage)) }
      try await remember {
        $0.role = .primary
        $0.following = nil
      }
      // Only who knows how far its standbys are lets a bounded one go.
      if !settings.isBounded { try await acknowledge(true) }
      return
    }
    guard try await drained(within: 600_000) else {
      throw .engineFailed(
        "what \(settings.name) has received can't be applied", log: standing.slave["Last_SQL_Error"] ?? "")
    }
    let lineage = max(try await remembered().lineage, try await look().lineage ?? 0) + 1
    try await remember {
      $0.role = .primary
      $0.following = nil
      $0.lineage = lineage
    }
    try await forget()
    try await begin(lineage)
    try await run("SET GLOBAL rpl_semi_sync_slave_enabled = 0")
    try await acknowledge(!settings.isBounded)
    // Only from here on anybody but us can write.
    try await run("SET GLOBAL read_only = 0", within: .seconds(60))
    if let process = await running().flatMap({ ProcessIdentity(pid: $0) }) {
      try await remember { $0.complete = process.description }
    }
  }

  /// Waits for nobody: standbys follow later.
  private func begin(_ lineage: Int64) async throws(DriverError) {
    try await acknowledge(false)
    try await run("CREATE DATABASE IF NOT EXISTS salvor")
    try await run(
      """
      CREATE TABLE IF NOT EXISTS salvor.member (id INT PRIMARY KEY, lineage BIGINT NOT NULL, beat BIGINT NOT NULL)
      ENGINE = InnoDB
      """)
    try await run(
      "INSERT INTO salvor.member VALUES (1, \(lineage), 0) ON DUPLICATE KEY UPDATE lineage = \(lineage)",
      within: .seconds(60))
    try await remember { $0.lineage = max($0.lineage, lineage) }
  }

  /// Whether commits wait for a standby's acknowledgement; then for as long as it takes, also when there is none.
  private func acknowledge(_ waits: Bool) async throws(DriverError) {
    guard waits else { return _ = try await run("SET GLOBAL rpl_semi_sync_master_enabled = 0") }
    try await run("SET GLOBAL sync_binlog = 1, innodb_flush_log_at_trx_commit = 1")
    try await run("SET GLOBAL rpl_semi_sync_master_wait_point = 'AFTER_SYNC', rpl_semi_sync_master_wait_no_slave = 1")
    // In milliseconds; thirty years, which no clock the engine adds it to overflows at.
    try await run("SET GLOBAL rpl_semi_sync_master_timeout = 1000000000000")
    try await run("SET GLOBAL rpl_semi_sync_master_enabled = 1")
  }

  package func follow(_ primary: MemberName) async throws(DriverError) {
    guard await running() != nil else { return try await rejoin(primary) }
    let standing = try await look()
    guard !standing.isPrimary else {
      throw .unsupported("\(settings.name) is a primary; it must be stopped and rejoined")
    }
    do throws(DriverError) {
      try await attach(to: primary, standing)
    } catch {
      guard case .logGap = error else { throw error }
      // It has what the primary hasn't, or lacks what that doesn't have any more: asking again changes nothing.
      try await rejoin(primary)
    }
  }

  /// What a primary committed itself counts for one that follows, too; else it would ask for all of it once more.
  func countOwnCommits() async throws(DriverError) {
    try await run("SET GLOBAL gtid_slave_pos = @@gtid_current_pos")
  }

  /// - Throws: ``DriverError/logGap(_:)`` if the primary doesn't have what this member has, or not any more what it needs.
  func attach(to primary: MemberName, _ standing: Standing) async throws(DriverError) {
    guard let peer = settings.peers.first(where: { $0.name == primary }), primary != settings.name else {
      throw .unreachable("\(primary)")
    }
    try await remember {
      $0.role = .standby
      $0.following = primary
    }
    let confirms = try await run("SHOW STATUS LIKE 'Rpl_semi_sync_slave_status'").rows.first?.last ?? ""
    if standing.receives, following(standing) == primary, confirms == "ON" { return }
    if !standing.slave.isEmpty {
      // Changing the source drops what was received; some of it may have been confirmed.
      try await run("SET GLOBAL rpl_semi_sync_slave_kill_conn_timeout = 1")
      try await run("STOP SLAVE IO_THREAD", within: .seconds(60))
      _ = try await drained(within: 60_000)
      try await run("STOP SLAVE", within: .seconds(60))
    }
    try await run("SET GLOBAL read_only = 1", within: .seconds(60))
    try await run("SET GLOBAL rpl_semi_sync_master_enabled = 0")
    try await run("SET GLOBAL rpl_semi_sync_slave_enabled = 1, gtid_strict_mode = 1, slave_net_timeout = 4")
    let secret = try await driver.secret()
    try await run(
      """
      CHANGE MASTER TO MASTER_HOST = \(literal(peer.host)), MASTER_PORT = \(peer.port),
        MASTER_USER = \(literal(settings.user)), MASTER_PASSWORD = \(literal(secret?.revealed() ?? "")),
        MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1, MASTER_HEARTBEAT_PERIOD = 0.5
      """)
    try await run("START SLAVE", within: .seconds(60))
    try await awaitAnswer()
  }

  /// Until the primary has said yes or no, or doesn't answer for some seconds.
  private func awaitAnswer() async throws(DriverError) {
    let deadline = now + 3000
    while now < deadline {
      let slave = try await look().slave
      // It "runs" as soon as it has asked; the name of the primary's log comes first in what is sent to it.
      if slave["Slave_IO_Running"] == "Yes", slave["Master_Log_File"]?.isEmpty == false { return }
      // Source: MariaDB 10.11, error 1236, ER_MASTER_FATAL_ERROR_READING_BINLOG.
      if slave["Last_IO_Errno"] == "1236" {
        try await forget()
        throw .logGap(slave["Last_IO_Error"] ?? "the primary refuses to send its log")
      }
      try await pause(.milliseconds(10))
    }
  }

  package func stop(inOrder: Bool) async throws(DriverError) {
    guard let pid = await running() else { return await drop() }
    if inOrder {
      if try await look().isPrimary {
        _ = try? await run("SHUTDOWN WAIT FOR ALL SLAVES", within: .seconds(10))
        for _ in 0..<200 where await running() != nil { try await pause(.milliseconds(50)) }
      }
      await drop()
      if await running() != nil { try driver.end(pid, SIGTERM) }
    } else {
      await drop()
      try driver.end(pid, SIGKILL)
    }
    try await driver.waitUntilGone(driver.dataDirectory, within: .seconds(600))
  }

  package func start(detached: Bool) async throws(DriverError) {
    if await running() != nil { return }
    let memory = try await remembered()
    if detached {
      try await bringUp(recovering: memory.role == .primary ? .primary : .standby)
      if memory.role == .primary { try await countOwnCommits() }
      return try await remember {
        $0.role = .standby
        $0.following = nil
      }
    }
    if memory.role == .primary { return try await promote() }
    try await bringUp(recovering: .standby)
    if let primary = memory.following { try await attach(to: primary, try await look()) }
  }

  /// What becomes of transactions that a crash left in the binary log, before they were committed.
  enum Recovery {
    /// They are committed: some may have been acknowledged.
    case primary
    case standby
    /// They are taken back: whatever was acknowledged, the new primary has.
    case deposed
  }

  /// Read-only and following nobody, whatever its own options say.
  func bringUp(recovering: Recovery) async throws(DriverError) {
    if await running() != nil { return }
    guard let file = settings.configFile, let own = settings.peers.first(where: { $0.name == settings.name }) else {
      throw .unsupported("\(settings.name) has no configuration file to be started with")
    }
    await drop()
    lastBeat = nil
    var arguments = [
      "--defaults-file=\(file)", "--datadir=\(driver.dataDirectory)", "--read-only=1", "--skip-slave-start",
      "--gtid-strict-mode=1", "--log-slave-updates=1", "--report-host=\(own.host)", "--report-port=\(own.port)",
    ]
    if recovering == .deposed { arguments += ["--init-rpl-role=SLAVE", "--rpl-semi-sync-slave-enabled=1"] }
    let (server, user, words) = (
      try driver.program("mariadbd"), try driver.serverUser(driver.dataDirectory), arguments
    )
    let started = try await driver.blocking { () throws(DriverError) in
      try StartedServer.start(server, words, user: user, isDetached: true)
    }
    try await driver.waitUntilItAnswers(started)
    // A primary's own log has all it ever acknowledged.
    if recovering == .primary, let process = await running().flatMap({ ProcessIdentity(pid: $0) }) {
      try await remember { $0.complete = process.description }
    }
  }

  package func hold(_ holds: Bool) async throws(DriverError) { try await acknowledge(holds) }

  // MARK: Beside the server

  /// The server's process, also while it answers nobody.
  func running() async -> Int32? {
    guard let directory = settings.dataDirectory else { return nil }
    let known = process
    process = await environment.pool.run {
      var (here, there) = (stat(), stat())
      if let known, stat(directory, &here) == 0, stat("/proc/\(known)/cwd", &there) == 0, here.st_ino == there.st_ino,
        here.st_dev == there.st_dev, ProcessStatus(pid: known)?.isAlive == true
      {
        return known
      }
      return serverProcess(directory)
    }
    return process
  }

  func remembered() async throws(DriverError) -> MemberMemory {
    if let memory { return memory }
    let directory = driver.dataDirectory
    let found = try await environment.pool.run { () throws(DriverError) in try MemberMemory.read(directory) }
    memory = memory ?? found
    return found
  }

  func remember(_ change: (inout MemberMemory) -> Void) async throws(DriverError) {
    let before = try await remembered()
    var changed = before
    change(&changed)
    if changed == before { return }
    let (directory, written) = (driver.dataDirectory, changed)
    try await environment.pool.run { () throws(DriverError) in try written.write(directory) }
    memory = written
  }

  func pause(_ duration: Duration) async throws(DriverError) {
    do { try await environment.time.sleep(for: duration) } catch { throw .cancelled }
  }

  private func literal(_ text: String) -> String {
    "'" + text.map { $0 == "'" || $0 == "\\" ? "\\\($0)" : String($0) }.joined() + "'"
  }
}

extension String {
  fileprivate var asInteger: Int64? { Int64(self) }
}
