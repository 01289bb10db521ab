import Catalog
import Core
import DriverKit
import StateKit

/// What goes wrong, and how it ends.
extension FailoverSimulation {
  mutating func makeFaults() {
    if let script = options.script {
      faults = script
    } else {
      drawFaults()
    }
    courses = Array(repeating: .ahead, count: faults.count)
    for index in faults.indices {
      schedule(faults[index].start, .faultBegins(index))
      if faults[index].awaits == nil { schedule(faults[index].end, .faultEnds(index)) }
      healedAt = max(healedAt, faults[index].end)
    }
    outcome.failures = faults.count { SimulatedFault.failures.contains($0.kind) }
  }

  mutating func drawFaults() {
    var time: Int64 = 4_000_000
    // A sixth of the runs where somebody can be away without commits having to wait.
    let canBeAway = !policy.isBounded && policy.standbys > policy.acknowledgements
    if !options.onlyNoise, canBeAway, (outcome.seed / 20) % 6 == 5 {
      time = makeAbsence(at: time) + dice.between(0, 10_000_000)
    } else if !options.onlyNoise, (outcome.seed / 20) % 8 == 7 {
      // Another part by the seed alone: what one found before stays what it was.
      let isPair = members == 2 && storeNode > members
      time = (isPair ? makeDoubt(at: time) : makeReturn(at: time)) + dice.between(0, 10_000_000)
    } else if !options.onlyNoise, dice.chance(0.3) {
      time = makeRace(at: time) + dice.between(0, 10_000_000)
    }
    if options.stillAgents {
      let length = dice.between(16_000_000, 25_000_000)
      for kind in [SimulatedFault.Kind.isolated, .agentStopped] { add(kind, at: time, for: length, atPrimary: true) }
      time += length
    }
    let count = options.onlyNoise ? 3 + dice.below(4) : (faults.isEmpty ? 1 : 0) + dice.below(4)
    for _ in 0..<count {
      let isNoise = options.onlyNoise || dice.chance(0.2)
      let kind = dice.pick(isNoise ? SimulatedFault.noises : SimulatedFault.failures)
      let length: Int64
      switch kind {
      case .shortStall, .everybodyStalls: length = dice.between(100_000, 2_000_000)
      case .blip: length = dice.between(50_000, 500_000)
      default:
        // Many end about when a failover has begun: that is where it is hard.
        length = dice.chance(0.5) ? dice.between(2_000_000, 4_500_000) : dice.between(300_000, 15_000_000)
      }
      add(kind, at: time, for: length, atPrimary: dice.chance(0.5))
      // Noises of noises come one after another: all at once is no noise.
      if options.onlyNoise { time += length }
      time += dice.chance(0.4) ? dice.between(0, 3_500_000) : dice.between(1_000_000, 14_000_000)
    }
  }

  mutating func add(_ kind: SimulatedFault.Kind, at start: Int64, for length: Int64, atPrimary: Bool) {
    let node = dice.below(members)
    var other = dice.below(nodes)
    if other == node { other = (other + 1) % nodes }
    faults.append(
      SimulatedFault(
        kind: kind, node: node, other: other, start: start, end: start + length, isAtPrimary: atPrimary))
  }

  /// Standbys are away for so long that they no longer count, perhaps while others are behind; then the primary fails,
  /// about when they are dropped, or come back.
  mutating func makeAbsence(at start: Int64) -> Int64 {
    let dropped = start + policy.budgets.absence.wholeNanoseconds / 1000
    let gone = 1 + dice.below(max(1, policy.standbys - policy.acknowledgements))
    let back = dropped + dice.between(-500_000, 12_000_000)
    let first = dice.below(members)
    for offset in 0..<gone {
      let node = (first + offset) % members
      faults.append(
        SimulatedFault(
          kind: dice.pick([.hostDown, .isolated, .engineStopped, .hostFrozen]), node: node, other: (node + 1) % nodes,
          start: start + dice.between(0, 300_000), end: back + dice.between(0, 2_000_000)))
    }
    if dice.chance(0.5) {
      for offset in gone..<members where dice.chance(0.9) {
        let node = (first + offset) % members
        faults.append(
          SimulatedFault(
            kind: .laggard, node: node, other: (node + 1) % nodes, start: start - dice.between(0, 2_000_000),
            end: dropped + dice.between(0, 4_000_000)))
      }
    }
    if dice.chance(0.3) {
      add(.lateCommands, at: dropped - 300_000, for: dice.between(1_000_000, 8_000_000), atPrimary: false)
    }
    let meeting = dice.chance(0.5) ? dropped : back
    add(
      dice.pick([.engineKilled, .engineKilled, .hostDown, .isolated, .oneWay, .hostFrozen]),
      at: meeting + dice.between(-1_000_000, 2_500_000), for: dice.between(1_000_000, 12_000_000), atPrimary: true)
    return back
  }

  /// The link between primary and standby is cut, and of those who look at both, one hardly gets to look.
  mutating func makeDoubt(at start: Int64) -> Int64 {
    let witness = members + dice.below(storeNode - members)
    faults += [
      SimulatedFault(kind: .partial, node: 0, other: 1, start: start, end: start + dice.between(4_000_000, 16_000_000)),
      SimulatedFault(
        kind: .observerStarved, node: witness, other: 0, start: start - dice.between(0, 3_000_000),
        end: start + dice.between(6_000_000, 16_000_000)),
    ]
    return start + 3_300_000
  }

  /// What the first primary's agent once told its standbys lies somewhere until they have detached from it, and another is
  /// recorded; by then it is back, for them and not for the lease store. An agent that had detached may have been killed.
  mutating func makeReturn(at start: Int64) -> Int64 {
    let given = start + 15_000_000
    faults += [
      SimulatedFault(kind: .lateOrders, node: 0, other: 1, start: 0, end: given, until: .record),
      SimulatedFault(kind: .isolated, node: 0, other: 1, start: start, end: given, until: .record),
      SimulatedFault(
        kind: .partial, node: 0, other: storeNode, start: start, end: start + dice.between(6_000_000, 18_000_000)),
    ]
    for _ in 0..<dice.below(3) {
      faults.append(
        SimulatedFault(
          kind: .agentKilled, node: 1 + dice.below(members - 1), other: 0, start: start, end: start + 200_000,
          awaits: .record))
    }
    return start + 3_300_000
  }

  /// Faults that belong together: what one leaves undone meets the next.
  mutating func makeRace(at start: Int64) -> Int64 {
    let detection: Int64 = 3_300_000
    switch dice.below(5) {
    case 3, 4:
      // The same, and they arrive while standbys have just detached for the next one, from a primary that is back.
      let second = start + dice.between(6_000_000, 9_000_000)
      let meeting = second + dice.between(detection - 500_000, detection + 600_000)
      add(.lateCommands, at: start, for: meeting - start, atPrimary: false)
      add(.engineKilled, at: start + 100_000, for: 1, atPrimary: true)
      add(.isolated, at: second, for: meeting - second + dice.between(-300_000, 200_000), atPrimary: true)
      if dice.chance(0.5) {
        for _ in 0..<2 {
          add(.agentKilled, at: meeting - dice.between(250_000, 600_000), for: 200_000, atPrimary: false)
        }
      }
    case 0:
      // The old primary comes back while it is being replaced, and an agent that detached forgets or doesn't.
      add(.isolated, at: start, for: dice.between(detection - 500_000, detection + 1_500_000), atPrimary: true)
      for _ in 0..<(1 + dice.below(2)) {
        add(
          .agentKilled, at: start + dice.between(detection - 300_000, detection + 800_000),
          for: dice.between(200_000, 900_000), atPrimary: false)
      }
    case 1:
      // A failover's commands arrive after the next one.
      add(.lateCommands, at: start, for: dice.between(8_000_000, 26_000_000), atPrimary: false)
      add(.engineKilled, at: start + 100_000, for: 1, atPrimary: true)
      add(
        dice.chance(0.5) ? .hostDown : .isolated, at: start + dice.between(3_000_000, 9_000_000),
        for: dice.between(3_000_000, 15_000_000), atPrimary: true)
    default:
      // Stopped for about as long as it takes to be replaced, then let go on.
      add(
        dice.chance(0.5) ? .engineStopped : .hostFrozen, at: start,
        for: dice.between(detection - 600_000, detection + 1_500_000), atPrimary: true)
      if dice.chance(0.5) {
        add(.partial, at: start + dice.between(0, detection), for: dice.between(1_000_000, 6_000_000), atPrimary: false)
      }
    }
    return start + detection
  }

  mutating func begin(_ index: Int) {
    if faults[index].awaits != nil, courses[index] == .ahead {
      courses[index] = .waiting
      return
    }
    courses[index] = .lasting
    if faults[index].isAtPrimary, let primary = record.flatMap({ self.index($0.primary) }) {
      faults[index].node = primary
      if faults[index].other == primary { faults[index].other = (primary + 1) % nodes }
    }
    let fault = faults[index]
    trace("begins: \(fault.kind.rawValue) at \(fault.node) (\(fault.other))")
    renew()
    let node = fault.node
    switch fault.kind {
    case .engineKilled: crash(node)
    case .hostDown:
      crash(node)
      killAgent(node, for: nil)
    case .engineStopped: stall(engine: node, until: fault.end)
    case .hostFrozen:
      stall(engine: node, until: fault.end)
      stall(agent: node, until: fault.end)
    case .agentKilled: killAgent(node, for: min(fault.end - now, 5_000_000))
    case .agentStopped: stall(agent: node, until: fault.end)
    case .shortStall:
      if fault.other % 3 != 0 { stall(engine: node, until: fault.end) }
      if fault.other % 3 != 1 { stall(agent: node, until: fault.end) }
    case .everybodyStalls: for agent in agents.indices { stall(agent: agent, until: fault.end) }
    default: break
    }
  }

  mutating func end(_ index: Int) {
    guard courses[index] == .lasting else { return }
    courses[index] = .over
    let fault = faults[index]
    trace("ends: \(fault.kind.rawValue) at \(fault.node) (\(fault.other))")
    renew()
    if fault.kind == .hostDown { agentBack(fault.node) }
    if fault.kind == .lateOrders, !agents[fault.node].ordersLie {
      for (question, to, incarnation, sent) in agents[fault.node].lying {
        schedule(
          now + dice.between(0, 700_000),
          .ask(question, from: fault.node, to: to, incarnation: incarnation, sent: sent))
      }
      agents[fault.node].lying = []
    }
  }

  /// A failover has come to `state`: some faults begin or end with that.
  mutating func reached(_ state: FailoverState) {
    for index in faults.indices {
      if courses[index] == .waiting, faults[index].awaits == state {
        courses[index] = .due
        (faults[index].start, faults[index].end) = (now, now + faults[index].end - faults[index].start)
        healedAt = max(healedAt, faults[index].end)
        schedule(now, .faultBegins(index))
        schedule(faults[index].end, .faultEnds(index))
      } else if courses[index] == .lasting, faults[index].until == state {
        faults[index].end = now
        schedule(now, .faultEnds(index))
      }
    }
  }

  /// All that lasts, by every fault that does: one that ends mends nothing that another breaks, and one that hasn't begun
  /// breaks nothing.
  mutating func renew() {
    for index in cut.indices { cut[index] = false }
    for node in hostUp.indices { hostUp[node] = true }
    for engine in engines.indices {
      (engines[engine].diskFull, engines[engine].slowDisk) = (false, false)
      (engines[engine].isDeaf, engines[engine].isLaggard) = (false, false)
    }
    for agent in agents.indices { (agents[agent].isStarved, agents[agent].ordersLie) = (false, false) }
    (storeUp, lossy, delayed, lateUntil) = (true, 0, 0, 0)
    for index in faults.indices where courses[index] == .lasting { renew(faults[index]) }
  }

  private mutating func renew(_ fault: SimulatedFault) {
    let node = fault.node
    func cutBoth(_ a: Int, _ b: Int) {
      cut[a * nodes + b] = true
      cut[b * nodes + a] = true
    }
    switch fault.kind {
    case .hostDown: hostUp[node] = false
    case .isolated, .blip: for peer in 0..<nodes where peer != node { cutBoth(node, peer) }
    case .storeIsolated: for peer in 0..<storeNode { cutBoth(storeNode, peer) }
    case .partial: cutBoth(node, fault.other)
    case .oneWay: for peer in 0..<nodes where peer != node { cut[node * nodes + peer] = true }
    case .bridge:
      // Two halves that only `node` can reach.
      for a in 0..<nodes where a != node {
        for b in 0..<nodes where b != node && a != b && (a < nodes / 2) != (b < nodes / 2) { cutBoth(a, b) }
      }
    case .diskFull: engines[node].diskFull = true
    case .storeDown: storeUp = false
    case .loss: lossy += 1
    case .delay: delayed += 1
    case .slowDisk: engines[node].slowDisk = true
    case .lateCommands: lateUntil = max(lateUntil, fault.end)
    case .lateOrders: agents[node].ordersLie = true
    case .starved: for agent in agents.indices { agents[agent].isStarved = true }
    case .observerStarved: agents[node].isStarved = true
    case .deaf: engines[node].isDeaf = true
    case .laggard: engines[node].isLaggard = true
    case .engineKilled, .engineStopped, .hostFrozen, .agentKilled, .agentStopped, .shortStall, .everybodyStalls: break
    }
  }

  private mutating func stall(engine node: Int, until time: Int64) {
    engines[node].stalledUntil = max(engines[node].stalledUntil, time)
  }

  private mutating func stall(agent node: Int, until time: Int64) {
    agents[node].stalledUntil = max(agents[node].stalledUntil, time)
  }

  mutating func crash(_ node: Int) {
    guard engines[node].isRunning else { return }
    engines[node].isRunning = false
    engines[node].generation += 1
    engines[node].isReceiving = false
    engines[node].pending = []
    engines[node].pendingHead = 0
    engines[node].unconfirmed = []
    engines[node].unconfirmedHead = 0
    engines[node].written = engines[node].offset
    engines[node].roleSince = now
  }

  mutating func killAgent(_ node: Int, for length: Int64?) {
    agents[node].isUp = false
    agents[node].incarnation += 1
    if let length { schedule(now + max(length, 200_000), .agentBack(node)) }
  }

  mutating func agentBack(_ node: Int) {
    guard !agents[node].isUp, hostUp[node] else { return }
    let memory = options.protections.contains(.epochOnDisk) ? agents[node].core.memory : AgentMemory()
    agents[node].isUp = true
    agents[node].isBusy = false
    agents[node].fence = nil
    agents[node].incarnation += 1
    for index in agents[node].outstanding.indices { agents[node].outstanding[index] = 0 }
    agents[node].core = AgentCore(
      policy, as: agents[node].core.name, memory: memory, at: clock(node), protections: options.protections)
    schedule(now, .tick(node, incarnation: agents[node].incarnation))
  }
}
