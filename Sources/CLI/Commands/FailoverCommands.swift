import ArgumentParser
import Catalog
import Console
import Core
import DriverKit
import Failover
import Foundation
import IO
import Runtime
import StateKit
import Web

struct FailoverCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "failover",
    abstract: "Move service to another copy: fenced, explained, and replayed to the same answer.",
    discussion: """
      EXAMPLES
        salvor failover simulate --policy bank.json --runs 1000
        salvor failover agent --policy bank.json --member a --data-directory /srv/pg --lease http://10.0.0.9:2379 \
      --secret file:/etc/salvor/agents
        salvor failover status --policy bank.json --secret file:/etc/salvor/agents
        salvor failover switchover b --policy bank.json --lease http://10.0.0.9:2379
        salvor failover replay bank-a.log
      """,
    subcommands: [
      AgentCommand.self, StatusCommand.self, SwitchoverCommand.self, ApproveCommand.self, PauseCommand.self,
      ResumeCommand.self, BreakGlassCommand.self, ExplainCommand.self, ReplayCommand.self, SimulateCommand.self,
    ])
}

struct PolicyOptions: ParsableArguments {
  @Option(help: "The failover policy, a JSON file.", completion: .file(extensions: ["json"])) var policy: String

  func load() throws -> FailoverPolicy {
    let found: FailoverPolicy
    do {
      found = try CanonicalJSON.decode(FailoverPolicy.self, from: Files.read(policy, limitBytes: 1 << 20))
    } catch let error as SystemFailure {
      throw FailoverFailure.badPolicy(policy, error.report.summary)
    } catch { throw FailoverFailure.badPolicy(policy, "\(error)") }
    if let problem = found.problem { throw FailoverFailure.badPolicy(policy, problem) }
    return found
  }
}

struct LeaseOptions: ParsableArguments {
  @Option(
    name: .customLong("lease"), parsing: .upToNextOption, help: "Endpoints of etcd, such as http://10.0.0.9:2379.")
  var endpoints: [String]
}

/// `file:…`, `env:…` or `command:…`.
private func reference(_ text: String) throws -> SecretReference {
  guard let found = SecretReference(text) else {
    throw ValidationError("a secret is given by reference: file:/path, env:NAME or command:program")
  }
  return found
}

private func agentsSecret(_ text: String, _ host: Machine) async throws -> Secret {
  try await SecretResolver(environment: host.environment, pool: host.pool).resolve(try reference(text))
}

struct AgentCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "agent", abstract: "Run beside a member, or as a witness: look, decide, carry out.",
    discussion: """
      EXAMPLES
        salvor failover agent --policy bank.json --member a --data-directory /srv/pg --lease http://etcd:2379 --secret env:AGENTS
      """)

  @OptionGroup var policy: PolicyOptions
  @OptionGroup var lease: LeaseOptions
  @Option(help: "Which member or witness of the policy this is.") var member: String
  @Option(help: "The member's data directory; none for a witness.") var dataDirectory: String?
  @Option(help: "Superuser of the servers.") var user = "postgres"
  @Option(help: "That user's password: file:…, env:… or command:….") var password: String?
  @Option(help: "A .pgpass file that the server's user can read, for standbys and pg_rewind.") var passwordFile: String?
  @Option(help: "Where agents listen.") var listen = "127.0.0.1:7500"
  @Option(help: "What agents show each other: file:…, env:… or command:….") var secret: String
  @Option(help: "Where memory and record are kept (default: failover, in the state directory).") var directory: String?
  @OptionGroup var system: SystemOptions

  func run() async throws {
    let policy = try policy.load()
    let host = system.host
    let all = policy.members + policy.witnesses
    guard let name = MemberName(member), all.contains(where: { $0.name == name }) else {
      throw FailoverFailure.unknownMember(member)
    }
    let shared = try await agentsSecret(secret, host)
    let agent = try FailoverAgent(
      .init(
        policy: policy, name: name, directory: directory ?? host.stateDirectory + "/failover", secret: shared),
      engine: try Registry.engine(
        of: name, in: policy, dataDirectory: dataDirectory, user: user,
        password: try password.map { try reference($0) },
        passwordFile: passwordFile, host: host), store: try Registry.leases(at: lease.endpoints, host: host),
      web: try WebClient(time: host.time), host: host)
    let address = listen.split(separator: ":")
    guard address.count == 2, let port = Int(address[1]) else { throw ValidationError("--listen must be host:port") }
    let server = AgentServer(agent, secret: shared, host: String(address[0]), port: port)
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { try await server.run { port in host.log("\(name): listens on port \(port)") } }
      group.addTask { try await agent.run() }
      defer { group.cancelAll() }
      try await group.next()
    }
  }
}

struct StatusCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status", abstract: "Show what every agent says: who serves, who follows, who doubts.",
    discussion: """
      EXAMPLES
        salvor failover status --policy bank.json --secret file:/etc/salvor/agents -o json
      """)

  @OptionGroup var policy: PolicyOptions
  @Option(help: "What agents show each other: file:…, env:… or command:….") var secret: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let policy = try policy.load()
    let host = system.host
    let shared = try await agentsSecret(secret, host)
    let web = try WebClient(time: host.time)
    var reports: [AgentReport] = []
    var silent: [MemberName] = []
    for member in policy.members + policy.witnesses {
      var request = WebRequest(.get, member.agent + "/v1/report")
      request.headers = [("authorization", "Bearer \(shared.revealed())")]
      request.timeLimit = .seconds(2)
      if let response = try? await web.send(request), response.isSuccess,
        let report = try? CanonicalJSON.decode(AgentReport.self, from: response.body)
      {
        reports.append(report)
      } else {
        silent.append(member.name)
      }
    }
    guard !reports.isEmpty else { throw FailoverFailure.noAnswer("of \(silent.map(\.text).joined(separator: ", "))") }
    let found = reports
    try output.show(found) { _ in
      found.map { report in
        let engine = report.engine
        let role = engine?.role.rawValue ?? "witness"
        let position = engine?.position.map { " at \($0)" } ?? ""
        let follows = engine?.following.map { ", follows \($0)" } ?? ""
        let attached = engine.map { $0.role == .primary ? ", followed by \($0.attached.map(\.text))" : "" } ?? ""
        return
          "\(report.member)  \(role)\(position)\(follows)\(attached)  epoch \(report.promised)  primary \(report.of?.text ?? "-"): \(report.verdict.rawValue)"
      } + silent.map { "\($0)  its agent doesn't answer" }
    }
    if !silent.isEmpty { throw ExitStatus.incomplete }
  }
}

/// Leaves an order in the lease store.
private func leave(
  _ kind: FailoverOrder.Kind, _ target: String?, _ policy: PolicyOptions, _ lease: LeaseOptions, _ system: SystemOptions
) async throws {
  let found = try policy.load()
  let host = system.host
  var name: MemberName?
  if let target {
    guard let known = found.members.first(where: { $0.name.text == target }) else {
      throw FailoverFailure.unknownMember(target)
    }
    name = known.name
  }
  let order = FailoverOrder(
    id: "\(kind.rawValue)-\(String(host.randomness.next(), radix: 16))", kind: kind, target: name, by: NSUserName())
  let store = try Registry.leases(at: lease.endpoints, host: host)
  try await store.order(try CanonicalJSON.encode(order), on: SeatName(unchecked: found.name.text))
  standardError("ordered: \(order.id)\n")
}

struct SwitchoverCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "switchover", abstract: "Move service to a member, losing nothing, or leave it where it is.",
    discussion: """
      EXAMPLES
        salvor failover switchover b --policy bank.json --lease http://10.0.0.9:2379
      """)

  @Argument(help: "Who shall serve.") var member: String
  @OptionGroup var policy: PolicyOptions
  @OptionGroup var lease: LeaseOptions
  @OptionGroup var system: SystemOptions

  func run() async throws { try await leave(.switchover, member, policy, lease, system) }
}

struct ApproveCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "approve", abstract: "Say yes to a failover that is proposed.",
    discussion: """
      EXAMPLES
        salvor failover approve a --policy bank.json --lease http://10.0.0.9:2379
      """)

  @Argument(help: "The primary that failed.") var member: String
  @OptionGroup var policy: PolicyOptions
  @OptionGroup var lease: LeaseOptions
  @OptionGroup var system: SystemOptions

  func run() async throws { try await leave(.approve, member, policy, lease, system) }
}

struct PauseCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "pause", abstract: "Nothing is done by itself until `resume`.",
    discussion: """
      EXAMPLES
        salvor failover pause --policy bank.json --lease http://10.0.0.9:2379
      """)

  @OptionGroup var policy: PolicyOptions
  @OptionGroup var lease: LeaseOptions
  @OptionGroup var system: SystemOptions

  func run() async throws { try await leave(.pause, nil, policy, lease, system) }
}

struct ResumeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "resume", abstract: "End a pause.",
    discussion: """
      EXAMPLES
        salvor failover resume --policy bank.json --lease http://10.0.0.9:2379
      """)

  @OptionGroup var policy: PolicyOptions
  @OptionGroup var lease: LeaseOptions
  @OptionGroup var system: SystemOptions

  func run() async throws { try await leave(.resume, nil, policy, lease, system) }
}

struct BreakGlassCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "break-glass", abstract: "Serve from a member with what can be reached, and lose what can't.",
    discussion: """
      EXAMPLES
        salvor failover break-glass b --policy bank.json --lease http://10.0.0.9:2379
      """)

  @Argument(help: "Who shall serve.") var member: String
  @OptionGroup var policy: PolicyOptions
  @OptionGroup var lease: LeaseOptions
  @OptionGroup var consent: ConsentOptions
  @OptionGroup var system: SystemOptions

  func run() async throws {
    try consent.require("Acknowledged writes may be lost, and a primary that is cut off may still acknowledge. Go on?")
    try await leave(.breakGlass, member, policy, lease, system)
  }
}

private func entries(_ path: String) throws -> [FailoverLogEntry] {
  do { return try FailoverLogEntry.entries(try Files.read(path, limitBytes: 1 << 30)) } catch {
    throw FailoverFailure.badLog(path, AnyFailure(error).report.summary)
  }
}

struct ExplainCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "explain", abstract: "Show why: rules, facts, candidates and why not, from an agent's record.",
    discussion: """
      EXAMPLES
        salvor failover explain bank-a.log
        salvor failover explain bank-a.log failover-17
      """)

  @Argument(help: "A record an agent has written.") var file: String
  @Argument(help: "Such as failover-17; all if none is named.") var id: String?

  func run() throws {
    let found = try entries(file).filter { id == nil || $0.id == id }
    if found.isEmpty, let id { throw FailoverFailure.unknownFailover(id) }
    for entry in found {
      standardOutput("\(entry.at)  \(entry.id ?? "-")  seen by \(entry.facts.observer)\n")
      for decision in entry.decisions {
        standardOutput("  \(decision.rule.rawValue) -> \(decision.next.state.rawValue): \(decision.rule.row.says)\n")
        for reason in decision.reasons { standardOutput("      \(reason)\n") }
        for candidate in decision.candidates {
          let position = candidate.position.map { "\($0)" } ?? "unknown"
          let why = candidate.whyNot.isEmpty ? "can serve" : "can't: " + candidate.whyNot.joined(separator: ", ")
          standardOutput("      candidate \(candidate.member) at \(position): \(why)\n")
        }
      }
    }
  }
}

struct ReplayCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "replay", abstract: "Decide every recorded decision again, from its facts, and compare.",
    discussion: """
      EXAMPLES
        salvor failover replay bank-a.log
      """)

  @Argument(help: "A record an agent has written.") var file: String

  func run() throws {
    let found = try entries(file)
    for (index, entry) in found.enumerated() where entry.replayed() != entry.decisions {
      throw FailoverFailure.replaysDifferently(file, index + 1)
    }
    standardOutput("\(found.count.of("record")) replayed to the same decisions\n")
  }
}

struct SimulateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "simulate", abstract: "Try a policy against failures, by the thousand, with the agents' own code.",
    discussion: """
      Hosts, engines, agents, network and lease store are simulated; the decisions are not. Exits with 1 if a promise was \
      broken. The same seed is the same run.

      EXAMPLES
        salvor failover simulate --policy bank.json --runs 10000
        salvor failover simulate --policy bank.json --seed 4711 --runs 1 --trace
        salvor failover simulate --standard --runs 50000
        salvor failover simulate --policy bank.json --without fence-before-promote
      """)

  @Option(help: "The failover policy, a JSON file.") var policy: String?
  @Flag(help: "The twenty topologies that the tests use, instead of a policy.") var standard = false
  @Option(help: "Runs; each has one to seven faults.") var runs = 1000
  @Option(help: "Seed of the first run.") var seed: UInt64 = 1
  @Option(help: "Milliseconds from one host to another.") var delay = 1
  @Flag(help: "Only what must not move service.") var noise = false
  @Option(help: "Take a protection away, to see what it is for.") var without: [String] = []
  @Flag(help: "Say what happens.") var trace = false
  @OptionGroup var output: OutputOptions

  func validate() throws {
    guard (1...10_000_000).contains(runs) else { throw ValidationError("--runs must be 1 to 10000000") }
    guard (policy == nil) == standard else { throw ValidationError("give --policy, or --standard") }
    for name in without where !Protections.names.contains(where: { $0.name == name }) {
      throw ValidationError(
        "there is no protection '\(name)'; there is \(Protections.names.map(\.name).joined(separator: ", "))")
    }
  }

  func run() throws {
    var options = FailoverSimulation.Options()
    (options.onlyNoise, options.isTraced, options.replays) = (noise, trace, true)
    for (name, protection) in Protections.names where without.contains(name) { options.protections.remove(protection) }
    var topologies = SimulatedTopology.standard
    if let policy {
      let found = try PolicyOptions.parse(["--policy", policy]).load()
      topologies = [SimulatedTopology(name: found.name.text, policy: found, delayMicroseconds: Int64(delay) * 1000)]
    }
    var summary = SimulationSummary()
    for index in 0..<runs {
      let seed = seed &+ UInt64(index)
      var simulation = FailoverSimulation(topologies[Int(seed % UInt64(topologies.count))], seed: seed, options)
      let outcome = simulation.run()
      summary.add(outcome)
      for line in outcome.trace { standardError(line + "\n") }
    }
    summary.close()
    let result = summary
    try output.show(result) { _ in
      func spread(_ values: [Int64]) -> String {
        let parts = [("median", 0.5), ("p99", 0.99), ("longest", 1)].map { name, share in
          "\(name) \(Duration.milliseconds(SimulationSummary.quantile(values, share)).brief)"
        }
        return parts.joined(separator: ", ")
      }
      return [
        "\(result.runs.of("run")), \(result.failures.of("failure")), \(result.failovers.of("failover")), \(result.decisions) decisions replayed",
        "acknowledged \(result.acknowledged), lost \(result.lost), split brains \(result.splitBrains)",
        "without an acknowledgement: \(spread(result.outageMilliseconds))",
        "lost work: \(spread(result.lossMilliseconds))",
        "broken promises: \(result.violations)",
      ] + result.examples.map { "  \($0)" }
    }
    if result.violations > 0 { throw ExitStatus.failed }
  }
}
