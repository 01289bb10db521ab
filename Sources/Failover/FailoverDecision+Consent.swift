import Catalog
import Core
import DriverKit
import StateKit

/// Whether the primary failed, and whether service may move because of it.
extension DecisionMaker {
  var subjectFacts: MemberFacts? { facts.member(standing.subject ?? record?.primary) }

  var verdict: Verdict {
    guard let member = facts.member(record?.primary) else { return .unknown }
    return policy.verdict(on: member, late: late, facts.signals ?? [])
  }

  var late: Int64 { protections.contains(.doubt) ? facts.lateMilliseconds : 0 }

  /// The engine itself is down, and no peer says otherwise.
  var isEngineDown: Bool {
    facts.member(record?.primary).map { policy.verdict(on: $0, late: late) } == .down && peers.isEmpty
  }

  /// The checks say that the primary can't do its work, whether or not the engine answers.
  var ailment: Ailment? {
    guard let member = facts.member(record?.primary), !isEngineDown else { return nil }
    let found = policy.ailment(of: member.name, facts.signals ?? [])
    return found.weight >= Ailment.enough ? found : nil
  }

  var isUp: Bool { verdict == .up }

  /// What others say, as long as it is fresh and about the same primary.
  var voices: [(MemberName, Verdict)] {
    var result: [(MemberName, Verdict)] = [(facts.observer, verdict)]
    func add(_ name: MemberName, _ report: AgentReport?, _ age: Int64?) {
      guard name != facts.observer, let report, let age, age <= freshness, report.of == record?.primary else { return }
      result.append((name, report.verdict))
    }
    for member in facts.members { add(member.name, member.report, member.reportAgeMilliseconds) }
    for witness in facts.witnesses { add(witness.name, witness.report, witness.reportAgeMilliseconds) }
    return result
  }

  func suspect() -> FailoverDecision {
    if record?.epoch != standing.basis {
      return move(.seenAgain, .steady, [FailoverReason("another primary is recorded")])
    }
    if isUp { return move(.seenAgain, .steady) }
    if let record, isUnfinished(record) { return begin(.unfinished, record.primary) }
    var reasons: [FailoverReason] = []
    let voices = voices
    let downs = voices.count { $0.1 == .down }
    let ups = voices.count { $0.1 == .up }
    let needed = protections.contains(.observers) ? policy.signals.observers : 1
    if verdict != .down, protections.contains(.dwell) || verdict != .suspect {
      reasons.append(FailoverReason("this observer's verdict is \(verdict.rawValue)"))
    }
    let counted = protections.contains(.dwell) ? downs : voices.count { $0.1 == .down || $0.1 == .suspect }
    if counted < needed || (ups >= counted && protections.contains(.observers)) {
      reasons.append(FailoverReason("\(counted) of \(needed) observers say it is down, \(ups) that it is up"))
    }
    let ailment = ailment
    if protections.contains(.peers) { reasons += ailment == nil ? peers : reachable }
    guard reasons.isEmpty else { return move(.stillSuspect, .suspect, reasons) }
    if let ailment {
      let list = ailment.checks.map(\.text).joined(separator: ", ")
      return move(.ailing, .confirmed, [FailoverReason("beyond their thresholds: \(list)", record?.primary)])
    }
    return move(.agreed, .confirmed, voices.map { FailoverReason("says \($0.1.rawValue)", $0.0) })
  }

  /// Those whose acknowledgement counted under the record, and of whom ``quorum`` must detach.
  var voters: [MemberName] { record.map(policy.voters(of:)) ?? policy.members.map(\.name) }

  var quorum: Int { record.map(policy.fenceQuorum(of:)) ?? policy.fenceQuorum }

  /// What the engine's own peers say: whoever receives from the primary speaks for it, and enough must be there to speak.
  var peers: [FailoverReason] {
    // A process that is gone sends nothing: what a peer has from it is from before.
    let isGone = subjectFacts?.sight == .refused
    var reasons: [FailoverReason] = []
    let patience = policy.signals.dwell.wholeMilliseconds + freshness / 2
    var silent = 0
    let voters = voters
    for member in facts.members where member.name != record?.primary {
      guard let age = member.reportAgeMilliseconds, age <= freshness, let engine = member.report?.engine,
        engine.role == .standby
      else { continue }
      let heard = engine.heardMilliseconds ?? (engine.isStreaming ? 0 : .max)
      if !isGone, engine.following == record?.primary, heard < patience {
        reasons.append(FailoverReason("still receives from it", member.name))
      } else if voters.contains(member.name), engine.position != nil {
        silent += 1
      }
    }
    if silent < quorum {
      reasons.append(FailoverReason("\(silent) of \(quorum) standbys can say that they receive nothing"))
    }
    return reasons
  }

  /// Of a primary that runs: it is seen by all, and so must be those that are to detach from it.
  var reachable: [FailoverReason] {
    let count = facts.members.count { member in
      voters.contains(member.name) && isFresh(member) && member.report?.engine?.role == .standby
        && member.report?.engine?.position != nil
    }
    return count >= quorum ? [] : [FailoverReason("\(count) of \(quorum) standbys can be reached")]
  }

  func consent() -> FailoverDecision {
    if record?.epoch != standing.basis { return move(.otherConducts, .steady) }
    if isUp { return move(.seenAgain, .steady) }
    if let order = pendingOrder, order.kind == .switchover || order.kind == .breakGlass { return obey(order) }
    if facts.store?.conductor.map({ !$0.isMine }) ?? false {
      return move(.awaitsConsent, .consent, [FailoverReason("\(facts.store!.conductor!.holder) conducts")])
    }
    var reasons: [FailoverReason] = []
    switch policy.consent {
    case .off, .observe: reasons.append(FailoverReason("the policy only observes"))
    case .propose:
      let order = pendingOrder
      if order?.kind != .approve || order?.target != standing.subject {
        reasons.append(FailoverReason("nobody has approved it: `salvor failover approve`"))
      }
    case .autoZeroLoss, .autoBounded: break
    }
    // It was down a moment ago; what isn't seen any more isn't.
    if verdict == .unknown {
      reasons.append(FailoverReason("whether it is down isn't known any more", standing.subject))
    }
    reasons += healingReasons + policy.reasonsToWait(at: facts.now, context: facts.context, zones: facts.zones)
    // What another member would suffer from as well isn't run away from again at once.
    let pause = policy.budgets.pause.wholeMilliseconds * (ailment == nil ? 1 : 10)
    // An agent that has just come doesn't know how long ago that was: at least as long as it is there.
    let age = facts.store?.recordAgeMilliseconds ?? 0
    if age < pause, record?.previous != nil {
      reasons.append(FailoverReason("the last failover was \(age) ms ago, and \(pause) must lie between two"))
    }
    guard reasons.isEmpty else { return move(.awaitsConsent, .consent, reasons) }
    return move(.consented, .claim)
  }

  var isApproved: Bool {
    pendingOrder?.kind == .approve && pendingOrder?.target == standing.subject
  }

  /// What the kind of failure asks for before service is moved away from it.
  var healingReasons: [FailoverReason] {
    guard let member = subjectFacts, !isApproved else { return [] }
    var reasons: [FailoverReason] = []
    let failure = ailment?.failure ?? FailoverPolicy.failure(of: member)
    let response = policy.healing.response(to: failure)
    switch response.failover {
    case .auto: break
    case .propose:
      reasons.append(FailoverReason("\(failure.rawValue): nobody has approved it: `salvor failover approve`"))
    case .off: reasons.append(FailoverReason("\(failure.rawValue): the policy moves nothing because of it"))
    }
    let patience = policy.healing.restartFirst.wholeMilliseconds
    if failure == .process, response.restart == .auto, member.forMilliseconds < patience {
      reasons.append(
        FailoverReason("may be started again for \(patience - member.forMilliseconds) ms yet", member.name))
    }
    for check in policy.checks where check.failure == .corruption {
      let found = (facts.signals ?? []).filter { $0.check == check.name && $0.of == member.name }
      if found.isEmpty {
        reasons.append(
          FailoverReason("whether it is corrupt isn't known: \(check.name) was never answered", member.name))
      } else if found.contains(where: { $0.beyondMilliseconds != nil }) {
        reasons.append(
          FailoverReason(
            "\(check.name) found corruption; a copy may have it too: restore an earlier point", member.name))
      }
    }
    return reasons
  }

  func claim() -> FailoverDecision {
    if let epoch = record?.epoch, epoch != standing.basis { return move(.otherConducts, .steady) }
    guard let store = facts.store else { return move(.awaitsLease, .claim, [], [.claim]) }
    if let conductor = store.conductor {
      guard conductor.isMine else {
        return move(.otherConducts, .steady, [FailoverReason("\(conductor.holder) conducts")])
      }
      let highest = facts.members.compactMap { $0.report?.promised }.max() ?? Fence.none
      guard conductor.epoch > max(highest, record?.epoch ?? Fence.none) else {
        // A lease store that was brought back from an old copy counts from an old number.
        return move(
          .awaitsLease, .claim, [FailoverReason("epoch \(conductor.epoch) isn't above \(highest)")], [.release])
      }
      var decision = move(.claimed, standing.order?.kind == .breakGlass ? .breakGlass : .fence)
      decision.next.epoch = conductor.epoch
      return decision
    }
    if standing.order == nil, record != nil, standing.subject == record?.primary, isUp, !isUnfinished(record!) {
      return move(.seenAgain, .steady)
    }
    return move(.awaitsLease, .claim, [], [.claim])
  }
}

extension FailoverPolicy {
  /// What the world beside the engines must say, and what the calendar allows, before anything moves by itself.
  ///
  /// - Parameter zones: Seconds east of Greenwich, of the zones that freezes name.
  package func reasonsToWait(at now: Timestamp, context: [String: String]?, zones: [String: Int]?) -> [FailoverReason] {
    var reasons: [FailoverReason] = []
    for gate in self.context.gates {
      let value = context?[gate.key]
      if let value, gate.allows.contains(value) { continue }
      let found = value.map { "'\($0)'" } ?? "not known"
      reasons.append(
        FailoverReason("\(gate.key) is \(found), and must be \(gate.allows.joined(separator: " or "))"))
    }
    for window in weeklyFreezes {
      let offset = window.zone == "UTC" ? 0 : zones?[window.zone]
      if let offset, !window.contains(now, utcOffsetSeconds: offset) { continue }
      reasons.append(
        FailoverReason(
          offset == nil
            ? "what time it is in \(window.zone) isn't known"
            : "a weekly freeze lasts until \(WeeklyFreeze.text(window.until)) in \(window.zone)"))
    }
    for window in freezes where window.from <= now && now < window.until {
      reasons.append(FailoverReason("a freeze lasts until \(window.until)"))
    }
    return reasons
  }
}
