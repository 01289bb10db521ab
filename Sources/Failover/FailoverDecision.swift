import Catalog
import Core
import DriverKit
import StateKit

extension FailoverPolicy {
  /// What follows from what is known, until nothing more does: one decision per way taken in the table.
  ///
  /// Pure: reads nothing, waits for nothing. The last decision's actions are those to carry out; asking again with the
  /// same facts gives the same answer.
  package func decide(
    _ standing: FailoverStanding, _ facts: FailoverFacts, with protections: Protections = .all
  ) -> [FailoverDecision] {
    var decisions: [FailoverDecision] = []
    var standing = standing
    // The table has no circle that a single set of facts could keep turning; the bound is for those who change it.
    for _ in 0..<12 {
      let maker = DecisionMaker(policy: self, standing: standing, facts: facts, protections: protections)
      let decision = maker.withoutIdleLease(maker.decide())
      decisions.append(decision)
      if decision.next.state == standing.state || !decision.actions.isEmpty { break }
      standing = decision.next
    }
    return decisions
  }
}

struct DecisionMaker {
  let policy: FailoverPolicy
  let standing: FailoverStanding
  let facts: FailoverFacts
  let protections: Protections

  var now: Int64 { facts.atMilliseconds }
  var record: PrimaryRecord? { facts.store?.record }
  var elapsed: Int64 { now - standing.sinceMilliseconds }
  var freshness: Int64 { policy.signals.freshness.wholeMilliseconds }

  func decide() -> FailoverDecision {
    if standing.state.isConducting { return conduct() }
    if isPaused {
      if let order = pendingOrder, order.kind == .switchover || order.kind == .breakGlass { return obey(order) }
      return move(.paused, .paused)
    }
    switch standing.state {
    case .paused: return move(.resumed, .steady)
    case .suspect: return suspect()
    case .confirmed:
      if isUp { return move(.seenAgain, .steady) }
      return move(.confirmedAsks, .consent)
    case .consent: return consent()
    case .claim: return claim()
    default: return calm()
    }
  }

  /// A lease that came after the claim was given up would keep everybody else from acting, for as long as it is renewed.
  func withoutIdleLease(_ decision: FailoverDecision) -> FailoverDecision {
    let state = decision.next.state
    guard facts.store?.conductor?.isMine == true, !state.isConducting, state != .claim,
      !decision.actions.contains(.release)
    else { return decision }
    var decision = decision
    decision.actions.append(.release)
    return decision
  }

  // MARK: Calm

  private var isPaused: Bool {
    policy.consent == .off || policy.isInMaintenance || facts.store?.order?.kind == .pause
  }

  var pendingOrder: FailoverOrder? {
    guard let order = facts.store?.order, order.id != record?.order else { return nil }
    return order
  }

  private func calm() -> FailoverDecision {
    guard let record else { return adopt() }
    if let order = pendingOrder, order.kind == .switchover || order.kind == .breakGlass { return obey(order) }
    if isUnfinished(record) { return begin(.unfinished, record.primary) }
    let verdict = self.verdict
    if verdict == .suspect || verdict == .down {
      var decision = move(.suspected, .suspect)
      decision.next.subject = record.primary
      decision.next.basis = record.epoch
      return decision
    }
    let own = facts.member(facts.observer)?.report
    if let engine = own?.engine, record.primary != facts.observer,
      engine.role != .standby || engine.following != record.primary
    {
      return move(.notFollowing, .rejoin)
    }
    let attached = facts.member(record.primary)?.report?.engine?.attached.count
    if let attached, attached < policy.standbys {
      return move(.fewStandbys, .degraded, [FailoverReason("\(attached) of \(policy.standbys) standbys follow")])
    }
    // Not knowing the primary's standbys is no sign that all are there.
    if standing.state != .steady, attached != nil { return move(.allStandbys, .steady) }
    return move(.serves, standing.state)
  }

  /// The first primary: one that serves with enough standbys, while no other says that it does.
  private func adopt() -> FailoverDecision {
    guard let store = facts.store, store.ageMilliseconds <= freshness,
      let engine = facts.member(facts.observer)?.report?.engine, engine.role == .primary
    else { return move(.serves, standing.state, [FailoverReason("nobody is recorded yet")]) }
    let rivals = facts.members.filter { $0.name != facts.observer && $0.report?.engine?.role == .primary }
    guard rivals.isEmpty, engine.attached.count >= max(1, policy.acknowledgements) else {
      return move(.serves, standing.state, [FailoverReason("nobody is recorded yet, and too few standbys follow")])
    }
    return begin(.adopted, facts.observer)
  }

  func obey(_ order: FailoverOrder) -> FailoverDecision {
    var decision = begin(.ordered, record?.primary)
    decision.next.order = order
    return decision
  }

  func begin(_ rule: FailoverRule, _ subject: MemberName?) -> FailoverDecision {
    var decision = move(rule, .claim)
    decision.next = FailoverStanding(.claim, sinceMilliseconds: now)
    decision.next.subject = subject
    decision.next.basis = record?.epoch ?? Fence.none
    return decision
  }

  /// Somebody promised a higher epoch than the recorded one, and nobody conducts it any more.
  func isUnfinished(_ record: PrimaryRecord) -> Bool {
    guard let store = facts.store, store.ageMilliseconds <= freshness, store.conductor == nil,
      (store.recordAgeMilliseconds ?? 0) >= policy.signals.dwell.wholeMilliseconds
    else { return false }
    // Its own agent sees it first; others would only race it for the lease.
    return facts.members.contains { ($0.report?.promised ?? Fence.none) > record.epoch }
  }

  // MARK: Conducting

  private func conduct() -> FailoverDecision {
    guard let epoch = standing.epoch else { return move(.leaseLost, .steady) }
    guard let store = facts.store, store.conductor?.isMine ?? false, store.conductor?.epoch == epoch else {
      return move(.leaseLost, .steady)
    }
    switch standing.state {
    case .fence, .hold, .breakGlass: return fence(epoch)
    case .choose: return choose(epoch)
    case .abort:
      return record(.goesBack, standing.subject, facts.member(standing.subject)?.report?.engine?.position, epoch, [])
    case .record:
      if let record, record.epoch == epoch { return move(.recorded, .promote) }
      return move(.awaitsRecord, .record, [], [.record(newRecord(epoch))])
    case .promote: return promote(epoch)
    case .verify:
      if target?.report?.engine?.role == .primary, isFresh(target) { return move(.verified, .repoint) }
      return isTooLate ? give() : move(.awaitsVerification, .verify)
    case .repoint: return repoint(epoch)
    case .shift:
      if target?.report?.engine?.acknowledges == true || policy.acknowledgements == 0, let name = standing.target {
        // Routers are told and asked, and wait for nobody longer than this.
        let objections = (facts.traffic ?? []).compactMap { $0.objection(name, epoch) }
        if !objections.isEmpty, !isTooLate { return move(.awaitsTraffic, .shift, objections, [.shift(name, epoch)]) }
        return move(.shifted, .observe, objections, [.shift(name, epoch)])
      }
      return isTooLate ? give() : move(.awaitsStandbys, .shift, [], follows(epoch))
    case .observe: return observe(epoch)
    default: return move(.leaseLost, .steady)
    }
  }

  private var target: MemberFacts? { facts.member(standing.target) }

  func isFresh(_ member: MemberFacts?) -> Bool { (member?.reportAgeMilliseconds ?? .max) <= freshness }

  private var isTooLate: Bool { elapsed > policy.budgets.fence.wholeMilliseconds }

  private func give() -> FailoverDecision { move(.promotionFailed, .steady, [], [.release]) }

  private func isFenced(_ member: MemberFacts, _ epoch: Fence) -> Bool {
    guard let report = member.report, report.promised == epoch, report.isDetached else { return false }
    // One whose position isn't known can't say what was acknowledged.
    return report.engine?.role == .standby && report.engine?.position != nil
  }

  private var needed: Int {
    !protections.contains(.fenceBeforePromote)
      ? 0 : protections.contains(.fenceQuorum) ? quorum : max(1, quorum - 1)
  }

  /// One that was named and never came to serve has all there is, and can't come to serve behind our back.
  private func neverServed(_ epoch: Fence) -> Bool {
    guard let report = facts.member(standing.subject)?.report, report.promised == epoch else { return false }
    return report.isDetached && report.engine?.role == .standby && report.engine?.position != nil
  }

  private func fence(_ epoch: Fence) -> FailoverDecision {
    // The adopted one serves already, and is fenced from nobody.
    guard let subject = standing.subject, standing.basis != Fence.none else {
      return move(.fenced, .choose)
    }
    let standbys = facts.members.filter { $0.name != subject }
    let voters = voters
    let fenced = standbys.filter { voters.contains($0.name) && isFenced($0, epoch) }
    let missing = standbys.filter { !isFenced($0, epoch) }
    var actions = missing.map { FailoverAction.fence($0.name, epoch) }
    let subjectReport = facts.member(subject)?.report
    let subjectObeys = subjectReport?.promised == epoch

    if standing.order?.kind == .switchover {
      // In good order: what was acknowledged is sent before anybody is detached.
      if !subjectObeys || subjectReport?.engine.map({ $0.role == .primary }) ?? true {
        if !isTooLate {
          return move(
            .awaitsFence, standing.state, [FailoverReason("is being stopped", subject)], [.stop(subject, epoch)])
        }
        actions.append(.stop(subject, epoch))
      }
    } else if !subjectObeys {
      actions.append(.fence(subject, epoch))
    }

    let neverServed = neverServed(epoch)
    if fenced.count >= needed || neverServed {
      let isSilenced =
        subjectObeys && (subjectReport?.engine?.role != .primary || subjectReport?.engine?.isHeld == true)
      if policy.isBounded, protections.contains(.selfStop), !isSilenced, !neverServed {
        // Nobody's quorum fences here: the old primary's own agent does, once its standbys are silent for the bound.
        let since = standing.fencedMilliseconds ?? now
        let bound = (policy.lossBound?.duration ?? .zero).wholeMilliseconds
        if now - since < bound + bound / 4 {
          var decision = move(
            .awaitsFence, standing.state, [FailoverReason("may acknowledge for \(bound) ms yet", subject)], actions)
          decision.next.fencedMilliseconds = since
          return decision
        }
      }
      if standing.state == .hold { return chooseAgain(epoch, actions) }
      return move(.fenced, .choose)
    }
    if standing.state == .breakGlass, isTooLate {
      return move(.glassBroken, .choose, missing.map { FailoverReason("can't be reached", $0.name) })
    }
    if standing.order == nil, isUp, subjectReport?.engine?.role == .primary, isFresh(facts.member(subject)) {
      return move(.primaryIsBack, .abort)
    }
    let reasons = [FailoverReason("\(fenced.count) of \(needed) standbys have detached")]
    // Whoever comes next may reach others; and nothing here may keep a member from being started again for ever.
    if standing.state == .hold, elapsed > 2 * policy.budgets.fence.wholeMilliseconds { return give() }
    if standing.state == .fence, isTooLate { return move(.fenceBudgetSpent, .hold, reasons, actions) }
    return move(.awaitsFence, standing.state, reasons, actions)
  }

  /// Held since nobody fitted: chosen only once somebody does, and given up when that takes too long.
  private func chooseAgain(_ epoch: Fence, _ actions: [FailoverAction]) -> FailoverDecision {
    let choice = choose(epoch)
    guard choice.rule == .noneFit else { return move(.fenced, .choose) }
    if elapsed > 2 * policy.budgets.fence.wholeMilliseconds { return give() }
    var decision = move(.noneFit, .hold, choice.reasons, actions)
    decision.candidates = choice.candidates
    return decision
  }

  private func choose(_ epoch: Fence) -> FailoverDecision {
    let subject = standing.subject
    if standing.basis == Fence.none { return record(.chosen, subject, nil, epoch, []) }
    var candidates: [FailoverCandidate] = []
    for member in policy.members {
      guard let facts = facts.member(member.name) else { continue }
      var whyNot: [String] = []
      let report = facts.report
      let isSubject = member.name == subject
      let serves = isSubject && report?.engine?.role == .primary && facts.sight == .serves && isFresh(facts)
      if !serves {
        if protections.contains(.positionsAfterDetach), protections.contains(.fenceBeforePromote),
          !isFenced(facts, epoch)
        {
          whyNot.append(report == nil ? "nothing is known of it" : "it hasn't detached under epoch \(epoch)")
        }
        if report?.engine?.role != .standby { whyNot.append("it is no standby") }
        if isSubject, standing.order != nil { whyNot.append("service is moved away from it") }
      }
      if member.priority == 0 { whyNot.append("its priority is 0") }
      if report?.engine?.position == nil { whyNot.append("its position isn't known") }
      if !isFresh(facts) { whyNot.append("its agent is silent") }
      candidates.append(
        FailoverCandidate(
          member: member.name, position: report?.engine?.position, priority: member.priority, whyNot: whyNot))
    }
    // What must be kept: the most that any detached standby has, or the primary itself if it still has it all.
    let counted = facts.members.filter { member in
      isFenced(member, epoch)
        || (member.name == subject && candidates.contains { $0.member == subject && $0.whyNot.isEmpty })
    }
    let most = counted.compactMap { $0.report?.engine?.position }.max()
    let wanted = standing.order?.target
    func better(_ a: FailoverCandidate, _ b: FailoverCandidate) -> Bool {
      if protections.contains(.mostComplete), a.position != b.position {
        return (a.position ?? .none) > (b.position ?? .none)
      }
      if (a.member == subject) != (b.member == subject) { return a.member == subject }
      if (a.member == wanted) != (b.member == wanted) { return a.member == wanted }
      return a.priority > b.priority
    }
    // Stable: among equals the policy's order decides.
    var best: FailoverCandidate?
    for candidate in candidates where candidate.whyNot.isEmpty {
      if let current = best, !better(candidate, current) { continue }
      best = candidate
    }
    let isEnough = best.map { ($0.position ?? .none) >= (most ?? .none) } ?? false
    // Enough had detached a moment ago; what isn't known of them any more can't be compared.
    let known = facts.members.count { $0.name != subject && isFenced($0, epoch) }
    if known < needed, !neverServed(epoch), standing.order?.kind != .breakGlass {
      var decision = move(
        .noneFit, .hold, [FailoverReason("\(known) of \(needed) standbys are known to have detached")])
      decision.candidates = candidates
      return decision
    }
    guard let best, isEnough || !protections.contains(.mostComplete) || standing.order?.kind == .breakGlass else {
      var decision = move(
        .noneFit, .hold, [FailoverReason(most.map { "what must be kept reaches \($0)" } ?? "no position is known")])
      decision.candidates = candidates
      return decision
    }
    return record(.chosen, best.member, best.position, epoch, candidates)
  }

  func record(
    _ rule: FailoverRule, _ target: MemberName?, _ position: EnginePosition?, _ epoch: Fence,
    _ candidates: [FailoverCandidate]
  ) -> FailoverDecision {
    var decision = move(rule, .record)
    decision.next.target = target
    decision.next.position = position
    decision.next.choice = "\(rule.rawValue) \((try? CanonicalJSON.digest(facts))?.hex ?? "")"
    decision.candidates = candidates
    return decision
  }

  private func newRecord(_ epoch: Fence) -> PrimaryRecord {
    PrimaryRecord(
      epoch: epoch, primary: standing.target ?? standing.subject ?? facts.observer,
      previous: standing.target == standing.subject ? nil : standing.subject, position: standing.position,
      order: facts.store?.order?.id, decision: standing.choice)
  }

  private func promote(_ epoch: Fence) -> FailoverDecision {
    guard let name = standing.target else { return give() }
    if let report = target?.report, report.promised == epoch, report.engine?.role == .primary, !report.isDetached {
      return move(.promoted, .verify)
    }
    return isTooLate ? give() : move(.awaitsPromotion, .promote, [], [.promote(name, epoch)])
  }

  /// Whoever doesn't follow yet, told to.
  private func follows(_ epoch: Fence) -> [FailoverAction] {
    guard let primary = standing.target else { return [] }
    return facts.members.compactMap { member in
      if member.name == primary { return nil }
      let report = member.report
      let isDone = report?.promised == epoch && report?.engine?.following == primary && report?.engine?.role == .standby
      return isDone ? nil : .follow(member.name, primary: primary, epoch)
    }
  }

  private func repoint(_ epoch: Fence) -> FailoverDecision {
    let following = facts.members.count { member in
      guard let report = member.report, isFresh(member), let engine = report.engine else { return false }
      return report.promised == epoch && engine.following == standing.target && engine.isStreaming
    }
    if following >= policy.acknowledgements { return move(.repointed, .shift) }
    if isTooLate { return give() }
    return move(
      .awaitsStandbys, .repoint, [FailoverReason("\(following) of \(policy.acknowledgements) standbys follow")],
      follows(epoch))
  }

  private func observe(_ epoch: Fence) -> FailoverDecision {
    // By the engine alone: what checks say may be no fault of this member's, nor better with another.
    let engine = facts.member(record?.primary).map { policy.verdict(on: $0, late: late) }
    if engine == .down { return move(.relapsed, .steady, [], [.release]) }
    if elapsed >= policy.budgets.observe.wholeMilliseconds { return move(.observed, .steady, [], [.release]) }
    return move(.observing, .observe, [], follows(epoch))
  }

  // MARK: Moving

  func move(
    _ rule: FailoverRule, _ state: FailoverState, _ reasons: [FailoverReason] = [], _ actions: [FailoverAction] = []
  ) -> FailoverDecision {
    var next = standing
    if state != standing.state {
      next.state = state
      next.sinceMilliseconds = now
      if state == .steady { next = FailoverStanding(.steady, sinceMilliseconds: now) }
    }
    return FailoverDecision(next: next, rule: rule, actions: actions, reasons: reasons, candidates: [])
  }
}
