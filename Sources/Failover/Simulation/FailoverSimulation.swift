import Catalog
import Core
import DriverKit
import StateKit

/// One run: hosts, engines, agents, a network and a lease store, all by seed, with the agents' own code.
package struct FailoverSimulation {
  package struct Options: Sendable {
    package var protections = Protections.all
    /// Only what must not move service.
    package var onlyNoise = false
    /// Besides, the primary is cut off while its agent stands still, for longer than others wait for it.
    package var stillAgents = false
    package var isTraced = false
    /// Decisions are decided again, from their facts.
    package var replays = false
    /// These, and no others.
    package var script: [SimulatedFault]?

    package init() {}
  }

  // Times are microseconds.
  enum Event {
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

  enum Question {
    case look
    case report
    case view
    case take
    case renew(Fence)
    case release(Fence)
    case write(PrimaryRecord)
    case command(FailoverAction)
    /// A short lease, to write another record in place of the one that is known.
    case lend(instead: PrimaryRecord, PrimaryRecord, attempt: Int)
    case rewrite(PrimaryRecord, Fence, attempt: Int)
  }

  enum Answer {
    case looked(Int, Sight)
    case report(AgentReport)
    case view(PrimaryRecord?, Holder?, Fence)
    case taken(Fence)
    case acted(AgentReport?, to: Int, kind: Int)
    case nothing(to: Int, kind: Int)
    case lent(PrimaryRecord?, instead: PrimaryRecord, PrimaryRecord, Fence, attempt: Int)
    case rewritten(PrimaryRecord, Fence, attempt: Int)
  }

  enum Operation {
    case fence(Fence)
    case stop
    case start
    case promote(Fence)
    case follow(Int, Fence)
    case rejoin(Int, Fence)
    case vote([MemberName])
  }

  struct Pending {
    var offset: Int64
    var startedAt: Int64
    var isFlushed = false
  }

  struct Engine {
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
    /// When its agent ended it, cut off from the lease store and from its standbys.
    var trustEnded: Int64?
    var slowDisk = false
    var isDeaf = false
    var isLaggard = false
    /// How long the stream to it takes beyond the network.
    var streamDelay: Int64 = 0
    /// Bounded mode: acknowledged and not confirmed by enough standbys: when, by offset.
    var unconfirmed: [(offset: Int64, at: Int64)] = []
    var unconfirmedHead = 0
    var lastAcknowledged: Int64 = -1_000_000_000
    /// Whose word commits wait for; `nil`: all others.
    var voters: [Int]?
    /// What was written when they were last changed.
    var votedAt: Int64 = 0
  }

  struct Agent {
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
    /// Of a lease to change the record's voters under.
    var attempt = 0
    var isStarved = false
    /// What it tells others isn't delivered for now, and kept.
    var ordersLie = false
    var lying: [(question: Question, to: Int, incarnation: Int, sent: Int64)] = []
  }

  /// Where a fault stands; one that waits for a failover to come so far is due once it has.
  enum Course { case ahead, waiting, due, lasting, over }

  struct Branch {
    var lineage: Int64
    var parent: Int
    var fork: Int64
    /// In ascending order of offsets.
    var acknowledged: [(offset: Int64, at: Int64)] = []
    var firstAcknowledged: Int64?
  }

  let policy: FailoverPolicy
  let topology: SimulatedTopology
  let options: Options
  var dice: Dice
  var now: Int64 = 0
  var queue = EventQueue()
  var events: [Event] = []
  var free: [Int] = []
  var engines: [Engine]
  var agents: [Agent]
  var branches: [Branch]
  var hostUp: [Bool]
  var cut: [Bool]
  var lossy = 0
  var delayed = 0
  var lateUntil: Int64 = 0
  var faults: [SimulatedFault] = []
  var courses: [Course] = []
  var outcome = SimulatedOutcome()
  // The lease store.
  var storeUp = true
  var tenure: (holder: Int, fence: Fence, until: Int64)?
  var revision: Int64 = 1
  var record: PrimaryRecord?
  var lastAcknowledgement: Int64 = 0
  var healedAt: Int64 = 0
  let members: Int
  let nodes: Int
  let storeNode: Int
  static let never: Int64 = .max / 4

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
      if now > healedAt + 40_000_000 {
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

  // MARK: Time and messages

  func clock(_ agent: Int) -> Int64 {
    Int64(Double(now) * agents[agent].rate) / 1000 + agents[agent].shift / 1000
  }

  mutating func schedule(_ time: Int64, _ event: Event) {
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
  mutating func travel(_ from: Int, _ to: Int, mayStick: Bool = false) -> Int64? {
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

  mutating func ask(_ question: Question, from: Int, to: Int, sticks: Bool = false) {
    guard let arrival = travel(from, to, mayStick: sticks) else { return }
    if agents[from].ordersLie, from != to, case .command = question {
      agents[from].lying.append((question, to, agents[from].incarnation, clock(from)))
      return
    }
    schedule(arrival, .ask(question, from: from, to: to, incarnation: agents[from].incarnation, sent: clock(from)))
  }

  mutating func reply(_ answer: Answer, from: Int, to: Int, _ incarnation: Int, _ sent: Int64) {
    guard let arrival = travel(from, to) else { return }
    schedule(arrival, .answer(answer, to: to, incarnation: incarnation, sent: sent))
  }

  mutating func trace(_ text: String) {
    if options.isTraced { outcome.trace.append("\(now / 1000) ms  \(text)") }
  }

  mutating func violate(_ text: String) {
    trace("VIOLATION \(text)")
    outcome.violations.append(text)
  }

  // MARK: Events

  mutating func handle(_ event: Event) {
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
    case .faultBegins(let index): begin(index)
    case .faultEnds(let index): end(index)
    case .agentBack(let node): agentBack(node)
    case .end: break
    }
  }
}
