import Core
import DriverKit
import DriverPostgreSQL
import IO
import ReplicatedEngineContract
import TestSupport

#if canImport(Glibc)
  import Glibc
#endif

/// Three PostgreSQL servers, each with an agent's hand on it.
struct PostgreSQLTrio: AgentTrio {
  static let engineName = "postgresql"
  static let knowsPositionAfterStart = true

  let servers: [MemberName: PostgreSQLServer]
  let members: [MemberName: PostgreSQLMember]
  let passwords: TemporaryDirectory
  let isBounded: Bool

  private static let settings = [
    "wal_level = replica", "max_wal_senders = 10", "hot_standby = on", "wal_log_hints = on",
    "wal_receiver_status_interval = 1s", "wal_retrieve_retry_interval = 100ms", "wal_keep_size = 64MB",
    "synchronous_commit = on",
  ]

  static func start(isBounded: Bool) async throws -> PostgreSQLTrio {
    let first = try await PostgreSQLServer.start(settings: settings)
    try await first.sql("CREATE TABLE keys (name text PRIMARY KEY)")
    var servers: [MemberName: PostgreSQLServer] = ["a": first]
    let passwords = try TemporaryDirectory("pgpass")
    let file = passwords.file("pgpass")
    try Files.replace(file, with: Array("*:*:*:*:\(PostgreSQLServer.password)\n".utf8))
    if let owner = PostgreSQLServer.owner {
      chown(passwords.path, owner.userID, owner.groupID)
      chown(file, owner.userID, owner.groupID)
    }
    for name in Self.members.dropFirst() {
      servers[name] = try await PostgreSQLServer.copy(of: first, passwordFile: file)
    }
    let peers = servers.map { PostgreSQLMemberSettings.Peer(name: $0.key, host: "127.0.0.1", port: $0.value.port) }
    var members: [MemberName: PostgreSQLMember] = [:]
    for (name, server) in servers {
      var settings = PostgreSQLMemberSettings(name: name, peers: peers)
      (settings.dataDirectory, settings.passwordFile, settings.isBounded) = (server.data, file, isBounded)
      settings.password = SecretReference("env:TRIO")
      members[name] = PostgreSQLMember(settings, in: .trio(PostgreSQLServer.password))
    }
    let trio = PostgreSQLTrio(servers: servers, members: members, passwords: passwords, isBounded: isBounded)
    do {
      for name in Self.members.dropFirst() {
        try await trio.engine(name).start(detached: true)
        try await trio.engine(name).follow("a")
      }
      try await trio.engine("a").promote()
    } catch {
      await trio.end()
      throw error
    }
    return trio
  }

  func engine(_ member: MemberName) -> any ReplicatedEngine { members[member]! }

  func write(_ key: String, on member: MemberName) async throws -> Bool {
    (try? await sql("INSERT INTO keys VALUES ('\(key)')", on: member)) != nil
  }

  func keys(on member: MemberName) async throws -> Set<String> {
    Set(try await sql("SELECT name FROM keys", on: member).split(separator: "\n").map(String.init))
  }

  private func sql(_ statement: String, on member: MemberName) async throws -> String {
    let place = "host=127.0.0.1 port=\(servers[member]!.port) user=\(PostgreSQLServer.user) dbname=postgres"
    return try await CommandRun(
      [
        "timeout", "2", try PostgreSQLServer.program("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement,
        place + " connect_timeout=2",
      ], environment: ["PGPASSWORD": PostgreSQLServer.password]
    ).succeeded().output
  }

  func crash(_ member: MemberName) async throws {
    let server = servers[member]!
    await BlockingPool.shared.run {
      for process in server.processes() {
        kill(process, 9)
        for _ in 0..<1000 where kill(process, 0) == 0 { usleep(5000) }
      }
    }
  }

  func restart(_ member: MemberName) async throws { try await servers[member]!.start() }

  func dataDirectory(of member: MemberName) -> String { servers[member]!.data }

  func address(of member: MemberName) -> String { "127.0.0.1:\(servers[member]!.port)" }

  func agentWords(_ member: MemberName) -> [String] {
    ["--password", "env:TRIO", "--password-file", passwords.file("pgpass")]
  }

  var agentEnvironment: [String: String] { ["TRIO": PostgreSQLServer.password] }

  func end() async {
    for server in servers.values { await server.shutDown() }
  }
}
