import Catalog
import Core
import DriverKit
import Failover
import StateKit
import Testing

/// What routers say is asked for in `shift`, waited for within the budget, and on record; never more than that.
@Suite("Routers in decisions") struct TrafficDecisionTests {
  private let policy = FailoverPolicy(
    name: "bank",
    members: [.init(name: "a"), .init(name: "b"), .init(name: "c")], consent: .autoZeroLoss)
  private let epoch = Fence(5)

  private func standing() -> FailoverStanding {
    var standing = FailoverStanding(.shift, sinceMilliseconds: 1000)
    (standing.epoch, standing.subject, standing.target, standing.basis) = (epoch, "a", "b", Fence(4))
    return standing
  }

  private func facts(at now: Int64, _ traffic: [TrafficFacts]?, acknowledges: Bool = true) -> FailoverFacts {
    var engine = EngineFacts(role: .primary)
    engine.acknowledges = acknowledges
    let report = AgentReport(
      member: "b", promised: epoch, isDetached: false, engine: engine, verdict: .unknown, of: "b")
    var facts = FailoverFacts(
      observer: "c", atMilliseconds: now, now: Timestamp(seconds: 1_800_000_000), lateMilliseconds: 0,
      store: StoreFacts(
        ageMilliseconds: 0, record: nil, recordAgeMilliseconds: nil,
        conductor: .init(holder: "c", epoch: epoch, isMine: true), order: nil),
      members: [
        MemberFacts(name: "a"), MemberFacts(name: "b", sight: .serves, report: report, reportAgeMilliseconds: 0),
        MemberFacts(name: "c"),
      ], witnesses: [])
    facts.traffic = traffic
    return facts
  }

  private func told(_ open: [MemberName]?, under epoch: Fence = Fence(5)) -> [TrafficFacts] {
    [TrafficFacts(route: "bank-sql", epoch: epoch, open: open)]
  }

  @Test func `without a route it goes on as soon as it acknowledges`() {
    let last = policy.decide(standing(), facts(at: 1001, nil)).last
    #expect(last?.rule == .shifted && last?.actions == [.shift("b", epoch)])
  }

  @Test(arguments: [
    (["a"] as [MemberName]?, Fence(5)), (["a", "b"], Fence(5)), ([], Fence(5)), (nil, Fence(5)), (["b"], Fence(4)),
  ])
  func `until a router shows it, it is told again, and the record says why`(_ open: [MemberName]?, _ under: Fence) {
    let last = policy.decide(standing(), facts(at: 1001, told(open, under: under))).last
    #expect(last?.rule == .awaitsTraffic && last?.next.state == .shift && last?.actions == [.shift("b", epoch)])
    #expect(last?.reasons.count == 1)
  }

  @Test func `once every router shows it, it goes on`() {
    let last = policy.decide(standing(), facts(at: 1001, told(["b"]))).last
    #expect(last?.rule == .shifted && last?.reasons.isEmpty == true)
  }

  @Test func `a router that never answers holds it up no longer than the budget`() {
    let late = 1000 + policy.budgets.fence.wholeMilliseconds + 1
    let last = policy.decide(standing(), facts(at: late, told(nil))).last
    #expect(last?.rule == .shifted && last?.reasons.first?.text == "route bank-sql isn't known")
  }

  @Test func `nothing is opened before it acknowledges`() {
    let last = policy.decide(standing(), facts(at: 1001, told(["b"]), acknowledges: false)).last
    #expect(last?.rule == .awaitsStandbys && last?.actions.contains(.shift("b", epoch)) == false)
  }

  @Test func `what was known of routers replays`() throws {
    let facts = facts(at: 1001, told(["a"]))
    let entry = FailoverLogEntry(
      at: facts.now, policy: policy, before: standing(), facts: facts, decisions: policy.decide(standing(), facts))
    let read = try FailoverLogEntry.entries(try entry.line())
    #expect(read == [entry] && read.first?.replayed() == entry.decisions)
  }
}
