import Catalog
import Core
import StateKit

extension Rollout {
  /// What follows from what is known.
  ///
  /// Pure: reads nothing, waits for nothing; asking again with the same facts gives the same answer.
  package func decide(_ standing: RolloutStanding, _ facts: RolloutFacts) -> RolloutDecision {
    RolloutMaker(rollout: self, standing: standing, facts: facts).decide()
  }

  /// What the router is to show at a step.
  package func weights(_ percent: Int) -> [BackendName: Int] { [to: percent, from: 100 - percent] }

  /// Why nothing can be made of it; `nil` if it makes sense.
  package var problem: String? {
    if from == to { return "it goes from \(from) to itself" }
    if steps.last != 100 { return "its last step is not 100 percent" }
    if zip(steps, steps.dropFirst()).contains(where: { $0 >= $1 }) || steps.contains(where: { !(1...100).contains($0) })
    {
      return "its steps don't ascend from 1 to 100"
    }
    if ready.isEmpty { return "nothing says whether the new side is ready" }
    return nil
  }
}

private struct RolloutMaker {
  let rollout: Rollout
  let standing: RolloutStanding
  let facts: RolloutFacts

  private var now: Int64 { facts.atMilliseconds }
  private var elapsed: Int64 { now - standing.sinceMilliseconds }
  private var patience: Int64 { rollout.patience.wholeMilliseconds }
  private var percent: Int { rollout.steps[min(max(0, standing.step), rollout.steps.count - 1)] }

  func decide() -> RolloutDecision {
    if facts.order == .abort, !standing.state.isOver, standing.state != .back {
      return standing.state == .step || standing.state == .keep ? back(.aborted, []) : move(.aborted, .refused)
    }
    switch standing.state {
    case .check, .warm, .prime: return closed()
    case .step: return step()
    case .keep: return keep()
    case .back: return goBack()
    case .done: return stay(.done)
    case .returned: return stay(.returned)
    case .refused: return stay(.denied)
    }
  }

  // MARK: Before anything is sent there

  private func closed() -> RolloutDecision {
    if facts.isAllowed == false { return move(.denied, .refused) }
    switch standing.state {
    case .check: return check()
    case .warm: return outcome(facts.warm, .warming, .warmed, .cold, .prime, [.warm])
    default: return outcome(facts.prime, .priming, .primed, .unprimed, .step, [.prime])
    }
  }

  private func check() -> RolloutDecision {
    guard let route = facts.route else {
      return elapsed > patience
        ? move(.awaitsRouter, .refused, [facts.routeWhy ?? "no answer"])
        : stay(.awaitsRouter, [facts.routeWhy ?? "no answer"])
    }
    // One that was begun and killed finds its own weights, and goes on.
    let weight = route[rollout.to]?.weight ?? 0
    let isOurs = route[rollout.from]?.isOpen == true && (weight == 0 || rollout.steps.contains(weight))
    guard isOurs || standing.step > 0 else {
      return move(.elsewhere, .refused, ["\(rollout.from) is closed, or \(rollout.to) has a weight of \(weight)"])
    }
    switch facts.ready?.state {
    case .passed: return move(.ready, .warm)
    case .failed, .running, nil:
      let why = facts.ready?.why.map { [$0] } ?? []
      return elapsed > patience ? move(.notReady, .refused, why) : stay(.awaitsReady, why)
    }
  }

  private func outcome(
    _ check: RolloutCheck?, _ running: RolloutRule, _ passed: RolloutRule, _ failed: RolloutRule,
    _ next: RolloutState, _ actions: [RolloutAction]
  ) -> RolloutDecision {
    switch check?.state {
    case .passed: return move(passed, next)
    case .failed: return move(failed, .refused, check?.why.map { [$0] } ?? [])
    case .running: return stay(running)
    case nil: return stay(running, [], actions)
    }
  }

  // MARK: Step by step

  private func step() -> RolloutDecision {
    if facts.isAllowed == false { return back(.switchedOff, []) }
    guard let route = facts.route else { return missing([facts.routeWhy ?? "the router doesn't answer"]) }
    let isShown = route.weights == rollout.weights(percent)
    guard let shown = standing.shownMilliseconds else {
      guard isShown else { return weighing() }
      var decision = stay(.shown)
      decision.next.shownMilliseconds = now
      decision.next.baseline = route[rollout.to]?.counters
      decision.next.unknownMilliseconds = nil
      return decision
    }
    guard isShown else { return back(.changedByOthers, ["it shows \(text(route.weights))"]) }
    if let judged = judge(route) { return judged }
    var missingFacts = unknowns(route, isAtEnd: now - shown >= rollout.dwell.wholeMilliseconds)
    if facts.order == .skip, missingFacts.isEmpty { return next(.skipped) }
    if facts.order == .pause { return rolled(known(.paused), route) }
    guard missingFacts.isEmpty else {
      if now - shown < rollout.dwell.wholeMilliseconds { missingFacts.append("the dwell isn't over") }
      return missing(missingFacts)
    }
    if now - shown >= rollout.dwell.wholeMilliseconds { return next(.passed) }
    return known(.watching)
  }

  private func weighing() -> RolloutDecision {
    // It is told again and again; a router that never shows it is no router to go on with.
    if elapsed > patience { return back(.unclearTooLong, ["the router doesn't show \(percent) percent"]) }
    return stay(.weighing, [], [.weigh(percent)])
  }

  private func next(_ rule: RolloutRule) -> RolloutDecision {
    guard standing.step + 1 < rollout.steps.count else { return move(rule, .keep) }
    var decision = move(rule, .step)
    decision.next = RolloutStanding(.step, step: standing.step + 1, sinceMilliseconds: now)
    return decision
  }

  private func keep() -> RolloutDecision {
    if facts.isAllowed == false { return back(.switchedOff, []) }
    guard let route = facts.route else { return missing([facts.routeWhy ?? "the router doesn't answer"]) }
    if route.weights != rollout.weights(100) { return back(.changedByOthers, ["it shows \(text(route.weights))"]) }
    if let judged = judge(route) { return judged }
    let missingFacts = unknowns(route, isAtEnd: false)
    if !missingFacts.isEmpty { return missing(missingFacts) }
    if facts.order == .pause { return rolled(known(.paused), route) }
    return elapsed >= rollout.keep.wholeMilliseconds ? move(.done, .done) : rolled(known(.keeping), route)
  }

  // MARK: Judging

  /// - Returns: What follows if something is certainly wrong.
  private func judge(_ route: RouteView) -> RolloutDecision? {
    if facts.ready?.state == .failed { return back(.unready, facts.ready?.why.map { [$0] } ?? []) }
    if route[rollout.to]?.isHealthy == false { return back(.unready, ["the router's own checks fail"]) }
    var broken: [String] = []
    for query in rollout.queries {
      guard let value = facts.readings.first(where: { $0.name == query.name })?.thousandths else { continue }
      let number = Double(value) / 1000
      if let most = query.most, number > most.value { broken.append("\(query.name) is \(number), above \(most.text)") }
      if let least = query.least, number < least.value {
        broken.append("\(query.name) is \(number), below \(least.text)")
      }
    }
    if let counters = route[rollout.to]?.counters, let baseline = standing.baseline {
      if counters.requests < baseline.requests || counters.failures < baseline.failures {
        var decision = stay(.countedAnew)
        (decision.next.shownMilliseconds, decision.next.baseline) = (now, counters)
        (decision.next.later, decision.next.laterMilliseconds) = (nil, nil)
        return decision
      }
      let requests = counters.requests - baseline.requests
      let failures = counters.failures - baseline.failures
      if let most = rollout.watch.errorsPerMillion, requests >= Int64(rollout.watch.requests), requests > 0,
        failures * 1_000_000 > Int64(most) * requests
      {
        broken.append("\(failures) of \(requests) requests failed, more than \(shareText(most))")
      }
      if let most = rollout.watch.latency, requests >= Int64(rollout.watch.requests), requests > 0,
        let mean = counters.meanMilliseconds, mean > most.wholeMilliseconds
      {
        broken.append("answers take \(mean) ms, more than \(most.wholeMilliseconds)")
      }
    }
    return broken.isEmpty ? nil : back(.broken, broken)
  }

  /// What is needed to say that nothing is wrong, and isn't known.
  private func unknowns(_ route: RouteView, isAtEnd: Bool) -> [String] {
    var missing: [String] = []
    if facts.ready?.state != .passed { missing.append("whether the new side is ready") }
    for query in rollout.queries {
      let reading = facts.readings.first { $0.name == query.name }
      if reading?.thousandths == nil { missing.append("\(query.name): \(reading?.why ?? "not asked")") }
    }
    let watches = rollout.watch.errorsPerMillion != nil || rollout.watch.latency != nil
    guard watches, isAtEnd else { return missing }
    let counters = route[rollout.to]?.counters
    guard let counters, let baseline = standing.baseline else {
      return missing + ["this router doesn't count requests"]
    }
    let requests = counters.requests - baseline.requests
    if requests < Int64(rollout.watch.requests) {
      missing.append("\(requests) requests say nothing; \(rollout.watch.requests) would")
    }
    if rollout.watch.latency != nil, counters.meanMilliseconds == nil {
      missing.append("this router doesn't measure how long answers take")
    }
    return missing
  }

  private func missing(_ what: [String]) -> RolloutDecision {
    let since = standing.unknownMilliseconds ?? now
    let isDwelling = standing.shownMilliseconds.map { now - $0 < rollout.dwell.wholeMilliseconds } ?? false
    // While it dwells nothing hurries, as long as the router itself answers.
    if now - since > patience, !(isDwelling && facts.route != nil) { return back(.unclearTooLong, what) }
    var decision = stay(.unclear, what)
    decision.next.unknownMilliseconds = since
    return decision
  }

  /// What is judged is one dwell old at least, and two at most.
  private func rolled(_ decision: RolloutDecision, _ route: RouteView) -> RolloutDecision {
    var decision = decision
    guard let counters = route[rollout.to]?.counters else { return decision }
    guard let since = standing.laterMilliseconds, let later = standing.later else {
      (decision.next.later, decision.next.laterMilliseconds) = (counters, now)
      return decision
    }
    if now - since >= rollout.dwell.wholeMilliseconds {
      (decision.next.baseline, decision.next.later, decision.next.laterMilliseconds) = (later, counters, now)
    }
    return decision
  }

  private func known(_ rule: RolloutRule) -> RolloutDecision {
    var decision = stay(rule)
    decision.next.unknownMilliseconds = nil
    return decision
  }

  // MARK: Back

  private func goBack() -> RolloutDecision {
    if let route = facts.route, route.weights == rollout.weights(0) { return move(.returned, .returned) }
    return stay(.returning, facts.routeWhy.map { [$0] } ?? [], [.weigh(0)])
  }

  private func back(_ rule: RolloutRule, _ reasons: [String]) -> RolloutDecision {
    var decision = move(rule, .back, reasons)
    decision.next.reason = ([rule.row.says] + reasons).joined(separator: ": ")
    return decision
  }

  // MARK: Moving

  private func text(_ weights: [BackendName: Int]) -> String {
    weights.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }.joined(separator: " ")
  }

  private func shareText(_ millionths: Int) -> String { "\(Double(millionths) / 10_000) %" }

  private func stay(
    _ rule: RolloutRule, _ reasons: [String] = [], _ actions: [RolloutAction] = []
  ) -> RolloutDecision {
    RolloutDecision(next: standing, rule: rule, actions: actions, reasons: reasons)
  }

  private func move(_ rule: RolloutRule, _ state: RolloutState, _ reasons: [String] = []) -> RolloutDecision {
    var next = RolloutStanding(state, step: standing.step, sinceMilliseconds: now)
    next.reason = standing.reason
    if state == .refused { next.reason = ([rule.row.says] + reasons).joined(separator: ": ") }
    if state == .keep { (next.shownMilliseconds, next.baseline) = (standing.shownMilliseconds, standing.baseline) }
    return RolloutDecision(next: next, rule: rule, actions: [], reasons: reasons)
  }
}

extension Duration {
  fileprivate var wholeMilliseconds: Int64 { wholeNanoseconds / 1_000_000 }
}
