import Catalog
import Core

/// What many simulated runs came to.
package struct SimulationSummary: Sendable, Codable {
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
  /// Longest time without an acknowledgement, one per run, in milliseconds; ascending.
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

  /// After the last run.
  package mutating func close() {
    outageMilliseconds.sort()
    lossMilliseconds.sort()
  }

  /// - Parameter share: 0.5 for the median; `values` ascend.
  package static func quantile(_ values: [Int64], _ share: Double) -> Int64 {
    values.isEmpty ? 0 : values[min(values.count - 1, Int(Double(values.count) * share))]
  }
}
