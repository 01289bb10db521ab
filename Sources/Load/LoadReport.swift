import Catalog
import Core

/// What going through a workflow came to.
package struct LoadReport: Sendable, Equatable, Codable {
  /// Durations, in nanoseconds, each at most 1 % off.
  package struct Latency: Sendable, Equatable, Codable {
    package var mean: Int64
    package var p50: Int64
    package var p90: Int64
    package var p95: Int64
    package var p99: Int64
    package var p999: Int64
    package var max: Int64

    /// `nil` of nothing.
    package init?(_ histogram: Histogram) {
      func at(_ percentile: LoadWorkflow.Bounds.Percentile) -> Int64 { histogram.value(at: percentile.quantile) ?? 0 }
      guard histogram.count > 0 else { return nil }
      mean = Int64(histogram.mean.rounded())
      (p50, p90, p95, p99, p999, max) = (at(.p50), at(.p90), at(.p95), at(.p99), at(.p999), at(.max))
    }

    package subscript(percentile: LoadWorkflow.Bounds.Percentile) -> Int64 {
      switch percentile {
      case .p50: p50
      case .p90: p90
      case .p95: p95
      case .p99: p99
      case .p999: p999
      case .max: max
      }
    }
  }

  package struct Step: Sendable, Equatable, Codable {
    package var name: CheckName
    package var passed: Int64
    package var failed: Int64
    /// Of those that passed; the first step's from the moment its run was due.
    package var latency: Latency?
  }

  /// One way in which steps failed, however often.
  package struct Failed: Sendable, Equatable, Codable {
    package var step: CheckName
    package var why: String
    package var count: Int64
  }

  package var workflow: WorkflowName
  package var effects: LoadWorkflow.Effects
  /// The same choices again, with the same seed.
  package var seed: UInt64
  package var startedAt: Timestamp
  package var durationNanoseconds: Int64
  /// `20/s`; `nil` for a closed loop.
  package var rate: String?
  package var users: Int
  /// Runs through it that counted.
  package var passed: Int64
  package var failed: Int64
  /// Begun in the warm-up.
  package var uncounted: Int64
  /// Begun more than 10 ms after they were due, for all users were busy, or this machine was.
  package var late: Int64
  /// Of those that passed, from the moment they were due.
  package var latency: Latency?
  package var steps: [Step]
  /// The most frequent first.
  package var failures: [Failed]
  package var isStoppedEarly: Bool
  /// What was expected and did not hold; empty if all did.
  package var violations: [String]

  package var counted: Int64 { passed + failed }
  package var failedShare: Double { counted == 0 ? 0 : Double(failed) / Double(counted) }
  /// Nothing counted: that is no pass.
  package var isMeasured: Bool { counted > 0 }
  package var isPassed: Bool { isMeasured && violations.isEmpty }

  /// One line for a person.
  package var summary: String {
    guard isMeasured else { return "nothing was measured" }
    var text = "\(counted) runs, \(Self.percent(failedShare)) failed"
    if let latency {
      text += ", p50 \(Self.brief(latency.p50)), p95 \(Self.brief(latency.p95)), p99 \(Self.brief(latency.p99))"
      text += ", max \(Self.brief(latency.max))"
    }
    return text
  }

  package static func brief(_ nanoseconds: Int64) -> String { Duration.nanoseconds(nanoseconds).brief }

  package static func percent(_ share: Double) -> String {
    let hundredths = Int64((share * 10_000).rounded())
    // What is more than nothing isn't shown as nothing.
    if hundredths == 0, share > 0 { return "less than 0.01 %" }
    let (whole, rest) = hundredths.quotientAndRemainder(dividingBy: 100)
    return rest == 0 ? "\(whole) %" : "\(whole).\(rest < 10 ? "0" : "")\(rest) %"
  }

  /// What of `bounds` doesn't hold.
  package func broken(_ bounds: LoadWorkflow.Bounds) -> [String] {
    guard isMeasured else { return ["nothing was measured"] }
    var result: [String] = []
    if failedShare * 1_000_000 > Double(bounds.failedPerMillion) {
      var text = "\(failed) of \(counted) failed (\(Self.percent(failedShare)))"
      text += " instead of at most \(Self.percent(Double(bounds.failedPerMillion) / 1_000_000))"
      if let worst = failures.first { text += ": \(worst.step): \(worst.why)" }
      result.append(text)
    } else if isStoppedEarly {
      result.append("it was stopped: too much failed")
    }
    for percentile in LoadWorkflow.Bounds.Percentile.allCases {
      guard let limit = bounds.latencies[percentile] else { continue }
      guard let latency else {
        result.append("\(percentile.rawValue) is unknown: none passed")
        continue
      }
      if latency[percentile] > limit.wholeNanoseconds {
        result.append("\(percentile.rawValue) is \(Self.brief(latency[percentile])) instead of at most \(limit.brief)")
      }
    }
    return result
  }
}
