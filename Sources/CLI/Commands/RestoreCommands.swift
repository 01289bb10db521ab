import ArgumentParser
import Console
import Core
import Planning
import Recovery
import Runtime
import StateKit
import Workflow

/// What to bring back, and to when.
struct RestoreTarget: ParsableArguments {
  @Argument(help: "Services to bring back; all if none is named.") var services: [String] = []
  @Option(help: "A recovery point's id, its beginning, or its name (default: the newest that verifies).") var point:
    String?
  @Option(help: "The newest point at or before this time, in RFC 3339.") var at: String?
  @Option(help: "When the loss happened, in RFC 3339; RPO is measured from there (default: now).") var failedAt: String?
  @Flag(help: "Go on along the store's log to its end; the services named have one store between them.") var newest =
    false
  @Option(help: "Go on along the store's log to this time, in RFC 3339.") var to: String?
  @Option(
    name: [.customLong("lsn"), .customLong("position")],
    help:
      "Go on along the store's log to just before this position, as its engine writes it: 0/3000148, bin.000007:4711.")
  var lsn: String?
  @Option(help: "Go on along the store's log to a restore point of this name.") var toName: String?
  @Option(
    name: [.customLong("xid"), .customLong("gtid")], help: "Go on along the store's log to the end of this transaction."
  )
  var xid: String?
  @Flag(help: "Go on though an invariant joins a restored store to one that stays as it is.") var allowBrokenLinks =
    false
  @Flag(help: "Trust the point's copies without reading them first.") var noVerify = false
  @Option(help: "How many stores may be copied at the same time (default: 4).") var copies: Int?

  func request() throws -> Restore.Request {
    if let copies, copies < 1 { throw ValidationError("--copies is at least 1") }
    guard point == nil || at == nil else { throw ValidationError("--point and --at exclude each other") }
    let forwards: [ForwardTarget] =
      [
        newest ? .newest : nil, try to.map { .time(try parseTime($0)) }, lsn.map { .position($0) },
        toName.map { .name($0) }, xid.map { .transaction($0) },
      ].compactMap(\.self)
    guard forwards.count <= 1, forwards.isEmpty || at == nil else {
      throw ValidationError("of --at, --newest, --to, --lsn, --to-name and --xid only one can be given")
    }
    var request = Restore.Request()
    request.services = try parseServices(services)
    request.point = point
    request.at = try at.map(parseTime)
    request.forward = forwards.first
    request.failedAt = try failedAt.map(parseTime)
    request.allowsBrokenLinks = allowBrokenLinks
    request.verifies = !noVerify
    request.copies = copies
    return request
  }
}

struct PlanCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "plan", abstract: "Show what would be done.", subcommands: [PlanRestoreCommand.self])
}

struct PlanRestoreCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "restore",
    abstract: "Show how services would come back: waves, critical path, predicted time. Touches nothing.",
    discussion: """
      Exit status 6 if the plan is refused.

      EXAMPLES
        salvor plan restore
        salvor plan restore ledger --at 2026-11-21T08:00:00Z -o json
      """)

  @OptionGroup var target: RestoreTarget
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    let display = ProgressDisplay(output, managed.host)
    let prepared = try await Restore(managed, journal: try await system.journal()).prepare(try target.request()) {
      display.line.show("plan", $0)
    }
    display.line.clear()
    try output.show(prepared.plan) { style in PlanText.lines(prepared, style) }
    if !prepared.plan.refusals.isEmpty { throw ExitStatus.refused }
  }
}

struct RestoreCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "restore", abstract: "Bring services back to a recovery point.",
    discussion: """
      Every store is restored beside its live state, opened by its own engine and compared with what was recorded at the \
      mark, before anything is stopped. Then services stop, states are swapped, invariants across stores are checked, and \
      services start in dependency order, each behind its gates. If anything fails, the old state is swapped back. The old \
      state is kept until `salvor run release`.

      EXAMPLES
        salvor restore --dry-run
        salvor restore --yes
        salvor restore ledger --point 20261121T0809 --yes
        salvor restore ledger --newest --yes
        salvor restore ledger --to 2026-11-21T08:09:30.5Z --yes
      """)

  @OptionGroup var target: RestoreTarget
  @Flag(name: [.customShort("n"), .long], help: "Only show the plan.") var dryRun = false
  @OptionGroup var consent: ConsentOptions
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    let display = ProgressDisplay(output, managed.host)
    let restore = Restore(managed, journal: try await system.journal())
    let prepared = try await restore.prepare(try target.request()) { display.line.show("plan", $0) }
    display.line.clear()
    if dryRun {
      try output.show(prepared.plan) { style in PlanText.lines(prepared, style) }
      if !prepared.plan.refusals.isEmpty { throw ExitStatus.refused }
      return
    }
    let style = Style.detect(2, environment: managed.host.environment)
    if !output.quiet { standardError(PlanText.lines(prepared, style).joined(separator: "\n") + "\n") }
    guard prepared.plan.refusals.isEmpty else { throw PlanError.refused(prepared.plan.refusals) }
    try consent.require("Restore \(prepared.plan.services.count.of("service")) to \(prepared.plan.pointTime)?")
    let follower = RunFollower(display)
    let outcome = try await restore.run(prepared, observer: follower.observe)
    display.line.clear()
    try OutcomeText.show(outcome, output)
  }
}

struct RunsCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "runs", abstract: "List runs, newest first.", discussion: "EXAMPLE\n  salvor runs -o json")

  @Option(help: "How many.") var limit = 20
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let runs = try await Runs(try await system.journal(), host: system.host).list(limit: limit)
    try output.show(runs) { style in
      var table = Table("run", "state", "created", "what")
      for run in runs {
        table.add(
          run.id.text, OutcomeText.paint(run.head.state, style), run.head.createdAt.format(fractionDigits: 0),
          run.title.harmless)
      }
      return table.lines(style)
    }
  }
}

struct RunCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run", abstract: "Look at one run, resume it, roll it back, or release what it kept.",
    subcommands: [RunShowCommand.self, RunResumeCommand.self, RunRollbackCommand.self, RunReleaseCommand.self])
}

struct RunShowCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "show", abstract: "Show a run step by step.", discussion: "EXAMPLE\n  salvor run show latest")

  struct StepView: Encodable {
    var id: StepID
    var title: String
    var state: StepState
    var attempts: Int
    var seconds: Double?
    var failure: Report?
  }

  struct View: Encodable {
    var id: RunID
    var title: String
    var state: RunState
    var failure: Report?
    var steps: [StepView]
  }

  @Argument(help: "A run's id, its beginning, or 'latest'.") var run: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let record = try await Runs(try await system.journal(), host: system.host).find(run)
    let view = View(
      id: record.spec.id, title: record.spec.title, state: record.state, failure: record.head.failure,
      steps: record.spec.steps.map { step in
        let known = record.steps[step.id]
        return StepView(
          id: step.id, title: step.title, state: known?.state ?? .pending, attempts: known?.attempt ?? 0,
          seconds: known?.measurement?.duration.seconds, failure: known?.failure)
      })
    try output.show(view) { style in
      var table = Table([.init("step"), .init("state"), .init("tries", .right), .init("took", .right), .init("why")])
      for step in view.steps {
        table.add(
          step.id.text, step.state.rawValue, "\(step.attempts)",
          step.seconds.map { Duration.seconds($0).brief } ?? "", step.failure?.summary.harmless ?? "")
      }
      return ["\(style.paint(view.id.text, .strong))  \(OutcomeText.paint(view.state, style))  \(view.title.harmless)"]
        + table.lines(style)
    }
  }
}

struct RunResumeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "resume", abstract: "Go on where a run was left: after a crash, an interruption, or a mended failure.",
    discussion: "EXAMPLE\n  salvor run resume latest")

  @Argument(help: "A run's id, its beginning, or 'latest'.") var run: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let host = system.host
    let runs = Runs(try await system.journal(), host: host)
    let record = try await runs.find(run)
    let display = ProgressDisplay(output, host)
    let outcome = try await runs.resume(record, observer: RunFollower(display).observe)
    display.line.clear()
    try OutcomeText.show(outcome, output)
  }
}

struct RunRollbackCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rollback", abstract: "Put back the state a restore replaced.",
    discussion: """
      Possible until the run is released. Services stop, the kept state is swapped back, and what ran before runs again.

      EXAMPLE
        salvor run rollback latest --yes
      """)

  @Argument(help: "A run's id, its beginning, or 'latest'.") var run: String
  @OptionGroup var consent: ConsentOptions
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let host = system.host
    let runs = Runs(try await system.journal(), host: host)
    let record = try await runs.find(run)
    try consent.require("Roll \(record.spec.id) back?")
    let display = ProgressDisplay(output, host)
    let outcome = try await runs.rollback(record, observer: RunFollower(display).observe)
    display.line.clear()
    try output.show(outcome) { style in OutcomeText.lines(outcome, style) }
    if outcome.state != .rolledBack { throw ExitStatus.failed }
  }
}

struct RunReleaseCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "release",
    abstract: "Give up the state a restore kept, and free its space. There is no way back after it.",
    discussion: "EXAMPLE\n  salvor run release latest --yes")

  @Argument(help: "A run's id, its beginning, or 'latest'.") var run: String
  @OptionGroup var consent: ConsentOptions
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let runs = Runs(try await system.journal(), host: system.host)
    let record = try await runs.find(run)
    try consent.require("Give up what \(record.spec.id) kept? It can't be rolled back then.")
    let stores = try await runs.release(record)
    try output.show(stores) { _ in ["released: \(stores.map(\.text).joined(separator: ", "))"] }
  }
}
