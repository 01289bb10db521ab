import Catalog
import Core

/// How a service's restores go over time: slower or not, and where the time goes.
package struct DrillTrend: Sendable, Equatable, Codable {
  package var service: ServiceName
  /// Honest drills in which it came back.
  package var runs: Int
  package var newestSeconds: Double?
  /// Of the five before the newest.
  package var beforeSeconds: Double?
  /// By so much longer than before that chance does not explain it: a quarter, and a second.
  package var isRegression: Bool
  /// The step of the newest run that took longest, and its share of the service's time.
  package var bottleneck: String?
  package var bottleneckShare: Double?

  package init(of service: ServiceName, _ records: some Sequence<DrillRecord>) {
    self.service = service
    let runs = records.filter { record in
      record.control == nil && record.verdict == .passed
        && record.results.contains { $0.service == service && $0.rtoSeconds != nil }
    }.sorted { ($0.finishedAt, $0.id) < ($1.finishedAt, $1.id) }
    let seconds = runs.compactMap { run in run.results.first { $0.service == service }?.rtoSeconds }
    self.runs = runs.count
    newestSeconds = seconds.last
    let before = Array(seconds.dropLast().suffix(5))
    beforeSeconds = before.isEmpty ? nil : Statistics.median(before)
    isRegression =
      if let newestSeconds, let beforeSeconds {
        newestSeconds > beforeSeconds * 1.25 && newestSeconds > beforeSeconds + 1
      } else {
        false
      }
    let own = runs.last?.steps.filter { $0.service == service } ?? []
    if let longest = own.max(by: { ($0.seconds, $1.step) < ($1.seconds, $0.step) }) {
      bottleneck = longest.step
      let all = own.reduce(0) { $0 + $1.seconds }
      bottleneckShare = all > 0 ? longest.seconds / all : nil
    }
  }
}

/// How far predictions were off.
package struct PredictionScore: Sendable, Equatable, Codable {
  /// Services' restores that were predicted from at least ``knownRuns`` runs, and measured.
  package var compared: Int
  /// Of |predicted − measured| / measured; `nil` without any.
  package var medianError: Double?
  package var worstError: Double?

  /// From when on a prediction counts.
  package static let knownRuns = 5

  package init(_ records: some Sequence<DrillRecord>) {
    var known: [ServiceName: Int] = [:]
    var errors: [Double] = []
    for record in records.sorted(by: { ($0.startedAt, $0.id) < ($1.startedAt, $1.id) })
    where record.control == nil && record.verdict == .passed {
      for result in record.results {
        guard let measured = result.rtoSeconds, measured > 0 else { continue }
        if let predicted = result.predictedSeconds, known[result.service, default: 0] >= Self.knownRuns {
          errors.append(abs(predicted - measured) / measured)
        }
        known[result.service, default: 0] += 1
      }
    }
    compared = errors.count
    medianError = errors.isEmpty ? nil : Statistics.median(errors)
    worstError = errors.max()
  }
}

package enum Statistics {
  /// Of at least one value; of an even number, the mean of the middle two.
  package static func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    let middle = sorted.count / 2
    return sorted.count.isMultiple(of: 2) ? (sorted[middle - 1] + sorted[middle]) / 2 : sorted[middle]
  }
}
