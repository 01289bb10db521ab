import Catalog
import Core

/// What many simulated runs came to.
package struct SimulationSummary: Sendable, Equatable {
  package var runs = 0
  package var failures = 0
  package var failovers = 0
  package var decisions = 0
  package var acknowledged = 0
  package var lost = 0
  package var splitBrains = 0
  package var violations = 0
  /// The first few, each with what reproduces it.
  package var examples: [String] = []
  /// Longest time without an acknowledgement, one per run, in milliseconds.
  package var outageMilliseconds: [Int64] = []
  package var lossMilliseconds: [Int64] = []

  package init() {}

  package mutating func add(_ outcome: SimulatedOutcome) {
    runs += 1
    failures += outcome.failures
    failovers += outcome.failovers
    decisions += outcome.decisions
    acknowledged += outcome.acknowledged
    lost += outcome.lost
    splitBrains += outcome.splitBrains
    outageMilliseconds.append(outcome.outageMicroseconds / 1000)
    lossMilliseconds.append(outcome.lossMicroseconds / 1000)
    guard let first = outcome.violations.first else { return }
    violations += 1
    if examples.count < 5 { examples.append("seed \(outcome.seed), \(outcome.topology): \(first)") }
  }

  /// Of runs with higher seeds.
  package mutating func add(_ other: SimulationSummary) {
    runs += other.runs
    failures += other.failures
    failovers += other.failovers
    decisions += other.decisions
    acknowledged += other.acknowledged
    lost += other.lost
    splitBrains += other.splitBrains
    violations += other.violations
    examples += other.examples.prefix(5 - examples.count)
    outageMilliseconds += other.outageMilliseconds
    lossMilliseconds += other.lossMilliseconds
  }

  /// Runs `count` seeds, several at a time; what comes of it doesn't depend on how many.
  ///
  /// - Parameter told: After each batch, in the order of the seeds: what was traced, and how many runs are done.
  package static func run(
    _ topologies: [SimulatedTopology], from seed: UInt64, count: Int, _ options: FailoverSimulation.Options,
    workers: Int, told: ([String], Int) -> Void = { _, _ in }
  ) async throws -> SimulationSummary {
    let size = 25
    let batches = (count + size - 1) / size
    return try await withThrowingTaskGroup(of: (Int, SimulationSummary, [String]).self) { group in
      var result = SimulationSummary()
      var waiting: [Int: (SimulationSummary, [String])] = [:]
      var (started, merged) = (0, 0)
      func start() {
        guard started < batches else { return }
        let batch = started
        started += 1
        group.addTask {
          var summary = SimulationSummary()
          var trace: [String] = []
          for index in (batch * size)..<min(count, (batch + 1) * size) {
            try Task.checkCancellation()
            let seed = seed &+ UInt64(index)
            let topology = topologies[Int(seed % UInt64(topologies.count))]
            var simulation = FailoverSimulation(topology, seed: seed, options)
            let outcome = simulation.run()
            summary.add(outcome)
            trace += outcome.trace
          }
          return (batch, summary, trace)
        }
      }
      for _ in 0..<max(1, workers) { start() }
      while let (batch, summary, trace) = try await group.next() {
        waiting[batch] = (summary, trace)
        start()
        while let (summary, trace) = waiting.removeValue(forKey: merged) {
          result.add(summary)
          merged += 1
          told(trace, result.runs)
        }
      }
      return result
    }
  }
}

/// How values are spread; all in milliseconds.
package struct Distribution: Sendable, Equatable, Codable {
  package var median: Int64
  package var p90: Int64
  package var p99: Int64
  package var longest: Int64
  /// How many were at most so long, and longer than the bin before; empty bins at both ends are left out.
  package var bins: [Bin]

  package struct Bin: Sendable, Equatable, Codable {
    /// `nil`: all that were longer.
    package var atMost: Int64?
    package var count: Int
  }

  private static let edges: [Int64] = [
    0, 100, 200, 500, 1000, 1500, 2000, 2500, 3000, 4000, 5000, 7500, 10_000, 15_000, 20_000, 30_000, 60_000,
  ]

  package init(_ values: [Int64]) {
    let sorted = values.sorted()
    func quantile(_ perMille: Int) -> Int64 {
      sorted.isEmpty ? 0 : sorted[min(sorted.count - 1, sorted.count * perMille / 1000)]
    }
    (median, p90, p99, longest) = (quantile(500), quantile(900), quantile(990), sorted.last ?? 0)
    var counts = Array(repeating: 0, count: Self.edges.count + 1)
    for value in sorted { counts[Self.edges.firstIndex { value <= $0 } ?? Self.edges.count] += 1 }
    var bins = counts.enumerated().map { index, count in
      Bin(atMost: index < Self.edges.count ? Self.edges[index] : nil, count: count)
    }
    while bins.last?.count == 0 { bins.removeLast() }
    self.bins = Array(bins.drop { $0.count == 0 })
  }
}

/// What a summary says, in few numbers.
package struct SimulationReport: Sendable, Equatable, Codable {
  package var policy: String
  package var runs: Int
  package var failures: Int
  package var failovers: Int
  package var decisionsReplayed: Int
  package var acknowledged: Int
  package var lost: Int
  package var splitBrains: Int
  package var brokenPromises: Int
  package var examples: [String]
  /// Longest time without an acknowledgement, one per run.
  package var outage: Distribution
  /// Acknowledged work that was lost, one per run.
  package var loss: Distribution

  package init(_ summary: SimulationSummary, of policy: String) {
    self.policy = policy
    (runs, failures, failovers) = (summary.runs, summary.failures, summary.failovers)
    (decisionsReplayed, acknowledged, lost) = (summary.decisions, summary.acknowledged, summary.lost)
    (splitBrains, brokenPromises, examples) = (summary.splitBrains, summary.violations, summary.examples)
    (outage, loss) = (Distribution(summary.outageMilliseconds), Distribution(summary.lossMilliseconds))
  }
}
