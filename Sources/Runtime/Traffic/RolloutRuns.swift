import Catalog
import Core
import IO
import Rollouts
import StateKit
import Workflow

/// Rollouts as runs of the journal: begun, taken up again, looked at, told.
package struct RolloutRuns: Sendable {
  package let host: Machine
  package let journal: any RunJournal

  package init(_ journal: any RunJournal, host: Machine) { (self.journal, self.host) = (journal, host) }

  /// What a rollout was begun with; goes on by it, whatever the catalog says by then.
  struct Input: Codable, Sendable {
    var rollout: Rollout
    var route: TrafficRoute
    var context: [String: String]
  }

  // MARK: Beginning

  /// - Throws: ``RolloutFailure``; nothing was begun then.
  package func plan(_ name: String, in catalog: Catalog) throws -> (rollout: Rollout, route: TrafficRoute) {
    guard let rollout = catalog.rollouts.first(where: { $0.name.text == name }) else {
      throw RolloutFailure.noSuchRollout(name, known: catalog.rollouts.map(\.name.text))
    }
    if let problem = rollout.problem { throw RolloutFailure.badRollout(name, problem) }
    guard let route = catalog.route(rollout.route) else {
      throw RolloutFailure.badRollout(name, "it names no route of the catalog")
    }
    return (rollout, route)
  }

  package func start(
    _ name: String, in catalog: Catalog, context: [String: String], observer: @escaping RunObserver
  ) async throws -> RunRecord {
    let (rollout, route) = try plan(name, in: catalog)
    for other in try await list() where !other.head.state.isSettled {
      let input = try await input(of: try await journal.load(other.id))
      if input.rollout.route == rollout.route { throw RolloutFailure.underWay(other.id, rollout.route) }
    }
    let now = host.time.now()
    let run = try RunID.derived(.rollout, from: [name, now.description, Hex.encode(host.randomness.bytes(8))])
    let input = Input(rollout: rollout, route: route, context: context)
    let spec = RunSpec(
      id: run, kind: .rollout, title: "rollout \(name): \(rollout.from) to \(rollout.to)",
      catalogDigest: catalog.digest, input: try JSONValue(encoding: input), steps: try steps(input),
      onFailure: .rollback, createdAt: now)
    return try await engine(input, observer).start(spec)
  }

  private func steps(_ input: Input) throws -> [StepSpec] {
    var phases: [(StepID, String, RolloutPhase.Input)] = [
      ("prepare", "is the new side ready, warm, primed", .init(plan: input, state: .check, step: 0))
    ]
    for (index, percent) in input.rollout.steps.enumerated() {
      let id = StepID(unchecked: "step-\(percent)")
      phases.append((id, "\(percent) % to \(input.rollout.to)", .init(plan: input, state: .step, step: index)))
    }
    let last = input.rollout.steps.count - 1
    phases.append(("keep", "the old side is kept for a return", .init(plan: input, state: .keep, step: last)))
    var before: StepID?
    return try phases.map { id, title, phase in
      defer { before = id }
      return StepSpec(
        id: id, kind: RolloutPhase.kind, title: title, input: try JSONValue(encoding: phase),
        dependsOn: before.map { [$0] } ?? [], compensates: phase.state != .check)
    }
  }

  private func engine(_ input: Input, _ observer: @escaping RunObserver) throws -> RunEngine {
    let phase = RolloutPhase(
      host: host, journal: journal, router: try Registry.router(input.route, host: host),
      log: { run in Self.logPath(host, run) })
    var options = RunEngine.Options(holder: Holder.thisProcess)
    options.patience = .seconds(20)
    return RunEngine(
      journal: journal, handlers: [phase.handler], time: host.time, randomness: host.randomness, options: options,
      observer: observer)
  }

  // MARK: Going on

  package func resume(_ run: RunID, observer: @escaping RunObserver) async throws -> RunRecord {
    let record = try await journal.load(run)
    return try await engine(try await input(of: record), observer).resume(run)
  }

  /// Back to the old side. Whoever is at work on the run is told; if nobody is, it is done here.
  package func abort(_ run: RunID, by actor: String, observer: @escaping RunObserver) async throws -> RunRecord {
    let record = try await journal.load(run)
    switch record.state {
    case .rolledBack, .released, .abandoned: return record
    default: break
    }
    try await order(.abort, run, by: actor)
    if record.head.isHeld(at: host.time.now()) {
      // It hears it at its next look, and goes back by itself.
      for _ in 0..<600 {
        try await host.time.sleep(for: .milliseconds(100))
        let now = try await journal.load(run)
        if now.state.isSettled { return now }
        if !now.head.isHeld(at: host.time.now()) { break }
      }
    }
    return try await engine(try await input(of: record), observer).rollback(run)
  }

  package func order(_ order: RolloutFacts.Order, _ run: RunID, by actor: String) async throws {
    _ = try await input(of: try await journal.load(run))
    try await journal.append(
      AuditDraft(
        run: run, actor: actor, action: RolloutPhase.ordered, subject: "rollout/\(run)",
        details: ["order": .string(order.rawValue)]), under: nil)
  }

  // MARK: Looking

  package func list() async throws -> [RunSummary] {
    try await journal.list(RunFilter(kinds: [.rollout], limit: 1000))
  }

  /// - Parameter text: An id, its end, or `latest`.
  package func find(_ text: String) async throws -> RunRecord {
    let runs = try await list()
    if text == "latest", let newest = runs.first { return try await journal.load(newest.id) }
    let matches = runs.filter { $0.id.text == text || $0.id.text.hasPrefix(text) || $0.id.text.hasSuffix("-\(text)") }
    guard matches.count == 1, let match = matches.first else { throw RolloutFailure.noSuchRun(text) }
    return try await journal.load(match.id)
  }

  private func input(of record: RunRecord) async throws -> Input {
    guard record.spec.kind == .rollout else { throw RolloutFailure.noSuchRun(record.spec.id.text) }
    return try record.spec.input.decoded(as: Input.self)
  }

  /// What was decided, and of what it was made.
  package func entries(_ run: RunID) async throws -> [RolloutLogEntry] {
    let path = Self.logPath(host, run)
    let host = host
    guard Files.exists(path) else { return [] }
    return try RolloutLogEntry.entries(
      try await host.pool.run { () throws(SystemFailure) in try Files.read(path, limitBytes: 1 << 30) })
  }

  package static func logPath(_ host: Machine, _ run: RunID) -> String { host.path("rollouts/\(run).log") }
}

extension RunKind {
  package static let rollout: RunKind = "rollout"
}

/// Why a rollout can't be begun, or didn't come to its end.
package enum RolloutFailure: Failure {
  case noSuchRollout(String, known: [String])
  case badRollout(String, String)
  case underWay(RunID, CheckName)
  case noSuchRun(String)
  case refused(String)
  case wentBack(String)
  case notBack(String)
  case badLog(String, String)
  case replaysDifferently(String, Int)

  package var report: Report {
    switch self {
    case .noSuchRollout(let name, let known):
      Report("ROLLOUT-101", "the catalog has no rollout '\(name)'")
        .remedy(known.isEmpty ? "add a document of kind Rollout" : "it has \(known.joined(separator: ", "))")
    case .badRollout(let name, let why):
      Report("ROLLOUT-102", "rollout \(name) makes no sense: \(why)").remedy("correct it in the catalog")
    case .underWay(let run, let route):
      Report("ROLLOUT-103", "run \(run) is about route \(route) too, and has not ended")
        .state("nothing was begun").remedy("`salvor rollout resume \(run)`, or `salvor rollout abort \(run)`")
    case .noSuchRun(let text):
      Report("ROLLOUT-104", "there is no rollout's run '\(text)', or more than one")
        .remedy("`salvor rollout status` lists them")
    case .refused(let why):
      Report("ROLLOUT-201", "not begun: \(why)", retry: .never)
        .remedy("`salvor rollout explain` shows what was known")
    case .wentBack(let why):
      Report("ROLLOUT-202", "going back: \(why)", retry: .never)
        .remedy("`salvor rollout explain` shows what was known")
    case .notBack(let why):
      Report("ROLLOUT-203", "not known to be back at the old side: \(why)", retry: .never)
        .remedy("see where traffic goes with `salvor traffic show`, then `salvor rollout abort` again")
    case .badLog(let path, let why):
      Report("ROLLOUT-204", "\(path) is no record of a rollout: \(why)", retry: .never)
        .remedy("give a file from the folder 'rollouts' of the state directory")
    case .replaysDifferently(let path, let line):
      Report("ROLLOUT-205", "line \(line) of \(path) comes to another decision than was recorded", retry: .never)
        .remedy("use the version of salvor that wrote it; if that is this one, the file was changed")
    }
  }
}
