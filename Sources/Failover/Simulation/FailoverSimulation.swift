import Catalog
import Core
import DriverKit
import StateKit

/// What one simulated run came to.
package struct SimulatedOutcome: Sendable {
  package var seed: UInt64 = 0
  package var topology = ""
  package var faults: [SimulatedFault] = []
  package var violations: [String] = []
  package var failures = 0
  package var failovers = 0
  package var acknowledged = 0
  package var lost = 0
  /// How long before the last acknowledgement the oldest lost write was acknowledged.
  package var lossMicroseconds: Int64 = 0
  package var splitBrains = 0
  /// Longest time without an acknowledgement.
  package var outageMicroseconds: Int64 = 0
  package var decisions = 0
  package var digest: UInt64 = 0
  /// What happened, if it was asked for.
  package var trace: [String] = []
}

/// One run: hosts, engines, agents, a network and a lease store, all by seed, with the agents' own code.
package struct FailoverSimulation {
  package struct Options: Sendable {
    package var protections = Protections.all
    /// Only what must not move service.
    package var onlyNoise = false
    package var isTraced = false
    /// Decisions are decided again, from their facts.
    package var replays = false

    package init() {}
  }

  // Times are microseconds.
  private enum Event {
    case tick(Int, incarnation: Int)
    case write(Int)
    case flushed(Int, offset: Int64, generation: Int)
    case arrive(standby: Int, primary: Int, branch: Int, offset: Int64, generation: Int)
    case standbyFlushed(standby: Int, primary: Int, offset: Int64, generation: Int)
    case confirmed(primary: Int, standby: Int, branch: Int, offset: Int64)
    case heartbeat(Int)
    case ask(Question, from: Int, to: Int, incarnation: Int, sent: Int64)
    case answer(Answer, to: Int, incarnation: Int, sent: Int64)
    case operated(Operation, agent: Int)
    case faultBegins(Int)
    case faultEnds(Int)
    case agentBack(Int)
    case end
  }

  private enum Question {
    case look
    case report
    case view
    case take
    case renew(Fence)
    case release(Fence)
    case write(PrimaryRecord)
    case command(FailoverAction)
  }

  private enum Answer {
    case looked(Int, Sight)
    case report(AgentReport)
    case view(PrimaryRecord?, Holder?, Fence)
    case taken(Fence)
    case acted(AgentReport?, to: Int, kind: Int)
    case nothing(to: Int, kind: Int)
  }

  private enum Operation {
    case fence(Fence)
    case stop
    case start
    case promote(Fence)
    case follow(Int, Fence)
    case rejoin(Int, Fence)
  }

  private struct Pending {
    var offset: Int64
    var startedAt: Int64
    var isFlushed = false
  }

  private struct Engine {
    var isRunning = true
    var role = EngineFacts.Role.standby
    var roleSince: Int64 = 0
    var branch = 0
    var offset: Int64 = 0
    var written: Int64 = 0
    var following: Int?
    var generation = 0
    var isReceiving = false
    var isHeld = false
    var lastHeard: Int64 = -1_000_000_000
    var confirmed: [(offset: Int64, at: Int64)]
    var pending: [Pending] = []
    var pendingHead = 0
    var stalledUntil: Int64 = 0
    var diskFull = false
    var slowDisk = false
    var isDeaf = false
    /// How long the stream to it takes beyond the network.
    var streamDelay: Int64 = 0
    /// Bounded mode: acknowledged and not confirmed by enough standbys: when, by offset.
    var unconfirmed: [(offset: Int64, at: Int64)] = []
    var unconfirmedHead = 0
    var lastAcknowledged: Int64 = -1_000_000_000
  }

  private struct Agent {
    var core: AgentCore
    var incarnation = 0
    var isUp = true
    var stalledUntil: Int64 = 0
    var isBusy = false
    var fence: Fence?
    var outstanding: [Int64]
    var lastTick: Int64 = 0
    var rate: Double
    var shift: Int64
    /// What was reported before the last detach; for the control that reads positions too early.
    var stale: EnginePosition?
  }

  private struct Branch {
    var lineage: Int64
    var parent: Int
    var fork: Int64
    /// In ascending order of offsets.
    var acknowledged: [(offset: Int64, at: Int64)] = []
    var firstAcknowledged: Int64?
  }

  private let policy: FailoverPolicy
  private let topology: SimulatedTopology
  private let options: Options
  private var dice: Dice
  private var now: Int64 = 0
  private var queue = EventQueue()
  private var events: [Event] = []
  private var free: [Int] = []
  private var engines: [Engine]
  private var agents: [Agent]
  private var branches: [Branch]
  private var hostUp: [Bool]
  private var cut: [Bool]
  private var slow: [Bool]
  private var lossy = 0
  private var delayed = 0
  private var lateUntil: Int64 = 0
  private var isStarved = false
  private var faults: [SimulatedFault] = []
  private var outcome = SimulatedOutcome()
  // The lease store.
  private var storeUp = true
  private var tenure: (holder: Int, fence: Fence, until: Int64)?
  private var revision: Int64 = 1
  private var record: PrimaryRecord?
  private var lastAcknowledgement: Int64 = 0
  private var healedAt: Int64 = 0
  private let members: Int
  private let nodes: Int
  private let storeNode: Int
  private static let never: Int64 = .max / 4

  package init(_ topology: SimulatedTopology, seed: UInt64, _ options: Options = Options()) {
    (self.topology, self.options, policy) = (topology, options, topology.policy)
    dice = Dice(seed: seed)
    members = policy.members.count
    storeNode = members + policy.witnesses.count
    nodes = storeNode + 1
    let count = members
    engines = (0..<members).map { _ in Engine(confirmed: Array(repeating: (0, -1_000_000_000), count: count)) }
    hostUp = Array(repeating: true, count: nodes)
    cut = Array(repeating: false, count: nodes * nodes)
    slow = Array(repeating: false, count: nodes)
    branches = [Branch(lineage: 1, parent: -1, fork: 0)]
    agents = []
    (outcome.seed, outcome.topology) = (seed, topology.name)
    for node in 0..<storeNode {
      let shift = dice.between(0, 1_000_000_000)
      let name = node < members ? policy.members[node].name : policy.witnesses[node - members].name
      agents.append(
        Agent(
          core: AgentCore(policy, as: name, at: shift / 1000, protections: options.protections),
          outstanding: Array(repeating: 0, count: nodes * 8), rate: 1 + (dice.unit() - 0.5) * 0.001, shift: shift))
    }
  }

  /// The whole run.
  package mutating func run() -> SimulatedOutcome {
    engines[0].role = .primary
    for index in 1..<members {
      engines[index].following = 0
      engines[index].isReceiving = true
    }
    for agent in agents.indices { schedule(dice.between(0, 200_000), .tick(agent, incarnation: 0)) }
    for engine in engines.indices {
      engines[engine].streamDelay = dice.chance(0.5) ? 0 : dice.between(0, 60_000)
      schedule(dice.between(0, 100_000), .heartbeat(engine))
      schedule(dice.between(0, 60_000), .write(engine))
    }
    makeFaults()
    let hardEnd = healedAt + 40_000_000
    var recoveredAt: Int64?
    while let (time, slot) = queue.pop() {
      now = time
      let event = events[slot]
      events[slot] = .end
      free.append(slot)
      handle(event)
      if now > healedAt, recoveredAt == nil, isServing { recoveredAt = now }
      if let since = recoveredAt {
        if !isServing { recoveredAt = nil } else if now - since > 2_000_000 { break }
      }
      if now > hardEnd {
        violate("no service \((now - healedAt) / 1_000_000) s after everything was healed")
        break
      }
      if outcome.violations.count > 8 { break }
    }
    judge()
    outcome.faults = faults
    outcome.digest = dice.next() ^ UInt64(bitPattern: now)
    return outcome
  }

  // MARK: Faults

  private mutating func makeFaults() {
    var time: Int64 = 4_000_000
    if !options.onlyNoise, dice.chance(0.3) {
      time = makeRace(at: time) + dice.between(0, 10_000_000)
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
    for index in faults.indices {
      schedule(faults[index].start, .faultBegins(index))
      schedule(faults[index].end, .faultEnds(index))
      healedAt = max(healedAt, faults[index].end)
    }
    outcome.failures = faults.count { SimulatedFault.failures.contains($0.kind) }
  }

  private mutating func add(_ kind: SimulatedFault.Kind, at start: Int64, for length: Int64, atPrimary: Bool) {
    let node = dice.below(members)
    var other = dice.below(nodes)
    if other == node { other = (other + 1) % nodes }
    faults.append(
      SimulatedFault(
        kind: kind, node: node, other: other, start: start, end: start + length, isAtPrimary: atPrimary))
  }

  /// Faults that belong together: what one leaves undone meets the next.
  private mutating func makeRace(at start: Int64) -> Int64 {
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

  private mutating func apply(_ fault: SimulatedFault, begins: Bool) {
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
        case .starved: isStarved = true
        case .lateCommands: lateUntil = max(lateUntil, other.end)
        default: break
        }
      }
    }
  }

  private mutating func crash(_ node: Int) {
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

  private mutating func killAgent(_ node: Int, for length: Int64?) {
    agents[node].isUp = false
    agents[node].incarnation += 1
    if let length { schedule(now + max(length, 200_000), .agentBack(node)) }
  }

  private mutating func agentBack(_ node: Int) {
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

  // MARK: Time and messages

  private func clock(_ agent: Int) -> Int64 {
    Int64(Double(now) * agents[agent].rate) / 1000 + agents[agent].shift / 1000
  }

  private mutating func schedule(_ time: Int64, _ event: Event) {
    let slot: Int
    if let last = free.popLast() {
      slot = last
      events[slot] = event
    } else {
      slot = events.count
      events.append(event)
    }
    queue.push(time, slot)
  }

  /// - Returns: When it arrives, if it does.
  private mutating func travel(_ from: Int, _ to: Int, mayStick: Bool = false) -> Int64? {
    if from == to { return now + 100 }
    if cut[from * nodes + to] || !hostUp[from] || !hostUp[to] { return nil }
    if lossy > 0, dice.chance(0.1) { return nil }
    var delay = topology.delayMicroseconds + dice.between(0, topology.delayMicroseconds)
    if delayed > 0 { delay += dice.between(0, 100_000) }
    // A command that lay somewhere: in a buffer, in a process that stood still.
    if mayStick, lateUntil > now { return lateUntil + dice.between(0, 300_000) }
    if mayStick, dice.chance(0.03) { delay += dice.between(500_000, 12_000_000) }
    return now + delay
  }

  private mutating func ask(_ question: Question, from: Int, to: Int, sticks: Bool = false) {
    guard let arrival = travel(from, to, mayStick: sticks) else { return }
    schedule(arrival, .ask(question, from: from, to: to, incarnation: agents[from].incarnation, sent: clock(from)))
  }

  private mutating func reply(_ answer: Answer, from: Int, to: Int, _ incarnation: Int, _ sent: Int64) {
    guard let arrival = travel(from, to) else { return }
    schedule(arrival, .answer(answer, to: to, incarnation: incarnation, sent: sent))
  }

  private mutating func trace(_ text: String) {
    if options.isTraced { outcome.trace.append("\(now / 1000) ms  \(text)") }
  }

  private mutating func violate(_ text: String) {
    trace("VIOLATION \(text)")
    outcome.violations.append(text)
  }

  // MARK: Events

  private mutating func handle(_ event: Event) {
    switch event {
    case .tick(let agent, let incarnation): tick(agent, incarnation)
    case .write(let engine): write(engine)
    case .flushed(let engine, let offset, let generation): flushed(engine, offset, generation)
    case .arrive(let standby, let primary, let branch, let offset, let generation):
      arrive(standby, primary, branch, offset, generation)
    case .standbyFlushed(let standby, let primary, let offset, let generation):
      standbyFlushed(standby, primary, offset, generation)
    case .confirmed(let primary, let standby, let branch, let offset): confirmed(primary, standby, branch, offset)
    case .heartbeat(let engine): heartbeat(engine)
    case .ask(let question, let from, let to, let incarnation, let sent):
      asked(question, from, to, incarnation, sent)
    case .answer(let answer, let to, let incarnation, let sent): answered(answer, to, incarnation, sent)
    case .operated(let operation, let agent): operated(operation, agent)
    case .faultBegins(let index):
      if faults[index].isAtPrimary, let primary = record.flatMap({ self.index($0.primary) }) {
        faults[index].node = primary
        if faults[index].other == primary { faults[index].other = (primary + 1) % nodes }
      }
      apply(faults[index], begins: true)
    case .faultEnds(let index): apply(faults[index], begins: false)
    case .agentBack(let node): agentBack(node)
    case .end: break
    }
  }

  // MARK: Engines

  private func canWork(_ engine: Int) -> Bool {
    engines[engine].isRunning && engines[engine].stalledUntil <= now
  }

  private mutating func write(_ engine: Int) {
    schedule(now + dice.between(20_000, 100_000), .write(engine))
    guard canWork(engine), engines[engine].role == .primary else { return }
    if engines[engine].diskFull {
      trace("engine \(engine) ends: disk full")
      crash(engine)
      return
    }
    let waiting = engines[engine].pending.count - engines[engine].pendingHead
    guard waiting < 40 else { return }
    engines[engine].written += 1
    engines[engine].pending.append(Pending(offset: engines[engine].written, startedAt: now))
    let delay = engines[engine].slowDisk ? dice.between(50_000, 400_000) : dice.between(200, 2000)
    schedule(now + delay, .flushed(engine, offset: engines[engine].written, generation: engines[engine].generation))
  }

  private mutating func flushed(_ engine: Int, _ offset: Int64, _ generation: Int) {
    guard engines[engine].generation == generation, engines[engine].isRunning else { return }
    if engines[engine].stalledUntil > now {
      schedule(engines[engine].stalledUntil, .flushed(engine, offset: offset, generation: generation))
      return
    }
    engines[engine].offset = max(engines[engine].offset, offset)
    send(engine)
    acknowledge(engine)
  }

  private mutating func send(_ primary: Int) {
    for standby in 0..<members where engines[standby].isReceiving && engines[standby].following == primary {
      send(primary, to: standby)
    }
  }

  private mutating func send(_ primary: Int, to standby: Int) {
    guard let time = travel(primary, standby) else { return }
    schedule(
      time + engines[standby].streamDelay,
      .arrive(
        standby: standby, primary: primary, branch: engines[primary].branch, offset: engines[primary].offset,
        generation: engines[standby].generation))
  }

  private mutating func heartbeat(_ engine: Int) {
    schedule(now + 100_000, .heartbeat(engine))
    guard canWork(engine), engines[engine].role == .primary else { return }
    send(engine)
  }

  private mutating func arrive(_ standby: Int, _ primary: Int, _ branch: Int, _ offset: Int64, _ generation: Int) {
    guard engines[standby].generation == generation, engines[standby].isRunning, engines[standby].isReceiving else {
      return
    }
    if engines[standby].stalledUntil > now {
      schedule(
        engines[standby].stalledUntil,
        .arrive(standby: standby, primary: primary, branch: branch, offset: offset, generation: generation))
      return
    }
    engines[standby].lastHeard = now
    if engines[standby].diskFull { return }
    let delay = engines[standby].slowDisk ? dice.between(50_000, 400_000) : dice.between(200, 2000)
    if engines[standby].branch != branch {
      // What it has of a common past, and then on along the primary's own history.
      engines[standby].branch = branch
    }
    schedule(now + delay, .standbyFlushed(standby: standby, primary: primary, offset: offset, generation: generation))
  }

  private mutating func standbyFlushed(_ standby: Int, _ primary: Int, _ offset: Int64, _ generation: Int) {
    guard engines[standby].generation == generation, engines[standby].isRunning else { return }
    engines[standby].offset = max(engines[standby].offset, offset)
    engines[standby].written = engines[standby].offset
    guard let time = travel(standby, primary) else { return }
    schedule(
      time,
      .confirmed(
        primary: primary, standby: standby, branch: engines[standby].branch, offset: engines[standby].offset))
  }

  private mutating func confirmed(_ primary: Int, _ standby: Int, _ branch: Int, _ offset: Int64) {
    guard engines[primary].isRunning, engines[primary].role == .primary, engines[primary].branch == branch else {
      return
    }
    if engines[primary].stalledUntil > now {
      schedule(
        engines[primary].stalledUntil,
        .confirmed(primary: primary, standby: standby, branch: branch, offset: offset))
      return
    }
    let known = engines[primary].confirmed[standby].offset
    engines[primary].confirmed[standby] = (max(known, offset), now)
    acknowledge(primary)
  }

  /// How far enough standbys have confirmed.
  private func quorumOffset(_ engine: Int) -> Int64 {
    let offsets = (0..<members).filter { $0 != engine }.map { engines[engine].confirmed[$0].offset }.sorted(by: >)
    let index = policy.acknowledgements - 1
    return index < offsets.count ? offsets[index] : 0
  }

  private mutating func acknowledge(_ engine: Int) {
    guard canWork(engine), engines[engine].role == .primary else { return }
    let quorum = quorumOffset(engine)
    while engines[engine].unconfirmedHead < engines[engine].unconfirmed.count,
      engines[engine].unconfirmed[engines[engine].unconfirmedHead].offset <= quorum
    { engines[engine].unconfirmedHead += 1 }
    let isAsynchronous = policy.isBounded && !engines[engine].isHeld
    if isAsynchronous, watch(engine) { return }
    while engines[engine].pendingHead < engines[engine].pending.count {
      let first = engines[engine].pending[engines[engine].pendingHead]
      guard first.offset <= engines[engine].offset, isAsynchronous || first.offset <= quorum else { break }
      engines[engine].pendingHead += 1
      acknowledged(engine, first, quorum)
    }
    if engines[engine].pendingHead > 256 {
      engines[engine].pending.removeFirst(engines[engine].pendingHead)
      engines[engine].pendingHead = 0
    }
  }

  /// The watchdog: an agent that stands still takes its engine with it.
  @discardableResult
  private mutating func watch(_ node: Int) -> Bool {
    guard policy.isBounded, options.protections.contains(.selfStop), node < members, engines[node].role == .primary,
      engines[node].isRunning
    else { return false }
    let bound = policy.lossBound?.duration.wholeNanoseconds ?? 0
    guard now - agents[node].lastTick > bound / 4000 else { return false }
    trace("watchdog ends engine \(node)")
    crash(node)
    return true
  }

  private mutating func acknowledged(_ engine: Int, _ write: Pending, _ quorum: Int64) {
    let branch = engines[engine].branch
    outcome.acknowledged += 1
    outcome.outageMicroseconds = max(outcome.outageMicroseconds, now - lastAcknowledgement)
    lastAcknowledgement = now
    engines[engine].lastAcknowledged = now
    if policy.isBounded, write.offset > quorum { engines[engine].unconfirmed.append((write.offset, now)) }
    for other in branches.indices where other != branch && branches[other].lineage > branches[branch].lineage {
      if let first = branches[other].firstAcknowledged, first < write.startedAt {
        outcome.splitBrains += 1
        violate("engine \(engine) acknowledged a write begun after lineage \(branches[other].lineage) acknowledged")
      }
    }
    branches[branch].acknowledged.append((write.offset, now))
    if branches[branch].firstAcknowledged == nil { branches[branch].firstAcknowledged = now }
  }

  private var isServing: Bool {
    guard let record, let primary = index(record.primary), tenure == nil || tenure!.until < now || true else {
      return false
    }
    return engines[primary].role == .primary && canWork(primary) && engines[primary].lastAcknowledged > healedAt
      && now - engines[primary].lastAcknowledged < 500_000
  }

  private func index(_ name: MemberName) -> Int? { policy.members.firstIndex { $0.name == name } }

  /// Where a log at `offset` of `branch` leaves another branch: how much of that it holds.
  private func held(of other: Int, by branch: Int, upTo offset: Int64) -> Int64 {
    var (current, limit) = (branch, offset)
    while current >= 0 {
      if current == other { return limit }
      limit = min(limit, branches[current].fork)
      current = branches[current].parent
    }
    return 0
  }

  private func position(_ engine: Int) -> EnginePosition {
    // Whose last record it is: on a branch it hasn't reached yet, it is the parent's.
    var branch = engines[engine].branch
    while branches[branch].parent >= 0, engines[engine].offset <= branches[branch].fork {
      branch = branches[branch].parent
    }
    return EnginePosition(lineage: branches[branch].lineage, offset: engines[engine].offset)
  }

  private func facts(_ engine: Int) -> EngineFacts {
    let state = engines[engine]
    let age = (now - state.roleSince) / 1000
    guard state.isRunning else { return EngineFacts(role: .stopped, forMilliseconds: age) }
    guard state.stalledUntil <= now else { return EngineFacts(role: state.role, forMilliseconds: age) }
    let fresh = policy.signals.freshness.wholeNanoseconds / 1000
    var facts = EngineFacts(role: state.role, forMilliseconds: age, position: position(engine))
    if state.role == .primary {
      facts.attached = (0..<members).filter { $0 != engine && now - state.confirmed[$0].at < fresh }.map {
        policy.members[$0].name
      }
      facts.acknowledges = now - state.lastAcknowledged < fresh
      facts.isHeld = state.isHeld
      if policy.isBounded {
        let head = state.unconfirmedHead
        facts.lagMilliseconds = head < state.unconfirmed.count ? (now - state.unconfirmed[head].at) / 1000 : 0
        facts.lagBytes = 0
      }
    } else {
      facts.following = state.following.map { policy.members[$0].name }
      facts.heardMilliseconds = state.isReceiving ? max(0, (now - state.lastHeard) / 1000) : nil
      facts.isStreaming = state.isReceiving && now - state.lastHeard < fresh
    }
    return facts
  }

  // MARK: Agents

  private mutating func tick(_ agent: Int, _ incarnation: Int) {
    guard agents[agent].incarnation == incarnation, agents[agent].isUp else { return }
    if agents[agent].stalledUntil > now {
      schedule(agents[agent].stalledUntil + dice.between(0, 1000), .tick(agent, incarnation: incarnation))
      return
    }
    watch(agent)
    agents[agent].lastTick = now
    if isStarved { agents[agent].stalledUntil = now + dice.between(700_000, 1_500_000) }
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

  private mutating func look(_ agent: Int, isPlanned: Bool) {
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
    for action in result.actions { perform(action, agent) }
    if let duty = result.duty, !agents[agent].isBusy { perform(duty, agent) }
  }

  private mutating func perform(_ action: FailoverAction, _ agent: Int) {
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

  private mutating func perform(_ duty: MemberDuty, _ agent: Int) {
    trace("agent \(agent) \(duty)")
    switch duty {
    case .stop: crash(agent)
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
  private mutating func operate(_ operation: Operation, _ agent: Int, _ length: Int64) {
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
    case .stop, .start: break
    }
    schedule(now + length, .operated(operation, agent: agent))
  }

  private mutating func operated(_ operation: Operation, _ agent: Int) {
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

  private func canReach(_ primary: Int, _ standby: Int) -> Bool {
    hostUp[primary] && canWork(primary) && !cut[primary * nodes + standby] && !cut[standby * nodes + primary]
      && engines[primary].role == .primary
  }

  private mutating func promoted(_ engine: Int, _ epoch: Fence) {
    guard engines[engine].isRunning else { return }
    engines[engine].isHeld = false
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
  private mutating func follow(_ standby: Int, _ primary: Int) {
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

  private func common(_ branchA: Int, _ offsetA: Int64, _ branchB: Int, _ offsetB: Int64) -> Int64 {
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

  // MARK: Questions and answers

  private mutating func asked(_ question: Question, _ from: Int, _ to: Int, _ incarnation: Int, _ sent: Int64) {
    guard hostUp[to] else { return }
    if case .look = question {
      let state = engines[to]
      if state.isRunning, state.stalledUntil > now || state.isDeaf { return }
      let sight: Sight = !state.isRunning ? .refused : state.role == .primary ? .serves : .answers
      reply(.looked(to, sight), from: to, to: from, incarnation, sent)
      return
    }
    if to == storeNode {
      if storeUp { storeAsked(question, from, incarnation, sent) }
      return
    }
    guard agents[to].isUp else { return }
    if agents[to].stalledUntil > now {
      schedule(
        agents[to].stalledUntil + dice.between(0, 5000),
        .ask(question, from: from, to: to, incarnation: incarnation, sent: sent))
      return
    }
    switch question {
    case .report: reply(.report(report(to)), from: to, to: from, incarnation, sent)
    case .command(let action): commanded(action, from, to, incarnation, sent)
    default: break
    }
  }

  private mutating func report(_ agent: Int) -> AgentReport {
    if agent < members, !agents[agent].isBusy { agents[agent].core.engineSaid(facts(agent), at: clock(agent)) }
    var report = agents[agent].core.report(at: clock(agent))
    if agents[agent].isBusy { report.isDetached = false }
    if let stale = agents[agent].stale, report.isDetached { report.engine?.position = stale }
    return report
  }

  private mutating func commanded(_ action: FailoverAction, _ from: Int, _ to: Int, _ incarnation: Int, _ sent: Int64) {
    guard !agents[to].isBusy else { return }
    trace("agent \(to) is told \(action)")
    switch action {
    case .fence(_, let epoch):
      guard agents[to].core.obeysFence(epoch) else { return }
      if agents[to].core.memory.promised == epoch, agents[to].core.memory.isFenced,
        engines[to].role != .standby || !engines[to].isReceiving
      {
        return
      }
      operate(.fence(epoch), to, engines[to].isRunning ? dice.between(20_000, 200_000) : 1000)
    case .stop(_, let epoch):
      guard agents[to].core.obeysFence(epoch) else { return }
      agents[to].core.promise(epoch)
      operate(.stop, to, dice.between(100_000, 500_000))
    case .promote(_, let epoch):
      guard agents[to].core.obeys(epoch), engines[to].isRunning else { return }
      if agents[to].core.memory.promised == epoch, !agents[to].core.memory.isFenced, engines[to].role == .primary {
        return
      }
      operate(.promote(epoch), to, dice.between(50_000, 300_000))
    case .follow(_, let primary, let epoch):
      guard agents[to].core.obeys(epoch), engines[to].isRunning, engines[to].role == .standby,
        let primary = index(primary)
      else { return }
      operate(.follow(primary, epoch), to, dice.between(30_000, 300_000))
    default: return
    }
    _ = (from, incarnation, sent)
  }

  private mutating func storeAsked(_ question: Question, _ from: Int, _ incarnation: Int, _ sent: Int64) {
    if let held = tenure, held.until <= now { tenure = nil }
    switch question {
    case .view:
      reply(
        .view(record, tenure.map { Holder("\($0.holder)") }, tenure?.fence ?? .none), from: storeNode, to: from,
        incarnation, sent)
    case .take:
      guard tenure == nil else { return }
      revision += 1
      tenure = (from, Fence(revision), now + policy.budgets.lease.wholeNanoseconds / 1000)
      trace("store: lease to \(from), fence \(revision)")
      reply(.taken(Fence(revision)), from: storeNode, to: from, incarnation, sent)
    case .renew(let fence):
      if tenure?.fence == fence { tenure?.until = now + policy.budgets.lease.wholeNanoseconds / 1000 }
    case .release(let fence): if tenure?.fence == fence { tenure = nil }
    case .write(let new):
      guard tenure?.fence == new.epoch || !options.protections.contains(.recordUnderLease) else { return }
      if record?.epoch == new.epoch { return }
      trace("store: record \(new.primary) epoch \(new.epoch)")
      if let old = record, old.primary != new.primary, let index = index(old.primary) {
        outcome.failovers += 1
        if !isHarmed(index) { violate("service was moved away from a healthy primary") }
      }
      revision += 1
      record = new
    default: break
    }
  }

  /// Whether something has happened that is a reason to move service away.
  private func isHarmed(_ member: Int) -> Bool {
    var links = 0
    for fault in faults {
      guard fault.start <= now, now < fault.end + 12_000_000 else { continue }
      // Noise on top of a failure is more than noise.
      if !options.onlyNoise, fault.kind == .starved || fault.kind == .deaf { return true }
      guard SimulatedFault.failures.contains(fault.kind) else { continue }
      switch fault.kind {
      case .bridge, .storeDown, .storeIsolated, .lateCommands: return true
      // One link is no reason: whoever is behind it is outvoted.
      case .partial: links += fault.node == member || fault.other == member ? 1 : 0
      default: if fault.node == member { return true }
      }
    }
    return links > 1
  }

  private mutating func answered(_ answer: Answer, _ to: Int, _ incarnation: Int, _ sent: Int64) {
    guard agents[to].isUp, agents[to].incarnation == incarnation, hostUp[to] else { return }
    if agents[to].stalledUntil > now {
      schedule(
        agents[to].stalledUntil + 1 + dice.between(0, 5000),
        .answer(answer, to: to, incarnation: incarnation, sent: sent))
      return
    }
    let time = clock(to)
    switch answer {
    case .looked(let engine, let sight):
      if agents[to].outstanding[engine * 8] == sent { agents[to].outstanding[engine * 8] = 0 }
      // An answer to an old question says how it was.
      if time - sent < 500 { agents[to].core.saw(policy.members[engine].name, sight, at: time) }
    case .report(let report): agents[to].core.heard(report, at: sent)
    case .view(let record, let holder, let fence):
      let isMine = holder == Holder("\(to)") && agents[to].fence == fence
      agents[to].core.storeSaid(
        record, holder.map { .init(holder: $0, epoch: fence, isMine: isMine) }, nil, askedAt: sent)
      if agents[to].core.standing.state.isConducting { look(to, isPlanned: false) }
    case .taken(let fence):
      agents[to].fence = fence
      ask(.view, from: to, to: storeNode)
    case .acted, .nothing: break
    }
  }

  // MARK: Judging

  private mutating func judge() {
    guard let record, let primary = index(record.primary) else {
      violate("nobody was ever recorded")
      return
    }
    let (branch, offset) = (engines[primary].branch, engines[primary].offset)
    for other in branches.indices {
      let kept = held(of: other, by: branch, upTo: offset)
      let lost = branches[other].acknowledged.filter { $0.offset > kept }
      guard let first = lost.first, let last = branches[other].acknowledged.last else { continue }
      outcome.lost += lost.count
      outcome.lossMicroseconds = max(outcome.lossMicroseconds, last.at - first.at)
      if !policy.isBounded {
        violate("\(lost.count) acknowledged writes of lineage \(branches[other].lineage) are lost")
      }
      let bound = (policy.lossBound?.duration ?? .zero).wholeNanoseconds / 1000
      if policy.isBounded, last.at - first.at > bound {
        violate("writes of \((last.at - first.at) / 1000) ms are lost, and \(bound / 1000) ms may be")
      }
    }
  }
}

/// Events by time, and those of one time in the order they were made.
private struct EventQueue {
  private var heap: [(time: Int64, sequence: Int64, slot: Int)] = []
  private var sequence: Int64 = 0

  mutating func push(_ time: Int64, _ slot: Int) {
    sequence += 1
    heap.append((time, sequence, slot))
    var child = heap.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      guard isBefore(child, parent) else { break }
      heap.swapAt(child, parent)
      child = parent
    }
  }

  mutating func pop() -> (Int64, Int)? {
    guard let first = heap.first else { return nil }
    let last = heap.removeLast()
    if !heap.isEmpty {
      heap[0] = last
      var parent = 0
      while true {
        var child = parent * 2 + 1
        guard child < heap.count else { break }
        if child + 1 < heap.count, isBefore(child + 1, child) { child += 1 }
        guard isBefore(child, parent) else { break }
        heap.swapAt(child, parent)
        parent = child
      }
    }
    return (first.time, first.slot)
  }

  private func isBefore(_ a: Int, _ b: Int) -> Bool {
    (heap[a].time, heap[a].sequence) < (heap[b].time, heap[b].sequence)
  }
}
