import Core
import DriverKit
import Failover
import Foundation
import IO
import StateKit
import TestSupport
import Testing
import TrafficContract

#if canImport(Glibc)
  import Glibc
#endif

/// Three PostgreSQL servers that follow each other, an agent beside each, etcd, and a PgBouncer in front of all.
private final class SwitchoverSite: Sendable {
  let directory: TemporaryDirectory
  let servers: [String: PostgreSQLServer]
  let etcd: EtcdServer
  let bouncer: ServerProcess
  let port: UInt16
  let agentPorts: [String: UInt16]
  private let agents: [PipedProcess]
  static let names = ["a", "b", "c"]

  static func start() async throws -> SwitchoverSite {
    let first = try await PostgreSQLServer.start(settings: [
      "wal_keep_size = 96MB", "wal_retrieve_retry_interval = 500ms",
    ])
    try await first.sql("CREATE TABLE arrivals (id bigserial PRIMARY KEY, who text)")
    let port = first.port
    try await first.stop()
    var servers = ["a": first]
    for name in ["b", "c"] {
      // Another cluster of the same contents that follows: its files are the first's, its port its own.
      let server = try await PostgreSQLServer.start()
      try await server.stop()
      _ = try await CommandRun(["sh", "-c", "rm -rf \(server.data) && cp -a \(first.data) \(server.data)"])
      let follows =
        "primary_conninfo = 'host=127.0.0.1 port=\(port) user=\(PostgreSQLServer.user) password=\(PostgreSQLServer.password) application_name=\(name)'\n"
      try append("port = \(server.port)\n", to: server.data + "/postgresql.conf")
      try append(follows, to: server.data + "/postgresql.auto.conf")
      _ = try await CommandRun([
        "sh", "-c",
        "touch \(server.data)/standby.signal && chown --reference=\(server.data) \(server.data)/standby.signal",
      ])
      servers[name] = server
    }
    try append("synchronous_standby_names = 'ANY 1 (\"b\", \"c\")'\n", to: first.data + "/postgresql.auto.conf")
    for name in names { try await servers[name]!.start() }
    return try await SwitchoverSite(servers)
  }

  private static func append(_ text: String, to path: String) throws {
    let file = try File(path, O_WRONLY | O_APPEND)
    try Array(text.utf8).withUnsafeBytes { try file.write($0) }
  }

  private init(_ servers: [String: PostgreSQLServer]) async throws {
    let directory = try TemporaryDirectory("switchover")
    (self.directory, self.servers) = (directory, servers)
    let etcd = try await BlockingPool.shared.run { try EtcdServer() }
    self.etcd = etcd
    let (port, file) = (try freePort(), directory.file("bank.ini"))
    self.port = port
    try Files.replace(
      file, with: Array("bank = host=127.0.0.1 port=\(servers["a"]!.port) dbname=postgres\n".utf8), mode: 0o644)
    let bouncerText = """
      [databases]
      %include \(file)
      [pgbouncer]
      listen_addr = 127.0.0.1
      listen_port = \(port)
      unix_socket_dir =
      auth_type = scram-sha-256
      auth_file = \(directory.file("users"))
      admin_users = \(PostgreSQLServer.user)
      pool_mode = transaction

      """
    try Files.replace(directory.file("pgbouncer.ini"), with: Array(bouncerText.utf8), mode: 0o644)
    try Files.replace(
      directory.file("users"), with: Array("\"\(PostgreSQLServer.user)\" \"\(PostgreSQLServer.password)\"\n".utf8),
      mode: 0o644)
    bouncer = try await BlockingPool.shared.run {
      try ServerProcess(
        port: port, ["pgbouncer"] + (geteuid() == 0 ? ["-u", "postgres"] : []) + [directory.file("pgbouncer.ini")])
    }
    let ports = try Dictionary(uniqueKeysWithValues: Self.names.map { ($0, try freePort()) })
    agentPorts = ports
    let members = Self.names.map { name in
      "{\"name\": \"\(name)\", \"address\": \"127.0.0.1:\(servers[name]!.port)\", \"agent\": \"http://127.0.0.1:\(ports[name]!)\"}"
    }
    let policy =
      "{\"name\": \"bank\", \"consent\": \"auto-zero-loss\", \"members\": [\(members.joined(separator: ", "))]}"
    try Files.replace(directory.file("policy.json"), with: Array(policy.utf8))
    try Files.replace(directory.file("secret"), with: Array("not-a-secret-in-a-test\n".utf8))
    let backends = Self.names.map { "\($0): \"127.0.0.1:\(servers[$0]!.port)\"" }.joined(separator: ", ")
    let catalog = """
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: bank}
      spec: {owner: bank-team, objectives: {rto: 5m}}
      ---
      apiVersion: salvor.dev/v1
      kind: TrafficRoute
      metadata: {name: bank-sql}
      spec:
        pgbouncer:
          address: 127.0.0.1:\(port)
          user: \(PostgreSQLServer.user)
          password: file:\(directory.file("secret"))
          database: bank
          file: \(file)
          parameters: dbname=postgres
        backends: {\(backends)}
        failover: bank

      """
    try Files.replace(directory.file("salvor.yaml"), with: Array(catalog.utf8))
    try Files.replace(
      directory.file("pgpass"), with: Array("*:*:*:\(PostgreSQLServer.user):\(PostgreSQLServer.password)\n".utf8))
    if geteuid() == 0, let owner = SystemUser(name: "postgres") {
      chown(directory.file("pgpass"), owner.userID, owner.groupID)
    }
    agents = try Self.names.map { name in
      try PipedProcess(
        [
          RolloutSite.program, "failover", "agent", "--policy", "policy.json", "--member", name, "--lease",
          etcd.endpoint, "--secret", "file:\(directory.file("secret"))", "--listen", "127.0.0.1:\(ports[name]!)",
          "--directory", directory.file("agents"), "--data-directory", servers[name]!.data, "--password",
          "file:\(directory.file("secret"))", "--password-file", directory.file("pgpass"), "--route", "bank-sql",
          "--catalog", "salvor.yaml", "--state", directory.file("state"),
        ], in: directory.path)
    }
  }

  func serves(_ name: String) async throws -> Bool {
    let run = try await CommandRun(["curl", "-fs", "http://127.0.0.1:\(agentPorts[name]!)/primary"])
    return run.status == 0
  }

  func wait(_ what: String, until isSo: () async throws -> Bool) async throws {
    for _ in 0..<3000 {
      if try await isSo() { return }
      try await SystemTime().sleep(for: .milliseconds(40))
    }
    let words = agents.map(\.errors).joined(separator: "\n")
    Issue.record("waited in vain: \(what)\n\(words.suffix(6000))")
    throw CancellationError()
  }

  func stop() async {
    for agent in agents { agent.kill() }
    await BlockingPool.shared.run { _ = self.bouncer.end() }
    for server in servers.values { await server.shutDown() }
    await BlockingPool.shared.run { self.etcd.stop() }
  }

  var agentWords: String { agents.map(\.errors).joined(separator: "\n") }
}

@Suite("A switchover behind PgBouncer", .serialized) struct SwitchoverTests {
  @Test(.timeLimit(.minutes(10))) func `clients see a delay, and no error`() async throws {
    let site = try await SwitchoverSite.start()
    try await site.wait("a serves") { try await site.serves("a") }
    // Four clients, each on one connection from the first insert to the last.
    let clients = try (0..<4).map { _ in
      try PipedProcess(
        ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "host=127.0.0.1 port=\(site.port) user=postgres dbname=bank"],
        environment: ["PGPASSWORD": PostgreSQLServer.password])
    }
    let insert = Array("INSERT INTO arrivals (who) VALUES (current_setting('port')) RETURNING who;\n".utf8)
    func answers(_ client: PipedProcess) -> [String] {
      String(decoding: client.output, as: UTF8.self).split(separator: "\n").map(String.init)
    }
    var asked = 0
    func ask() async throws {
      for client in clients { client.write(insert) }
      asked += 1
      try await SystemTime().sleep(for: .milliseconds(10))
    }
    try await site.wait("clients are answered") {
      try await ask()
      return clients.allSatisfy { answers($0).count > 20 }
    }
    let ordered = try await CommandRun(
      [
        RolloutSite.program, "failover", "switchover", "b", "--policy", "policy.json", "--lease", site.etcd.endpoint,
        "--state", site.directory.file("state"),
      ], in: site.directory.path)
    #expect(ordered.status == 0, "\(ordered.errors)")
    let new = "\(site.servers["b"]!.port)"
    try await site.wait("every client is answered by the new one") {
      try await ask()
      return clients.allSatisfy { answers($0).last == new }
    }
    for client in clients {
      client.end()
      // ON_ERROR_STOP: one error would have ended it with 3.
      #expect(await BlockingPool.shared.run { client.wait() } == 0, "\(client.errors)")
      #expect(answers(client).count == asked)
    }
    // Every answer is there, once.
    let count = try await site.servers["b"]!.sql("SELECT count(*) FROM arrivals")
    #expect(count.filter { $0.isNumber } == "\(asked * clients.count)")
    let words = site.agentWords
    #expect(words.contains("traffic: close a at bank-sql: a closed, b closed, c closed"))
    #expect(words.contains("traffic: open b at bank-sql: a closed, b open, c closed"))
    // What routers said is a fact of the record, and replays.
    var shown = false
    for name in SwitchoverSite.names {
      let path = site.directory.file("agents/bank-\(name).log")
      let entries = try FailoverLogEntry.entries(try Files.read(path))
      #expect(entries.allSatisfy { $0.replayed() == $0.decisions })
      shown = shown || entries.contains { $0.facts.traffic?.first?.open == ["b"] }
    }
    #expect(shown)
    await site.stop()
  }
}
