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
