import Catalog
import Core
import DriverKit

extension FailoverPolicy {
  /// How long an agent may stand still before its machine is reset: less than others wait before they take its engine for
  /// ended. In bounded mode that is a quarter of the bound; otherwise what the lease store and standbys are trusted for.
  package var watchdogTimeout: Duration {
    guard isBounded, let lossBound else { return budgets.trust }
    return min(budgets.trust, lossBound.duration / 4)
  }
}

/// When a machine's watchdog is armed, fed and let go. Performs nothing itself.
///
/// It is armed while the engine is a primary, and fed at every look that finds nothing against that. What must be ended and
/// isn't is starved, and so is one that nothing has been heard of: then the machine is reset.
package struct WatchdogFeed: Sendable, Equatable {
  package enum Action: Sendable, Equatable { case nothing, arm, feed, disarm, starve }

  package private(set) var isArmed = false
  private let patienceMilliseconds: Int64

  package init(_ policy: FailoverPolicy) { patienceMilliseconds = policy.budgets.trust.wholeMilliseconds }

  /// - Parameters:
  ///   - engine: As it was heard of last; `nil` if never.
  ///   - age: How long ago that was, in milliseconds.
  ///   - duty: What the same look came to.
  package mutating func looked(_ engine: EngineFacts?, age: Int64, duty: MemberDuty?) -> Action {
    guard let engine else { return .nothing }
    guard engine.role == .primary else {
      defer { isArmed = false }
      return isArmed ? .disarm : .nothing
    }
    if case .stop? = duty { return .starve }
    if age > patienceMilliseconds { return .starve }
    defer { isArmed = true }
    return isArmed ? .feed : .arm
  }

  /// It couldn't be armed after all.
  package mutating func refused() { isArmed = false }
}
