import Core
import DriverKit
import Glibc
import IO

/// One of several Redis servers that replicate; its agent runs beside it, as root or the server's user.
///
/// At rest a member is a read-only replica of nobody: of an address nobody listens on. So it is started, and what it was
/// is in ``MemberMemory``. Detaching is to follow that address, which keeps the offset, where `REPLICAOF NO ONE` would begin
/// a new history and take writes. A server that was restarted doesn't know its offset until it has followed somebody.
///
/// The lineage is a key in the data: it grows in the same transaction that promotes, and every sign of life writes it again.
/// What a primary answers is acknowledged by itself alone; a write is safe once `WAIT` was answered with as many replicas as
/// the policy has acknowledgements.
/// Source: Redis 7.0, "Redis replication", "WAIT", and src/replication.c on `replid2` and cached primaries.
package actor RedisMember: ReplicatedEngine {
  /// Holds the lineage.
  package static let key = "salvor:lineage"
  /// tcpmux, which no machine runs; whoever did would be asked for a replica's stream and refuse.
  private static let nobody = (host: "127.0.0.1", port: "1")
  /// Replicas confirm once a second, so that less would refuse writes in between.
  private static let replicaLagSeconds = 3
  private static let holdLimit: Duration = .seconds(60)

  private let settings: RedisMemberSettings
  private let environment: DriverEnvironment
  private let driver: RedisDriver
  private var asking: SharedConnection?
  private var beating: SharedConnection?
  private var memory: MemberMemory?
  private var process: Int32?
  private var lastBeat: Int64?
  private var role: EngineFacts.Role?
  private var roleSince: Int64 = 0
  /// When the offset was seen to move; of a standby.
  private var moved: (offset: Int64, at: Int64)?
  /// When each standby was seen to confirm more; of a primary.
  private var confirmed: [MemberName: (offset: Int64, at: Int64)] = [:]
  private var confirmations: [(offset: Int64, at: Int64)] = []
  private var heldUntil: Int64?

  package init(_ settings: RedisMemberSettings, in environment: DriverEnvironment) throws(DriverError) {
    (self.settings, self.environment) = (settings, environment)
    let own = settings.peers.first { $0.name == settings.name }
    driver = RedisDriver(
      try Self.configuration(settings, own?.host ?? "127.0.0.1", own?.port ?? 6379, patience: "2s"), environment)
  }

  private static func configuration(
    _ settings: RedisMemberSettings, _ host: String, _ port: UInt16, patience: String
  ) throws(DriverError) -> RedisConfiguration {
    var options: [String: JSONValue] = [
      "host": .string(host), "port": .integer(Int64(port)), "timeout": .string(patience),
      "binary": .string(settings.binary),
    ]
    if let user = settings.user, settings.password != nil { options["user"] = .string(user) }
    if let directory = settings.dataDirectory { options["dataDirectory"] = .string(directory) }
    if let file = settings.configFile { options["configFile"] = .string(file) }
    var configuration = try RedisConfiguration(
      StoreConfiguration(name: StoreName(unchecked: settings.name.text), options: options.filter { $0.key != "user" }))
    configuration.password = settings.password
    configuration.user = options["user"]?.string
    return configuration
  }

  private var now: Int64 { environment.time.monotonicNanoseconds() / 1_000_000 }

  private var freshness: Int64 { settings.freshness.wholeNanoseconds / 1_000_000 }

  private var directory: String { settings.dataDirectory ?? "/nonexistent" }

  // MARK: Asking

  /// What a server says of its part in replication.
  private struct Standing {
    var info: Info
    /// `nil` if there is none, or the data is incomplete.
    var lineage: Int64?

    var isPrimary: Bool { info["role"] == "master" }

    /// How much of the log the data has; `nil` after a start, while it loads and after half a copy.
    func offset(isDurable: Bool) -> Int64? {
      guard info["loading"] == "0", info["async_loading"] ?? "0" == "0",
        let offset = info.integer("master_repl_offset"),
        offset > 0, info["aof_enabled"] == "1" || !isDurable
      else { return nil }
      return offset
    }
  }

  package func facts() async throws(DriverError) -> EngineFacts {
    guard await running() != nil else {
      drop()
      return became(.stopped, EngineFacts(role: .stopped))
    }
    let standing = try await look()
    var facts = EngineFacts(role: standing.isPrimary ? .primary : .standby)
    // Without its append-only file the engine stops keeping what it confirms, as it does in the middle of a copy.
    if let offset = standing.offset(isDurable: !settings.isBounded), let lineage = standing.lineage {
      facts.position = EnginePosition(lineage: lineage, offset: offset)
    }
    if standing.isPrimary {
      observe(primary: standing, &facts)
    } else {
      observe(standby: standing, &facts)
    }
    return became(facts.role, facts)
  }

  private func observe(standby standing: Standing, _ facts: inout EngineFacts) {
    let info = standing.info
    facts.following = following(info)
    guard facts.following != nil else { return }
    // The engine counts whole seconds; signs of life come several times in one.
    let offset = info.integer("slave_read_repl_offset") ?? info.integer("slave_repl_offset") ?? 0
    if let moved, moved.offset == offset {} else { moved = (offset, now) }
    let said = info.integer("master_last_io_seconds_ago").flatMap { $0 >= 0 ? $0 * 1000 : nil }
    facts.heardMilliseconds = moved.map { now - $0.at }.map { min($0, max(said ?? $0, freshness)) }
    facts.isStreaming =
      info["master_link_status"] == "up" && info["master_sync_in_progress"] == "0"
      && (facts.heardMilliseconds ?? .max) < freshness
  }

  private func observe(primary standing: Standing, _ facts: inout EngineFacts) {
    let offset = standing.info.integer("master_repl_offset") ?? 0
    for (name, confirmedOffset) in replicas(standing.info) where confirmed[name]?.offset != confirmedOffset {
      confirmed[name] = (confirmedOffset, now)
    }
    let there = Set(replicas(standing.info).map(\.name))
    confirmed = confirmed.filter { there.contains($0.key) }
    facts.attached = confirmed.filter { now - $0.value.at < freshness }.map(\.key).sorted { $0.text < $1.text }
    facts.acknowledges = lastBeat.map { now - $0 < freshness } ?? false
    facts.isHeld = heldUntil.map { now < $0 } ?? false
    guard settings.isBounded else { return }
    confirmations.append((offset, now))
    let offsets = confirmed.values.map(\.offset).sorted(by: >)
    let wanted = max(1, settings.acknowledgements)
    let safe = offsets.count >= wanted ? offsets[wanted - 1] : 0
    confirmations.removeAll { $0.offset <= safe }
    if confirmations.count > 4096 { confirmations.removeSubrange(1...2048) }
    facts.lagMilliseconds = confirmations.first.map { now - $0.at } ?? 0
    facts.lagBytes = max(0, offset - safe)
  }

  /// Members that receive the log, with what they have confirmed; `slave0:ip=…,port=…,state=online,offset=…,lag=…`.
  private func replicas(_ info: Info) -> [(name: MemberName, offset: Int64)] {
    let count = Int(max(0, min(1000, info.integer("connected_slaves") ?? 0)))
    return (0..<count).compactMap { index in
      let fields = Dictionary(
        (info["slave\(index)"] ?? "").split(separator: ",").compactMap { field in
          let parts = field.split(separator: "=", maxSplits: 1)
          return parts.count == 2 ? (String(parts[0]), String(parts[1])) : nil
        }, uniquingKeysWith: { $1 })
      guard fields["state"] == "online", let offset = fields["offset"].flatMap({ Int64($0) }),
        let peer = settings.peers.first(where: { $0.host == fields["ip"] && String($0.port) == fields["port"] })
      else { return nil }
      return (peer.name, offset)
    }
  }

  private func following(_ info: Info) -> MemberName? {
    settings.peers.first { $0.host == info["master_host"] && String($0.port) == info["master_port"] }?.name
  }

  private func became(_ role: EngineFacts.Role, _ facts: EngineFacts) -> EngineFacts {
    if self.role != role {
      (self.role, roleSince, moved, confirmed, confirmations) = (role, now, nil, [:], [])
    }
    var facts = facts
    facts.forMilliseconds = now - roleSince
    return facts
  }

  package func sight(of member: MemberName) async -> Sight {
    guard let peer = settings.peers.first(where: { $0.name == member }),
      let configuration = try? Self.configuration(settings, peer.host, peer.port, patience: "900ms")
    else { return .silent }
    let looker = RedisDriver(configuration, environment)
    do {
      return try await environment.time.withTimeLimit(.seconds(1)) {
        let connection = try await looker.connect()
        let info = Info(try await looker.call(connection, "INFO", "replication").text ?? "")
        return info["role"] == "master" ? .serves : info["role"] == nil ? .silent : .answers
      }
    } catch {
      guard case DriverError.unreachable(let text)? = error as? DriverError else { return .silent }
      if text.contains("connection refused") { return .refused }
      return text.contains("loading") ? .answers : .silent
    }
  }

  /// A write, and the confirmation of as many standbys as the policy has acknowledgements.
  package func beat() async throws(DriverError) {
    let lineage = max(1, try await remembered().lineage, try await look().lineage ?? 0)
    if beating == nil { beating = SharedConnection(try await driver.connect()) }
    guard let connection = beating else { return }
    let wanted = settings.isBounded ? 0 : settings.acknowledgements
    do throws(WireError) {
      let replies = try await environment.pool.run { () throws(WireError) in
        try connection.all([["SET", Self.key, String(lineage)], ["WAIT", String(wanted), "1000"]])
      }
      for case .error(let text) in replies { throw .refused(text) }
      guard case .integer(let count) = replies[1], count >= Int64(wanted) else {
        throw .refused("\(replies[1].text ?? "0") of \(wanted) standbys confirmed it")
      }
      lastBeat = now
    } catch {
      beating = nil
      throw error.driverError(at: driver.peer, doing: "a sign of life")
    }
  }

  private func look() async throws(DriverError) -> Standing {
    let replies = try await send(
      [["INFO", "replication"], ["INFO", "persistence"], ["GET", Self.key]], mayRefuse: 2)
    let info = Info(replies.prefix(2).compactMap(\.text).joined(separator: "\n"))
    guard info["role"] != nil else { throw .engineFailed("\(driver.peer) doesn't say what it is", log: "") }
    var lineage: Int64?
    if case .bytes(let bytes) = replies[2] { lineage = Int64(String(decoding: bytes, as: UTF8.self)) }
    return Standing(info: info, lineage: lineage)
  }

  /// - Parameter mayRefuse: Which command's answer may be an error.
  @discardableResult
  private func send(_ commands: [[String]], mayRefuse: Int? = nil) async throws(DriverError) -> [Reply] {
    if asking == nil {
      let opened = SharedConnection(try await driver.connect())
      if asking == nil { asking = opened }
    }
    guard let connection = asking else { throw .cancelled }
    var doing = ""
    do throws(WireError) {
      let replies = try await environment.pool.run { () throws(WireError) in try connection.all(commands) }
      for (index, reply) in replies.enumerated() where index != mayRefuse {
        doing = commands[index].first ?? ""
        for case .error(let text) in [reply] + (reply.elements ?? []) { throw .refused(text) }
      }
      return replies
    } catch {
      if case .refused = error {} else if asking === connection { asking = nil }
      throw error.driverError(at: driver.peer, doing: doing)
    }
  }

  private func drop() { (asking, beating) = (nil, nil) }

  // MARK: Changing

  package func detach() async throws(DriverError) {
    guard await running() != nil else { return try await remember(.standby, following: nil) }
    guard try await look().isPrimary == false else { return }
    try await remember(.standby, following: nil)
    try await point(at: Self.nobody)
  }

  /// Follows an address; waits while the server loads what it has received, since it can't be told before.
  private func point(at address: (host: String, port: String)) async throws(DriverError) {
    let deadline = now + 600_000
    while true {
      do throws(DriverError) {
        try await send([["REPLICAOF", address.host, address.port]])
        let info = try await look().info
        if info["master_host"] == address.host, info["master_port"] == address.port { return }
      } catch {
        guard case .unreachable(let text) = error, text.contains("loading"), now < deadline else { throw error }
      }
      try await pause(.milliseconds(20))
    }
  }

  package func promote() async throws(DriverError) {
    try await bringUp()
    let standing = try await look()
    if standing.isPrimary {
      let isHeld = heldUntil.map { now < $0 } ?? false
      if isHeld, !settings.isBounded { try await hold(false) }
      // Of a primary that was one before anybody looked after it.
      let lineage = max(1, try await remembered().lineage, standing.lineage ?? 0)
      try await remember(.primary, following: nil, lineage: lineage)
      // Only who knows how far its replicas are lets a bounded one go; and nothing is written while it is held.
      if isHeld, settings.isBounded, standing.lineage == lineage { return }
      return try await open(lineage, from: false)
    }
    try await requireMemory(standing)
    let lineage = max(try await remembered().lineage, standing.lineage ?? 0) + 1
    try await remember(.primary, following: nil, lineage: lineage)
    try await open(lineage, from: true)
    guard try await look().isPrimary else { throw .engineFailed("the server didn't become a primary", log: "") }
  }

  /// One that was started anew has what its append-only file has, and that is everything it ever confirmed only if each
  /// write is flushed before its answer.
  private func requireMemory(_ standing: Standing) async throws(DriverError) {
    guard !settings.isBounded, standing.offset(isDurable: true) == nil else { return }
    guard try await setting("appendonly") == "yes", try await setting("appendfsync") == "always" else {
      throw .unsupported(
        "\(settings.name) was started anew and may have lost what it confirmed: promote another member, or accept that with "
          + "CONFIG SET appendfsync always")
    }
  }

  /// One transaction: nobody writes between the end of following and the lineage, nor before the gate is as it should be.
  private func open(_ lineage: Int64, from isStandby: Bool) async throws(DriverError) {
    var words = [["MULTI"], ["CONFIG", "SET", "min-replicas-to-write", "0"]]
    if isStandby { words.append(["REPLICAOF", "NO", "ONE"]) }
    // Queued as a script: as a plain write a replica would refuse it before it is none.
    words.append(["EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", "1", Self.key, String(lineage)])
    words.append(["CONFIG", "SET", "min-replicas-max-lag", String(Self.replicaLagSeconds)])
    words.append(["CONFIG", "SET", "min-replicas-to-write", String(settings.isBounded ? 0 : settings.acknowledgements)])
    try await send(words + [["EXEC"]])
  }

  package func follow(_ primary: MemberName) async throws(DriverError) {
    guard await running() != nil else { return try await rejoin(primary) }
    guard try await look().isPrimary == false else {
      throw .unsupported("\(settings.name) is a primary; it must be stopped and rejoined")
    }
    try await attach(to: primary)
  }

  private func attach(to primary: MemberName) async throws(DriverError) {
    guard let peer = settings.peers.first(where: { $0.name == primary }), primary != settings.name else {
      throw .unreachable("\(primary)")
    }
    try await announce()
    try await remember(.standby, following: primary)
    let info = try await look().info
    // To be told again would begin anew.
    if info["master_host"] == peer.host, info["master_port"] == String(peer.port) { return }
    try await point(at: (peer.host, String(peer.port)))
  }

  /// What standbys authenticate with, and under which name the primary knows them.
  private func announce() async throws(DriverError) {
    if let own = settings.peers.first(where: { $0.name == settings.name }) {
      try await send([["CONFIG", "SET", "replica-announce-ip", own.host]])
      try await send([["CONFIG", "SET", "replica-announce-port", String(own.port)]])
    }
    guard let password = settings.password else { return }
    let secret: Secret
    do throws(AnyFailure) { secret = try await environment.resolve(password) } catch { throw DriverError(error) }
    if let user = settings.user { try await send([["CONFIG", "SET", "masteruser", user]]) }
    try await send([["CONFIG", "SET", "masterauth", secret.revealed()]])
  }

  package func stop(inOrder: Bool) async throws(DriverError) {
    guard let pid = await running() else { return drop() }
    if inOrder {
      // Waits for standbys that are behind, and writes the append-only file out.
      do throws(DriverError) { try await driver.stop() } catch {
        if await running() != nil { throw error }
      }
    } else if kill(pid, SIGKILL) != 0, errno != ESRCH {
      throw .permissionDenied("ending the server (process \(pid))", needs: "to run as its user, or as root")
    }
    drop()
    let deadline = now + 60_000
    while await running() != nil {
      guard now < deadline else { throw .serverRunning("the server at \(driver.peer), although it was told to stop,") }
      try await pause(.milliseconds(5))
    }
  }

  package func start(detached: Bool) async throws(DriverError) {
    if await running() != nil { return }
    let memory = try await remembered()
    if detached || memory.role == nil {
      if memory.role != nil { try await remember(.standby, following: nil) }
      return try await bringUp()
    }
    try await bringUp()
    if memory.role == .primary { return try await promote() }
    if let primary = memory.following { try await attach(to: primary) }
  }

  /// As a standby of nobody, whatever it was and whatever its own configuration says.
  private func bringUp() async throws(DriverError) {
    if await running() != nil { return }
    guard let file = settings.configFile else {
      throw .unsupported("\(settings.name) has no configuration file to be started with")
    }
    drop()
    (heldUntil, lastBeat) = (nil, nil)
    var words = [
      settings.binary, file, "--daemonize", "yes", "--replicaof", Self.nobody.host, Self.nobody.port,
      "--replica-read-only", "yes", "--replica-serve-stale-data", "yes", "--repl-ping-replica-period", "1",
      "--min-replicas-to-write", String(settings.isBounded ? 0 : settings.acknowledgements), "--min-replicas-max-lag",
      String(Self.replicaLagSeconds),
    ]
    if let user = await environment.pool.run({ [directory] in Self.owner(directory) }) {
      words = ["setpriv", "--reuid=\(user.userID)", "--regid=\(user.groupID)", "--init-groups"] + words
    }
    try await OwnProcess.succeed(words, what: settings.binary, on: environment.pool)
    let deadline = now + 3_600_000
    while true {
      do throws(DriverError) {
        if try await look().info["loading"] == "0" { return }
      } catch {
        guard case .unreachable = error, now < deadline else { throw error }
      }
      try await pause(.milliseconds(10))
    }
  }

  /// A copy of all that the primary has takes the place of what is here.
  package func rejoin(_ primary: MemberName) async throws(DriverError) {
    if await running() != nil { try await stop(inOrder: false) }
    if try await remembered().role != .standby {
      // Evidence first: what only this member has is about to be undone.
      try await KeptCopies(of: directory, limit: settings.keptCopies).keep(
        at: environment.time.now(), on: environment.pool)
    }
    try await remember(.standby, following: primary)
    try await bringUp()
    try await attach(to: primary)
  }

  /// The engine has no wait of its own before an answer, so that nobody's writes are answered at all.
  package func hold(_ holds: Bool) async throws(DriverError) {
    if holds {
      try await send([["CLIENT", "PAUSE", String(Self.holdLimit.wholeNanoseconds / 1_000_000), "WRITE"]])
      heldUntil = now + Self.holdLimit.wholeNanoseconds / 1_000_000
    } else {
      try await send([["CLIENT", "UNPAUSE"]])
      heldUntil = nil
    }
  }

  // MARK: Beside the server

  /// The server's process, also while it answers nobody.
  private func running() async -> Int32? {
    guard let own = settings.peers.first(where: { $0.name == settings.name }), settings.dataDirectory != nil else {
      return nil
    }
    let known = process
    process = await environment.pool.run {
      if let known, Self.isServer(known), ListeningProcess.isListening(port: own.port) { return known }
      guard ListeningProcess.isListening(port: own.port), let found = ListeningProcess.find(port: own.port),
        Self.isServer(found)
      else { return nil }
      return found
    }
    return process
  }

  /// Whom the data belongs to, if that is somebody else and we can become them.
  private static func owner(_ directory: String) -> SystemUser? {
    var status = stat()
    guard SystemUser.isRoot, stat(directory, &status) == 0, status.st_uid != 0 else { return nil }
    return SystemUser(userID: status.st_uid)
  }

  private static func isServer(_ pid: Int32) -> Bool {
    guard ProcessStatus(pid: pid)?.isAlive == true,
      let name = try? Files.read("/proc/\(pid)/comm", limitBytes: 64)
    else { return false }
    let text = String(decoding: name, as: UTF8.self)
    return text.hasPrefix("redis") || text.hasPrefix("valkey")
  }

  private func setting(_ name: String) async throws(DriverError) -> String? {
    try await send([["CONFIG", "GET", name]])[0].elements?.last?.text
  }

  private func remembered() async throws(DriverError) -> MemberMemory {
    if let memory { return memory }
    let directory = directory
    let found = try await environment.pool.run { () throws(DriverError) in try MemberMemory.read(directory) }
    memory = memory ?? found
    return found
  }

  private func remember(
    _ role: MemberMemory.Role, following: MemberName?, lineage: Int64 = 0
  ) async throws(DriverError) {
    var changed = try await remembered()
    (changed.role, changed.following, changed.lineage) = (role, following, max(changed.lineage, lineage))
    let (directory, written) = (directory, changed)
    if written == memory { return }
    try await environment.pool.run { () throws(DriverError) in try written.write(directory) }
    memory = written
  }

  private func pause(_ duration: Duration) async throws(DriverError) {
    do { try await environment.time.sleep(for: duration) } catch { throw .cancelled }
  }
}
