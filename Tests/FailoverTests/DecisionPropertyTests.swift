import Catalog
import Core
import DriverKit
import Failover
import StateKit
import Testing

/// Facts by chance, and what must hold of every decision made of them.
@Suite struct DecisionPropertyTests {
  /// Something is touched, or made ready to be.
  private static let permits: Set<FailoverRule> = [
    .agreed, .ailing, .consented, .claimed, .fenced, .chosen, .recorded, .glassBroken,
  ]

  /// It stays where it is, or leaves everything alone.
  private static let refuses: Set<FailoverRule> = [
    .serves, .stillSuspect, .seenAgain, .awaitsConsent, .awaitsLease, .otherConducts, .leaseLost, .awaitsFence,
    .fenceBudgetSpent, .primaryIsBack, .noneFit, .awaitsRecord, .paused,
  ]

  @Test(.timeLimit(.minutes(10)))
  func `what isn't known never counts as passed`() {
    var generator = SeededRandomness(seed: 20_261_122)
    var allowed = 0
    for round in 0..<60_000 {
      let policy = Chance.policy(&generator)
      let (standing, facts) = Chance.situation(policy, &generator)
      let poorer = Chance.without(facts, &generator)
      let rich = policy.decide(standing, facts)
      let poor = policy.decide(standing, poorer)
      let permitted = Set(poor.map(\.rule)).intersection(Self.permits)
      if !permitted.isEmpty { allowed += 1 }
      for rule in permitted where !rich.contains(where: { $0.rule == rule }) {
        guard let step = poor.firstIndex(where: { $0.rule == rule }) else { continue }
        // Complete facts may go forward another way; they must not say no to this very step.
        let again = policy.decide(step == 0 ? standing : poor[step - 1].next, facts)
        let isRefused = again.first.map { Self.refuses.contains($0.rule) } ?? true
        #expect(!isRefused, "round \(round): \(rule) with fewer facts; all of them say \(again.map(\.rule))")
        if isRefused { return }
      }
    }
    #expect(allowed > 500, "\(allowed) decisions allowed something")
  }

  @Test func `a standby that detached and can't say how far it reaches is none that was read`() throws {
    var policy = FailoverPolicy(name: "bank", members: [.init(name: "a"), .init(name: "b"), .init(name: "c")])
    policy.signals.observers = 1
    func detached(_ name: MemberName, at offset: Int64?) -> MemberFacts {
      var engine = EngineFacts(role: .standby)
      engine.position = offset.map { EnginePosition(lineage: 1, offset: $0) }
      var facts = MemberFacts(name: name)
      facts.report = AgentReport(
        member: name, promised: Fence(7), isDetached: true, engine: engine, verdict: .down, of: "a")
      facts.reportAgeMilliseconds = 10
      return facts
    }
    func decide(_ state: FailoverState, _ offset: Int64?) -> [FailoverRule] {
      var standing = FailoverStanding(state, sinceMilliseconds: 99_000)
      (standing.subject, standing.basis, standing.epoch) = ("a", Fence(3), Fence(7))
      let facts = FailoverFacts(
        observer: "b", atMilliseconds: 100_000, now: Timestamp(seconds: 0), lateMilliseconds: 0,
        store: StoreFacts(
          ageMilliseconds: 0, record: PrimaryRecord(epoch: Fence(3), primary: "a"), recordAgeMilliseconds: 90_000,
          conductor: .init(holder: "b", epoch: Fence(7), isMine: true), order: nil),
        members: [MemberFacts(name: "a"), detached("b", at: 100), detached("c", at: offset)], witnesses: [])
      return policy.decide(standing, facts).map(\.rule)
    }
    #expect(decide(.fence, 100).contains(.chosen))
    #expect(decide(.fence, nil) == [.awaitsFence])
    #expect(decide(.choose, nil) == [.noneFit, .awaitsFence], "nor if it could say so a moment ago")
  }

  @Test(.timeLimit(.minutes(10)))
  func `every way is in the table, and no action is under another epoch than the lease's`() {
    var generator = SeededRandomness(seed: 4711)
    var acted = 0
    for round in 0..<60_000 {
      let policy = Chance.policy(&generator)
      let (standing, facts) = Chance.situation(policy, &generator)
      var before = standing
      for decision in policy.decide(standing, facts) {
        let row = decision.rule.row
        #expect(
          row.from.contains(before.state) && row.to.contains(decision.next.state),
          "round \(round): \(decision.rule) from \(before.state) to \(decision.next.state)")
        for epoch in decision.actions.compactMap(\.epoch) {
          acted += 1
          #expect(epoch == decision.next.epoch && epoch == facts.store?.conductor?.epoch, "round \(round)")
          #expect(facts.store?.conductor?.isMine == true, "round \(round): whoever has no lease does nothing")
        }
        before = decision.next
      }
    }
    #expect(acted > 500)
  }
}

extension FailoverAction {
  fileprivate var epoch: Fence? {
    switch self {
    case .claim, .release: nil
    case .fence(_, let epoch), .stop(_, let epoch), .promote(_, let epoch), .follow(_, _, let epoch),
      .shift(_, let epoch):
      epoch
    case .record(let record): record.epoch
    }
  }
}

/// Policies, standings and facts by seed.
enum Chance {
  static func policy(_ generator: inout SeededRandomness) -> FailoverPolicy {
    let members = 2 + Int(generator.next() % 3)
    var policy = FailoverPolicy(
      name: "bank", members: (0..<members).map { .init(name: MemberName(unchecked: "m\($0)")) },
      witnesses: [.init(name: "w")], acknowledgements: 1 + Int(generator.next() % UInt64(members - 1)))
    policy.signals.observers = 1 + Int(generator.next() % 2)
    if generator.next() % 3 == 0 {
      policy.checks = [
        FailoverCheck(name: "errors", asks: .tcp(nil), failure: .disk, most: 1000, weight: 100),
        FailoverCheck(name: "torn", asks: .command(Command(["x"])), failure: .corruption, most: 0),
      ]
    }
    if generator.next() % 4 == 0 {
      policy.context = FailoverContext(file: "/x", gates: [.init(key: "deployment", allows: ["none"])])
      policy.weeklyFreezes = [WeeklyFreeze(from: 0, until: 3000, zone: "Europe/Berlin")]
    }
    return policy
  }

  static func situation(
    _ policy: FailoverPolicy, _ generator: inout SeededRandomness
  ) -> (FailoverStanding, FailoverFacts) {
    func pick<T>(_ values: [T]) -> T { values[Int(generator.next() % UInt64(values.count))] }
    let primary = policy.members[0].name
    let epoch = Fence(Int64(pick([7, 7, 7, 8])))
    var standing = FailoverStanding(pick(FailoverState.allCases), sinceMilliseconds: pick([0, 90_000, 99_900]))
    (standing.subject, standing.basis) = (primary, Fence(3))
    if standing.state.isConducting { standing.epoch = Fence(7) }
    if standing.state == .breakGlass {
      standing.order = FailoverOrder(id: "x", kind: .breakGlass, target: "m1", by: "me")
    }
    if [.record, .promote, .verify, .repoint, .shift, .observe].contains(standing.state) {
      standing.target = policy.members[1].name
    }
    let isDead = generator.next() % 4 != 0
    var members: [MemberFacts] = []
    for member in policy.members {
      var facts = MemberFacts(name: member.name)
      let isPrimary = member.name == primary
      facts.sight =
        isPrimary ? (isDead ? pick([.refused, .silent, .silent]) : .serves) : pick([.answers, .answers, .silent])
      facts.forMilliseconds = pick([100, 5000, 50_000])
      (facts.suspicionThousandths, facts.suspectedMilliseconds) =
        isPrimary && isDead ? (9000, pick([500, 3000])) : (100, nil)
      var engine = EngineFacts(role: isPrimary ? pick([.primary, .stopped, .standby]) : .standby)
      engine.position = EnginePosition(lineage: 1, offset: pick([100, 200, 200]))
      if !isPrimary, generator.next() % 3 != 0 { engine.following = primary }
      if engine.following != nil { engine.heardMilliseconds = isDead ? pick([4000, 9000, 100]) : 50 }
      engine.isStreaming = (engine.heardMilliseconds ?? .max) < 1000
      (engine.attached, engine.acknowledges) = (isPrimary ? policy.members.dropFirst().map(\.name) : [], isPrimary)
      let isDetached = engine.following == nil && engine.role == .standby
      facts.report = AgentReport(
        member: member.name, promised: pick([Fence(3), Fence(7), Fence(7)]), isDetached: isDetached, engine: engine,
        verdict: isDead ? pick([.down, .down, .suspect]) : .up, of: primary)
      facts.reportAgeMilliseconds = pick([10, 300, 300, 5000])
      members.append(facts)
    }
    let conductor = pick(
      [nil, StoreFacts.Conductor(holder: "me", epoch: epoch, isMine: true)]
        + (generator.next() % 4 == 0 ? [StoreFacts.Conductor(holder: "you", epoch: epoch, isMine: false)] : []))
    var facts = FailoverFacts(
      observer: policy.members[1].name, atMilliseconds: 100_000, now: Timestamp(seconds: pick([0, 400_000])),
      lateMilliseconds: pick([0, 0, 0, 900]),
      store: StoreFacts(
        ageMilliseconds: pick([20, 300]),
        record: PrimaryRecord(epoch: Fence(Int64(pick([3, 3, 3, 7]))), primary: primary, previous: pick([nil, "m1"])),
        recordAgeMilliseconds: pick([5000, 500_000]), conductor: conductor, order: nil), members: members,
      witnesses: [
        WitnessFacts(
          name: "w",
          report: AgentReport(
            member: "w", promised: .none, isDetached: false, engine: nil, verdict: isDead ? .down : .up, of: primary),
          reportAgeMilliseconds: pick([10, 5000]))
      ])
    if !policy.checks.isEmpty {
      facts.signals = [
        SignalFact(
          check: "errors", of: primary, by: facts.observer, value: 5000, beyondMilliseconds: pick([nil, 1000, 9000]),
          ageMilliseconds: pick([10, 60_000])),
        SignalFact(
          check: "torn", of: primary, by: primary, value: 0, beyondMilliseconds: pick([nil, nil, 0]),
          ageMilliseconds: 100),
      ]
    }
    facts.context = ["deployment": pick(["none", "none", "2026.11.2"])]
    facts.zones = ["Europe/Berlin": 3600]
    return (standing, facts)
  }

  /// The same, with fields nobody could fill in. Whole reports stay: who is silent has no voice among k of m, and isn't
  /// waited for while enough others speak.
  static func without(_ facts: FailoverFacts, _ generator: inout SeededRandomness) -> FailoverFacts {
    var facts = facts
    func maybe() -> Bool { generator.next() % 6 == 0 }
    if maybe() { facts.store = nil }
    if maybe() { facts.store?.recordAgeMilliseconds = nil }
    for index in facts.members.indices {
      if maybe() { facts.members[index].sight = nil }
      if maybe() { facts.members[index].suspicionThousandths = nil }
      if maybe() { facts.members[index].suspectedMilliseconds = nil }
      // Of those that detached, enough positions are enough: the next test is about one too few.
      if maybe(), facts.members[index].report?.isDetached == false {
        facts.members[index].report?.engine?.position = nil
      }
      if maybe() { facts.members[index].report?.engine?.heardMilliseconds = nil }
    }
    if maybe() { facts.signals = nil }
    if maybe() { facts.signals?.removeAll { $0.check == "torn" } }
    if maybe() { facts.context = nil }
    if maybe() { facts.zones = nil }
    return facts
  }
}
