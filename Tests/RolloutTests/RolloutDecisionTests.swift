import Catalog
import Core
import Rollouts
import StateKit
import Testing

/// A rollout that is driven by hand: what the router shows is what it was told, unless a test says otherwise.
private struct Drive {
  var rollout = Rollout(
    name: "web", route: "web", from: "blue", to: "green", ready: [Probe(.tcp(host: "127.0.0.1", port: 1))],
    steps: [5, 50, 100], dwell: .seconds(10), interval: .seconds(1),
    watch: .init(errorsPerMillion: 10_000, latency: .milliseconds(200), requests: 20), patience: .seconds(5),
    keep: .seconds(30))
  var standing = RolloutStanding(.check, sinceMilliseconds: 0)
  var now: Int64 = 0
  var weights: [BackendName: Int] = ["blue": 100, "green": 0]
  var counters = TrafficCounters(requests: 0, failures: 0, meanMilliseconds: 20)
  /// Per second, at the new side.
  var load: (requests: Int64, failures: Int64) = (100, 0)
  var answers = true
  var obeys = true
  var ready = RolloutCheck(.passed)
  var order: RolloutFacts.Order?
  var isAllowed: Bool?
  var readings: [RolloutReading] = []
  var rules: [RolloutRule] = []
  var told: [Int] = []
  var log: [RolloutLogEntry] = []

  var facts: RolloutFacts {
    var facts = RolloutFacts(atMilliseconds: now, now: Timestamp(seconds: 1_800_000_000), ready: ready)
    (facts.readings, facts.order, facts.isAllowed) = (readings, order, isAllowed)
    (facts.warm, facts.prime) = (RolloutCheck(.passed), RolloutCheck(.passed))
    if answers {
      facts.route = RouteView([
        .init(name: "blue", weight: weights["blue"]!),
        .init(name: "green", weight: weights["green"]!, counters: counters),
      ])
    } else {
      facts.routeWhy = "no answer"
    }
    return facts
  }

  mutating func look() {
    let (facts, before) = (facts, standing)
    let decision = rollout.decide(standing, facts)
    log.append(
      RolloutLogEntry(
        at: facts.now, run: "r", rollout: rollout, before: before, facts: facts, decision: decision))
    #expect(
      decision.rule.row.from.contains(before.state) || before.state.isOver, "\(decision.rule) from \(before.state)")
    #expect(decision.rule.row.to.contains(decision.next.state) || before.state.isOver)
    standing = decision.next
    if rules.last != decision.rule { rules.append(decision.rule) }
    for case .weigh(let percent) in decision.actions {
      told.append(percent)
      if obeys { weights = rollout.weights(percent) }
    }
    now += 1000
    if (weights["green"] ?? 0) > 0 {
      counters.requests += load.requests
      counters.failures += load.failures
    }
  }

  mutating func run(_ limit: Int = 300, until isOver: (Drive) -> Bool = { $0.standing.state.isOver }) {
    for _ in 0..<limit where !isOver(self) { look() }
  }
}

@Suite("Rollout decisions") struct RolloutDecisionTests {
  @Test func `a new side that is well gets everything, step by step`() {
    var drive = Drive()
    drive.run()
    #expect(drive.standing.state == .done)
    #expect(drive.told == [5, 50, 100])
    #expect(drive.weights == ["blue": 0, "green": 100])
    // Three dwells of ten seconds, and the old side kept for thirty.
    #expect(drive.now >= 60_000 && drive.now < 75_000)
  }

  @Test func `errors above the bound lead back at once`() {
    var drive = Drive()
    drive.run { $0.standing.state == .step && $0.standing.step == 1 && $0.standing.shownMilliseconds != nil }
    drive.load.failures = 2
    let broken = drive.now
    drive.run()
    #expect(drive.standing.state == .returned)
    #expect(drive.weights == ["blue": 100, "green": 0])
    #expect(drive.now - broken <= 8000)
    #expect(drive.rules.suffix(3) == [.broken, .returning, .returned])
    #expect(drive.standing.reason?.contains("requests failed") == true)
  }

  @Test func `errors at the bound are within it`() {
    var drive = Drive()
    drive.load = (100, 1)
    drive.run()
    #expect(drive.standing.state == .done)
  }

  @Test func `slow answers lead back`() {
    var drive = Drive()
    drive.counters.meanMilliseconds = 201
    drive.run()
    #expect(drive.standing.state == .returned && drive.told == [5, 0])
  }

  @Test func `too few requests say nothing, and nothing is not passed`() {
    var drive = Drive()
    drive.load = (1, 0)
    drive.run()
    #expect(drive.standing.state == .returned)
    #expect(drive.rules.contains(.unclearTooLong))
    #expect(!drive.rules.contains(.passed))
  }

  @Test func `a router that says nothing is waited for, and then left for the old side`() {
    var drive = Drive()
    drive.run { $0.rules.last == .watching }
    drive.answers = false
    drive.run { $0.standing.state == .back }
    #expect(drive.standing.state == .back)
    drive.run(20)
    // Nobody calls it returned until the router shows it.
    #expect(drive.standing.state == .back)
    drive.answers = true
    drive.run()
    #expect(drive.standing.state == .returned)
  }

  @Test func `a short silence of the router is forgiven`() {
    var drive = Drive()
    drive.run { $0.rules.last == .watching }
    drive.answers = false
    drive.run(3) { _ in false }
    drive.answers = true
    drive.run()
    #expect(drive.standing.state == .done)
  }

  @Test func `a router that doesn't do as it is told is no router to go on with`() {
    var drive = Drive()
    drive.obeys = false
    drive.run(100)
    #expect(drive.standing.state == .returned && !drive.rules.contains(.shown))
  }

  @Test func `weights that somebody else changes end it`() {
    var drive = Drive()
    drive.run { $0.rules.last == .watching }
    drive.weights["green"] = 80
    drive.look()
    #expect(drive.rules.last == .changedByOthers)
  }

  @Test func `what isn't ready gets nothing`() {
    var drive = Drive()
    drive.ready = RolloutCheck(.failed, why: "no answer")
    drive.run()
    #expect(drive.standing.state == .refused && drive.told.isEmpty)
    #expect(drive.standing.reason?.contains("no answer") == true)
  }

  @Test func `what is no longer ready leads back`() {
    var drive = Drive()
    drive.run { $0.standing.state == .keep }
    drive.ready = RolloutCheck(.failed)
    drive.run()
    #expect(drive.standing.state == .returned && drive.rules.contains(.unready))
  }

  @Test(arguments: [RolloutState.check, .warm, .step, .keep])
  func `a kill switch that denies ends it wherever it stands`(_ state: RolloutState) {
    var drive = Drive()
    drive.isAllowed = true
    drive.run { $0.standing.state == state && (state != .step || $0.told.count > 0) }
    drive.isAllowed = false
    drive.run()
    #expect(drive.standing.state == (state == .step || state == .keep ? .returned : .refused))
    #expect(drive.weights == ["blue": 100, "green": 0])
  }

  @Test func `an operator ends, pauses and hurries it`() {
    var drive = Drive()
    drive.run { $0.rules.last == .watching }
    drive.order = .pause
    drive.run(60) { _ in false }
    #expect(drive.standing.state == .step && drive.standing.step == 0)
    drive.order = .skip
    drive.look()
    #expect(drive.standing.step == 1)
    drive.order = .abort
    drive.run()
    #expect(drive.standing.state == .returned && drive.rules.contains(.aborted))
  }

  @Test func `a paused step is watched on`() {
    var drive = Drive()
    drive.run { $0.rules.last == .watching }
    (drive.order, drive.load.failures) = (.pause, 50)
    drive.run()
    #expect(drive.standing.state == .returned && drive.rules.contains(.broken))
  }

  @Test func `what fails after a long time is not lost in what was well`() {
    var drive = Drive()
    drive.rollout.keep = .seconds(3600)
    drive.run(2000) { $0.standing.state == .keep && $0.now > 1_500_000 }
    drive.load.failures = 3
    let broken = drive.now
    drive.run()
    #expect(drive.standing.state == .returned)
    // Within two dwells, though a hundred and fifty thousand requests went well before.
    #expect(drive.now - broken <= 20_000)
  }

  @Test func `a router that counts anew has the step watched anew`() {
    var drive = Drive()
    drive.run { $0.now >= 9000 && $0.rules.last == .watching }
    let shown = drive.standing.shownMilliseconds
    drive.counters = TrafficCounters(requests: 0, failures: 0, meanMilliseconds: 1)
    drive.look()
    #expect(drive.rules.last == .countedAnew && drive.standing.shownMilliseconds != shown)
    drive.run()
    #expect(drive.standing.state == .done)
  }

  @Test func `a number that Prometheus gives, or doesn't, decides`() throws {
    for (reading, end) in [
      (RolloutReading("p99", thousandths: 299_000), RolloutState.done),
      (RolloutReading("p99", thousandths: 300_001), .returned), (RolloutReading("p99", why: "no answer"), .returned),
    ] {
      var drive = Drive()
      drive.rollout.queries = [
        .init(name: "p99", url: "http://127.0.0.1:9090", query: "x", most: try #require(Metric.Decimal("300")))
      ]
      drive.readings = [reading]
      drive.run()
      #expect(drive.standing.state == end, "\(reading)")
    }
  }

  @Test func `traffic that is elsewhere is no beginning`() {
    var drive = Drive()
    drive.weights = ["blue": 0, "green": 100]
    drive.run()
    #expect(drive.standing.state == .refused && drive.rules == [.elsewhere])
  }

  @Test func `every decision replays from its line to the same answer`() throws {
    var drives = [Drive(), Drive(), Drive()]
    drives[1].load.failures = 30
    drives[2].load = (0, 0)
    for index in drives.indices {
      drives[index].run()
      let bytes = try drives[index].log.flatMap { try $0.line() }
      let read = try RolloutLogEntry.entries(bytes)
      #expect(read == drives[index].log)
      #expect(read.allSatisfy { $0.replayed() == $0.decision })
    }
  }

  @Test func `every rule has a number of its own`() {
    #expect(Set(RolloutRule.allCases.map(\.rawValue)).count == RolloutRule.allCases.count)
  }

  /// Whatever happens, at the end all goes to one side, and to the new one only if every step was watched without a complaint.
  @Test(arguments: 0..<200) func `under any whim it ends at one side`(_ seed: Int) {
    let chance = SeededRandomness(seed: UInt64(seed))
    var drive = Drive()
    for _ in 0..<400 where !drive.standing.state.isOver {
      if chance.chance(0.03) { drive.answers.toggle() }
      if chance.chance(0.02) { drive.obeys.toggle() }
      if chance.chance(0.01) { drive.load.failures = drive.load.failures == 0 ? 5 : 0 }
      if chance.chance(0.01) { drive.load.requests = drive.load.requests == 0 ? 100 : 0 }
      if chance.chance(0.005) { drive.counters = TrafficCounters(requests: 0, failures: 0, meanMilliseconds: 20) }
      if chance.chance(0.01) { drive.ready = RolloutCheck(drive.ready.state == .passed ? .failed : .passed) }
      drive.look()
    }
    (drive.answers, drive.obeys) = (true, true)
    drive.run(200)
    switch drive.standing.state {
    case .done: #expect(drive.weights == ["blue": 0, "green": 100] && drive.rules.filter { $0 == .passed }.count >= 1)
    case .returned: #expect(drive.weights == ["blue": 100, "green": 0])
    case .refused: #expect(drive.told.isEmpty)
    default: Issue.record("it stands at \(drive.standing.state)")
    }
    #expect(drive.log.allSatisfy { $0.replayed() == $0.decision })
  }
}
