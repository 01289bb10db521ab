import Catalog
import Core
import DriverKit
import StateKit

/// What one agent knows, and what it makes of it. Does nothing itself: whoever runs it looks, asks and carries out.
///
/// The real agent and the simulation drive the same one.
package struct AgentCore: Sendable {
  package let policy: FailoverPolicy
  package let name: MemberName
  package private(set) var standing: FailoverStanding
  package private(set) var memory: AgentMemory
  /// Of its own engine; `nil` of a witness.
  package private(set) var engine: EngineFacts?
  private let protections: Protections
  private let index: Int?
  private let startedAt: Int64

  private struct Look {
    var sight: Sight?
    var since: Int64 = 0
    var suspicion = Suspicion()
    var suspectedSince: Int64?
    /// In the eyes of our own engine, a primary.
    var attachedSince: Int64?
    var absentSince: Int64?
  }

  private var looks: [Look]
  /// Members first, then witnesses.
  private var reports: [(report: AgentReport, at: Int64)?]
  private var store: (view: StoreFacts, at: Int64)?
  private var recordSince: Int64?
  private var traffic: [TrafficFacts]?
  private var plannedAt: Int64?
  private var worstLate: (late: Int64, at: Int64) = (0, .min / 2)
  private var confirmedVoters: [MemberName]?
  private var meter = SignalMeter()
  private var acknowledgedAt: (primary: MemberName, at: Int64)?
  /// What whoever runs it knows of the world beside the engines.
  package var surroundings = Surroundings()

  /// Recorded with every decision, since it is made of it.
  package struct Surroundings: Sendable, Equatable {
    package var context: [String: String]?
    package var zones: [String: Int]?

    package init(context: [String: String]? = nil, zones: [String: Int]? = nil) {
      (self.context, self.zones) = (context, zones)
    }
  }

  package init(
    _ policy: FailoverPolicy, as name: MemberName, memory: AgentMemory = AgentMemory(), at now: Int64,
    protections: Protections = .all
  ) {
    (self.policy, self.name, self.memory, self.protections) = (policy, name, memory, protections)
    index = policy.members.firstIndex { $0.name == name }
    standing = FailoverStanding(.steady, sinceMilliseconds: now)
    startedAt = now
    looks = Array(repeating: Look(), count: policy.members.count)
    reports = Array(repeating: nil, count: policy.members.count + policy.witnesses.count)
  }

  // MARK: What comes in

  package mutating func saw(_ member: MemberName, _ sight: Sight, at now: Int64) {
    guard let index = policy.members.firstIndex(where: { $0.name == member }) else { return }
    if looks[index].sight != sight { (looks[index].sight, looks[index].since) = (sight, now) }
    if sight == .serves { looks[index].suspicion.answered(at: now) }
  }

  package mutating func heard(_ report: AgentReport, at now: Int64) {
    guard let index = place(of: report.member) else { return }
    // What was said before something that was heard already; answers overtake each other.
    if let known = reports[index], known.report.promised > report.promised { return }
    reports[index] = (report, now)
  }

  /// - Parameter now: When the store was asked, not when it answered.
  package mutating func storeSaid(
    _ record: PrimaryRecord?, _ conductor: StoreFacts.Conductor?, _ order: FailoverOrder?, askedAt now: Int64
  ) {
    if let known = store {
      if known.at > now { return }
      // A store that forgets is no reason to.
      if (known.view.record?.epoch ?? .none) > (record?.epoch ?? .none) { return }
      if known.view.record?.epoch != record?.epoch { recordSince = now }
    } else {
      // How old it is, whoever has just come can't know.
      recordSince = now
    }
    store = (
      StoreFacts(ageMilliseconds: 0, record: record, recordAgeMilliseconds: nil, conductor: conductor, order: order),
      now
    )
  }

  package mutating func engineSaid(_ facts: EngineFacts, at now: Int64) {
    engine = facts
    for index in looks.indices {
      let isThere = facts.role == .primary ? facts.attached.contains(policy.members[index].name) : nil
      looks[index].attachedSince = isThere == true ? looks[index].attachedSince ?? now : nil
      looks[index].absentSince = isThere == false ? looks[index].absentSince ?? now : nil
    }
  }

  /// Voters that are known to be written, and that nothing sent before can still undo; `nil` before anything is sent.
  package mutating func confirmed(_ voters: [MemberName]?) { confirmedVoters = voters }
  /// What a check came to; about this member if it is asked beside it, else about the recorded primary.
  package mutating func sampled(_ name: CheckName, _ sample: SignalSample, at now: Int64) {
    guard let check = policy.check(name), let subject = check.asks.isLocal ? self.name : primary else { return }
    meter.took(check, of: subject, sample, at: now)
  }

  package mutating func routersSaid(_ facts: [TrafficFacts]?) { traffic = facts }

  // MARK: Commands

  /// Whether a command under `epoch` is obeyed; what is promised by that must be on disk before it is.
  package func obeys(_ epoch: Fence) -> Bool { epoch >= memory.promised || !protections.contains(.epochCheck) }

  /// A command to detach is obeyed once per epoch: one that comes late must not undo what followed it.
  package func obeysFence(_ epoch: Fence) -> Bool {
    epoch > memory.promised || (epoch == memory.promised && memory.isFenced) || !protections.contains(.epochCheck)
  }

  /// What must be on disk before a fence is carried out, or said to be.
  package mutating func promise(_ epoch: Fence) {
    memory.promised = epoch
    memory.isFenced = true
  }

  /// It follows or serves under `epoch` from here on.
  package mutating func settle(_ epoch: Fence) {
    memory.promised = epoch
    memory.isFenced = false
  }

  /// The agent ran on a machine that forgot; of a simulation.
  package mutating func forget() { memory = AgentMemory() }

  // MARK: What is said

  package var primary: MemberName? { store?.view.record?.primary }

  package func report(at now: Int64) -> AgentReport {
    var verdict = Verdict.unknown
    if let primary, let index = policy.members.firstIndex(where: { $0.name == primary }) {
      verdict = policy.verdict(
        on: memberFacts(index, now), late: protections.contains(.doubt) ? late(now) : 0, signals(at: now) ?? [])
      if name == primary {
        // Nobody knows better that its process is gone, nor worse whether others reach it.
        verdict = engine?.role == .stopped ? verdict : .unknown
      }
    }
    var report = AgentReport(
      member: name, promised: memory.promised, isDetached: memory.isFenced && isDetached, engine: engine,
      verdict: verdict, of: primary)
    let local = policy.checks.filter(\.asks.isLocal)
    if !local.isEmpty { report.signals = meter.facts(local, by: name, at: now) }
    return report
  }

  private var isDetached: Bool {
    guard let engine else { return false }
    return engine.role != .standby || (engine.following == nil && !engine.isStreaming)
  }

  // MARK: Looking

  package struct Outcome: Sendable {
    package var facts: FailoverFacts
    package var decisions: [FailoverDecision]
    package var duty: MemberDuty?
    package var voterStep: VoterStep?
    package var actions: [FailoverAction] { decisions.last?.actions ?? [] }
  }

  /// One look at all there is.
  ///
  /// - Parameter isPlanned: In its turn, so that being late means something; not one that an answer caused.
  package mutating func look(at now: Int64, wall: Timestamp, isPlanned: Bool) -> Outcome {
    if isPlanned {
      let interval = policy.signals.interval.wholeMilliseconds
      let late = max(0, now - (plannedAt ?? now))
      plannedAt = now + interval
      if late >= worstLate.late || now - worstLate.at > memoryOfLateness {
        worstLate = (late, now)
      }
      if late > policy.signals.doubt.wholeMilliseconds, protections.contains(.doubt) {
        // What looks like everybody's silence was our own.
        for index in looks.indices {
          looks[index].suspicion.excuse(at: now)
          looks[index].suspectedSince = nil
          looks[index].since = now
          if looks[index].absentSince != nil { looks[index].absentSince = now }
        }
      }
    }
    let threshold = policy.signals.suspicionThousandths
    let interval = policy.signals.interval.wholeMilliseconds
    if let index = policy.members.firstIndex(where: { $0.name == primary }) {
      let phi = looks[index].suspicion.thousandths(at: now, expecting: interval) ?? 0
      if phi < threshold {
        looks[index].suspectedSince = nil
      } else if looks[index].suspectedSince == nil {
        looks[index].suspectedSince = now
      }
    }
    if isPlanned { derive(at: now) }
    let facts = facts(at: now, wall: wall)
    let decisions = policy.decide(standing, facts, with: protections)
    if let last = decisions.last { standing = last.next }
    let duty = engine.flatMap { policy.duty(memory, $0, facts, with: protections) }
    let step = engine.flatMap { policy.voterStep(memory, $0, facts, confirmed: confirmedVoters, with: protections) }
    return Outcome(facts: facts, decisions: decisions, duty: duty, voterStep: duty == nil ? step : nil)
  }

  /// Checks that follow from what agents tell each other.
  private mutating func derive(at now: Int64) {
    guard let primary, policy.checks.contains(where: \.asks.isDerived) else { return }
    var members = policy.members.indices.map { memberFacts($0, now) }
    if let index { (members[index].report, members[index].reportAgeMilliseconds) = (report(at: now), 0) }
    let lag = policy.lag(members, behind: primary)
    let found = members.first { $0.name == primary }
    if acknowledgedAt?.primary != primary { acknowledgedAt = (primary, now) }
    if let engine = found?.report?.engine, engine.acknowledges {
      acknowledgedAt = (primary, max(acknowledgedAt?.at ?? now, now - (found?.reportAgeMilliseconds ?? 0)))
    }
    for check in policy.checks {
      let value: Int64?
      switch check.asks {
      // Thousandths of a second are milliseconds.
      case .beat: value = acknowledgedAt.map { now - $0.at }
      case .lagSeconds: value = lag.milliseconds
      case .lagBytes: value = lag.bytes.map { $0.multipliedReportingOverflow(by: 1000).overflow ? .max : $0 * 1000 }
      default: continue
      }
      if let value { meter.took(check, of: primary, .value(value), at: now) }
    }
  }

  /// Its own, and what agents beside the members said of theirs.
  private func signals(at now: Int64) -> [SignalFact]? {
    guard !policy.checks.isEmpty else { return nil }
    var result = meter.facts(policy.checks, by: name, at: now)
    for (index, known) in reports.enumerated() where index < policy.members.count {
      guard let known, known.report.member != name else { continue }
      for fact in known.report.signals?.prefix(policy.checks.count) ?? []
      where fact.of == known.report.member && fact.by == fact.of && policy.check(fact.check)?.asks.isLocal == true {
        var older = fact
        older.ageMilliseconds = max(0, fact.ageMilliseconds) + max(0, now - known.at)
        result.append(older)
      }
    }
    return result
  }

  private func late(_ now: Int64) -> Int64 {
    now - worstLate.at <= memoryOfLateness ? worstLate.late : 0
  }

  /// An observer that was late a moment ago will be again.
  private var memoryOfLateness: Int64 {
    (policy.signals.dwell + policy.signals.freshness).wholeMilliseconds
  }

  private func place(of name: MemberName) -> Int? {
    policy.members.firstIndex { $0.name == name }
      ?? policy.witnesses.firstIndex { $0.name == name }.map { $0 + policy.members.count }
  }

  private func memberFacts(_ index: Int, _ now: Int64) -> MemberFacts {
    let look = looks[index]
    var facts = MemberFacts(name: policy.members[index].name)
    (facts.sight, facts.forMilliseconds) = (look.sight, look.sight == nil ? 0 : now - look.since)
    if facts.name == primary {
      facts.suspicionThousandths = look.suspicion.thousandths(
        at: now, expecting: policy.signals.interval.wholeMilliseconds)
      facts.suspectedMilliseconds = look.suspectedSince.map { now - $0 }
    }
    facts.attachedMilliseconds = look.attachedSince.map { now - $0 }
    facts.absentMilliseconds = look.absentSince.map { now - $0 }
    if let known = reports[index] { (facts.report, facts.reportAgeMilliseconds) = (known.report, now - known.at) }
    return facts
  }

  package func facts(at now: Int64, wall: Timestamp) -> FailoverFacts {
    var members = policy.members.indices.map { memberFacts($0, now) }
    if let index { (members[index].report, members[index].reportAgeMilliseconds) = (report(at: now), 0) }
    let witnesses = policy.witnesses.indices.map { offset in
      let known = reports[policy.members.count + offset]
      return WitnessFacts(
        name: policy.witnesses[offset].name, report: known?.report, reportAgeMilliseconds: known.map { now - $0.at })
    }
    var view = store?.view
    view?.ageMilliseconds = store.map { now - $0.at } ?? 0
    view?.recordAgeMilliseconds = recordSince.map { now - $0 }
    var facts = FailoverFacts(
      observer: name, atMilliseconds: now, now: wall, lateMilliseconds: late(now), store: view, members: members,
      witnesses: witnesses)
    facts.signals = signals(at: now)
    (facts.context, facts.zones) = (surroundings.context, surroundings.zones)
    facts.traffic = traffic
    return facts
  }
}
