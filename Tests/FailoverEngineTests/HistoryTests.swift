import Catalog
import Core
import Failover
import IO
import Runtime
import StateKit
import TestSupport
import Testing
import Web

#if canImport(Glibc)
  import Glibc
#endif

/// Two PostgreSQL servers that replicate, agents beside them that speak TLS, a witness, and leases in a third server:
/// all by the built program.
private final class FailoverPair: @unchecked Sendable {
  // Used by one test.
  let directory: TemporaryDirectory
  let primary: PostgreSQLServer
  /// A cluster of another origin: tests' servers are copies of one, and copies of a member keep no leases.
  let keeperData: String
  let keeperPort: UInt16
  let standbyData: String
  let standbyPort: UInt16
  let certificates: Certificates
  let program: String
  private var agents: [String: (port: UInt16, process: ServerProcess?)] = [:]

  var policyFile: String { directory.file("bank.json") }
  var lease: String { "postgres://salvor@127.0.0.1:\(keeperPort)/leases" }
  var variables: [String: String] {
    ["AGENTS": "agents-secret", "LEASES": "agents-own", "PG": PostgreSQLServer.password]
  }

  init() async throws {
    directory = try TemporaryDirectory("failover-pair")
    certificates = try await Certificates()
    program = try CommandRun.product("salvor")
    primary = try await PostgreSQLServer.start(settings: ["wal_keep_size = 64MB"])
    (standbyPort, keeperPort) = (try freePort(), try freePort())
    standbyData = try primary.ownDirectory("standby")
    keeperData = try primary.ownDirectory("keeper")
    try await prepareLeases()
    try await makeStandby()
    for name in ["a", "b", "w"] { agents[name] = (try freePort(), nil) }
    func member(_ name: String, _ port: UInt16?) -> JSONValue {
      var fields: [String: JSONValue] = [
        "name": .string(name), "agent": .string("https://127.0.0.1:\(agents[name]?.port ?? 0)"),
      ]
      if let port { fields["address"] = .string("127.0.0.1:\(port)") }
      return .object(fields)
    }
    let policy: JSONValue = [
      "name": "bank", "members": [member("a", primary.port), member("b", standbyPort)], "witnesses": [member("w", nil)],
      "consent": "auto-zero-loss",
    ]
    try Files.replace(policyFile, with: CanonicalJSON.encode(policy))
  }

  private func prepareLeases() async throws {
    try await PostgreSQLServer.command(
      PostgreSQLServer.program("initdb"),
      ["-D", keeperData, "-U", "postgres", "--auth=trust", "--no-sync", "--no-instructions"], asOwner: true)
    try await start(keeperData, keeperPort)
    func sql(_ text: String, _ database: String) async throws {
      try await PostgreSQLServer.command(
        PostgreSQLServer.program("psql"),
        [
          "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", "\(keeperPort)", "-U", "postgres", "-d", database,
          "-c", text,
        ], asOwner: false)
    }
    try await sql("CREATE ROLE salvor LOGIN", "postgres")
    try await sql("CREATE DATABASE leases", "postgres")
    try await sql(try await run("lease-schema", "--role", "salvor"), "leases")
  }

  private func start(_ data: String, _ port: UInt16) async throws {
    let file = try File(data + "/postgresql.conf", O_WRONLY | O_APPEND)
    let lines = "listen_addresses = '127.0.0.1'\nport = \(port)\nunix_socket_directories = ''\nshared_buffers = 16MB\n"
    try Array(lines.utf8).withUnsafeBytes { try file.write($0) }
    try await PostgreSQLServer.command(
      PostgreSQLServer.program("pg_ctl"),
      ["-D", data, "-l", data + "/startup.log", "-w", "-t", "60", "start"], asOwner: true)
  }

  private func makeStandby() async throws {
    let passwords = primary.data + "/../pgpass-server"
    try Files.replace(passwords, with: Array("*:*:*:postgres:\(PostgreSQLServer.password)\n".utf8))
    if let owner = PostgreSQLServer.owner { chown(passwords, owner.userID, owner.groupID) }
    let source = "host=127.0.0.1 port=\(primary.port) user=postgres application_name=b passfile=\(passwords)"
    try await PostgreSQLServer.command(
      PostgreSQLServer.program("pg_basebackup"),
      ["-d", source, "-D", standbyData, "-R", "-X", "stream", "-c", "fast", "--no-sync"], asOwner: true)
    try await start(standbyData, standbyPort)
  }

  /// A verb of `salvor failover`, to its end.
  @discardableResult
  func run(_ words: String..., state: String = "operator") async throws -> String {
    try await CommandRun(
      [program, "failover"] + words, environment: variables.merging(["SALVOR_STATE": directory.file(state)]) { $1 }
    ).succeeded().output
  }

  var trust: [String] {
    ["--tls-cert", certificates.server, "--tls-key", certificates.serverKey, "--tls-ca", certificates.authority]
  }

  func startAgent(_ name: String) async throws {
    guard let port = agents[name]?.port else { return }
    var words = [
      program, "failover", "agent", "--policy", policyFile, "--member", name, "--lease", lease, "--lease-password",
      "env:LEASES", "--secret", "env:AGENTS", "--listen", "127.0.0.1:\(port)", "--password", "env:PG",
      "--password-file", primary.data + "/../pgpass-server",
    ]
    if name != "w" { words += ["--data-directory", name == "a" ? primary.data : standbyData] }
    let (all, environment) = (
      words + trust, variables.merging(["SALVOR_STATE": directory.file("state-\(name)")]) { $1 }
    )
    let process = try await BlockingPool.shared.run { () throws in
      try ServerProcess(port: port, all, environment: environment)
    }
    agents[name] = (port, process)
  }

  func said(_ name: String) -> String { agents[name]?.process?.output ?? "" }

  func history(_ name: String) async throws -> [FailoverHistory.Row] {
    let text = try await run("history", "--policy", policyFile, "-o", "json", state: "state-\(name)")
    return try CanonicalJSON.decode([FailoverHistory.Row].self, from: Array(text.utf8))
  }

  func end() async {
    let processes = agents.values.compactMap(\.process)
    await BlockingPool.shared.run { for process in processes { _ = process.end() } }
    for data in [standbyData, keeperData] {
      guard let bytes = try? Files.read(data + "/postmaster.pid", limitBytes: 65_536),
        let pid = String(decoding: bytes, as: UTF8.self).split(separator: "\n").first.flatMap({ pid_t($0) })
      else { continue }
      kill(pid, SIGQUIT)
      for _ in 0..<6000 where kill(pid, 0) == 0 { usleep(10_000) }
    }
    await primary.shutDown()
  }
}

@Suite("Who became primary", .serialized) struct HistoryTests {
  @Test(.timeLimit(.minutes(10)))
  func `agents that speak TLS and keep leases in PostgreSQL move service, and why is on record`() async throws {
    let pair = try await FailoverPair()
    do {
      for name in ["a", "b", "w"] { try await pair.startAgent(name) }
      // Nobody is recorded: who serves with its standbys is adopted.
      while try await rows(pair).isEmpty { try await Task.sleep(for: .milliseconds(200)) }
      try await pair.run(
        "switchover", "b", "--policy", pair.policyFile, "--lease", pair.lease, "--lease-password", "env:LEASES")
      while try await rows(pair).first(where: { $0.primary == "b" && $0.servedAt != nil }) == nil {
        try await Task.sleep(for: .milliseconds(200))
      }
      try await judge(pair)
    } catch {
      Issue.record("\(error)\n\(pair.said("a"))\n\(pair.said("b"))\n\(pair.said("w"))")
    }
    await pair.end()
  }

  /// Of all three machines; the conductor's own word comes first.
  private func rows(_ pair: FailoverPair) async throws -> [FailoverHistory.Row] {
    var found: [FailoverHistory.Row] = []
    for name in ["a", "b", "w"] {
      // Until something is on record there is no log.
      guard let own = try? await pair.history(name) else { continue }
      for row in own {
        if let known = found.firstIndex(where: { $0.epoch == row.epoch }) {
          if found[known].decidedBy == nil { found[known] = row }
        } else {
          found.append(row)
        }
      }
    }
    return found.sorted { $0.epoch < $1.epoch }
  }

  private func judge(_ pair: FailoverPair) async throws {
    let found = try await rows(pair)
    #expect(found.first?.primary == "a" && found.first?.previous == nil)
    let moved = try #require(found.first { $0.primary == "b" })
    #expect(moved.previous == "a" && moved.epoch > found[0].epoch && moved.isReplayed == true)
    #expect(moved.orderedBy != nil && moved.why.contains { $0.hasPrefix("F-033") })
    let decision = try #require(moved.decision)
    #expect(decision.hasPrefix("F-060 ") && Digest(hex: decision.dropFirst(6)) != nil)
    // What the lease store says of it is the same.
    for name in ["a", "b", "w"] {
      let own = try await pair.history(name)
      #expect(own.filter { $0.primary == "b" }.allSatisfy { $0.decision == decision }, "\(name)")
    }
    // Its entries can be proved to who has nothing but the keys; and the whole log is as the journal has it.
    let conductor = try #require(moved.decidedBy)
    let state = ["SALVOR_STATE": pair.directory.file("state-\(conductor)")]
    func evidence(_ words: String...) async throws -> String {
      try await CommandRun([pair.program, "evidence"] + words, environment: pair.variables.merging(state) { $1 })
        .succeeded().output
    }
    for entry in moved.entries.prefix(2) {
      #expect(try await evidence("prove", "\(entry)").contains("tlog-proof"))
    }
    #expect(try await evidence("check").contains("whole"))
    #expect(try await evidence("log", "--limit", "0", "-o", "json").contains("failover.decided"))
    let text = try await pair.run("history", state: "state-\(conductor)")
    #expect(text.contains("b") && text.contains("replayed to the same decision"))
    // Whoever changes what the decision was made of is found out.
    let record = pair.directory.file("state-\(conductor)") + "/failover/bank-\(conductor).log"
    let lines = String(decoding: try Files.read(record), as: UTF8.self)
    #expect(lines.contains(String(decision.dropFirst(6))))
    try Files.replace(
      record, with: Array(lines.replacing("\"priority\":100", with: "\"priority\":101").utf8))
    await #expect(throws: CommandRun.Failed.self) { try await pair.history(conductor) }
    // The order is on record where it was given.
    let orders = try await CommandRun(
      [pair.program, "evidence", "log", "--limit", "0"],
      environment: pair.variables.merging(["SALVOR_STATE": pair.directory.file("operator")]) { $1 }
    ).succeeded().output
    #expect(orders.contains("act.intended") && orders.contains("failover/bank"))
  }
}
