import Catalog
import Core
import DriverKit
import StateKit

/// What agents do, by their own code.
extension FailoverSimulation {
  mutating func tick(_ agent: Int, _ incarnation: Int) {
    guard agents[agent].incarnation == incarnation, agents[agent].isUp else { return }
    if agents[agent].stalledUntil > now {
      schedule(agents[agent].stalledUntil + dice.between(0, 1000), .tick(agent, incarnation: incarnation))
      return
    }
    watch(agent)
    agents[agent].lastTick = now
    if agents[agent].isStarved { agents[agent].stalledUntil = now + dice.between(700_000, 1_500_000) }
    schedule(now + policy.signals.interval.wholeNanoseconds / 1000, .tick(agent, incarnation: incarnation))
    look(agent, isPlanned: true)
    if let name = agents[agent].core.primary, let primary = index(name) {
      let time = clock(agent)
      // No answer to the look before this one is silence.
      if agents[agent].outstanding[primary * 8] != 0 { agents[agent].core.saw(name, .silent, at: time) }
      agents[agent].outstanding[primary * 8] = time
      ask(.look, from: agent, to: primary)
    }
    for peer in 0..<storeNode where peer != agent { ask(.report, from: agent, to: peer) }
    ask(.view, from: agent, to: storeNode)
    if let fence = agents[agent].fence { ask(.renew(fence), from: agent, to: storeNode) }
  }

  mutating func look(_ agent: Int, isPlanned: Bool) {
    if agent < members, !agents[agent].isBusy { agents[agent].core.engineSaid(facts(agent), at: clock(agent)) }
    let before = agents[agent].core.standing
    let result = agents[agent].core.look(
      at: clock(agent), wall: Timestamp(seconds: now / 1_000_000), isPlanned: isPlanned)
    outcome.decisions += 1
    if options.replays {
      let again = policy.decide(before, result.facts, with: options.protections)
      if again != result.decisions { violate("a decision replays to another answer") }
    }
    if options.isTraced, before.state != agents[agent].core.standing.state {
      for decision in result.decisions where decision.next.state != before.state || result.decisions.count > 1 {
        trace(
          "agent \(agent) \(decision.rule.rawValue) -> \(decision.next.state.rawValue) epoch \(decision.next.epoch?.value ?? 0) target \(decision.next.target?.text ?? "-") \(decision.reasons.map(\.description))"
        )
      }
    }
    var state = before.state
    for decision in result.decisions where decision.next.state != state {
      state = decision.next.state
      // To adopt who serves is no failover.
      if (decision.next.basis ?? .none) != .none { reached(state) }
    }
    for action in result.actions { perform(action, agent) }
    if let duty = result.duty, !agents[agent].isBusy { perform(duty, agent) }
    if let step = result.voterStep, !agents[agent].isBusy { perform(step, result.facts.store?.record, agent) }
  }

  mutating func perform(_ step: VoterStep, _ known: PrimaryRecord?, _ agent: Int) {
    switch step {
    case .acknowledge(let names, _):
      trace("agent \(agent) \(step.rule.rawValue) acknowledge \(names)")
      operate(.vote(names), agent, dice.between(20_000, 200_000))
    case .record(let record, _):
      let time = clock(agent)
      let slot = storeNode * 8 + 5
      guard let known, agents[agent].outstanding[slot] == 0 || time - agents[agent].outstanding[slot] >= 800 else {
        return
      }
      agents[agent].outstanding[slot] = time
      trace("agent \(agent) \(step.rule.rawValue) record \(record.voters ?? [])")
      agents[agent].attempt += 1
      agents[agent].core.confirmed(nil)
      ask(
        .lend(instead: known, record, attempt: agents[agent].attempt), from: agent, to: storeNode,
        sticks: lateUntil <= now)
    }
  }

  mutating func perform(_ action: FailoverAction, _ agent: Int) {
    let time = clock(agent)
    func mayAsk(_ to: Int, _ kind: Int) -> Bool {
      let slot = to * 8 + kind
      if agents[agent].outstanding[slot] != 0, time - agents[agent].outstanding[slot] < 800 { return false }
      agents[agent].outstanding[slot] = time
      return true
    }
    switch action {
    case .claim: if mayAsk(storeNode, 1) { ask(.take, from: agent, to: storeNode) }
    case .release:
      if let fence = agents[agent].fence { ask(.release(fence), from: agent, to: storeNode) }
      agents[agent].fence = nil
    case .record(let record):
      if mayAsk(storeNode, 2) { ask(.write(record), from: agent, to: storeNode, sticks: lateUntil <= now) }
    case .fence(let name, _): command(action, agent, name, 1)
    case .stop(let name, _): command(action, agent, name, 2)
    case .promote(let name, _): command(action, agent, name, 3)
    case .follow(let name, _, _): command(action, agent, name, 4)
    case .shift: break
    }
    func command(_ action: FailoverAction, _ agent: Int, _ name: MemberName, _ kind: Int) {
      guard let to = index(name), mayAsk(to, kind) else { return }
      ask(.command(action), from: agent, to: to, sticks: true)
    }
  }

  mutating func perform(_ duty: MemberDuty, _ agent: Int) {
    trace("agent \(agent) \(duty)")
    switch duty {
    case .stop(let rule):
      if rule == .trustRanOut { engines[agent].trustEnded = now }
      crash(agent)
    case .start: operate(.start, agent, dice.between(300_000, 1_500_000))
    case .hold(let isHeld, _):
      engines[agent].isHeld = isHeld
      if !isHeld { acknowledge(agent) }
    case .promote(let epoch, _): operate(.promote(epoch), agent, dice.between(50_000, 300_000))
    case .follow(let name, let epoch, _): operate(.follow(index(name)!, epoch), agent, dice.between(30_000, 300_000))
    case .rejoin(let name, let epoch, _): operate(.rejoin(index(name)!, epoch), agent, dice.between(800_000, 3_000_000))
    }
  }

  /// What an agent does to its engine: one thing at a time.
  mutating func operate(_ operation: Operation, _ agent: Int, _ length: Int64) {
    guard agent < members, !agents[agent].isBusy else { return }
    agents[agent].isBusy = true
    switch operation {
    case .fence(let epoch):
      if !options.protections.contains(.positionsAfterDetach) { agents[agent].stale = position(agent) }
      agents[agent].core.promise(epoch)
      // The receiver still flushes and confirms until it is gone.
      engines[agent].following = engines[agent].following
    case .promote(let epoch): agents[agent].core.settle(epoch)
    case .follow(_, let epoch), .rejoin(_, let epoch): agents[agent].core.settle(epoch)
    case .stop, .start, .vote: break
    }
    schedule(now + length, .operated(operation, agent: agent))
  }

  mutating func operated(_ operation: Operation, _ agent: Int) {
    // What was begun ends, whether or not the agent lives: the engine has been told.
    agents[agent].isBusy = false
    guard hostUp[agent] else { return }
    if engines[agent].stalledUntil > now {
      agents[agent].isBusy = true
      schedule(engines[agent].stalledUntil, .operated(operation, agent: agent))
      return
    }
    switch operation {
    case .fence:
      if engines[agent].role == .primary {
        engines[agent].isHeld = policy.isBounded
      } else {
        engines[agent].following = nil
        engines[agent].isReceiving = false
        engines[agent].generation += 1
      }
    case .stop: crash(agent)
    case .start:
      if !engines[agent].diskFull {
        engines[agent].isRunning = true
        engines[agent].roleSince = now
        engines[agent].isHeld = policy.isBounded
        if agents[agent].core.memory.isFenced {
          engines[agent].role = .standby
          engines[agent].following = nil
        }
      }
    case .promote(let epoch): promoted(agent, epoch)
    case .vote(let names):
      if engines[agent].isRunning, engines[agent].role == .primary {
        engines[agent].voters = names.compactMap { index($0) }
        engines[agent].votedAt = engines[agent].written
        acknowledge(agent)
      }
    case .follow(let primary, _): follow(agent, primary)
    case .rejoin(let primary, _):
      // One that was a standby needs nobody to be one again.
      if !engines[agent].diskFull, engines[agent].role == .standby || canReach(primary, agent) {
        engines[agent].isRunning = true
        engines[agent].role = .standby
        engines[agent].roleSince = now
        follow(agent, primary)
      }
    }
    if agents[agent].isUp, agents[agent].stalledUntil <= now {
      agents[agent].core.engineSaid(facts(agent), at: clock(agent))
    }
  }

  func canReach(_ primary: Int, _ standby: Int) -> Bool {
    hostUp[primary] && canWork(primary) && !cut[primary * nodes + standby] && !cut[standby * nodes + primary]
      && engines[primary].role == .primary
  }

  mutating func promoted(_ engine: Int, _ epoch: Fence) {
    guard engines[engine].isRunning else { return }
    engines[engine].isHeld = false
    engines[engine].voters = nil
    guard engines[engine].role == .standby else { return }
    trace(
      "engine \(engine) promoted, epoch \(epoch), from branch \(engines[engine].branch) offset \(engines[engine].offset)"
    )
    engines[engine].generation += 1
    branches.append(Branch(lineage: epoch.value, parent: engines[engine].branch, fork: engines[engine].offset))
    engines[engine].branch = branches.count - 1
    engines[engine].offset += 1
    engines[engine].written = engines[engine].offset
    engines[engine].role = .primary
    engines[engine].roleSince = now
    engines[engine].following = nil
    engines[engine].isReceiving = false
    engines[engine].isHeld = policy.isBounded
    engines[engine].pending = []
    engines[engine].pendingHead = 0
    engines[engine].unconfirmed = []
    engines[engine].unconfirmedHead = 0
    for index in 0..<members { engines[engine].confirmed[index] = (0, -1_000_000_000) }
  }

  /// Attaches, dropping what the primary's history doesn't have.
  mutating func follow(_ standby: Int, _ primary: Int) {
    guard engines[standby].isRunning, engines[standby].role == .standby else { return }
    engines[standby].generation += 1
    engines[standby].following = primary
    engines[standby].isReceiving = canReach(primary, standby)
    guard engines[standby].isReceiving else {
      engines[standby].following = nil
      return
    }
    let common = common(
      engines[standby].branch, engines[standby].offset, engines[primary].branch, engines[primary].offset)
    engines[standby].branch = engines[primary].branch
    engines[standby].offset = common
    engines[standby].written = common
    send(primary, to: standby)
  }

  func common(_ branchA: Int, _ offsetA: Int64, _ branchB: Int, _ offsetB: Int64) -> Int64 {
    var path: [Int: Int64] = [:]
    var (current, limit) = (branchA, offsetA)
    while current >= 0 {
      path[current] = limit
      limit = min(limit, branches[current].fork)
      current = branches[current].parent
    }
    (current, limit) = (branchB, offsetB)
    while current >= 0 {
      if let mine = path[current] { return min(mine, limit) }
      limit = min(limit, branches[current].fork)
      current = branches[current].parent
    }
    return 0
  }
}
