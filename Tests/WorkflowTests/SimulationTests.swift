import Core
import IO
import StateKit
import Synchronization
import TestSupport
import Testing

@testable import Workflow

@Suite("Crash anywhere")
struct SimulationTests {
  /// Every plan of these seeds is crashed somewhere, up to three times.
  static let seeds: Range<UInt64> = 0..<300

  /// Simulations compute for seconds and must not keep the threads that other tests wait for.
  private func offPool(_ body: @escaping @Sendable () throws -> Void) async throws {
    try await BlockingPool.shared.run(body)
  }

  private func crashes(_ seed: UInt64, boundaries: Int) -> [Int: FaultPlan.Fault] {
    let randomness = SeededRandomness(seed: seed &+ 1000)
    return Dictionary(
      (0...randomness.below(3)).map { _ in (randomness.below(boundaries), .crash) }, uniquingKeysWith: { $1 })
  }

  /// Long enough for the claim to lapse and an heir to act in the meantime, or only just not.
  private func stalls(_ seed: UInt64, boundaries: Int) -> [Int: FaultPlan.Fault] {
    let randomness = SeededRandomness(seed: seed &+ 2000)
    return Dictionary(
      (0...randomness.below(4)).map { _ in
        (randomness.below(boundaries), randomness.chance(0.2) ? .crash : .stall(.seconds(5 + randomness.below(60))))
      }, uniquingKeysWith: { $1 })
  }

  @Test func `a run that is crashed and taken up ends like one that was not`() async throws {
    try await offPool {
      var states: [RunState: Int] = [:]
      for seed in Self.seeds {
        let spec = simulatedSpec(seed: seed)
        let calm = try Simulation(spec: spec, seed: seed).run()
        let crashed = try Simulation(spec: spec, seed: seed, faults: crashes(seed, boundaries: calm.boundaries)).run()
        #expect(crashed.end == calm.end, "seed \(seed)")
        #expect(calm.violations == [], "seed \(seed)")
        #expect(crashed.violations == [], "seed \(seed)")
        states[calm.end.state, default: 0] += 1
      }
      // The seeds reach every way a run can end.
      for state in [RunState.succeeded, .failed, .rolledBack] { #expect(states[state, default: 0] > 20, "\(state)") }
    }
  }

  @Test(arguments: [1, 5, 21, 22] as [UInt64])
  func `a crash at any boundary of a run changes nothing`(_ seed: UInt64) async throws {
    try await offPool {
      let spec = simulatedSpec(seed: seed)
      let calm = try Simulation(spec: spec, seed: seed).run()
      #expect(calm.boundaries > 60)
      for boundary in 0..<calm.boundaries {
        let crashed = try Simulation(spec: spec, seed: seed, faults: [boundary: .crash]).run()
        #expect(crashed.end == calm.end, "seed \(seed), boundary \(boundary)")
        #expect(crashed.violations == [], "seed \(seed), boundary \(boundary)")
      }
    }
  }

  @Test func `a zombie controller does no harm`() async throws {
    try await offPool {
      for seed in Self.seeds {
        let spec = simulatedSpec(seed: seed)
        let calm = try Simulation(spec: spec, seed: seed).run()
        let haunted = try Simulation(
          spec: spec, seed: seed, faults: stalls(seed, boundaries: calm.boundaries), controllers: 2,
          rules: .init(forbidsRepeats: false)
        ).run()
        #expect(haunted.end == calm.end, "seed \(seed)")
        #expect(haunted.violations == [], "seed \(seed)")
      }
    }
  }

  @Test func `the same seed gives the same trace`() async throws {
    try await offPool {
      var digests: Set<Digest> = []
      for seed in Self.seeds.prefix(60) {
        let spec = simulatedSpec(seed: seed)
        let simulation = Simulation(
          spec: spec, seed: seed, faults: stalls(seed, boundaries: 80), controllers: 2,
          rules: .init(forbidsRepeats: false))
        let first = try simulation.run()
        #expect(try simulation.run() == first, "seed \(seed)")
        digests.insert(first.traceDigest)
      }
      #expect(digests.count == 60)
    }
  }

  // MARK: Does the suite see anything at all?

  @Test func `without the probe the suite finds acts done twice`() async throws {
    try await offPool {
      var found = 0
      for seed in Self.seeds.prefix(100) {
        let spec = simulatedSpec(seed: seed)
        let calm = try Simulation(spec: spec, seed: seed).run()
        var simulation = Simulation(spec: spec, seed: seed, faults: crashes(seed, boundaries: calm.boundaries))
        simulation.probes = false
        if try !simulation.run().violations.isEmpty { found += 1 }
      }
      #expect(found > 0)
    }
  }

  @Test func `without fences the suite finds a zombie's harm`() async throws {
    try await offPool {
      var violations = 0
      var wrongEnds = 0
      for seed in Self.seeds.prefix(100) {
        let spec = simulatedSpec(seed: seed)
        let calm = try Simulation(spec: spec, seed: seed).run()
        var simulation = Simulation(
          spec: spec, seed: seed, faults: stalls(seed, boundaries: calm.boundaries), controllers: 2,
          rules: .init(refusesLowerFences: false, forbidsRepeats: false))
        simulation.journalIgnoresFences = true
        let result = try simulation.run()
        if !result.violations.isEmpty { violations += 1 }
        if result.end != calm.end { wrongEnds += 1 }
      }
      #expect(violations > 0)
      #expect(wrongEnds > 0)
    }
  }
}
