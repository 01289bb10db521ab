import Catalog
import Core
import Planning
import Testing

/// Random systems, a seed each.
private struct World {
  let catalog: Catalog
  let plan: RestorePlan
  let steps: [String: PlannedStep]
  let input: PlanInput

  init(seed: Int, services: Int) throws {
    let randomness = SeededRandomness(seed: UInt64(seed))
    var described: [(name: String, needs: [String], stores: [String])] = []
    for index in 0..<services {
      let needs = (0..<index).filter { _ in randomness.chance(0.3) }.map { "s\($0)" }
      let stores = (0..<(index == 0 ? 1 : randomness.below(3))).map { "d\(index)-\($0)" }
      described.append(("s\(index)", needs, stores))
    }
    catalog = try PlanningTests.catalog(described)
    var history: [Measurement] = []
    for store in catalog.stores {
      for action in [RestoreAction.restoreBeside, .validateBeside, .swap, .startStore] where randomness.chance(0.8) {
        history.append(Measurement(action, store: store.name, seconds: Double(randomness.below(50)), at: noon))
      }
    }
    for service in catalog.services {
      for action in [RestoreAction.stopService, .startService, .readyService, .validateService]
      where randomness.chance(0.8) {
        history.append(Measurement(action, service: service.name, seconds: Double(randomness.below(50)), at: noon))
      }
    }
    let chosen =
      randomness.chance(0.5) ? [] : Set(catalog.services.map(\.name).filter { _ in randomness.chance(0.6) } + ["s0"])
    let limits = PlanLimits(parallelCopies: 1 + randomness.below(4))
    input = PlanInput(catalog: catalog, services: chosen, point: point(catalog), history: history, limits: limits)
    plan = RestorePlan.make(input)
    steps = Dictionary(uniqueKeysWithValues: plan.steps.map { ($0.id, $0) })
  }

  /// Everything that must have succeeded before `id`.
  func before(_ id: String) -> Set<String> {
    var seen: Set<String> = []
    var open = steps[id]?.dependsOn ?? []
    while let next = open.popLast() { if seen.insert(next).inserted { open += steps[next]?.dependsOn ?? [] } }
    return seen
  }
}

@Suite("Any plan")
struct PropertyTests {
  @Test(arguments: 1...60)
  func `is sound`(_ seed: Int) throws {
    let world = try World(seed: seed, services: 1 + seed % 9)
    let plan = world.plan
    try #require(plan.isRunnable, "\(plan.refusals)")
    let validated = Set(plan.stores.map { "validate-beside/\($0)" })
    for step in plan.steps {
      let before = world.before(step.id)
      #expect(!before.contains(step.id), "no circle")
      #expect(step.dependsOn.allSatisfy { world.steps[$0] != nil }, "no gate leads out of the plan")
      #expect(step.wave == (step.dependsOn.compactMap { world.steps[$0]?.wave }.max() ?? -1) + 1, "waves are minimal")
      if step.action != .precheck { #expect(before.contains("precheck")) }
      switch step.action {
      case .stopService, .stopStore, .swap, .startStore, .startService:
        #expect(validated.isSubset(of: before), "\(step.id) waits until every store is validated beside")
      default: break
      }
      if let store = step.store, step.action == .swap {
        #expect(before.contains("stop-store/\(store)"))
        #expect(
          plan.services.allSatisfy { before.contains("stop-service/\($0)") }, "no state moves while a service runs")
      }
      if step.action == .startService, let name = step.service, let service = world.catalog.service(name) {
        #expect(plan.stores.allSatisfy { before.contains("start-store/\($0)") } && before.contains("check-invariants"))
        #expect(plan.services.allSatisfy { before.contains("stop-service/\($0)") }, "all are down before one comes up")
        for need in service.dependsOn where plan.services.contains(need) {
          #expect(before.contains("ready-service/\(need)"))
        }
      }
      if step.action == .stopService, let name = step.service {
        for other in world.catalog.services where plan.services.contains(other.name) && other.dependsOn.contains(name) {
          #expect(before.contains("stop-service/\(other.name)"), "dependents stop first")
        }
      }
      if step.action == .record { #expect(before.count == plan.steps.count - 1) }
    }
    #expect(Set(plan.steps.map(\.priority)) == Set(1...plan.steps.count))
    for step in plan.steps {
      for gate in step.dependsOn { #expect(try #require(world.steps[gate]).priority < step.priority) }
    }
  }

  @Test(arguments: 1...30)
  func `is the same for the same facts, whatever order they come in`(_ seed: Int) throws {
    let world = try World(seed: seed, services: 1 + seed % 7)
    var shuffled = world.input
    shuffled.history.shuffle()
    let again = RestorePlan.make(shuffled)
    #expect(try CanonicalJSON.encode(again) == CanonicalJSON.encode(world.plan))
    #expect(try CanonicalJSON.decode(RestorePlan.self, from: CanonicalJSON.encode(again)) == world.plan)
    #expect(again.table() == world.plan.table())
    var other = world.input
    other.point.id = "p2"
    #expect(RestorePlan.make(other).id != world.plan.id)
  }

  @Test(arguments: 1...40)
  func `has the longest chain as its critical path`(_ seed: Int) throws {
    let world = try World(seed: seed, services: 1 + seed % 4)
    let plan = world.plan
    // By trying every chain: from each step, back through every gate.
    func longest(_ id: String) -> Double {
      (world.steps[id]?.predictedSeconds ?? 0) + (world.steps[id]?.dependsOn.map(longest).max() ?? 0)
    }
    #expect(plan.criticalPath.seconds == plan.steps.map { longest($0.id) }.max())
    #expect(
      plan.criticalPath.steps.compactMap { world.steps[$0]?.predictedSeconds }.reduce(0, +) == plan.criticalPath.seconds
    )
    for (earlier, later) in zip(plan.criticalPath.steps, plan.criticalPath.steps.dropFirst()) {
      #expect(world.steps[later]?.dependsOn.contains(earlier) == true)
    }
    #expect(plan.criticalPath.steps.last == "record")
    for prediction in plan.predictions {
      #expect(prediction.seconds >= longest("validate-service/\(prediction.service)"), "limits only ever make it later")
    }
  }

  @Test func `of a large system is made, and quickly enough to test with`() throws {
    let reading = try CatalogBenchmark.run(services: 1000, time: SystemTime())
    #expect(reading.services == 1000 && reading.edges == 3990 && reading.steps == 9005)
  }
}
