import Catalog
import Core
import DriverKit
import Failover
import StateKit
import Testing

@Suite struct SimulationTests {
  @Test(.timeLimit(.minutes(10)), arguments: 0..<4)
  func `no promise is broken, and every decision replays to the same answer`(_ part: Int) {
    var options = FailoverSimulation.Options()
    options.replays = true
    let topologies = SimulatedTopology.standard
    var failures = 0
    for index in 0..<300 {
      let seed = UInt64(part * 300 + index)
      var simulation = FailoverSimulation(topologies[Int(seed) % topologies.count], seed: seed, options)
      let outcome = simulation.run()
      failures += outcome.failures
      #expect(outcome.violations.isEmpty, "seed \(seed), \(outcome.topology)")
    }
    #expect(failures > 400)
  }

  @Test(.timeLimit(.minutes(10)))
  func `noise moves nothing`() {
    var options = FailoverSimulation.Options()
    options.onlyNoise = true
    for seed in UInt64(1)...100 {
      let topology = SimulatedTopology.standard[Int(seed) % SimulatedTopology.standard.count]
      var simulation = FailoverSimulation(topology, seed: seed, options)
      let outcome = simulation.run()
      #expect(outcome.failovers == 0 && outcome.violations.isEmpty, "seed \(seed), \(topology.name)")
    }
  }

  /// Each of these was broken once: a lease that came late was kept for ever, and nobody could act.
  @Test(arguments: [
    1_009_304, 1_011_204, 1_015_100, 1_027_489, 1_033_300, 1_036_209, 1_052_235, 1_003_104, 1_032_685, 1_067_057,
  ])
  func `what was found stays mended`(_ seed: UInt64) {
    let topology = SimulatedTopology.standard[Int(seed % UInt64(SimulatedTopology.standard.count))]
    var simulation = FailoverSimulation(topology, seed: seed)
    #expect(simulation.run().violations.isEmpty)
  }

  @Test(.timeLimit(.minutes(10)))
  func `several at a time come to the same as one at a time`() async throws {
    let topologies = SimulatedTopology.standard
    let one = try await SimulationSummary.run(topologies, from: 5, count: 130, .init(), workers: 1)
    var told: [Int] = []
    let many = try await SimulationSummary.run(topologies, from: 5, count: 130, .init(), workers: 4) { told.append($1) }
    #expect(one == many && one.runs == 130 && told == [25, 50, 75, 100, 125, 130])
    let report = SimulationReport(one, of: "standard")
    #expect(report.outage.bins.map(\.count).reduce(0, +) == 130)
    #expect(report.outage.median <= report.outage.p90 && report.outage.p90 <= report.outage.longest)
  }

  @Test func `a seed is a run`() {
    var first = FailoverSimulation(SimulatedTopology.standard[2], seed: 7)
    var second = FailoverSimulation(SimulatedTopology.standard[2], seed: 7)
    let (a, b) = (first.run(), second.run())
    #expect(a.digest == b.digest && a.acknowledged == b.acknowledged && a.faults == b.faults)
  }

  /// Each protection taken away breaks a promise that holds with it.
  @Test(
    .timeLimit(.minutes(10)),
    arguments: [
      "fence-before-promote", "fence-quorum", "record-under-lease", "self-stop", "dwell", "peers", "most-complete",
      "voters-recorded",
      "observers", "positions-after-detach",
    ])
  func `without a protection a promise is broken`(_ name: String) throws {
    let protection = try #require(Protections.names.first { $0.name == name }).protection
    var options = FailoverSimulation.Options()
    options.protections.remove(protection)
    options.onlyNoise = name == "peers"
    let topologies = SimulatedTopology.standard
    for seed in UInt64(1)...1500 {
      var simulation = FailoverSimulation(topologies[Int(seed) % topologies.count], seed: seed, options)
      if !simulation.run().violations.isEmpty { return }
    }
    Issue.record("nothing breaks without it")
  }
}

/// Three members of whom one must acknowledge; `c` is away for good, and after that `a` fails.
@Suite struct AbsenceTests {
  /// One of two that were away comes back while the record that drops both is on its way.
  @Test(arguments: [UInt64(232), 710])
  func `nobody is waited for again while a record without it may still be written`(_ seed: UInt64) {
    let topologies = SimulatedTopology.standard
    var simulation = FailoverSimulation(topologies[Int(seed) % topologies.count], seed: seed)
    #expect(simulation.run().violations.isEmpty)
  }

  @Test(arguments: UInt64(1)...10)
  func `service moves although a standby has been away for long`(_ seed: UInt64) {
    let outcome = run(seed, killing: 20_000_000)
    #expect(outcome.violations.isEmpty && outcome.failovers == 1 && outcome.outageMicroseconds < 5_000_000)
  }

  @Test func `nobody counts as gone before those who are left hold all`() {
    let behind = SimulatedFault(kind: .laggard, node: 1, other: 2, start: 8_000_000, end: 40_000_000)
    var lost = 0
    for seed in UInt64(1)...10 {
      let outcome = run(seed, killing: 15_000_000, behind)
      #expect(outcome.violations.isEmpty && outcome.lost == 0)
      lost += run(seed, killing: 15_000_000, behind, without: .votersCaughtUp).lost
    }
    #expect(lost > 0, "with that protection off, what c alone had acknowledged is lost")
  }

  private func run(
    _ seed: UInt64, killing: Int64, _ more: SimulatedFault?..., without: Protections = []
  ) -> SimulatedOutcome {
    var options = FailoverSimulation.Options()
    options.protections.subtract(without)
    options.replays = true
    options.script =
      more.compactMap(\.self) + [
        SimulatedFault(kind: .hostDown, node: 2, other: 1, start: 10_000_000, end: 60_000_000),
        SimulatedFault(kind: .engineKilled, node: 0, other: 1, start: killing, end: killing + 1, isAtPrimary: true),
      ]
    var simulation = FailoverSimulation(SimulatedTopology.standard[2], seed: seed, options)
    return simulation.run()
  }
}

@Suite struct DecisionTests {
  @Test func `an agent obeys no epoch below one it promised, and a late fence undoes nothing`() {
    var core = AgentCore(policy, as: "b", at: 0)
    core.promise(Fence(7))
    #expect(!core.obeys(Fence(6)) && !core.obeysFence(Fence(6)) && core.obeys(Fence(7)))
    core.settle(Fence(7))
    #expect(!core.obeysFence(Fence(7)) && core.obeysFence(Fence(8)))
    let again = AgentCore(policy, as: "b", memory: core.memory, at: 0)
    #expect(!again.obeys(Fence(6)), "not after a restart either")
  }

  @Test func `so many standbys must detach that those left can't acknowledge`() {
    for members in 2...9 {
      for acknowledgements in 1..<members {
        var policy = policy
        policy.members = (0..<members).map { .init(name: MemberName(unchecked: "m\($0)")) }
        policy.acknowledgements = acknowledgements
        #expect(policy.standbys - policy.fenceQuorum == acknowledgements - 1)
        #expect(policy.fenceQuorum + acknowledgements > policy.standbys, "every commit is on one that was read")
      }
    }
  }

  @Test func `nothing known is nothing passed`() throws {
    let facts = FailoverFacts(
      observer: "b", atMilliseconds: 100_000, now: Timestamp(seconds: 1), lateMilliseconds: 0,
      store: StoreFacts(
        ageMilliseconds: 0, record: PrimaryRecord(epoch: Fence(3), primary: "a"), recordAgeMilliseconds: nil,
        conductor: nil, order: nil), members: policy.members.map { MemberFacts(name: $0.name) }, witnesses: [])
    var standing = FailoverStanding(.suspect, sinceMilliseconds: 0)
    (standing.subject, standing.basis) = ("a", Fence(3))
    let decision = try #require(policy.decide(standing, facts).last)
    #expect(decision.next.state == .suspect && decision.actions.isEmpty)
  }

  @Test func `a decision survives being written down`() throws {
    let facts = FailoverFacts(
      observer: "b", atMilliseconds: 5, now: Timestamp(seconds: 1), lateMilliseconds: 0, store: nil, members: [],
      witnesses: [])
    let before = FailoverStanding(.steady, sinceMilliseconds: 0)
    let entry = FailoverLogEntry(
      at: Timestamp(seconds: 1), policy: policy, before: before, facts: facts, decisions: policy.decide(before, facts))
    let read = try FailoverLogEntry.entries(entry.line() + entry.line())
    #expect(read == [entry, entry] && read[0].replayed() == entry.decisions)
  }

  private let policy = FailoverPolicy(
    name: "bank", members: [.init(name: "a"), .init(name: "b"), .init(name: "c")])
}
