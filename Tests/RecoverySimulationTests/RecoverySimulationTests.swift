import Core
import Foundation
import IO
import StateKit
import Testing

@Suite("Restore crashed anywhere")
struct RecoverySimulationTests {
  static let firstSeed = ProcessInfo.processInfo.environment["SALVOR_SEED"].flatMap { UInt64($0) } ?? 1

  struct Scenario: Sendable, CustomTestStringConvertible {
    var name: String
    var simulation: Simulation
    var state: RunState
    var testDescription: String { name }
  }

  static let scenarios: [Scenario] = {
    var vetoed = Simulation(seed: firstSeed)
    vetoed.rules.validatorFails = "web"
    var vetoedHalfDown = vetoed
    vetoedHalfDown.running = ["accounts", "ledger"]
    var undone = Simulation(seed: firstSeed)
    undone.order = .restoreAndRollBack
    undone.running = ["accounts"]
    return [
      Scenario(name: "through", simulation: Simulation(seed: firstSeed), state: .succeeded),
      Scenario(name: "vetoed", simulation: vetoed, state: .rolledBack),
      Scenario(name: "vetoed, one service was down", simulation: vetoedHalfDown, state: .rolledBack),
      Scenario(name: "undone, two services were down", simulation: undone, state: .rolledBack),
    ]
  }()

  /// Simulations compute for seconds and must not keep the threads that other tests wait for.
  private func offPool(_ body: @escaping @Sendable () throws -> Void) async throws {
    try await BlockingPool.shared.run(body)
  }

  private func again(_ simulation: Simulation) -> Comment {
    "crashed at \(simulation.crashes.sorted()): SALVOR_SEED=\(simulation.seed) swift test --filter RecoverySimulationTests"
  }

  private func check(_ result: Simulation.Result, _ scenario: Scenario, calm: Simulation.Result, _ again: Comment) {
    #expect(result.violations == [], again)
    #expect(result.end == calm.end, again)
    #expect(result.end.state == scenario.state, again)
    for (name, store) in result.end.stores {
      let expected = scenario.state == .succeeded ? "restored \(name)" : "original \(name)"
      #expect(store.live == expected, again)
      #expect(store.serves, again)
    }
    let expected = scenario.state == .succeeded ? Set(World.services.map(\.name)) : scenario.simulation.running
    #expect(result.end.running == expected, again)
  }

  @Test(arguments: scenarios)
  func `a crash at any boundary changes nothing about the end`(_ scenario: Scenario) async throws {
    try await offPool {
      let calm = try scenario.simulation.run()
      check(calm, scenario, calm: calm, "calm")
      #expect(calm.boundaries > 200)
      for boundary in 0..<calm.boundaries {
        var crashed = scenario.simulation
        crashed.crashes = [boundary]
        let result = try crashed.run()
        #expect(result.processes == 2, again(crashed))
        check(result, scenario, calm: calm, again(crashed))
      }
      print("\(scenario.name): \(calm.boundaries) crashes")
    }
  }

  @Test(arguments: scenarios)
  func `nor do several crashes, in any order of events`(_ scenario: Scenario) async throws {
    try await offPool {
      for seed in Self.firstSeed..<(Self.firstSeed + 20) {
        var simulation = scenario.simulation
        simulation.seed = seed
        let calm = try simulation.run()
        let randomness = SeededRandomness(seed: seed &+ 1000)
        for _ in 0..<(2 + randomness.below(5)) { simulation.crashes.insert(randomness.below(calm.boundaries)) }
        check(try simulation.run(), scenario, calm: calm, again(simulation))
      }
    }
  }

  // MARK: Does the suite see anything at all?

  private func findings(_ simulation: Simulation, _ state: RunState) throws -> Int {
    let calm = try Simulation(order: simulation.order, seed: simulation.seed).run()
    var found = 0
    for boundary in 0..<calm.boundaries {
      var crashed = simulation
      crashed.crashes = [boundary]
      let result = try crashed.run()
      if !result.violations.isEmpty || result.end.state != state { found += 1 }
    }
    return found
  }

  @Test func `a swap that isn't safe to repeat is found`() async throws {
    try await offPool {
      var simulation = Simulation(seed: Self.firstSeed)
      simulation.rules.swapsOnce = false
      let (calm, found) = (try simulation.run(), try findings(simulation, .succeeded))
      #expect(calm.violations == [])
      #expect(found > 0)
    }
  }

  @Test func `a swap back that isn't safe to repeat is found`() async throws {
    try await offPool {
      var simulation = Simulation(order: .restoreAndRollBack, seed: Self.firstSeed)
      simulation.rules.swapsBackOnce = false
      var wrong = 0
      let calm = try Simulation(order: .restoreAndRollBack, seed: Self.firstSeed).run()
      for boundary in 0..<calm.boundaries {
        simulation.crashes = [boundary]
        let result = try simulation.run()
        if result.end != calm.end || !result.violations.isEmpty { wrong += 1 }
      }
      #expect(wrong > 0)
    }
  }

  @Test func `a plan without the gate before live state is found`() async throws {
    try await offPool {
      var found = 0
      for seed in Self.firstSeed..<(Self.firstSeed + 20) {
        var simulation = Simulation(seed: seed)
        simulation.skipsCommitGate = true
        if try !simulation.run().violations.isEmpty { found += 1 }
      }
      #expect(found > 0)
    }
  }
}
