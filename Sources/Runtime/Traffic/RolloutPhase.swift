import Catalog
import Core
import Failover
import IO
import Rollouts
import StateKit

#if canImport(Glibc)
  import Glibc
#endif

/// One phase of a rollout as a step of a run: looks, decides, does, until the decision leads out of it.
///
/// What was killed in the middle begins its phase anew: it is told again, and watched from the start. Undone, it goes back to
/// the old side and returns once the router shows it.
struct RolloutPhase: Step {
  static let kind: StepKind = "rollout.phase.v1"
  static var retry: RetryPolicy { .once }
  static let ordered = "rollout.ordered"

  struct Input: Codable, Sendable {
    var plan: RolloutRuns.Input
    var state: RolloutState
    var step: Int
  }

  struct Output: Codable, Sendable {
    var rule: RolloutRule
    var says: String
  }

  let host: Machine
  let journal: any RunJournal
  let router: any TrafficRouter
  let log: @Sendable (RunID) -> String

  /// Nothing in the world says that a step was watched for long enough.
  func probe(_ input: Input, in context: StepContext) async throws -> Output? { nil }

  func run(_ input: Input, in context: StepContext) async throws -> Output {
    let eyes = RolloutEyes(input.plan, host: host, router: router)
    var standing = RolloutStanding(input.state, step: input.step, sinceMilliseconds: eyes.now)
    if input.state == .keep { standing.shownMilliseconds = eyes.now }
    while true {
      let decision = try await look(eyes, &standing, context, input)
      switch standing.state {
      case .back: throw RolloutFailure.wentBack(standing.reason ?? decision.rule.row.says)
      case .refused: throw RolloutFailure.refused(standing.reason ?? decision.rule.row.says)
      case .done, .returned: return Output(rule: decision.rule, says: decision.rule.row.says)
      case .step where input.state != .step || standing.step != input.step,
        .keep where input.state != .keep:
        return Output(rule: decision.rule, says: decision.rule.row.says)
      default: break
      }
      // Hurried while something is awaited, unhurried while it is watched.
      let isAwaiting = [.weighing, .ready, .warmed, .primed, .warming, .priming].contains(decision.rule)
      let pause = isAwaiting ? min(.milliseconds(50), input.plan.rollout.interval) : input.plan.rollout.interval
      try await host.time.sleep(for: pause)
    }
  }

  /// The run's engine trusts nothing it was only told: the router is asked once more.
  func verify(_ output: Output, of input: Input, in context: StepContext) async throws {
    guard input.state != .check else { return }
    let rollout = input.plan.rollout
    let wanted = rollout.weights(rollout.steps[input.step])
    let seen = try await router.view().weights
    guard seen == wanted else {
      throw StepError.verificationFailed(context.step, "the router shows \(RolloutEyes.text(seen))")
    }
  }

  func compensate(_ input: Input, output: Output?, in context: StepContext) async throws {
    let eyes = RolloutEyes(input.plan, host: host, router: router)
    var standing = RolloutStanding(.back, step: input.step, sinceMilliseconds: eyes.now)
    let limit = max(input.plan.rollout.patience, .seconds(30)).wholeMilliseconds
    while true {
      let decision = try await look(eyes, &standing, context, input)
      if standing.state == .returned { return }
      if eyes.now - standing.sinceMilliseconds > limit {
        throw RolloutFailure.notBack(decision.reasons.first ?? "the router doesn't show it")
      }
      try await host.time.sleep(for: .milliseconds(200))
    }
  }

  // MARK: One look

  private func look(
    _ eyes: RolloutEyes, _ standing: inout RolloutStanding, _ context: StepContext, _ input: Input
  ) async throws -> RolloutDecision {
    let facts = try await eyes.facts(standing.state, order: try await order(context.run))
    let decision = input.plan.rollout.decide(standing, facts)
    try await record(standing, facts, decision, context, input, eyes)
    for action in decision.actions {
      // Whoever lost the run to another does nothing more.
      try await context.confirmLease()
      await eyes.perform(action)
    }
    standing = decision.next
    return decision
  }

  /// The last thing an operator said about this run.
  private func order(_ run: RunID) async throws -> RolloutFacts.Order? {
    var (last, after): (RolloutFacts.Order?, Int64) = (nil, 0)
    while true {
      let entries = try await journal.auditTrail(after: after, run: run, limit: 500)
      guard let end = entries.last else { return last == .resume ? nil : last }
      for entry in entries {
        if entry.action == Self.ordered {
          last = entry.details["order"]?.string.flatMap { RolloutFacts.Order(rawValue: $0) } ?? last
        }
        // Going on without waiting is about the step it was said in.
        if entry.action == "step.succeeded", last == .skip { last = nil }
      }
      after = end.sequence
    }
  }

  /// On disk before anything is done because of it; only what differs from the look before, or acts.
  private func record(
    _ before: RolloutStanding, _ facts: RolloutFacts, _ decision: RolloutDecision, _ context: StepContext,
    _ input: Input, _ eyes: RolloutEyes
  ) async throws {
    guard eyes.isNews(decision) else { return }
    let entry = RolloutLogEntry(
      at: facts.now, run: context.run.text, rollout: input.plan.rollout, before: before, facts: facts,
      decision: decision)
    let reasons = decision.reasons.isEmpty ? "" : " (\(decision.reasons.joined(separator: "; ")))"
    context.log("\(decision.rule.rawValue): \(decision.rule.row.says)\(reasons)")
    let path = log(context.run)
    let line = try entry.line()
    try await host.pool.run {
      try Files.createDirectory(Files.parent(of: path), mode: 0o700)
      let file = try File(path, O_WRONLY | O_CREAT | O_APPEND, mode: 0o600)
      try line.withUnsafeBytes { try file.write($0) }
      try file.synchronize()
    }
  }
}
