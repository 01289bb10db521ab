import Catalog
import Core
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// Three PostgreSQL servers with an agent each, a witness, etcd, HAProxy and clients, all on hosts of their own.
///
/// Every call blocks; run them on ``IO/BlockingPool``.
package final class FailoverRoom: Sendable {
  package struct Options: Sendable {
    /// The built `salvor`.
    package var program: String
    package var seed: UInt64 = 1
    package var mode: Mode = .zeroLoss
    package var acknowledgements = 1
    /// Changed before it is written for the agents.
    package var signals = FailoverPolicy.Signals()
    package var budgets = FailoverPolicy.Budgets()
    /// Of the agents, such as `--without fence-quorum`.
    package var agentOptions: [String] = []
    package var lossBound = FailoverPolicy.LossBound(bytes: 16 << 20, duration: .seconds(2))
    package var diskBytes = 600 << 20

    package init(program: String) { self.program = program }
  }

  package enum Mode: String, Sendable, CaseIterable {
    case zeroLoss = "zero-loss"
    case bounded
  }

  package static let members = ["a", "b", "c"]
  package static let hosts = ["a", "b", "c", "witness", "store", "proxy", "client"]

  package let network: RigNetwork
  package let options: Options
  private let bin: String

  /// Everything runs, and somebody is recorded as the primary, when it returns.
  package init(_ options: Options) throws {
    self.options = options
    bin = try Self.binaries()
    network = try RigNetwork(Self.hosts, seed: options.seed)
    do { try start() } catch {
      network.close()
      throw error
    }
  }

  package func close(keepingFiles: Bool = false) { network.close(keepingFiles: keepingFiles) }

  private static func binaries() throws(SystemFailure) -> String {
    for version in stride(from: 18, through: 13, by: -1) {
      let path = "/usr/lib/postgresql/\(version)/bin"
      if Files.exists(path + "/postgres") { return path }
    }
    throw SystemFailure("find", path: "/usr/lib/postgresql/*/bin/postgres", number: ENOENT)
  }

  /// HAProxy before the members; whoever is compared with another stands behind the same.
  ///
  /// - Parameter checkPort: Where a member says by `/primary` whether clients belong there.
  package static func proxySettings(_ network: RigNetwork, checkPort: Int) -> String {
    let servers = members.map { "  server \($0) \(network[$0].address):5432 check port \(checkPort)" }
    return """
      global
        maxconn 500
      defaults
        mode tcp
        retries 0
        timeout connect 1s
        timeout client 1h
        timeout server 1h
        timeout check 800ms
      listen primary
        bind \(network["proxy"].address):5000
        option httpchk GET /primary
        http-check expect status 200
        default-server inter 200ms fastinter 100ms downinter 100ms rise 1 fall 2 on-marked-down shutdown-sessions
      \(servers.joined(separator: "\n"))

      """
  }

  // MARK: Starting

  private func start() throws {
    try startEtcd()
    try makeServers()
    for name in Self.members { try startServer(name) }
    try waitUntil("standbys follow") {
      let rows = try? self.ask("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", on: "a")
      return rows?.first?.first == "2"
    }
    _ = try ask("SELECT 1", on: "a")
    try Files.replace(policyFile, with: try CanonicalJSON.encode(policy), mode: 0o644)
    try Files.replace(secretFile, with: Array("not-a-secret-in-a-test\n".utf8), mode: 0o644)
    for name in Self.members + ["witness"] { try startAgent(name) }
    try startProxy()
    try waitUntil("somebody is recorded") { self.believedPrimary != nil }
    try waitUntil("the proxy lets writes through") {
      (try? FailoverRig.ask("SELECT pg_is_in_recovery()", at: self.throughProxy, from: self.network["client"])) != nil
    }
  }

  package func startEtcd() throws {
    let host = network["store"]
    let (client, peer) = ("http://\(host.address):2379", "http://\(host.address):2380")
    try network.start(
      [
        "/usr/bin/env", "etcd", "--name", "store", "--data-dir", host.directory + "/data", "--listen-client-urls",
        client,
        "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
        "--initial-cluster", "store=\(peer)", "--logger", "zap",
      ], on: "store", log: "etcd.log", environment: ["ETCD_UNSUPPORTED_ARCH": "arm64"])
  }

  private func makeServers() throws {
    for name in Self.members + ["witness"] {
      try Files.replace(Self.toldFile(network[name]), with: Array(repeating: 0, count: 16), mode: 0o644)
    }
    for name in Self.members { _ = try network.mountDisk(on: name, bytes: options.diskBytes) }
    let first = data("a")
    try network.run(
      [
        bin + "/initdb", "-D", first, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C",
        "--wal-segsize=1", "--data-checksums", "--no-sync", "--no-instructions",
      ], on: "a")
    let settings = """
      listen_addresses = '*'
      port = 5432
      unix_socket_directories = ''
      shared_buffers = 16MB
      dynamic_shared_memory_type = mmap
      max_connections = 60
      wal_keep_size = 96MB
      max_wal_size = 64MB
      min_wal_size = 8MB
      wal_receiver_status_interval = 1s
      wal_receiver_timeout = 5s
      wal_sender_timeout = 5s
      wal_retrieve_retry_interval = 500ms
      log_min_messages = info
      log_line_prefix = '%m [%p] '

      """
    try append(settings, to: first + "/postgresql.conf")
    try append(
      "host all all 10.77.0.0/24 trust\nhost replication all 10.77.0.0/24 trust\n", to: first + "/pg_hba.conf")
    try startServer("a")
    _ = try ask(RigClients.tables, on: "a")
    try stopServer("a", mode: "fast")
    for name in Self.members.dropFirst() {
      try network.run(["/bin/cp", "-a", first, data(name)], on: name)
      try append("primary_conninfo = '\(follows("a", as: name))'\n", to: data(name) + "/postgresql.auto.conf")
      try network.run(["/usr/bin/touch", data(name) + "/standby.signal"], on: name)
    }
    if options.mode == .zeroLoss {
      let others = Self.members.dropFirst().map { "\"\($0)\"" }.joined(separator: ", ")
      try append(
        "synchronous_standby_names = 'ANY \(options.acknowledgements) (\(others))'\n",
        to: data("a") + "/postgresql.auto.conf")
    }
  }

  private func follows(_ primary: String, as name: String) -> String {
    "host=\(network[primary].address) port=5432 user=postgres application_name=\(name) connect_timeout=2 keepalives_idle=2 keepalives_interval=1 keepalives_count=3"
  }

  private func append(_ text: String, to path: String) throws {
    let file = try File(path, O_WRONLY | O_APPEND)
    try Array(text.utf8).withUnsafeBytes { try file.write($0) }
  }

  package func data(_ name: String) -> String { network[name].directory + "/disk/data" }

  package func startServer(_ name: String) throws {
    try network.run(
      [
        bin + "/pg_ctl", "-D", data(name), "-l", network[name].directory + "/postgres.log", "-w", "-t", "60", "start",
      ], on: name, environment: told(name))
  }

  private func told(_ name: String) -> [String: String] {
    guard let shim = Self.shim(beside: options.program) else { return [:] }
    return ["LD_PRELOAD": shim, "SALVOR_RIG_HOST": Self.toldFile(network[name])]
  }

  package func stopServer(_ name: String, mode: String) throws {
    try network.run([bin + "/pg_ctl", "-D", data(name), "-m", mode, "-w", "-t", "60", "stop"], on: name)
  }

  package func startAgent(_ name: String) throws {
    let host = network[name]
    var words = [
      options.program, "failover", "agent", "--policy", policyFile, "--member", name, "--lease",
      "http://\(network["store"].address):2379", "--secret", "file:\(secretFile)", "--listen", "\(host.address):7500",
      "--insecure",
      "--directory", host.directory + "/agent",
    ]
    if Self.members.contains(name) { words += ["--data-directory", data(name)] }
    let variables = told(name).merging(["HOME": host.directory]) { $1 }
    try network.start(words + options.agentOptions, on: name, log: "agent.log", environment: variables)
  }

  /// Leaves the order, as an operator would; it is carried out later.
  package func switchOver(to name: String) throws {
    try network.run(
      [
        options.program, "failover", "switchover", name, "--policy", policyFile, "--lease",
        "http://\(network["store"].address):2379",
      ], on: "witness", environment: ["HOME": network["witness"].directory])
  }

  package func startProxy() throws {
    let host = network["proxy"]
    try Files.replace(
      host.directory + "/haproxy.cfg", with: Array(Self.proxySettings(network, checkPort: 7500).utf8),
      mode: 0o644)
    try network.start(
      ["/usr/sbin/haproxy", "-db", "-f", host.directory + "/haproxy.cfg"], on: "proxy", log: "haproxy.log")
  }

  private var policyFile: String { network.directory + "/policy.json" }
  private var secretFile: String { network.directory + "/secret" }

  package var policy: FailoverPolicy {
    func member(_ name: String) -> FailoverPolicy.Member {
      let address = network[name].address
      return FailoverPolicy.Member(
        name: MemberName(unchecked: name), address: "\(address):5432", agent: "http://\(address):7500")
    }
    var policy = FailoverPolicy(
      name: PolicyName(unchecked: "room"), members: Self.members.map(member), witnesses: [member("witness")])
    policy.acknowledgements = options.acknowledgements
    (policy.signals, policy.budgets) = (options.signals, options.budgets)
    if options.mode == .bounded { (policy.consent, policy.lossBound) = (.autoBounded, options.lossBound) }
    return policy
  }

  // MARK: Asking

  private var throughProxy: String { "host=\(network["proxy"].address) port=5000" }

  /// A client that finds whoever serves by the proxy.
  package func proxied(_ name: String) -> RigClients.Client { .init(name, [throughProxy]) }

  /// A client that goes to the members themselves, beginning with one, and takes the first that takes writes.
  package func direct(_ name: String, from first: Int) -> RigClients.Client {
    let names = Self.members.indices.map { Self.members[($0 + first) % Self.members.count] }
    return .init(name, names.map { "host=\(network[$0].address) port=5432 target_session_attrs=read-write" })
  }

  /// Asks a member's server from its own host.
  package func ask(_ statement: String, on name: String) throws -> [[String?]] {
    try FailoverRig.ask(statement, at: "host=\(network[name].address) port=5432", from: network[name])
  }

  /// What a member's agent says that it is, by a look at its record; `nil` if nobody is recorded as far as agents know.
  package var believedPrimary: String? {
    for name in Self.members where isPrimary(name) { return name }
    return nil
  }

  /// Whether its agent tells proxies so.
  package func isPrimary(_ name: String) -> Bool {
    (try? httpStatus("/primary", on: name)) == 200
  }

  private func httpStatus(_ path: String, on name: String) throws(SystemFailure) -> Int {
    let host = network[name]
    let question = "GET \(path) HTTP/1.1\r\nHost: \(host.address)\r\nConnection: close\r\n\r\n"
    let text = try exchange(question, address: host.address, port: 7500, from: host)
    let words = text.split(separator: " ", maxSplits: 2)
    return words.count > 1 ? Int(words[1]) ?? 0 : 0
  }

  package func waitUntil(_ what: String, within limit: Duration = .seconds(60), _ body: () throws -> Bool) throws {
    let time = SystemTime()
    let deadline = time.monotonicNanoseconds() + limit.wholeNanoseconds
    while try !body() {
      guard time.monotonicNanoseconds() < deadline else {
        throw SystemFailure("wait", path: "until \(what), in \(limit.brief)", number: ETIMEDOUT)
      }
      poll(nil, 0, 50)
    }
  }

  /// Lines of an agent's words.
  package func agentLog(_ name: String) -> [String] {
    ((try? Files.read(network[name].directory + "/agent.log")) ?? []).split(separator: 10).map {
      String(decoding: $0, as: UTF8.self)
    }
  }

  /// A member that serves with all others following it, streaming from it on one timeline.
  package var whole: String? {
    for name in Self.members {
      guard isPrimary(name),
        let rows = try? ask(
          "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name IN ('a', 'b', 'c')",
          on: name),
        rows.first?.first == "2"
      else { continue }
      return name
    }
    return nil
  }

  /// Waits until one serves and all others follow it, and still do a second later.
  package func waitUntilWhole(within limit: Duration = .seconds(90)) throws -> String {
    let time = SystemTime()
    let deadline = time.monotonicNanoseconds() + limit.wholeNanoseconds
    var since: (name: String, at: Int64)?
    while true {
      let found = whole
      if since?.name != found { since = found.map { ($0, time.monotonicNanoseconds()) } }
      if let since, time.monotonicNanoseconds() - since.at > 1_000_000_000 { return since.name }
      guard time.monotonicNanoseconds() < deadline else {
        throw SystemFailure("wait", path: "until all follow one, in \(limit.brief)", number: ETIMEDOUT)
      }
      poll(nil, 0, 100)
    }
  }

  /// What is in the servers, as `name` has it.
  package func final(_ name: String) throws -> FinalState {
    var state = FinalState()
    for row in try ask("SELECT key, value FROM appends", on: name) {
      if let key = row[0].flatMap({ Int($0) }), let value = row[1].flatMap({ Int64($0) }) {
        state.appended[key, default: []].insert(value)
      }
    }
    for row in try ask("SELECT key, value FROM registers", on: name) {
      if let key = row[0].flatMap({ Int($0) }), let value = row[1].flatMap({ Int64($0) }) {
        state.registers[key] = value
      }
    }
    state.balances =
      try ask("SELECT sum(balance) FROM accounts", on: name).first?.first.flatMap { $0 }.flatMap { Int64($0) } ?? 0
    return state
  }

  /// Decides every recorded decision of every agent again.
  ///
  /// - Returns: Whose record comes to another answer, or can't be read.
  package func replayDifferences() -> [String] {
    (Self.members + ["witness"]).filter { name in
      let path = "\(network[name].directory)/agent/room-\(name).log"
      guard Files.exists(path) else { return false }
      return (try? network.run([options.program, "failover", "replay", path], on: name, log: "replay.log")) == nil
    }
  }
}
