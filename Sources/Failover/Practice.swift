import Catalog
import Core
import StateKit

/// What a practice sees, a moment at a time.
package struct PracticeFacts: Sendable, Equatable, Codable {
  package var atMilliseconds: Int64
  /// Of agents that answered just now.
  package var reports: [AgentReport]
  package var record: PrimaryRecord?
  /// Somebody holds the lease.
  package var isConducted: Bool
  package var order: FailoverOrder?

  package init(
    atMilliseconds: Int64, reports: [AgentReport], record: PrimaryRecord?, isConducted: Bool, order: FailoverOrder?
  ) {
    (self.atMilliseconds, self.reports, self.record) = (atMilliseconds, reports, record)
    (self.isConducted, self.order) = (isConducted, order)
  }

  func report(_ member: MemberName) -> AgentReport? { reports.first { $0.member == member } }

  func serves(_ member: MemberName) -> Bool {
    guard let engine = report(member)?.engine else { return false }
    return engine.role == .primary && engine.acknowledges
  }
}

/// Service moved once, and for how long nobody had it.
package struct PracticeMove: Sendable, Equatable, Codable {
  package var from: MemberName
  package var to: MemberName
  package var isKill: Bool
  /// From the order, or the kill, until all was as before, with the roles exchanged.
  package var milliseconds: Int64 = 0
  /// Between the last moment one was seen to acknowledge, and the first the other was; as agents see it.
  package var silenceMilliseconds: Int64 = 0
}

package enum PracticeRule: String, Sendable, Codable, CaseIterable {
  case notCalm = "P-010"
  case neverCalm = "P-011"
  case begins = "P-020"
  case moving = "P-021"
  case serves = "P-022"
  case tooLong = "P-023"
  case settling = "P-030"
  case neverSettled = "P-031"
  case goesBack = "P-040"
  case isBack = "P-041"
  case stays = "P-042"
  case otherOrder = "P-050"
  case otherPrimary = "P-051"
  case unwell = "P-052"

  package var says: String {
    switch self {
    case .notCalm: "waits until all is well"
    case .neverCalm: "all was not well: nothing was begun"
    case .begins: "moves service"
    case .moving: "waits for the other to serve"
    case .serves: "the other serves"
    case .tooLong: "the other didn't come to serve in time; the order is withdrawn"
    case .settling: "waits until all follow"
    case .neverSettled: "not all came to follow"
    case .goesBack: "moves service back"
    case .isBack: "service is back where it was"
    case .stays: "service stays where it is now"
    case .otherOrder: "somebody else has left an order: this is no practice any more"
    case .otherPrimary: "service moved, and not as was practised: this is no practice any more"
    case .unwell: "something else is wrong: this is no practice any more"
    }
  }
}

package enum PracticeStep: Sendable, Equatable, Codable {
  case wait
  case order(FailoverOrder)
  /// Ends the engine of this epoch's primary as a crash would.
  case kill(MemberName, Fence)
  /// What was ordered and hasn't begun is not to begin any more.
  case withdraw(FailoverOrder)
}

package struct PracticeStanding: Sendable, Equatable, Codable {
  package enum Phase: String, Sendable, Codable { case ready, moving, settling, over }

  package enum Outcome: String, Sendable, Codable {
    case passed, failed
    /// Something real came in between; nothing more is done.
    case aborted
    /// It was not begun.
    case couldNotRun = "could-not-run"
  }

  package var phase = Phase.ready
  package var sinceMilliseconds: Int64
  /// All was well since then, without a break.
  package var calmSince: Int64?
  package var primary: MemberName?
  package var epoch: Fence?
  package var orders: [FailoverOrder] = []
  package var lastServed: Int64?
  package var moves: [PracticeMove] = []
  package var outcome: Outcome?

  package init(at milliseconds: Int64) { sinceMilliseconds = milliseconds }
}

package struct PracticeDecision: Sendable, Equatable, Codable {
  package var next: PracticeStanding
  package var rule: PracticeRule
  package var step: PracticeStep = .wait
  package var reasons: [FailoverReason] = []
}

/// A failover, or a switchover, for practice: begun only while all is well, given up as soon as anything else happens.
///
/// It moves nothing itself. It leaves orders as a person would, or ends the primary's engine, and looks what comes of it.
package struct Practice: Sendable {
  package var policy: FailoverPolicy
  package var plan: FailoverPractice
  /// Beginning of its orders' ids.
  package var id: String
  package var by: String
  /// Who shall serve; of a kill the policy's own choice. `nil`: whoever is preferred.
  package var target: MemberName?

  package init(_ policy: FailoverPolicy, _ plan: FailoverPractice, id: String, by: String, target: MemberName? = nil) {
    (self.policy, self.plan, self.id, self.by, self.target) = (policy, plan, id, by, target)
  }

  /// How long all must have been well before anything is moved, the first time and again.
  static let calmMilliseconds: Int64 = 2000
  /// How long it is waited for all to be well.
  static let patienceMilliseconds: Int64 = 120_000

  package func decide(_ standing: PracticeStanding, _ facts: PracticeFacts) -> PracticeDecision {
    var decision = step(standing, facts)
    if let primary = decision.next.primary, facts.serves(primary) {
      decision.next.lastServed = facts.atMilliseconds
    }
    return decision
  }

  private func step(_ standing: PracticeStanding, _ facts: PracticeFacts) -> PracticeDecision {
    switch standing.phase {
    case .ready: return ready(standing, facts)
    case .moving: return moving(standing, facts)
    case .settling: return settling(standing, facts)
    case .over: return PracticeDecision(next: standing, rule: .stays)
    }
  }

  // MARK: What is the case

  /// Why this is no time to practise; empty if all is well.
  package func troubles(_ facts: PracticeFacts) -> [FailoverReason] {
    guard let record = facts.record else { return [FailoverReason("nobody is recorded as the primary")] }
    var reasons: [FailoverReason] = []
    if facts.isConducted { reasons.append(FailoverReason("a failover is under way")) }
    if let order = facts.order, order.id != record.order, order.kind != .resume, order.kind != .approve {
      reasons.append(FailoverReason("there is an order: \(order.kind.rawValue) by \(order.by)"))
    }
    for name in (policy.members + policy.witnesses).map(\.name) {
      guard let report = facts.report(name) else {
        reasons.append(FailoverReason("its agent doesn't answer", name))
        continue
      }
      if report.of == record.primary, report.verdict == .suspect || report.verdict == .down {
        reasons.append(FailoverReason("takes \(record.primary) for \(report.verdict.rawValue)", name))
      }
      for signal in report.signals ?? [] where signal.beyondMilliseconds != nil {
        reasons.append(FailoverReason("check \(signal.check) is beyond its threshold", signal.of))
      }
      guard policy.members.contains(where: { $0.name == name }) else { continue }
      guard let engine = report.engine else {
        reasons.append(FailoverReason("its engine doesn't answer", name))
        continue
      }
      if name == record.primary {
        if engine.role != .primary || !engine.acknowledges {
          reasons.append(FailoverReason("acknowledges nothing", name))
        }
        let others = Set(policy.members.map(\.name)).subtracting([name])
        for absent in others.subtracting(engine.attached).sorted(by: { $0.text < $1.text }) {
          reasons.append(FailoverReason("isn't attached to the primary", absent))
        }
      } else if engine.role != .standby || engine.following != record.primary {
        reasons.append(FailoverReason("doesn't follow the primary", name))
      }
    }
    return reasons
  }

  // MARK: Phases

  private func ready(_ standing: PracticeStanding, _ facts: PracticeFacts) -> PracticeDecision {
    var next = standing
    let reasons = troubles(facts)
    guard reasons.isEmpty, let record = facts.record else {
      next.calmSince = nil
      guard facts.atMilliseconds - standing.sinceMilliseconds < Self.patienceMilliseconds / 4 else {
        return over(next, .couldNotRun, .neverCalm, reasons)
      }
      return PracticeDecision(next: next, rule: .notCalm, reasons: reasons)
    }
    next.calmSince = standing.calmSince ?? facts.atMilliseconds
    guard facts.atMilliseconds - (next.calmSince ?? 0) >= Self.calmMilliseconds else {
      return PracticeDecision(next: next, rule: .notCalm)
    }
    let isKill = plan.kind == .failover
    guard let wanted = target ?? preferred(but: record.primary), wanted != record.primary else {
      return over(
        next, .couldNotRun, .neverCalm, [FailoverReason("serves already, or nobody else may", target ?? record.primary)]
      )
    }
    return begin(next, facts, record, to: wanted, isKill: isKill, .begins)
  }

  private func preferred(but primary: MemberName) -> MemberName? {
    let others = policy.members.filter { $0.name != primary && $0.priority > 0 }
    return others.max { $0.priority < $1.priority }.map { best in
      others.first { $0.priority == best.priority }?.name ?? best.name
    }
  }

  private func begin(
    _ standing: PracticeStanding, _ facts: PracticeFacts, _ record: PrimaryRecord, to wanted: MemberName, isKill: Bool,
    _ rule: PracticeRule
  ) -> PracticeDecision {
    var next = standing
    (next.phase, next.sinceMilliseconds, next.calmSince) = (.moving, facts.atMilliseconds, nil)
    (next.primary, next.epoch, next.lastServed) = (record.primary, record.epoch, facts.atMilliseconds)
    next.moves.append(PracticeMove(from: record.primary, to: wanted, isKill: isKill))
    guard !isKill else {
      return PracticeDecision(next: next, rule: rule, step: .kill(record.primary, record.epoch))
    }
    let order = FailoverOrder(id: "\(id)-\(next.moves.count)", kind: .switchover, target: wanted, by: by)
    next.orders.append(order)
    return PracticeDecision(next: next, rule: rule, step: .order(order))
  }

  private func moving(_ standing: PracticeStanding, _ facts: PracticeFacts) -> PracticeDecision {
    var next = standing
    guard var move = standing.moves.last, let epoch = standing.epoch else {
      return over(next, .failed, .tooLong, [])
    }
    if let stranger = stranger(standing, facts) { return interrupted(standing, facts, .otherOrder, [stranger]) }
    let took = facts.atMilliseconds - standing.sinceMilliseconds
    if let record = facts.record, record.epoch > epoch {
      let isOurs = move.isKill ? record.primary != move.from : record.order == standing.orders.last?.id
      guard isOurs, record.previous == move.from else {
        return interrupted(
          standing, facts, .otherPrimary, [FailoverReason("serves since epoch \(record.epoch)", record.primary)])
      }
      move.to = record.primary
      if facts.serves(record.primary) {
        move.silenceMilliseconds = facts.atMilliseconds - (standing.lastServed ?? standing.sinceMilliseconds)
        next.moves[next.moves.count - 1] = move
        (next.phase, next.epoch, next.primary, next.calmSince) = (.settling, record.epoch, record.primary, nil)
        return PracticeDecision(next: next, rule: .serves)
      }
      next.moves[next.moves.count - 1] = move
    } else if !move.isKill, !facts.isConducted, took > 500 {
      // Nothing has begun: then what is wrong now is none of our doing.
      let reasons = troubles(facts).filter { $0.text.hasPrefix("there is an order") == false }
      if !reasons.isEmpty { return interrupted(standing, facts, .unwell, reasons) }
    }
    guard took < Self.patienceMilliseconds else {
      return over(next, .failed, .tooLong, troubles(facts), withdrawing(standing, facts))
    }
    return PracticeDecision(next: next, rule: .moving)
  }

  private func settling(_ standing: PracticeStanding, _ facts: PracticeFacts) -> PracticeDecision {
    var next = standing
    if let stranger = stranger(standing, facts) { return interrupted(standing, facts, .otherOrder, [stranger]) }
    guard let record = facts.record, record.epoch == standing.epoch else {
      return interrupted(
        standing, facts, .otherPrimary,
        [FailoverReason("serves since epoch \(facts.record?.epoch.description ?? "?")", facts.record?.primary)])
    }
    let reasons = troubles(facts)
    guard reasons.isEmpty else {
      next.calmSince = nil
      guard facts.atMilliseconds - standing.sinceMilliseconds < Self.patienceMilliseconds else {
        return over(next, .failed, .neverSettled, reasons)
      }
      return PracticeDecision(next: next, rule: .settling, reasons: reasons)
    }
    if standing.calmSince == nil {
      next.calmSince = facts.atMilliseconds
      next.moves[next.moves.count - 1].milliseconds = facts.atMilliseconds - standing.sinceMilliseconds
    }
    guard facts.atMilliseconds - (next.calmSince ?? 0) >= Self.calmMilliseconds else {
      return PracticeDecision(next: next, rule: .settling)
    }
    let home = standing.moves.first?.from
    guard plan.returns, let home, record.primary != home else {
      let tooSlow = standing.moves.filter { $0.silenceMilliseconds > plan.within.wholeMilliseconds }
      let slow = tooSlow.map { FailoverReason("\($0.silenceMilliseconds) ms without service", $0.from) }
      return over(next, slow.isEmpty ? .passed : .failed, plan.returns ? .isBack : .stays, slow)
    }
    return begin(next, facts, record, to: home, isKill: false, .goesBack)
  }

  // MARK: The end

  /// An order that isn't ours, and wasn't carried out before.
  private func stranger(_ standing: PracticeStanding, _ facts: PracticeFacts) -> FailoverReason? {
    guard let order = facts.order, order.id != facts.record?.order, !standing.orders.contains(order),
      order.kind != .resume, order.kind != .approve
    else { return nil }
    return FailoverReason("\(order.kind.rawValue) by \(order.by)", order.target)
  }

  private func interrupted(
    _ standing: PracticeStanding, _ facts: PracticeFacts, _ rule: PracticeRule, _ reasons: [FailoverReason]
  ) -> PracticeDecision {
    over(standing, .aborted, rule, reasons, withdrawing(standing, facts))
  }

  /// Only what is still there: another's order isn't taken away.
  private func withdrawing(_ standing: PracticeStanding, _ facts: PracticeFacts) -> PracticeStep {
    guard let ours = standing.orders.last, facts.order == ours, facts.record?.order != ours.id else { return .wait }
    return .withdraw(FailoverOrder(id: ours.id + "-withdrawn", kind: .resume, by: by))
  }

  private func over(
    _ standing: PracticeStanding, _ outcome: PracticeStanding.Outcome, _ rule: PracticeRule,
    _ reasons: [FailoverReason], _ step: PracticeStep = .wait
  ) -> PracticeDecision {
    var next = standing
    (next.phase, next.outcome) = (.over, outcome)
    return PracticeDecision(next: next, rule: rule, step: step, reasons: reasons)
  }
}
