import ArgumentParser
import Catalog
import Console
import Core
import Drills
import Failover
import Foundation
import Governance
import IO
import Runtime
import StateKit

struct PractiseCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "practise", abstract: "Move service for practice, measure how long it was away, and move it back.",
    discussion: """
      Begun only while all is well: every agent answers, every standby follows, no check is beyond its threshold. Given up \
      when anything else happens: another's order, another primary, a member that fails; then service stays where it is.

      What comes after -- is run again and again, and stands for clients: it ends with 0 if they have service.

      Exit status 4 if it failed or took too long, 6 if it was not begun, or given up.

      EXAMPLES
        salvor failover practise --policy bank --lease http://10.0.0.9:2379 --secret file:/etc/salvor/agents
        salvor failover practise --policy bank --lease http://10.0.0.9:2379 --secret file:/etc/salvor/agents --due
        salvor failover practise --policy bank --lease http://10.0.0.9:2379 --secret file:/etc/salvor/agents --kind failover --yes \
      -- psql -h proxy -c "SELECT 1"
      """)

  @OptionGroup var policy: PolicyOptions
  @OptionGroup var lease: LeaseOptions
  @Option(help: "What agents show each other: file:…, env:… or command:….") var secret: String
  @Option(help: "switchover, or failover: the primary's engine is killed, if the policy allows it.") var kind: String?
  @Option(help: "Who shall serve; of a switchover (default: whom the policy prefers).") var to: String?
  @Flag(help: "Service stays where it went.") var stay = false
  @Flag(help: "Only if the policy's schedule says so, and no freeze and no gate is against it.") var due = false
  @OptionGroup var consent: ConsentOptions
  @OptionGroup var trust: AgentTrustOptions
  @OptionGroup var log: TrustOptions
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions
  @Argument(parsing: .postTerminator, help: "A program that ends with 0 if clients have service.")
  var probe: [String] = []

  func validate() throws {
    guard kind == nil || FailoverPractice.Kind(rawValue: kind ?? "") != nil else {
      throw ValidationError("--kind must be switchover or failover")
    }
  }

  func run() async throws {
    let found = try await policy.load(system)
    let host = system.host
    if due {
      let last = PracticeRunner.last(of: found.name, in: try await practices(nil, log, system))
      let now = host.time.now()
      guard let schedule = found.practice?.schedule else { throw FailoverFailure.neverDue(found.name.text) }
      // One that was never practised is due at once.
      if let last, let next = schedule.next(after: last.startedAt), next > now {
        return standardError("not due before \(next)\n")
      }
      let reasons = found.reasonsToWait(
        at: now, context: PolicyFiles.context(of: found), zones: PolicyFiles.zones(of: found, at: now))
      guard reasons.isEmpty else {
        standardError("not now: \(reasons.map(\.description).joined(separator: "; "))\n")
        throw ExitStatus.refused
      }
    }
    var plan = found.practice ?? FailoverPractice()
    if let kind { plan.kind = FailoverPractice.Kind(rawValue: kind) ?? plan.kind }
    if stay { plan.returns = false }
    guard plan.kind == .switchover || found.practice?.kind == .failover else {
      throw FailoverFailure.killNotAllowed(found.name.text)
    }
    var target: MemberName?
    if let to {
      guard let member = found.members.first(where: { $0.name.text == to }) else {
        throw FailoverFailure.unknownMember(to)
      }
      target = member.name
    }
    if plan.kind == .failover, !due {
      try consent.require("The engine that serves \(found.name) will be killed. Go on?")
    }
    let practice = Practice(
      found, plan, id: "practice-\(String(host.randomness.next(), radix: 16))", by: NSUserName(), target: target)
    let shared = try await SecretResolver(environment: host.environment, pool: host.pool).resolve(
      try reference(secret))
    let runner = PracticeRunner(
      practice, store: try Registry.leases(at: lease.place, for: found, host: host),
      web: try await trust.identity(host), secret: shared, host: host, journal: try await system.journal())
    let command = probe.isEmpty ? nil : Command(probe, timeout: .seconds(2))
    let result = try await runner.run(probe: command) { standardError("\($0)\n") }
    try output.show([result]) { style in PracticeText.lines(result, style) }
    switch result.outcome {
    case .passed: break
    case .failed: throw ExitStatus.validationFailed
    case .aborted, .couldNotRun: throw ExitStatus.refused
    }
  }
}

struct PractisedCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "practised", abstract: "List what was practised, and what came of it, from the evidence log.",
    discussion: """
      EXAMPLES
        salvor failover practised
        salvor failover practised --policy bank -o json
      """)

  @Option(help: "Only this policy, by its name.") var policy: String?
  @Option(help: "Another log's directory, such as a copy (default: this machine's own).", completion: .directory)
  var log: String?
  @OptionGroup var trust: TrustOptions
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let name = policy.map { PolicyName(unchecked: $0) }
    let results = PracticeRunner.results(of: name, in: try await practices(log, trust, system))
    try output.show(results) { style in results.flatMap { PracticeText.lines($0, style) } }
  }
}

/// What the evidence log has; nothing before anything was put on record.
private func practices(
  _ path: String?, _ trust: TrustOptions, _ system: SystemOptions
) async throws -> [(index: Int64, entry: LogEntry)] {
  do { return try await openLog(path, trust, system).entries() } catch {
    guard path == nil, AnyFailure(error).report.code == LogError.notLogged("").report.code else { throw error }
    return []
  }
}

private enum PracticeText {
  static func lines(_ result: PracticeResult, _ style: Style) -> [String] {
    let title = "\(result.startedAt)  \(result.policy)  \(result.kind.rawValue)  \(result.outcome.rawValue)"
    var lines = [
      style.paint(title.harmless, result.outcome == .passed ? .good : .bad),
      "  \(result.rule.rawValue) \(result.rule.says)",
    ]
    lines += result.reasons.map { "    \($0)".harmless }
    for move in result.moves {
      let how = move.isKill ? "killed" : "in order"
      lines.append(
        "  \(move.from) to \(move.to), \(how): \(move.silenceMilliseconds) ms without service, all followed after \(move.milliseconds) ms"
          .harmless)
    }
    if let probe = result.probe {
      lines.append(
        "  clients: \(probe.attempts) attempts, \(probe.failed) failed, at most \(probe.longestSilenceMilliseconds) ms without service"
      )
    }
    return lines + ["  allowed: \(result.withinMilliseconds) ms"]
  }
}
