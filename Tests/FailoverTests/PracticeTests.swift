import Catalog
import Core
import DriverKit
import Failover
import StateKit
import Testing

@Suite("Practising a failover") struct PracticeTests {
  private let policy = FailoverPolicy(
    name: "bank", members: [.init(name: "a"), .init(name: "b"), .init(name: "c")], witnesses: [.init(name: "w")])

  /// Three members and a lease store that do as they are told, as quickly as nothing goes wrong.
  private struct World {
    var now: Int64 = 0
    var record = PrimaryRecord(epoch: Fence(4), primary: "a")
    var order: FailoverOrder?
    var dead: Set<MemberName> = []
    var silent: Set<MemberName> = []
    var steps: [PracticeStep] = []
    /// When what was begun is done.
    var due: Int64?
    var takes: Int64 = 1500
    var next: MemberName = "b"

    var facts: PracticeFacts {
      let isMoving = due != nil
      let members: [MemberName] = ["a", "b", "c"]
      let reports = (members + ["w"]).filter { !silent.contains($0) }.map { name -> AgentReport in
        var engine: EngineFacts? = name == "w" ? nil : EngineFacts(role: name == record.primary ? .primary : .standby)
        if name == record.primary {
          engine?.acknowledges = !isMoving && !dead.contains(name)
          engine?.attached = members.filter { $0 != name && !dead.contains($0) }
        } else {
          engine?.following = record.primary
        }
        if dead.contains(name) { engine = EngineFacts(role: .stopped) }
        return AgentReport(
          member: name, promised: record.epoch, isDetached: false, engine: engine,
          verdict: dead.contains(record.primary) ? .down : .up, of: record.primary)
      }
      return PracticeFacts(
        atMilliseconds: now, reports: reports, record: record, isConducted: isMoving, order: order)
    }

    mutating func obey(_ step: PracticeStep) {
      steps.append(step)
      switch step {
      case .wait: steps.removeLast()
      case .order(let found), .withdraw(let found): order = found
      case .kill(let name, _): dead.insert(name)
      }
      if due == nil, let order, order.kind == .switchover, order.id != record.order { due = now + takes }
      if due == nil, dead.contains(record.primary) { due = now + takes }
      if let moment = due, now >= moment {
        let isOrdered = order?.kind == .switchover && order?.id != record.order
        let target = isOrdered ? order?.target ?? next : next
        record = PrimaryRecord(
          epoch: Fence(record.epoch.value + 1), primary: target, previous: record.primary,
          order: isOrdered ? order?.id : record.order)
        (due, dead) = (nil, [])
      }
      now += 50
    }
  }

  private func run(
    _ plan: FailoverPractice = FailoverPractice(), to target: MemberName? = nil,
    _ disturb: (inout World, PracticeStanding) -> Void = { _, _ in }, world: World = World()
  ) throws -> (PracticeDecision, World) {
    let practice = Practice(policy, plan, id: "practice-1", by: "tester", target: target)
    var (world, standing) = (world, PracticeStanding(at: 0))
    for _ in 0..<20_000 {
      disturb(&world, standing)
      let decision = practice.decide(standing, world.facts)
      standing = decision.next
      world.obey(decision.step)
      if standing.phase == .over { return (decision, world) }
    }
    throw NeverEnds()
  }

  private struct NeverEnds: Error {}

  @Test func `service goes there and back, and what was measured is within the bound`() throws {
    let (end, world) = try run()
    #expect(end.next.outcome == .passed && end.rule == .isBack)
    #expect(world.record.primary == "a" && world.record.epoch == Fence(6))
    #expect(end.next.moves.map(\.to) == ["b", "a"])
    #expect(end.next.moves.allSatisfy { (1400...1700).contains($0.silenceMilliseconds) })
  }

  @Test func `a kill goes wherever the policy takes it, and only the way back is ordered`() throws {
    var world = World()
    world.next = "c"
    let (end, after) = try run(FailoverPractice(kind: .failover), world: world)
    #expect(end.next.outcome == .passed)
    #expect(after.steps.first == .kill("a", Fence(4)))
    #expect(after.steps.count == 2 && end.next.moves.map(\.to) == ["c", "a"])
    let (stays, last) = try run(FailoverPractice(kind: .failover, returns: false))
    #expect(stays.next.outcome == .passed && stays.rule == .stays && last.record.primary == "b")
  }

  @Test func `what took too long has failed, though it went well`() throws {
    var world = World()
    world.takes = 11_000
    let (end, _) = try run(world: world)
    #expect(end.next.outcome == .failed && end.reasons.count == 2)
  }

  @Test func `what never comes about is withdrawn`() throws {
    var world = World()
    world.takes = .max / 2
    let (end, after) = try run(world: world)
    #expect(end.next.outcome == .failed && end.rule == .tooLong)
    guard case .withdraw(let order) = after.steps.last else {
      Issue.record("\(after.steps)")
      return
    }
    #expect(order.kind == .resume)
  }

  @Test(arguments: ["silent", "dead", "order", "conducted"]) func `nothing is begun unless all is well`(
    _ trouble: String
  ) throws {
    var world = World()
    switch trouble {
    case "silent": world.silent = ["w"]
    case "dead": world.dead = ["c"]
    case "order": world.order = FailoverOrder(id: "x", kind: .pause, by: "somebody")
    default: world.due = .max / 2
    }
    let (end, after) = try run(world: world)
    #expect(end.next.outcome == .couldNotRun && !end.reasons.isEmpty && after.steps.isEmpty)
  }

  @Test func `who serves already is no target, and neither is nobody`() throws {
    let (end, after) = try run(to: "a")
    #expect(end.next.outcome == .couldNotRun && after.steps.isEmpty)
  }

  @Test func `another's order ends it, and is left alone`() throws {
    let other = FailoverOrder(id: "by-hand", kind: .switchover, target: "c", by: "somebody")
    let (end, after) = try run { world, standing in
      if standing.phase == .settling, standing.moves.count == 1, world.order != other { world.order = other }
    }
    #expect(end.next.outcome == .aborted && end.rule == .otherOrder)
    #expect(after.steps.count == 1 && after.order == other)
  }

  @Test func `a real failover in the middle is left where it went`() throws {
    let (end, after) = try run { world, standing in
      if standing.phase == .settling, world.record.primary == "b" {
        world.record = PrimaryRecord(epoch: Fence(6), primary: "c", previous: "b", order: world.record.order)
      }
    }
    #expect(end.next.outcome == .aborted && end.rule == .otherPrimary)
    #expect(after.record.primary == "c" && after.steps.count == 1)
  }

  @Test func `what fails before an order is taken up withdraws it`() throws {
    var world = World()
    world.takes = .max / 2
    let (end, after) = try run(
      FailoverPractice(),
      { world, standing in
        guard standing.phase == .moving else { return }
        // Nobody has begun.
        world.due = nil
        if world.now > 4000 { world.dead = ["c"] }
      }, world: world)
    #expect(end.next.outcome == .aborted && end.rule == .unwell)
    guard case .withdraw = after.steps.last else {
      Issue.record("\(after.steps)")
      return
    }
  }

  @Test(arguments: 0..<300) func `by chance: it begins only in the calm, and leaves only orders of its own`(
    _ seed: UInt64
  ) throws {
    let chance = SeededRandomness(seed: seed)
    let kind: FailoverPractice.Kind = chance.below(2) == 0 ? .switchover : .failover
    let practice = Practice(policy, FailoverPractice(kind: kind), id: "practice-1", by: "tester")
    var (world, standing) = (World(), PracticeStanding(at: 0))
    var orders: Set<String> = []
    for _ in 0..<20_000 where standing.phase != .over {
      switch chance.below(400) {
      case 0: world.silent = ["b"]
      case 1: world.dead.insert("c")
      case 2: world.order = FailoverOrder(id: "other-\(world.now)", kind: .pause, by: "somebody")
      case 3: world.takes = Int64(chance.below(200_000))
      case 4...8: (world.silent, world.dead) = ([], world.dead.intersection([world.record.primary]))
      default: break
      }
      let facts = world.facts
      let decision = practice.decide(standing, facts)
      switch decision.step {
      case .wait: break
      case .order(let order):
        #expect(practice.troubles(facts) == [] && orders.insert(order.id).inserted)
      case .kill(let name, let epoch):
        #expect(practice.troubles(facts) == [] && name == facts.record?.primary && epoch == facts.record?.epoch)
        #expect(standing.moves.isEmpty, "once")
      case .withdraw:
        #expect(decision.next.phase == .over && orders.contains(facts.order?.id ?? ""))
      }
      standing = decision.next
      world.obey(decision.step)
    }
    #expect(standing.phase == .over && standing.moves.count <= 2)
  }
}
