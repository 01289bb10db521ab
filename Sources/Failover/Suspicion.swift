import Catalog
import Core
import DriverKit

#if canImport(Glibc)
  import Glibc
#endif

/// How unlikely it is that a member which hasn't answered for so long is still well.
///
/// Source: Hayashibara, Défago, Yared and Katayama, "The φ Accrual Failure Detector", 2004; the normal distribution's
/// tail by the logistic approximation of Bowling et al., 2009.
package struct Suspicion: Sendable, Equatable {
  /// Milliseconds between answers, the newest last; bounded.
  private var intervals: [Int64] = []
  private var cursor = 0
  private var sum: Int64 = 0
  private var squares: Int64 = 0
  private var last: Int64?

  private static let limit = 64

  package init() {}

  /// An answer came.
  package mutating func answered(at milliseconds: Int64) {
    if let last {
      // A long silence that ended says nothing about how long silences usually are.
      let interval = min(max(0, milliseconds - last), 2000)
      if intervals.count < Self.limit {
        intervals.append(interval)
      } else {
        (sum, squares) = (sum - intervals[cursor], squares - intervals[cursor] * intervals[cursor])
        intervals[cursor] = interval
        cursor = (cursor + 1) % Self.limit
      }
      (sum, squares) = (sum + interval, squares + interval * interval)
    }
    last = milliseconds
  }

  /// Forgets the silence, not the habit: the observer itself was away.
  package mutating func excuse(at milliseconds: Int64) { if last != nil { last = milliseconds } }

  /// In thousandths; `nil` before there is a habit to judge by.
  package func thousandths(at milliseconds: Int64, expecting interval: Int64) -> Int? {
    guard let last, intervals.count >= 3 else { return nil }
    let count = Double(intervals.count)
    let mean = max(Double(sum) / count, Double(interval))
    let variance = max(0, Double(squares) / count - (Double(sum) / count) * (Double(sum) / count))
    let deviation = max(variance.squareRoot(), Double(interval) / 2)
    let y = (Double(milliseconds - last) - mean) / deviation
    if y <= 0 { return 0 }
    // -log10(1 - F(y)), kept from overflowing where the tail is too small for a Double.
    let exponent = y * (1.5976 + 0.070566 * y * y)
    let phi = exponent > 300 ? exponent / 2.302585092994046 : log10(1 + exp(exponent))
    return Int((min(phi, 100) * 1000).rounded())
  }
}

extension FailoverPolicy {
  /// What an observer makes of what it saw of the primary.
  package func verdict(on member: MemberFacts, late: Int64) -> Verdict {
    if late > signals.doubt.wholeMilliseconds { return .unknown }
    switch member.sight {
    case .serves?: return .up
    case .refused?: return member.forMilliseconds >= signals.refusedDwell.wholeMilliseconds ? .down : .suspect
    case .answers?: return member.forMilliseconds >= signals.dwell.wholeMilliseconds ? .down : .suspect
    case .silent?:
      guard let phi = member.suspicionThousandths else { return .unknown }
      guard phi >= signals.suspicionThousandths else { return .up }
      return (member.suspectedMilliseconds ?? 0) >= signals.dwell.wholeMilliseconds ? .down : .suspect
    case nil: return .unknown
    }
  }
}

extension Duration {
  package var wholeMilliseconds: Int64 { wholeNanoseconds / 1_000_000 }
}
