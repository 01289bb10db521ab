import Core

/// How often, and after which pauses, a step is tried again.
package struct RetryPolicy: Sendable, Equatable {
  /// Tries in all, the first included.
  package var attempts: Int
  /// Pause before the second try.
  package var first: Duration
  /// Each pause is this many times the one before.
  package var factor: Double
  /// No pause is longer.
  package var longest: Duration
  /// 0 to 1: how much of a pause is left to chance, so that many who failed together don't return together.
  package var jitter: Double
  /// How long one try may take; `nil` is as long as it likes.
  package var attemptLimit: Duration?

  package init(
    attempts: Int, first: Duration, factor: Double = 2, longest: Duration = .seconds(60), jitter: Double = 0.2,
    attemptLimit: Duration? = nil
  ) {
    (self.attempts, self.first, self.factor, self.longest) = (attempts, first, factor, longest)
    (self.jitter, self.attemptLimit) = (jitter, attemptLimit)
  }

  package static let once = RetryPolicy(attempts: 1, first: .zero)

  package static func exponential(
    first: Duration = .seconds(1), attempts: Int = 4, attemptLimit: Duration? = nil
  ) -> RetryPolicy {
    RetryPolicy(attempts: attempts, first: first, attemptLimit: attemptLimit)
  }

  /// The pause after `tries` failed tries; `nil` if there is no point or no try left.
  package func pause(after tries: Int, _ report: Report, randomness: any Randomness) -> Duration? {
    guard tries >= 1, tries < attempts, report.retry == .afterBackoff else { return nil }
    var seconds = first.seconds
    for _ in 1..<max(1, min(tries, 64)) { seconds *= factor }
    seconds = min(max(0, seconds), longest.seconds)
    let chance = Double(randomness.next() >> 11) / 9_007_199_254_740_992
    return .seconds(seconds * (1 - jitter * chance))
  }
}
