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
      ResumeCommand.self, BreakGlassCommand.self, HistoryCommand.self, ExplainCommand.self, ReplayCommand.self,
      HealCommand.self, PractiseCommand.self, PractisedCommand.self, SimulateCommand.self, LeaseSchemaCommand.self,
    ])
}

struct PolicyOptions: ParsableArguments {
  @Option(
    help: "The failover policy: its name in the catalog, or a YAML or JSON file.",
    completion: .file(extensions: ["yaml", "yml", "json"]))
  var policy: String

  func load(_ system: SystemOptions) async throws -> FailoverPolicy {
    try await PolicyFiles.load(policy, catalog: system.catalogPath, pool: system.host.pool)
  }
}

/// `file:…`, `env:…` or `command:…`.
func reference(_ text: String) throws -> SecretReference {
  guard let found = SecretReference(text) else {
    throw ValidationError("a secret is given by reference: file:/path, env:NAME or command:program")
  }
  return found
}

private func agentsSecret(_ text: String, _ host: Machine) async throws -> Secret {
  try await SecretResolver(environment: host.environment, pool: host.pool).resolve(try reference(text))
}

struct MemberEngineOptions: ParsableArguments {
  @Option(help: "The member's data directory; none for a witness.") var dataDirectory: String?
  @Option(help: "Who may do everything on the servers (default: postgres, Redis' default user, or salvor).")
  var user: String?
  @Option(help: "That user's password: file:…, env:… or command:….") var password: String?
  @Option(help: "A .pgpass file that the server's user can read, for standbys and pg_rewind; of PostgreSQL.")
  var passwordFile: String?
  @Option(help: "What the server is started with; of Redis and MariaDB.") var configFile: String?
  @Option(help: "The server's Unix socket; of MariaDB.") var socket: String?
  @Option(help: "Writes a copy of the primary at $SALVOR_PRIMARY to its output, as mbstream; of MariaDB.")
  var copyCommand: String?
  @Option(help: "How many copies of what was undone are kept beside the data.") var keptCopies = 3

  func options() throws -> MemberOptions {
    var options = MemberOptions()
    (options.dataDirectory, options.user, options.passwordFile) = (dataDirectory, user, passwordFile)
    options.password = try password.map { try reference($0) }
    (options.configFile, options.socket, options.copyCommand) = (configFile, socket, copyCommand)
    guard (1...100).contains(keptCopies) else { throw ValidationError("--kept-copies must be 1 to 100") }
    options.keptCopies = keptCopies
    return options
  }
}

struct AgentCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "agent", abstract: "Run beside a member, or as a witness: look, decide, carry out.",
    discussion: """
      EXAMPLES
        salvor failover agent --policy bank.json --member a --data-directory /srv/pg --lease http://etcd:2379 --secret env:AGENTS
        salvor failover agent --policy cache.json --member a --data-directory /srv/redis --config-file /etc/redis/redis.conf \
      --password file:/etc/salvor/redis --lease http://etcd:2379 --secret env:AGENTS
      """)

  @OptionGroup var policy: PolicyOptions
  @OptionGroup var lease: LeaseOptions
  @Option(help: "Which member or witness of the policy this is.") var member: String
  @OptionGroup var engine: MemberEngineOptions
  @Option(help: "Where agents listen.") var listen = "127.0.0.1:7500"
  @Option(help: "What agents show each other: file:…, env:… or command:….") var secret: String
  @Option(help: "Where memory and record are kept (default: failover, in the state directory).") var directory: String?
  @Option(help: "A TrafficRoute of the catalog that the members stand behind; can be given several times.")
  var route: [String] = []
  @Option(help: .hidden) var without: [String] = []
  @OptionGroup var trust: AgentTrustOptions
  @Flag(help: "Listen without TLS where other machines reach it.") var insecure = false
  @Option(help: "Reset this machine if the agent stands still while its engine is a primary: /dev/watchdog.")
  var watchdog: String?
  @OptionGroup var system: SystemOptions

  func run() async throws {
    let policy = try await policy.load(system)
    let host = system.host
    let all = policy.members + policy.witnesses
    guard let name = MemberName(member), all.contains(where: { $0.name == name }) else {
      throw FailoverFailure.unknownMember(member)
    }
    let shared = try await agentsSecret(secret, host)
    try PolicyFiles.checkAddresses(policy)
    let identity = try await trust.identity(host)
    let place = directory ?? host.stateDirectory + "/failover"
    let guardian = watchdog.map { Registry.watchdog(at: $0) }
    // Whether it can be relied on is to be known before it is.
    try guardian?.arm(policy.watchdogTimeout)
    try guardian?.disarm()
    var settings = FailoverAgentSettings(
      policy: policy, name: name, directory: place, secret: shared,
      evidence: FailoverEvidence(policy.name, name, journal: try await system.journal(), host: host),
      watchdog: guardian)
    for (name, protection) in Protections.names where without.contains(name) { settings.protections.remove(protection) }
    if !route.isEmpty {
      let catalog = try await system.load().catalog
      settings.traffic = FailoverTraffic(
        try route.map { try Registry.router(try TrafficOptions.find($0, catalog), host: host) }, host: host)
    }
    let store = try Registry.leases(
      at: lease.place, for: policy, dataDirectory: engine.dataDirectory,
      promised: try FailoverAgent.promised(place, policy.name, name), host: host)
    let followers = try await PolicyFiles.followers(of: policy, catalog: system.catalogPath, pool: host.pool)
    let agent = try FailoverAgent(
      settings, engine: try Registry.engine(of: name, in: policy, try engine.options(), host: host), store: store,
      web: identity, host: host)
    let conductor = GroupConductor(settings, followers: followers, store: store, web: identity, host: host)
    guard let colon = listen.lastIndex(of: ":"), let port = Int(listen[listen.index(after: colon)...]) else {
      throw ValidationError("--listen must be host:port")
    }
    let server = try AgentServer(
      agent, secret: shared, host: listen[..<colon].trimmingCharacters(in: CharacterSet(charactersIn: "[]")),
      port: port, identity: identity, isOpen: insecure, time: host.time)
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { try await identity.keepFresh() }
      group.addTask { try await server.run { port in host.log("\(name): listens on port \(port)") } }
      group.addTask { try await agent.run() }
      if let conductor { group.addTask { try await conductor.run(agent) } }
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
  @OptionGroup var trust: AgentTrustOptions
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let policy = try await policy.load(system)
    let host = system.host
    let shared = try await agentsSecret(secret, host)
    let web = try await trust.identity(host)
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
  let found = try await policy.load(system)
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
  let store = try Registry.leases(at: lease.place, for: found, host: host)
  try await FailoverOrders.leave(order, for: found, in: store, host: host, journal: try await system.journal())
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
