import Catalog
import Core

/// What would bring a service back sooner, by how much.
package struct ObjectiveAdvice: Sendable, Equatable, Codable {
  package var change: String
  /// Seconds that the service would be back sooner.
  package var gainSeconds: Double

  package init(change: String, gainSeconds: Double) { (self.change, self.gainSeconds) = (change, gainSeconds) }
}

extension RestorePlan {
  /// What to change so that `service` is back sooner, most effect first; what gains less than a tenth of a second is left
  /// out.
  ///
  /// Pure: each change is tried on the plan itself. O(*steps* · plan).
  package static func advice(for service: ServiceName, _ input: PlanInput) -> [ObjectiveAdvice] {
    let plan = make(input)
    func seconds(_ input: PlanInput) -> Double? {
      make(input).predictions.first { $0.service == service }?.seconds
    }
    guard let now = seconds(input) else { return [] }
    var advice: [ObjectiveAdvice] = []
    func consider(_ change: String, _ tried: PlanInput) {
      guard let then = seconds(tried), now - then >= 0.1 else { return }
      advice.append(ObjectiveAdvice(change: change, gainSeconds: now - then))
    }
    var wider = input
    wider.limits.parallelCopies = max(1, plan.stores.count)
    if wider.limits.parallelCopies > input.limits.parallelCopies {
      consider("restore all \(plan.stores.count) stores at once, not \(input.limits.parallelCopies)", wider)
    }
    if input.limits.bandwidthBytesPerSecond != nil {
      var open = input
      open.limits.bandwidthBytesPerSecond = nil
      consider("take the limit off the bandwidth", open)
    }
    for step in plan.steps where (step.predictedSeconds ?? 0) > 0 {
      var faster = input
      for index in faster.history.indices {
        let run = faster.history[index]
        let isSame =
          run.action == step.action && run.store == step.store && (step.store != nil || run.service == step.service)
        if isSame { faster.history[index].seconds = run.seconds / 2 }
      }
      consider("halve \(step.id), which takes \(Duration.seconds(step.predictedSeconds ?? 0).brief)", faster)
    }
    return advice.sorted { ($1.gainSeconds, $0.change) < ($0.gainSeconds, $1.change) }
  }
}
