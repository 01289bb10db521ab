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
    for index in faults.indices {
      schedule(faults[index].start, .faultBegins(index))
      schedule(faults[index].end, .faultEnds(index))
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

  mutating func apply(_ fault: SimulatedFault, begins: Bool) {
    trace("\(begins ? "begins" : "ends"): \(fault.kind.rawValue) at \(fault.node) (\(fault.other))")
    let node = fault.node
    func cutBoth(_ a: Int, _ b: Int) {
      cut[a * nodes + b] = begins
      cut[b * nodes + a] = begins
    }
    switch fault.kind {
    case .engineKilled:
      if begins { crash(node) }
    case .hostDown:
      hostUp[node] = !begins
      if begins {
        crash(node)
        killAgent(node, for: nil)
      } else {
        agentBack(node)
      }
    case .isolated:
      for peer in 0..<nodes where peer != node { cutBoth(node, peer) }
    case .storeIsolated: for peer in 0..<storeNode { cutBoth(storeNode, peer) }
    case .partial:
      cutBoth(node, fault.other)
    case .oneWay:
      for peer in 0..<nodes where peer != node { cut[node * nodes + peer] = begins }
    case .bridge:
      // Two halves that only `node` can reach.
      for a in 0..<nodes where a != node {
        for b in 0..<nodes where b != node && a != b && (a < nodes / 2) != (b < nodes / 2) { cutBoth(a, b) }
      }
    case .engineStopped:
      if begins { engines[node].stalledUntil = fault.end }
    case .hostFrozen:
      if begins {
        engines[node].stalledUntil = fault.end
        agents[node].stalledUntil = fault.end
      }
    case .diskFull:
      engines[node].diskFull = begins
    case .agentKilled:
      if begins { killAgent(node, for: min(fault.end - now, 5_000_000)) }
    case .agentStopped:
      if begins { agents[node].stalledUntil = fault.end }
    case .storeDown: storeUp = !begins
    case .shortStall:
      if begins {
        if fault.other % 3 != 0 { engines[node].stalledUntil = max(engines[node].stalledUntil, fault.end) }
        if fault.other % 3 != 1 { agents[node].stalledUntil = max(agents[node].stalledUntil, fault.end) }
      }
    case .everybodyStalls:
      if begins {
        for index in agents.indices { agents[index].stalledUntil = max(agents[index].stalledUntil, fault.end) }
      }
    case .loss: lossy += begins ? 1 : -1
    case .delay: delayed += begins ? 1 : -1
    case .blip: for peer in 0..<nodes where peer != node { cutBoth(node, peer) }
    case .slowDisk: engines[node].slowDisk = begins
    case .lateCommands: lateUntil = begins ? fault.end : 0
    case .starved: isStarved = begins
    case .deaf: engines[node].isDeaf = begins
    case .laggard: engines[node].isLaggard = begins
    }
    // Cuts may lie on each other: one that ends must not mend another.
    if !begins {
      for (index, other) in faults.enumerated() where other.start <= now && now < other.end && faults[index] != fault {
        switch other.kind {
        case .isolated, .storeIsolated, .partial, .oneWay, .bridge, .blip: apply(other, begins: true)
        case .hostDown: hostUp[other.node] = false
        case .storeDown: storeUp = false
        case .diskFull: engines[other.node].diskFull = true
        case .deaf: engines[other.node].isDeaf = true
        case .laggard: engines[other.node].isLaggard = true
        case .starved: isStarved = true
        case .lateCommands: lateUntil = max(lateUntil, other.end)
        default: break
        }
      }
    }
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
