import Catalog
import Core

/// A fast source of chance for one simulated run. Source: SplitMix64, as ``SeededRandomness``.
struct Dice: Sendable {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }

  mutating func unit() -> Double { Double(next() >> 11) / 9_007_199_254_740_992 }

  mutating func below(_ bound: Int) -> Int { Int(unit() * Double(bound)) }

  mutating func between(_ low: Int64, _ high: Int64) -> Int64 { low + Int64(unit() * Double(high - low)) }

  mutating func chance(_ probability: Double) -> Bool { unit() < probability }

  mutating func pick<T>(_ values: [T]) -> T { values[below(values.count)] }
}

/// What goes wrong in one simulated run. Nodes are numbered: members, witnesses, the lease store.
package struct SimulatedFault: Sendable, Equatable {
  package enum Kind: String, Sendable, CaseIterable {
    // Failures: service may have to move.
    case engineKilled = "kill of the engine"
    case hostDown = "host down"
    case isolated = "full partition"
    case partial = "partial partition"
    case oneWay = "asymmetric partition"
    case bridge = "bridge partition"
    case engineStopped = "engine stopped and continued"
    case hostFrozen = "host frozen"
    case diskFull = "disk full"
    case agentKilled = "kill of the agent"
    case agentStopped = "agent stopped and continued"
    case storeDown = "lease store down"
    case storeIsolated = "lease store cut off"
    case lateCommands = "commands lie for seconds"
    // Noise: service must stay where it is.
    case shortStall = "stall of at most two seconds"
    case everybodyStalls = "every agent stalls"
    case loss = "a tenth of all messages lost"
    case delay = "messages delayed"
    case blip = "partition of half a second"
    case slowDisk = "slow fsync"
    case starved = "every agent starved of its processor"
    case deaf = "no new connections at the engine"
    case laggard = "seconds behind, and in touch"
    case observerStarved = "one agent starved of its processor"
    case lateOrders = "one agent's commands lie until a failover is under way"
  }

  package var kind: Kind
  package var node: Int
  package var other: Int
  package var start: Int64
  package var end: Int64
  /// Whoever serves when it begins takes the place of `node`.
  package var isAtPrimary = false
  /// From `start` on it waits for a failover to come to this state, and lasts as long as it would have.
  package var awaits: FailoverState?
  /// It ends when a failover comes to this state, and at `end` at the latest.
  package var until: FailoverState?

  package init(
    kind: Kind, node: Int, other: Int, start: Int64, end: Int64, isAtPrimary: Bool = false,
    awaits: FailoverState? = nil, until: FailoverState? = nil
  ) {
    (self.kind, self.node, self.other) = (kind, node, other)
    (self.start, self.end, self.isAtPrimary) = (start, end, isAtPrimary)
    (self.awaits, self.until) = (awaits, until)
  }

  package static let failures: [Kind] = [
    .engineKilled, .hostDown, .isolated, .partial, .oneWay, .bridge, .engineStopped, .hostFrozen, .diskFull,
    .agentKilled, .agentStopped, .storeDown, .storeIsolated, .lateCommands,
  ]
  package static let noises: [Kind] = [
    .shortStall, .everybodyStalls, .loss, .delay, .blip, .slowDisk, .starved, .deaf,
  ]
}

/// Members, witnesses and how far they are apart.
package struct SimulatedTopology: Sendable {
  package var name: String
  package var policy: FailoverPolicy
  /// One way, in microseconds, between any two nodes.
  package var delayMicroseconds: Int64

  package init(name: String, policy: FailoverPolicy, delayMicroseconds: Int64 = 400) {
    (self.name, self.policy, self.delayMicroseconds) = (name, policy, delayMicroseconds)
  }

  /// The twenty that the project is judged on: two to seven members, every useful number of acknowledgements, with and
  /// without witnesses, near and far, zero loss and bounded.
  package static let standard: [SimulatedTopology] = {
    var result: [SimulatedTopology] = []
    func add(_ members: Int, _ acknowledgements: Int, witnesses: Int, far: Bool = false, bounded: Bool = false) {
      var policy = FailoverPolicy(
        name: PolicyName(unchecked: "simulated"),
        members: (0..<members).map { .init(name: MemberName(unchecked: String(UnicodeScalar(UInt8(97 + $0))))) },
        witnesses: (0..<witnesses).map { .init(name: MemberName(unchecked: "w\($0)"), priority: 0) },
        acknowledgements: acknowledgements, consent: bounded ? .autoBounded : .autoZeroLoss,
        lossBound: bounded ? .init(bytes: 1 << 40, duration: .seconds(10)) : nil)
      policy.budgets.pause = .seconds(10)
      policy.budgets.restart = .seconds(5)
      policy.budgets.observe = .seconds(3)
      policy.budgets.fence = .seconds(5)
      policy.budgets.absence = .seconds(3)
      policy.signals.observers = (members + witnesses) / 2 + (members + witnesses > 3 ? 0 : 1)
      let mode = bounded ? "bounded" : "zero-loss"
      let name = "\(members)m\(witnesses)w-ack\(acknowledgements)-\(far ? "far" : "near")-\(mode)"
      result.append(SimulatedTopology(name: name, policy: policy, delayMicroseconds: far ? 25_000 : 400))
    }
    add(2, 1, witnesses: 1)
    add(2, 1, witnesses: 2)
    add(3, 1, witnesses: 0)
    add(3, 1, witnesses: 1)
    add(3, 2, witnesses: 0)
    add(3, 1, witnesses: 0, far: true)
    add(3, 2, witnesses: 1, far: true)
    add(4, 1, witnesses: 1)
    add(4, 2, witnesses: 1)
    add(4, 3, witnesses: 1)
    add(5, 1, witnesses: 0)
    add(5, 2, witnesses: 0)
    add(5, 2, witnesses: 0, far: true)
    add(5, 3, witnesses: 0)
    add(7, 3, witnesses: 0)
    add(7, 4, witnesses: 0, far: true)
    add(2, 1, witnesses: 1, bounded: true)
    add(3, 1, witnesses: 0, bounded: true)
    add(3, 2, witnesses: 0, far: true, bounded: true)
    add(5, 2, witnesses: 0, bounded: true)
    return result
  }()
}
