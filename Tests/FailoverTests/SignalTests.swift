import Catalog
import Core
import DriverKit
import Failover
import StateKit
import Testing

@Suite struct SignalTests {
  private func policy(_ checks: [FailoverCheck]) -> FailoverPolicy {
    var policy = FailoverPolicy(
      name: "bank", members: [.init(name: "a"), .init(name: "b"), .init(name: "c")])
    policy.checks = checks
    return policy
  }

  private let errors = FailoverCheck(
    name: "errors", asks: .prometheus("http://p", query: "q"), failure: .disk, most: 50, weight: 100)

  /// Engine and peers are well; `errors` has been beyond its threshold for so long.
  private func facts(_ policy: FailoverPolicy, _ signals: [SignalFact]) -> FailoverFacts {
    let members = policy.members.map { member in
      var facts = MemberFacts(name: member.name)
      var engine = EngineFacts(role: member.name == "a" ? .primary : .standby)
      (engine.position, engine.isStreaming, engine.heardMilliseconds) = (
        EnginePosition(lineage: 1, offset: 9), true, 20
      )
      if member.name != "a" { engine.following = "a" } else { engine.attached = ["b", "c"] }
      (facts.sight, facts.suspicionThousandths) = (member.name == "a" ? .serves : .answers, 100)
      facts.report = AgentReport(
        member: member.name, promised: Fence(3), isDetached: false, engine: engine, verdict: .down, of: "a")
      facts.reportAgeMilliseconds = 100
      return facts
    }
    var facts = FailoverFacts(
      observer: "b", atMilliseconds: 100_000, now: Timestamp(seconds: 0), lateMilliseconds: 0,
      store: StoreFacts(
        ageMilliseconds: 10, record: PrimaryRecord(epoch: Fence(3), primary: "a"), recordAgeMilliseconds: 90_000,
        conductor: nil, order: nil), members: members, witnesses: [])
    facts.signals = signals
    return facts
  }

  private var suspect: FailoverStanding {
    var standing = FailoverStanding(.suspect, sinceMilliseconds: 0)
    (standing.subject, standing.basis) = ("a", Fence(3))
    return standing
  }

  private func fact(_ name: CheckName, beyond: Int64?, age: Int64 = 100) -> SignalFact {
    SignalFact(check: name, of: "a", by: "b", value: 400, beyondMilliseconds: beyond, ageMilliseconds: age)
  }

  @Test
  func `a check that says for long enough that a primary can't work moves service, and one that doesn't moves nothing`()
  {
    let policy = policy([errors])
    let moved = policy.decide(suspect, facts(policy, [fact("errors", beyond: 6000)]))
    #expect(moved.map(\.rule) == [.ailing, .confirmedAsks, .consented, .awaitsLease])
    for (beyond, age) in [(nil, 100), (2000, 100), (6000, 20_000)] as [(Int64?, Int64)] {
      let stays = policy.decide(suspect, facts(policy, [fact("errors", beyond: beyond, age: age)]))
      #expect(!stays.contains { $0.rule == .ailing }, "\(String(describing: beyond)), \(age) old")
    }
    #expect(!policy.decide(suspect, facts(policy, [])).contains { $0.rule == .ailing }, "unknown is nothing")
  }

  @Test func `corruption is never a reason, and keeps service where it is until a person says otherwise`() throws {
    var torn = FailoverCheck(name: "torn", asks: .command(Command(["x"])), failure: .corruption, most: 0, weight: 100)
    #expect(policy([torn]).problem?.contains("corruption never moves service") == true)
    let heavy = policy([torn])
    #expect(heavy.ailment(of: "a", [fact("torn", beyond: 90_000)]) == Ailment(), "whatever its weight")
    torn.weight = 0
    let policy = policy([torn, errors])
    for (signals, says) in [
      ([fact("errors", beyond: 9000), fact("torn", beyond: 0)], "torn found corruption"),
      ([fact("errors", beyond: 9000)], "torn was never answered"),
    ] {
      let held = policy.decide(suspect, facts(policy, signals))
      #expect(held.last?.rule == .awaitsConsent)
      #expect(held.last?.reasons.contains { $0.text.contains(says) } == true)
    }
    let well = policy.decide(suspect, facts(policy, [fact("errors", beyond: 9000), fact("torn", beyond: nil)]))
    #expect(well.last?.rule == .awaitsLease)
  }

  @Test func `what a class of failures asks for is waited for`() {
    var errors = errors
    errors.failure = .overload
    var policy = policy([errors])
    let signals = [fact("errors", beyond: 9000)]
    #expect(policy.decide(suspect, facts(policy, signals)).last?.rule == .awaitsConsent, "overload is proposed only")
    var approved = facts(policy, signals)
    approved.store?.order = FailoverOrder(id: "1", kind: .approve, target: "a", by: "me")
    #expect(policy.decide(suspect, approved).last?.rule == .awaitsLease)
    policy.healing.responses[.overload] = .init(restart: .off, failover: .auto, restore: .off)
    #expect(policy.decide(suspect, facts(policy, signals)).last?.rule == .awaitsLease)
  }

  @Test func `nothing moves while a deployment is under way, nor when nobody knows`() {
    var policy = policy([errors])
    policy.context = FailoverContext(file: "/x", gates: [.init(key: "deployment", allows: ["none"])])
    for (context, rule) in [
      (["deployment": "none", "release": "7"], FailoverRule.awaitsLease), (["deployment": "8"], .awaitsConsent),
      ([:], .awaitsConsent), (nil, .awaitsConsent),
    ] as [([String: String]?, FailoverRule)] {
      var facts = facts(policy, [fact("errors", beyond: 9000)])
      facts.context = context
      #expect(policy.decide(suspect, facts).last?.rule == rule, "\(String(describing: context))")
    }
  }

  @Test func `an engine that ended may be started again first`() {
    var policy = policy([])
    policy.healing.restartFirst = .seconds(4)
    var engine = EngineFacts(role: .stopped)
    engine.forMilliseconds = 100
    var gone = facts(policy, [])
    gone.observer = "a"
    #expect(policy.duty(AgentMemory(), engine, gone) == .start(.leftToItself))
    policy.healing.restartFirst = .zero
    #expect(policy.duty(AgentMemory(), engine, gone) == nil)
  }

  @Test func `one that gives no answer is ended before what it acknowledges next lies beyond the bound`() {
    var policy = policy([])
    policy.consent = .autoBounded
    policy.lossBound = .init(bytes: 1 << 24, duration: .seconds(4))
    var engine = EngineFacts(role: .primary)
    engine.lagMilliseconds = 1000
    #expect(!policy.mustEnd(engine, silentFor: 2000))
    #expect(policy.mustEnd(engine, silentFor: 2001))
    engine.lagMilliseconds = nil
    #expect(!policy.mustEnd(engine, silentFor: 3000) && policy.mustEnd(engine, silentFor: 3001))
    engine.isHeld = true
    #expect(!policy.mustEnd(engine, silentFor: 60_000), "it acknowledges nothing that isn't confirmed")
    engine.isHeld = false
    engine.role = .standby
    #expect(!policy.mustEnd(engine, silentFor: 60_000))
    engine.role = .primary
    policy.isInMaintenance = true
    #expect(!policy.mustEnd(engine, silentFor: 60_000))
    (policy.isInMaintenance, policy.consent) = (false, .autoZeroLoss)
    #expect(!policy.mustEnd(engine, silentFor: 60_000), "its standbys hold it back")
  }

  @Test func `a gap in which nothing was known was no time beyond the threshold`() {
    var meter = SignalMeter()
    func beyond(_ now: Int64) -> Int64? { meter.facts([errors], by: "b", at: now).first?.beyondMilliseconds }
    meter.took(errors, of: "a", .value(60), at: 1000)
    meter.took(errors, of: "a", .unknown, at: 2000)
    meter.took(errors, of: "a", .failed, at: 4000)
    #expect(beyond(4500) == 3000 && meter.facts([errors], by: "b", at: 4500).first?.ageMilliseconds == 500)
    meter.took(errors, of: "a", .value(60), at: 60_000)
    #expect(beyond(60_000) == 0)
    meter.took(errors, of: "b", .value(60), at: 61_000)
    #expect(beyond(61_000) == 0, "another primary's")
    meter.took(errors, of: "b", .value(50), at: 62_000)
    #expect(beyond(62_000) == nil, "at the threshold is not beyond it")
  }

  @Test func `a report of a host's checks is a fact with its age; what others say of it is none`() throws {
    let disk = FailoverCheck(name: "disk", asks: .diskUsed("/srv"), most: 95_000, weight: 100)
    let policy = policy([disk])
    var primary = AgentCore(policy, as: "a", at: 0)
    primary.sampled("disk", .value(99_000), at: 100)
    var report = primary.report(at: 300)
    #expect(report.signals?.count == 1)
    var observer = AgentCore(policy, as: "b", at: 0)
    observer.heard(report, at: 300)
    let fact = try #require(observer.facts(at: 1000, wall: Timestamp(seconds: 0)).signals?.first)
    #expect(fact.of == "a" && fact.by == "a" && fact.ageMilliseconds == 900)
    report.signals?[0].of = "c"
    observer.heard(report, at: 301)
    #expect(observer.facts(at: 1000, wall: Timestamp(seconds: 0)).signals == [])
  }

  @Test func `the cheapest first, and a restore only as a command`() throws {
    let policy = policy([errors])
    let advice = policy.healing(for: facts(policy, [fact("errors", beyond: 9000)]))
    #expect(advice.map(\.rule) == [.diskFull])
    #expect(advice.first?.steps.map(\.step) == [.failover, .restore])
    #expect(advice.first?.steps.last?.command?.hasPrefix("salvor restore") == true)
    #expect(Set(FailureClass.allCases.map { HealingRule($0) }).count == HealingRule.allCases.count)
    #expect(FailoverHealing.usual(.corruption).failover == .off)
  }
}

@Suite struct GroupTests {
  private func facts(_ at: Int64, _ places: [(record: MemberName?, serves: MemberName?, order: String?)]) -> GroupFacts
  {
    GroupFacts(
      atMilliseconds: at, leader: PrimaryRecord(epoch: Fence(5), primary: "b"), leaderServes: true,
      followers: zip(["cache", "queue"] as [PolicyName], places).map { name, place in
        .init(
          policy: name,
          record: place.record.map { PrimaryRecord(epoch: Fence(2), primary: $0, order: place.order) },
          serves: place.serves, target: "b")
      })
  }

  @Test func `followers move in order, each when the one before serves`() {
    let group = FailoverGroup(followers: ["cache", "queue"])
    var standing = GroupStanding()
    func step(_ facts: GroupFacts) -> GroupDecision {
      let decision = group.decide(standing, facts, of: "bank")
      #expect(decision == group.decide(standing, facts, of: "bank"))
      standing = decision.next
      return decision
    }
    let first = step(facts(0, [("a", "a", nil), ("a", "a", nil)]))
    #expect(first.rule == .moves && first.order?.policy == "cache" && first.order?.id == "group-bank-5-cache")
    #expect(step(facts(1000, [("b", nil, first.order?.id), ("a", "a", nil)])).rule == .awaits, "recorded, not serving")
    #expect(step(facts(1500, [(nil, nil, nil), ("a", "a", nil)])).order == nil, "not known is not there")
    #expect(step(facts(2000, [("b", "b", nil), ("a", "a", nil)])).rule == .arrived)
    #expect(step(facts(2100, [("b", "b", nil), ("a", "a", nil)])).order?.policy == "queue")
    #expect(step(facts(3000, [("b", "b", nil), ("b", "b", nil)])).rule == .arrived)
    #expect(step(facts(3100, [("b", "b", nil), ("b", "b", nil)])).rule == .together)
  }

  @Test(arguments: FailoverGroup.OnFailure.allCases)
  func `one that doesn't come to serve is treated as the group says`(_ rule: FailoverGroup.OnFailure) {
    let group = FailoverGroup(followers: ["cache", "queue"], onFailure: rule, patience: .seconds(10))
    var standing = GroupStanding()
    var orders: [String] = []
    var rules: [GroupRule] = []
    var (cache, queue) = (MemberName("a"), MemberName("a"))
    for second in 0..<60 {
      let decision = group.decide(
        standing, facts(Int64(second) * 1000, [(cache, cache, nil), (queue, queue, nil)]), of: "bank")
      standing = decision.next
      if rules.last != decision.rule { rules.append(decision.rule) }
      guard let order = decision.order else { continue }
      if orders.last != order.id { orders.append(order.id) }
      // The cache obeys; the queue never does.
      if order.policy == "cache" { cache = order.target } else { queue = "a" }
    }
    switch rule {
    case .stop: #expect(cache == "b" && rules.contains(.stops) && standing.state == .stopped)
    case .goOn: #expect(cache == "b" && rules.contains(.goesOn) && standing.failed == ["queue"])
    case .goBack: #expect(cache == "a" && rules.contains(.isBack) && orders.last == "group-bank-5-cache-back")
    }
  }

  @Test func `nobody follows a leader that doesn't serve`() {
    var facts = facts(0, [("a", "a", nil), ("a", "a", nil)])
    facts.leaderServes = false
    let decision = FailoverGroup(followers: ["cache", "queue"]).decide(GroupStanding(), facts, of: "bank")
    #expect(decision.rule == .leaderUnknown && decision.order == nil)
  }
}
