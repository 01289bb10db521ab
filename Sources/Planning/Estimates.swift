import Catalog
import Core

/// What steps take, by what they took: the median of the newest runs, scaled by size where bytes are moved.
struct Estimates {
  struct Estimate: Equatable {
    var seconds: Double?
    var basis: String
  }

  private struct Key: Hashable {
    var action: RestoreAction
    var store: StoreName?
    var service: ServiceName?

    /// A store says enough: whose it is may change, and its history stays.
    init(_ action: RestoreAction, store: StoreName?, service: ServiceName?) {
      (self.action, self.store, self.service) = (action, store, store == nil ? service : nil)
    }
  }

  /// Enough for a median that one slow night does not move, few enough to follow a machine that was replaced.
  private static let runsLookedAt = 9

  private let runs: [Key: [Measurement]]
  private let quantile: Double

  init(_ history: [Measurement], quantile: Double = 0.5) {
    self.quantile = quantile
    var runs: [Key: [Measurement]] = [:]
    for run in history where run.seconds.isFinite && run.seconds >= 0 {
      runs[Key(run.action, store: run.store, service: run.service), default: []].append(run)
    }
    self.runs = runs.mapValues { runs in
      Array(runs.sorted { ($0.at, $0.seconds) > ($1.at, $1.seconds) }.prefix(Self.runsLookedAt))
    }
  }

  func estimate(_ step: StepGraph.Step, bytes: Int64?) -> Estimate {
    let key = Key(step.action, store: step.store, service: step.service)
    guard let runs = runs[key], !runs.isEmpty else { return Estimate(seconds: nil, basis: "no history yet") }
    let share = quantile == 0.5 ? "median" : "\(Int((quantile * 100).rounded())) %"
    let count = runs.count == 1 ? "1 run" : "\(share) of \(runs.count) runs"
    if let bytes, bytes > 0, step.action == .restoreBeside || step.action == .validateBeside {
      let paces = runs.compactMap { run in run.bytes.flatMap { $0 > 0 ? run.seconds / Double($0) : nil } }
      if paces.count == runs.count {
        return Estimate(seconds: value(paces) * Double(bytes), basis: "\(count), by size")
      }
    }
    return Estimate(seconds: value(runs.map(\.seconds)), basis: count)
  }

  private func value(_ values: [Double]) -> Double {
    quantile == 0.5 ? median(values) : values.sorted()[min(values.count - 1, Int((Double(values.count) * quantile)))]
  }
}

/// Of at least one value; of an even number, the mean of the middle two.
private func median(_ values: [Double]) -> Double {
  let sorted = values.sorted()
  let middle = sorted.count / 2
  return sorted.count.isMultiple(of: 2) ? (sorted[middle - 1] + sorted[middle]) / 2 : sorted[middle]
}
