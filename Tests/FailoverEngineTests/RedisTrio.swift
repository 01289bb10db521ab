import Core
import DriverKit
import DriverRedis
import IO
import ReplicatedEngineContract
import TestSupport

/// Three Redis servers, each with an agent's hand on it.
struct RedisTrio: AgentTrio {
  static let engineName = "redis"
  static let knowsPositionAfterStart = false
  private static let password = "not-a-secret-in-a-test"

  let servers: [MemberName: RedisServer]
  let members: [MemberName: RedisMember]
  let isBounded: Bool

  static func settings() -> RedisServer.Settings {
    var settings = RedisServer.Settings()
    settings.password = password
    settings.more = [
      "masterauth \(password)", "appendfsync always", "replicaof 127.0.0.1 1", "min-replicas-to-write 1",
      "repl-ping-replica-period 1",
    ]
    return settings
  }

  static func start(isBounded: Bool) async throws -> RedisTrio {
    var servers: [MemberName: RedisServer] = [:]
    for name in Self.members {
      servers[name] = try await BlockingPool.shared.run { try RedisServer(settings()) }
    }
    let peers = servers.map { MemberAddress(name: $0.key, host: "127.0.0.1", port: $0.value.port) }
    var members: [MemberName: RedisMember] = [:]
    for (name, server) in servers {
      var settings = RedisMemberSettings(name: name, peers: peers)
      (settings.dataDirectory, settings.configFile) = (server.dataDirectory, server.configFile)
      (settings.isBounded, settings.password) = (isBounded, SecretReference("env:TRIO"))
      members[name] = try RedisMember(settings, in: .trio(password))
    }
    let trio = RedisTrio(servers: servers, members: members, isBounded: isBounded)
    do {
      try await trio.engine("a").promote()
      for name in Self.members.dropFirst() { try await trio.engine(name).follow("a") }
    } catch {
      await trio.end()
      throw error
    }
    return trio
  }

  func engine(_ member: MemberName) -> any ReplicatedEngine { members[member]! }

  func write(_ key: String, on member: MemberName) async throws -> Bool {
    let words = ["SET", "key:\(key)", "value"]
    let wait = isBounded ? ["WAIT", "0", "1"] : ["WAIT", "1", "2000"]
    // One that is held doesn't answer at all.
    guard let answers = try? await cli(member, [words, wait]) else { return false }
    guard answers.first == "OK" else { return false }
    return isBounded || answers.last == "1" || answers.last == "2"
  }

  func keys(on member: MemberName) async throws -> Set<String> {
    Set(try await cli(member, [["KEYS", "key:*"]]).filter { !$0.isEmpty }.map { String($0.dropFirst(4)) })
  }

  private func cli(_ member: MemberName, _ commands: [[String]]) async throws -> [String] {
    let words = commands.map { $0.joined(separator: " ") }.joined(separator: "\\n")
    let run = try await CommandRun(
      ["bash", "-c", "printf '\(words)\\n' | timeout 3 redis-cli -p \(servers[member]!.port) --no-auth-warning"],
      environment: ["REDISCLI_AUTH": Self.password]
    ).succeeded()
    return run.output.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
      .filter { !$0.isEmpty }
  }

  func crash(_ member: MemberName) async throws {
    let server = servers[member]!
    await BlockingPool.shared.run { server.stop(9) }
  }

  func restart(_ member: MemberName) async throws {
    let server = servers[member]!
    try await BlockingPool.shared.run { try server.start() }
  }

  func address(of member: MemberName) -> String { "127.0.0.1:\(servers[member]!.port)" }

  func agentWords(_ member: MemberName) -> [String] {
    ["--config-file", servers[member]!.configFile, "--password", "env:TRIO"]
  }

  var agentEnvironment: [String: String] { ["TRIO": Self.password] }

  func dataDirectory(of member: MemberName) -> String { servers[member]!.dataDirectory }

  func end() async {
    for server in servers.values { await BlockingPool.shared.run { server.stop(9) } }
  }
}

extension DriverEnvironment {
  /// What agents have, with one secret for whoever asks.
  static func trio(_ secret: String) -> DriverEnvironment {
    DriverEnvironment(time: SystemTime(), randomness: SystemRandomness(), pool: .shared) { _ in Secret(secret) }
  }
}
