import Core
import DriverKit
import IO
import ReplicatedEngineContract
import TestSupport
import Testing

/// What an agent beside one of three servers is started with.
protocol AgentTrio: ReplicatedTrio {
  static var engineName: String { get }
  func address(of member: MemberName) -> String
  /// Beside policy, member, data directory, lease and secret.
  func agentWords(_ member: MemberName) -> [String]
  var agentEnvironment: [String: String] { get }
}

/// Three servers, three agents as programs of their own, and an etcd, on loopback.
struct AgentRoom<Trio: AgentTrio>: Sendable {
  let trio: Trio
  private let etcd: EtcdServer
  private let directory: TemporaryDirectory
  private let agents: [MemberName: ServerProcess]

  var policyFile: String { directory.file("policy.json") }
  var leases: String { etcd.endpoint }
  /// Of commands, not of agents.
  var stateDirectory: String { directory.file("state") }

  /// - Parameter practice: As in the policy's JSON.
  static func open(practice: String? = nil) async throws -> AgentRoom {
    let trio = try await Trio.start(isBounded: false)
    do {
      let etcd = try await BlockingPool.shared.run { try EtcdServer() }
      let directory = try TemporaryDirectory("agents")
      let ports = try Dictionary(uniqueKeysWithValues: Trio.members.map { ($0, try freePort()) })
      let members = Trio.members.map { name in
        """
        {"name": "\(name)", "address": "\(trio.address(of: name))", "agent": "http://127.0.0.1:\(ports[name]!)"}
        """
      }
      // Nobody practises a failover while the last one is looked at.
      let more = practice.map { #", "budgets": {"observe": "1s", "pause": "1s"}, "practice": \#($0)"# } ?? ""
      let policy = """
        {"name": "room", "engine": "\(Trio.engineName)", "consent": "auto-zero-loss", "acknowledgements": 1,
         "members": [\(members.joined(separator: ", "))]\(more)}
        """
      try Files.replace(directory.file("policy.json"), with: Array(policy.utf8))
      var agents: [MemberName: ServerProcess] = [:]
      let program = try CommandRun.product("salvor")
      for name in Trio.members {
        let words =
          [
            program, "failover", "agent", "--policy", directory.file("policy.json"), "--member", name.text,
            "--data-directory", trio.dataDirectory(of: name), "--lease", etcd.endpoint, "--secret", "env:AGENTS",
            "--listen", "127.0.0.1:\(ports[name]!)", "--directory", directory.file(name.text),
          ] + trio.agentWords(name)
        let environment = trio.agentEnvironment.merging(["AGENTS": "shown-to-each-other"]) { $1 }
        let port = ports[name]!
        agents[name] = try await BlockingPool.shared.run {
          try ServerProcess(port: port, words, environment: environment)
        }
      }
      return AgentRoom(trio: trio, etcd: etcd, directory: directory, agents: agents)
    } catch {
      await trio.end()
      throw error
    }
  }

  func close() async {
    for agent in agents.values { await BlockingPool.shared.run { _ = agent.end() } }
    await trio.end()
    await BlockingPool.shared.run { etcd.stop() }
  }

  /// Whom the agents would send clients to.
  func primary() async -> MemberName? {
    for (name, agent) in agents {
      let run = try? await CommandRun(["curl", "-fsS", "-m", "1", "http://127.0.0.1:\(agent.port)/primary"])
      if run?.status == 0 { return name }
    }
    return nil
  }

  func until(_ what: String, _ condition: () async throws -> Bool) async throws {
    for _ in 0..<1200 {
      if try await condition() { return }
      try await SystemTime().sleep(for: .milliseconds(50))
    }
    let said = agents.map { "\($0.key): \($0.value.output)" }.joined(separator: "\n")
    throw CommandRun.Failed(description: "\(what) doesn't come about:\n\(said)")
  }

  /// Each record of an agent's decisions, decided again from its facts.
  func replayAll() async throws {
    let program = try CommandRun.product("salvor")
    for name in Trio.members {
      let run = try await CommandRun([program, "failover", "replay", directory.file("\(name)/room-\(name).log")])
      #expect(run.status == 0, "\(run.output)\(run.errors)")
    }
  }
}
