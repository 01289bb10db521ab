import Core
import DriverKit
import DriverMariaDB
import IO
import ReplicatedEngineContract
import TestSupport

/// Three MariaDB servers, each with an agent's hand on it.
struct MariaDBTrio: AgentTrio {
  static let engineName = "mariadb"
  static let knowsPositionAfterStart = false

  let servers: [MemberName: MariaDBServer]
  let members: [MemberName: MariaDBMember]
  let isBounded: Bool

  static func start(isBounded: Bool) async throws -> MariaDBTrio {
    let servers = try await withThrowingTaskGroup(of: (MemberName, MariaDBServer).self) { group in
      for (index, name) in Self.members.enumerated() { group.addTask { (name, try await server(index + 1)) } }
      return try await group.reduce(into: [MemberName: MariaDBServer]()) { $0[$1.0] = $1.1 }
    }
    let members = servers.keys.map { ($0, member($0, servers, at: servers.mapValues(\.port), isBounded: isBounded)) }
    let trio = MariaDBTrio(
      servers: servers, members: Dictionary(uniqueKeysWithValues: members), isBounded: isBounded)
    do {
      try await trio.engine("a").promote()
      for name in Self.members.dropFirst() { try await trio.engine(name).follow("a") }
      try await servers["a"]!.sql("CREATE TABLE shop.keys (name VARCHAR(100) PRIMARY KEY)")
    } catch {
      await trio.end()
      throw error
    }
    return trio
  }

  private static func member(
    _ name: MemberName, _ servers: [MemberName: MariaDBServer], at ports: [MemberName: UInt16], isBounded: Bool
  ) -> MariaDBMember {
    let peers = ports.map { MemberAddress(name: $0.key, host: "127.0.0.1", port: $0.value) }
    var settings = MariaDBMemberSettings(name: name, peers: peers)
    (settings.dataDirectory, settings.configFile) = (servers[name]!.data, servers[name]!.configFile)
    (settings.isBounded, settings.password) = (isBounded, SecretReference("env:TRIO"))
    settings.copyCommand = Self.copyCommand(servers)
    return MariaDBMember(settings, in: .trio(MariaDBServer.password))
  }

  /// Another hand on a server, which reaches one of the others elsewhere.
  func member(_ name: MemberName, reaching peer: MemberName, at port: UInt16) -> MariaDBMember {
    var ports = servers.mapValues(\.port)
    ports[peer] = port
    return Self.member(name, servers, at: ports, isBounded: isBounded)
  }

  private static func server(_ number: Int) async throws -> MariaDBServer {
    let server = try await MariaDBServer.start(settings: [
      "server-id=\(number)", "read-only=1", "skip-slave-start=1", "log-slave-updates=1", "gtid-strict-mode=1",
      "relay-log=relay", "report-host=127.0.0.1",
    ])
    try await server.sql(
      "SET SESSION sql_log_bin = 0",
      "GRANT ALL ON *.* TO '\(MariaDBServer.user)'@'localhost', '\(MariaDBServer.user)'@'127.0.0.1'",
      "CREATE USER app@localhost", "GRANT ALL ON shop.* TO app@localhost")
    return server
  }

  /// As root on the primary's machine, which here is this one.
  private static func copyCommand(_ servers: [MemberName: MariaDBServer]) -> String {
    let cases = servers.map { name, server in
      "\(name)) mariadb-backup --no-defaults --user=root --socket=\(server.socket) --datadir=\(server.data) --backup "
        + "--stream=mbstream --target-dir=/tmp ;;"
    }
    return "case $SALVOR_PRIMARY in \(cases.joined(separator: " ")) esac"
  }

  func engine(_ member: MemberName) -> any ReplicatedEngine { members[member]! }

  func write(_ key: String, on member: MemberName) async throws -> Bool {
    (try? await sql("INSERT INTO shop.keys VALUES ('\(key)')", on: member)) != nil
  }

  func keys(on member: MemberName) async throws -> Set<String> {
    Set(try await sql("SELECT name FROM shop.keys", on: member).split(separator: "\n").map(String.init))
  }

  private func sql(_ statement: String, on member: MemberName) async throws -> String {
    try await CommandRun([
      "timeout", "2", "mariadb", "--no-defaults", "--batch", "--skip-column-names",
      "--socket=\(servers[member]!.socket)", "--user=app", "-e", statement,
    ]).succeeded().output
  }

  func crash(_ member: MemberName) async throws { try await servers[member]!.stop(9) }

  func restart(_ member: MemberName) async throws { try await servers[member]!.start() }

  func dataDirectory(of member: MemberName) -> String { servers[member]!.data }

  func address(of member: MemberName) -> String { "127.0.0.1:\(servers[member]!.port)" }

  func agentWords(_ member: MemberName) -> [String] {
    [
      "--config-file", servers[member]!.configFile, "--password", "env:TRIO", "--copy-command",
      Self.copyCommand(servers),
    ]
  }

  var agentEnvironment: [String: String] { ["TRIO": MariaDBServer.password] }

  func end() async {
    for server in servers.values { await server.shutDown() }
  }
}
