import ArgumentParser
import Catalog
import Console
import Core
import Foundation
import IO
import Rollouts
import Runtime
import StateKit

struct RolloutCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rollout",
    abstract: "Move a stateless service to a new side: warmed, step by step, watched, and back by itself if it must.",
    discussion: """
      EXAMPLES
        salvor rollout start bank-web --dry-run
        salvor rollout start bank-web --release 2026.11.2
        salvor rollout status
        salvor rollout abort latest
        salvor rollout explain latest
      """,
    subcommands: [
      RolloutStartCommand.self, RolloutResumeCommand.self, RolloutStatusCommand.self, RolloutHoldCommand.self,
      RolloutContinueCommand.self, RolloutSkipCommand.self, RolloutAbortCommand.self, RolloutExplainCommand.self,
      RolloutReplayCommand.self,
    ])
}

private func open(_ system: SystemOptions) async throws -> RolloutRuns {
  RolloutRuns(try await system.journal(), host: system.host)
}

/// Says how it ended, and fails if it isn't at the new side.
private func conclude(_ record: RunRecord, _ output: OutputOptions) throws {
  let summary = RolloutSummary(record)
  try output.show(summary) { _ in summary.lines }
  switch record.state {
  case .succeeded, .released: return
  case .rolledBack: throw ExitStatus.validationFailed
  default: throw ExitStatus.failed
  }
}

private struct RolloutSummary: Encodable {
  struct Phase: Encodable {
    var id: String
    var title: String
    var state: StepState
    var says: String?
  }

  var run: String
  var title: String
  var state: RunState
  var failure: String?
  var phases: [Phase]

  init(_ record: RunRecord) {
    run = record.spec.id.text
    title = record.spec.title
    state = record.state
    failure = record.head.failure?.summary
    phases = record.spec.steps.map { step in
      let known = record.steps[step.id]
      return Phase(
        id: step.id.text, title: step.title, state: known?.state ?? .pending, says: known?.output?["says"]?.string)
    }
  }

  var lines: [String] {
    ["\(run)  \(title): \(state.rawValue)\(failure.map { ": \($0)" } ?? "")"]
      + phases.map { "  \($0.id)  \($0.state.rawValue)  \($0.title)" }
  }
}

struct RolloutStartCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "start", abstract: "Begin a rollout of the catalog, and stay with it to its end.",
    discussion: """
      What is killed in the middle goes on with `salvor rollout resume`. Exits with 0 when the new side has everything, with 4
      when it went back.

      EXAMPLES
        salvor rollout start bank-web --dry-run
        salvor rollout start bank-web --release 2026.11.2 --fact image=sha256:5c1f
      """)

  @Argument(help: "A rollout of the catalog.") var rollout: String
  @Flag(help: "Show the steps, and do nothing.") var dryRun = false
  @Option(help: "What the new side is; recorded with every decision.") var release: String?
  @Option(help: "KEY=VALUE, recorded with every decision; can be given several times.") var fact: [String] = []
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let catalog = try await system.load().catalog
    let runs = try await open(system)
    var context: [String: String] = [:]
    if let release { context["release"] = release }
    for text in fact {
      let parts = text.split(separator: "=", maxSplits: 1)
      guard parts.count == 2 else { throw ValidationError("'\(text)' is not KEY=VALUE") }
      context[String(parts[0])] = String(parts[1])
    }
    if dryRun {
      let (rollout, route) = try runs.plan(rollout, in: catalog)
      try output.show(rollout) { _ in Self.lines(rollout, route) }
      return
    }
    let display = ProgressDisplay(output, system.host)
    let record = try await runs.start(
      rollout, in: catalog, context: context, observer: RunFollower(display).observe)
    try conclude(record, output)
  }

  private static func lines(_ rollout: Rollout, _ route: TrafficRoute) -> [String] {
    var lines = ["\(rollout.name): route \(route.name) from \(rollout.from) to \(rollout.to)"]
    if let key = rollout.flags?.allow {
      lines.append("  only while flag \(key) is on, by \(rollout.flags?.source ?? "")")
    }
    lines.append("  ready: \(rollout.ready.count.of("check")), at every look")
    if let warm = rollout.warm {
      lines.append("  warm: \(warm.requests.count.of("address")), \(warm.times) times each")
    }
    if let prime = rollout.prime { lines.append("  prime: \(prime.words.joined(separator: " "))") }
    for percent in rollout.steps {
      lines.append("  \(percent) % to \(rollout.to), watched for \(rollout.dwell.brief)")
    }
    var bounds: [String] = []
    if let errors = rollout.watch.errorsPerMillion { bounds.append("at most \(Double(errors) / 10_000) % failed") }
    if let latency = rollout.watch.latency { bounds.append("answers within \(latency.brief) on average") }
    bounds += rollout.queries.map { query in
      let least = query.least.map { " at least \($0.text)" } ?? ""
      return "\(query.name)\(least)\(query.most.map { " at most \($0.text)" } ?? "")"
    }
    if !bounds.isEmpty { lines.append("  back at once unless: \(bounds.joined(separator: ", "))") }
    lines.append("  back if what is needed to judge is missing for \(rollout.patience.brief)")
    lines.append("  keep: \(rollout.from) stays as it is for \(rollout.keep.brief)")
    return lines
  }
}

struct RolloutResumeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "resume", abstract: "Go on with a rollout that was interrupted.",
    discussion: """
      EXAMPLES
        salvor rollout resume latest
      """)

  @Argument(help: "The run's id, its end, or latest.") var run: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let runs = try await open(system)
    let display = ProgressDisplay(output, system.host)
    let record = try await runs.find(run)
    try conclude(try await runs.resume(record.spec.id, observer: RunFollower(display).observe), output)
  }
}

struct RolloutStatusCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status", abstract: "Show rollouts, or one of them step by step.",
    discussion: """
      EXAMPLES
        salvor rollout status
        salvor rollout status latest -o json
      """)

  @Argument(help: "The run's id, its end, or latest; all if none is named.") var run: String?
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let runs = try await open(system)
    if let run {
      let summary = RolloutSummary(try await runs.find(run))
      try output.show(summary) { _ in summary.lines }
      return
    }
    let all = try await runs.list()
    try output.show(all) { _ in all.map { "\($0.id)  \($0.title): \($0.head.state.rawValue)" } }
  }
}

private func give(_ order: RolloutFacts.Order, _ run: String, _ system: SystemOptions) async throws {
  let runs = try await open(system)
  let record = try await runs.find(run)
  try await runs.order(order, record.spec.id, by: NSUserName())
  standardError("ordered: \(order.rawValue) \(record.spec.id)\n")
}

struct RolloutHoldCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "pause", abstract: "Stay at this step; it is watched on, and goes back if it must.",
    discussion: """
      EXAMPLES
        salvor rollout pause latest
      """)

  @Argument(help: "The run's id, its end, or latest.") var run: String
  @OptionGroup var system: SystemOptions

  func run() async throws { try await give(.pause, run, system) }
}

struct RolloutContinueCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "continue", abstract: "End a pause.",
    discussion: """
      EXAMPLES
        salvor rollout continue latest
      """)

  @Argument(help: "The run's id, its end, or latest.") var run: String
  @OptionGroup var system: SystemOptions

  func run() async throws { try await give(.resume, run, system) }
}

struct RolloutSkipCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "skip", abstract: "Go on to the next step without waiting for this one's time.",
    discussion: """
      EXAMPLES
        salvor rollout skip latest
      """)

  @Argument(help: "The run's id, its end, or latest.") var run: String
  @OptionGroup var system: SystemOptions

  func run() async throws { try await give(.skip, run, system) }
}

struct RolloutAbortCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "abort", abstract: "Go back to the old side, also after the end, as long as it is there.",
    discussion: """
      EXAMPLES
        salvor rollout abort latest
      """)

  @Argument(help: "The run's id, its end, or latest.") var run: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let runs = try await open(system)
    let display = ProgressDisplay(output, system.host)
    let record = try await runs.find(run)
    let ended = try await runs.abort(record.spec.id, by: NSUserName(), observer: RunFollower(display).observe)
    let summary = RolloutSummary(ended)
    try output.show(summary) { _ in summary.lines }
    if ended.state != .rolledBack { throw ExitStatus.failed }
  }
}

struct RolloutExplainCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "explain", abstract: "Show why: rules, weights, counters and what was missing.",
    discussion: """
      EXAMPLES
        salvor rollout explain latest
      """)

  @Argument(help: "The run's id, its end, or latest.") var run: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let runs = try await open(system)
    let entries = try await runs.entries(try await runs.find(run).spec.id)
    try output.show(entries) { _ in entries.flatMap(Self.lines) }
  }

  private static func lines(_ entry: RolloutLogEntry) -> [String] {
    let decision = entry.decision
    var lines = [
      "\(entry.at)  \(decision.rule.rawValue) \(entry.before.state.rawValue) -> \(decision.next.state.rawValue): \(decision.rule.row.says)"
    ]
    for reason in decision.reasons { lines.append("    \(reason.harmless)") }
    if let route = entry.facts.route {
      let shown = route.backends.map { backend in
        let counted = backend.counters.map { " (\($0.requests) requests, \($0.failures) failed)" } ?? ""
        return "\(backend.name) \(backend.weight)\(counted)"
      }
      lines.append("    the router shows \(shown.joined(separator: ", "))")
    }
    if !entry.facts.context.isEmpty {
      let context = entry.facts.context.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
      lines.append("    with \(context.joined(separator: ", "))".harmless)
    }
    return lines
  }
}

struct RolloutReplayCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "replay", abstract: "Decide every recorded decision again, from its facts, and compare.",
    discussion: """
      EXAMPLES
        salvor rollout replay rollouts/rollout-3f2a.log
      """)

  @Argument(help: "A record, from the folder rollouts of the state directory.", completion: .file()) var file: String

  func run() throws {
    let found: [RolloutLogEntry]
    do { found = try RolloutLogEntry.entries(try Files.read(file, limitBytes: 1 << 30)) } catch {
      throw RolloutFailure.badLog(file, AnyFailure(error).report.summary)
    }
    for (index, entry) in found.enumerated() where entry.replayed() != entry.decision {
      throw RolloutFailure.replaysDifferently(file, index + 1)
    }
    standardOutput("\(found.count.of("record")) replayed to the same decisions\n")
  }
}
