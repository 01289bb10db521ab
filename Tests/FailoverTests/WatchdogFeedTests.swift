import Catalog
import Core
import DriverKit
import Failover
import StateKit
import Testing

@Suite struct WatchdogFeedTests {
  private let policy = FailoverPolicy(name: "bank", members: [.init(name: "a"), .init(name: "b")])

  @Test func `it is armed while the engine is a primary, and let go when it isn't`() {
    var feed = WatchdogFeed(policy)
    #expect(feed.looked(nil, age: 0, duty: nil) == .nothing)
    #expect(feed.looked(EngineFacts(role: .standby), age: 0, duty: nil) == .nothing)
    #expect(feed.looked(EngineFacts(role: .primary), age: 0, duty: nil) == .arm)
    #expect(feed.looked(EngineFacts(role: .primary), age: 0, duty: .hold(true, .lagNearBound)) == .feed)
    #expect(feed.looked(EngineFacts(role: .stopped), age: 0, duty: nil) == .disarm)
    #expect(feed.looked(EngineFacts(role: .stopped), age: 0, duty: nil) == .nothing)
    #expect(feed.looked(EngineFacts(role: .primary), age: 0, duty: nil) == .arm)
    feed.refused()
    #expect(feed.looked(EngineFacts(role: .primary), age: 0, duty: nil) == .arm)
  }

  @Test func `what must be ended, or isn't heard of, is starved until it is gone`() {
    var feed = WatchdogFeed(policy)
    let primary = EngineFacts(role: .primary)
    #expect(feed.looked(primary, age: 0, duty: .stop(.trustRanOut)) == .starve)
    #expect(feed.looked(primary, age: 0, duty: nil) == .arm)
    #expect(feed.looked(primary, age: 0, duty: .stop(.recordNamesAnother)) == .starve)
    #expect(feed.looked(primary, age: 5001, duty: nil) == .starve)
    #expect(feed.looked(primary, age: 5000, duty: nil) == .feed)
    #expect(feed.looked(EngineFacts(role: .stopped), age: 0, duty: nil) == .disarm)
  }

  @Test func `it is quicker than anything others wait for`() {
    #expect(policy.watchdogTimeout == .seconds(5))
    var bounded = policy
    bounded.consent = .autoBounded
    bounded.lossBound = .init(bytes: 1 << 20, duration: .seconds(8))
    #expect(bounded.watchdogTimeout == .seconds(2))
    bounded.lossBound?.duration = .seconds(60)
    #expect(bounded.watchdogTimeout == .seconds(5))
  }

  /// An agent that stands still while its engine runs on.
  @Test(.timeLimit(.minutes(10)))
  func `in bounded mode a watchdog keeps what breaks without one`() {
    var (broken, kept) = (0, 0)
    for seed in UInt64(1)...200 {
      let topology = SimulatedTopology.standard[Int(seed) % SimulatedTopology.standard.count]
      guard topology.policy.isBounded else { continue }
      var options = FailoverSimulation.Options()
      options.stillAgents = true
      var with = FailoverSimulation(topology, seed: seed, options)
      options.protections.remove(.watchdog)
      var without = FailoverSimulation(topology, seed: seed, options)
      if !without.run().violations.isEmpty { broken += 1 }
      let violations = with.run().violations
      if violations.isEmpty { kept += 1 } else { Issue.record("seed \(seed), \(topology.name): \(violations)") }
    }
    #expect(broken > 20 && kept == 40)
  }
}
