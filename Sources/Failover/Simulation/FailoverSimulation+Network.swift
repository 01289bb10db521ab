import Catalog
import Core
import DriverKit
import StateKit

/// Questions, answers, the lease store; and what it all came to.
extension FailoverSimulation {
  // MARK: Questions and answers

  mutating func asked(_ question: Question, _ from: Int, _ to: Int, _ incarnation: Int, _ sent: Int64) {
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

  mutating func report(_ agent: Int) -> AgentReport {
    if agent < members, !agents[agent].isBusy { agents[agent].core.engineSaid(facts(agent), at: clock(agent)) }
    var report = agents[agent].core.report(at: clock(agent))
    if agents[agent].isBusy { report.isDetached = false }
    if let stale = agents[agent].stale, report.isDetached { report.engine?.position = stale }
    return report
  }

  mutating func commanded(_ action: FailoverAction, _ from: Int, _ to: Int, _ incarnation: Int, _ sent: Int64) {
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

  mutating func storeAsked(_ question: Question, _ from: Int, _ incarnation: Int, _ sent: Int64) {
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
    case .lend(let instead, let new, let attempt):
      guard tenure == nil else { return }
      revision += 1
      tenure = (from, Fence(revision), now + 2_000_000)
      reply(
        .lent(record, instead: instead, new, Fence(revision), attempt: attempt), from: storeNode, to: from,
        incarnation, sent)
    case .rewrite(let new, let fence, let attempt):
      guard tenure?.fence == fence || !options.protections.contains(.recordUnderLease) else { return }
      trace("store: voters \(new.voters ?? []) of epoch \(new.epoch)")
      revision += 1
      record = new
      reply(.rewritten(new, fence, attempt: attempt), from: storeNode, to: from, incarnation, sent)
    default: break
    }
  }

  /// Whether something has happened that is a reason to move service away.
  func isHarmed(_ member: Int) -> Bool {
    var links = 0
    // It couldn't acknowledge and had said so: whatever cut it off was more than noise.
    if !options.onlyNoise, let ended = engines[member].trustEnded, now - ended < 20_000_000 { return true }
    // Without a quorum that fences, the old primary is waited for as long as its bound.
    let patience = max(12_000_000, 2 * (policy.lossBound?.duration ?? .zero).wholeNanoseconds / 1000)
    for fault in faults {
      guard fault.start <= now, now < fault.end + patience else { continue }
      // Noise on top of a failure is more than noise.
      if !options.onlyNoise, fault.kind == .starved || fault.kind == .deaf { return true }
      guard SimulatedFault.failures.contains(fault.kind) else { continue }
      switch fault.kind {
      case .bridge, .storeDown, .storeIsolated, .lateCommands: return true
      // One link is no reason: whoever is behind it is outvoted.
      case .partial: links += fault.node == member || fault.other == member ? 1 : 0
      default:
        if fault.node == member { return true }
        // Whoever is cut off from everybody is so from it.
        if fault.kind == .isolated || fault.kind == .oneWay { links += 1 }
      }
    }
    return links > 1
  }

  mutating func answered(_ answer: Answer, _ to: Int, _ incarnation: Int, _ sent: Int64) {
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
    case .lent(let found, let instead, let new, let fence, let attempt):
      guard attempt == agents[to].attempt, found == instead else {
        return ask(.release(fence), from: to, to: storeNode)
      }
      ask(.rewrite(new, fence, attempt: attempt), from: to, to: storeNode, sticks: lateUntil <= now)
    case .rewritten(let new, let fence, let attempt):
      if attempt == agents[to].attempt { agents[to].core.confirmed(new.voters) }
      ask(.release(fence), from: to, to: storeNode)
    case .acted, .nothing: break
    }
  }

  // MARK: Judging

  mutating func judge() {
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
