import Catalog
import Core

/// When each run through a workflow is due: decided before it begins, so that a server that stalls doesn't put off those
/// that would have met the stall.
package struct Schedule: Sendable, Equatable {
  /// Per second.
  private let rate: Double
  private let ramp: Double
  private let end: Double?
  private let limit: Int

  /// - Parameter load: With a rate.
  package init(_ load: LoadWorkflow.Load, rate: LoadWorkflow.Rate) {
    self.rate = rate.perSecond
    ramp = load.ramp.seconds
    end = load.duration.map { ($0 + load.warmUp).seconds }
    limit = load.iterations ?? .max
  }

  /// - Returns: How long after the beginning; `nil` when there are no more.
  package func due(_ number: Int) -> Duration? {
    guard number < limit else { return nil }
    // While the rate grows evenly from nothing, its integral is a square; half of the ramp's runs are lost to it.
    let inRamp = rate * ramp / 2
    let seconds =
      Double(number) < inRamp
      ? (2 * ramp * Double(number) / rate).squareRoot() : ramp + (Double(number) - inRamp) / rate
    if let end, seconds >= end { return nil }
    return .nanoseconds(Int64((seconds * 1e9).rounded()))
  }
}
