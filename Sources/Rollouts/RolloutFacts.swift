import Catalog
import Core
import StateKit

/// Where a rollout stands.
package enum RolloutState: String, Sendable, Codable, CaseIterable {
  case check, warm, prime, step, keep, done
  /// Going back to the old side; nothing stops that.
  case back
  case returned
  /// Nothing was sent to the new side.
  case refused

  package var isOver: Bool { self == .done || self == .returned || self == .refused }
}

/// A rollout's place in the table, between two looks.
package struct RolloutStanding: Sendable, Equatable, Codable {
  package var state: RolloutState
  /// Of `steps`, from 0.
  package var step: Int
  package var sinceMilliseconds: Int64
  /// When the weights of this step were seen; the dwell counts from here.
  package var shownMilliseconds: Int64?
  /// What the new side's counters were then; moves along while it is kept or paused, so that what is new isn't lost in what is old.
  package var baseline: TrafficCounters?
  /// The baseline to come, and since when.
  package var later: TrafficCounters?
  package var laterMilliseconds: Int64?
  /// Since when something needed is missing.
  package var unknownMilliseconds: Int64?
  /// Why it goes back.
  package var reason: String?

  package init(_ state: RolloutState, step: Int = 0, sinceMilliseconds: Int64) {
    (self.state, self.step, self.sinceMilliseconds) = (state, step, sinceMilliseconds)
  }
}

/// How something that takes a while stands.
package struct RolloutCheck: Sendable, Equatable, Codable {
  package enum State: String, Sendable, Codable { case running, passed, failed }
  package var state: State
  package var why: String?

  package init(_ state: State, why: String? = nil) { (self.state, self.why) = (state, why) }
}

/// A number, in thousandths, or why there is none.
package struct RolloutReading: Sendable, Equatable, Codable {
  package var name: CheckName
  package var thousandths: Int64?
  package var why: String?

  package init(_ name: CheckName, thousandths: Int64? = nil, why: String? = nil) {
    (self.name, self.thousandths, self.why) = (name, thousandths, why)
  }
}

/// All that a decision is made of.
package struct RolloutFacts: Sendable, Equatable, Codable {
  package enum Order: String, Sendable, Codable { case abort, pause, resume, skip }

  /// On a clock that never steps, from the rollout's own beginning of this process.
  package var atMilliseconds: Int64
  package var now: Timestamp
  /// As the router says; `nil`: it doesn't.
  package var route: RouteView?
  /// Why not.
  package var routeWhy: String?
  package var ready: RolloutCheck?
  package var warm: RolloutCheck?
  package var prime: RolloutCheck?
  package var readings: [RolloutReading]
  package var order: Order?
  /// What the kill switch says; `nil` if there is none.
  package var isAllowed: Bool?
  /// Flag values, release and whatever else was true at that moment: for the record alone.
  package var context: [String: String]

  package init(
    atMilliseconds: Int64, now: Timestamp, route: RouteView? = nil, routeWhy: String? = nil,
    ready: RolloutCheck? = nil, warm: RolloutCheck? = nil, prime: RolloutCheck? = nil,
    readings: [RolloutReading] = [], order: Order? = nil, isAllowed: Bool? = nil, context: [String: String] = [:]
  ) {
    (self.atMilliseconds, self.now, self.route, self.routeWhy) = (atMilliseconds, now, route, routeWhy)
    (self.ready, self.warm, self.prime, self.readings) = (ready, warm, prime, readings)
    (self.order, self.isAllowed, self.context) = (order, isAllowed, context)
  }
}

/// What a decision asks to be done. Done once or ten times is the same.
package enum RolloutAction: Sendable, Equatable, Codable {
  case warm, prime
  /// Percent that the new side gets; the old side gets the rest. Whoever gains is opened before the other is closed: both can
  /// serve.
  case weigh(Int)
}

/// What follows from a rollout, a standing and facts.
package struct RolloutDecision: Sendable, Equatable, Codable {
  package var next: RolloutStanding
  package var rule: RolloutRule
  package var actions: [RolloutAction]
  package var reasons: [String]
}

/// Every way from one state to another; there is no other.
package enum RolloutRule: String, Sendable, Codable, CaseIterable {
  case denied = "R-010"
  case awaitsReady = "R-011"
  case ready = "R-012"
  case notReady = "R-013"
  case awaitsRouter = "R-014"
  case elsewhere = "R-015"
  case warming = "R-020"
  case warmed = "R-021"
  case cold = "R-022"
  case priming = "R-030"
  case primed = "R-031"
  case unprimed = "R-032"
  case weighing = "R-040"
  case shown = "R-041"
  case watching = "R-050"
  case passed = "R-051"
  case broken = "R-052"
  case unclear = "R-053"
  case unclearTooLong = "R-054"
  case unready = "R-055"
  case countedAnew = "R-056"
  case changedByOthers = "R-057"
  case paused = "R-058"
  case skipped = "R-059"
  case keeping = "R-060"
  case done = "R-061"
  case aborted = "R-070"
  case switchedOff = "R-071"
  case returning = "R-080"
  case returned = "R-081"

  package struct Row: Sendable {
    package var from: Set<RolloutState>
    package var to: Set<RolloutState>
    package var says: String
  }

  package var row: Row {
    let open: Set<RolloutState> = [.step, .keep]
    let closed: Set<RolloutState> = [.check, .warm, .prime]
    func row(_ from: Set<RolloutState>, _ to: Set<RolloutState>, _ says: String) -> Row {
      Row(from: from, to: to, says: says)
    }
    return switch self {
    case .denied: row(closed, [.refused], "the kill switch doesn't allow it; nothing was sent to the new side")
    case .awaitsReady: row([.check], [.check], "the new side isn't ready yet")
    case .ready: row([.check], [.warm], "the new side is ready, and the old side serves")
    case .notReady: row([.check], [.refused], "the new side didn't get ready in time; nothing was sent to it")
    case .awaitsRouter: row([.check], [.check, .refused], "the router doesn't say where traffic goes")
    case .elsewhere: row([.check], [.refused], "traffic isn't where this rollout begins")
    case .warming: row([.warm], [.warm], "the new side is being warmed")
    case .warmed: row([.warm], [.prime], "the new side is warm")
    case .cold: row([.warm], [.refused], "the new side can't be warmed; nothing was sent to it")
    case .priming: row([.prime], [.prime], "its caches are being primed")
    case .primed: row([.prime], [.step], "its caches are primed")
    case .unprimed: row([.prime], [.refused], "its caches can't be primed; nothing was sent to it")
    case .weighing: row([.step], [.step], "the router is told, and its own answer awaited")
    case .shown: row([.step], [.step], "the router shows the step's weights; it is watched from here")
    case .watching: row([.step], [.step], "watched, and nothing is broken")
    case .passed: row([.step], [.step, .keep], "watched for as long as it must be, and nothing was broken")
    case .broken: row(open, [.back], "a bound is broken")
    case .unclear: row(open, [.step, .keep], "what is needed to judge is missing; unknown is not passed")
    case .unclearTooLong: row(open, [.back], "what is needed to judge has been missing for too long")
    case .unready: row(open, [.back], "the new side isn't ready any more")
    case .countedAnew: row(open, [.step, .keep], "the router counts anew; so does this step")
    case .changedByOthers: row(open, [.back], "somebody else has changed the weights")
    case .paused: row(open, [.step, .keep], "an operator has paused it; it is watched on")
    case .skipped: row([.step], [.step, .keep], "an operator goes on without waiting")
    case .keeping: row([.keep], [.keep], "the new side has all; the old one is kept for a return")
    case .done: row([.keep], [.done], "the old side isn't needed any more")
    case .aborted: row(Set(RolloutState.allCases.filter { !$0.isOver }), [.back, .refused], "an operator ends it")
    case .switchedOff: row(open, [.back], "the kill switch doesn't allow it any more, or can't be read")
    case .returning: row([.back], [.back], "back to the old side")
    case .returned: row([.back], [.returned], "the router shows that all goes to the old side")
    }
  }
}

/// One decision as it was made: all it was made of, and what came of it. A line of canonical JSON each.
package struct RolloutLogEntry: Sendable, Equatable, Codable {
  package var at: Timestamp
  package var run: String
  package var rollout: Rollout
  package var before: RolloutStanding
  package var facts: RolloutFacts
  package var decision: RolloutDecision

  package init(
    at: Timestamp, run: String, rollout: Rollout, before: RolloutStanding, facts: RolloutFacts,
    decision: RolloutDecision
  ) {
    (self.at, self.run, self.rollout) = (at, run, rollout)
    (self.before, self.facts, self.decision) = (before, facts, decision)
  }

  /// The same question, answered again: from this entry alone.
  package func replayed() -> RolloutDecision { rollout.decide(before, facts) }

  package func line() throws -> [UInt8] { try CanonicalJSON.encode(self) + [10] }

  /// - Throws: For a line that is no entry.
  package static func entries(_ bytes: [UInt8]) throws -> [RolloutLogEntry] {
    try bytes.split(separator: 10).map { try CanonicalJSON.decode(RolloutLogEntry.self, from: Array($0)) }
  }
}
