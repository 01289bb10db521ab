import Core
import DriverKit

/// Where the server's clock stands against ours, between two bounds: told from the `Date` of its answers, which has whole
/// seconds, by asking until the second changes.
struct ServerClock: Sendable, Equatable {
  /// The server's nanoseconds since 1970 less our monotonic ones.
  private(set) var least = Int64.min / 4
  private(set) var most = Int64.max / 4
  /// Ours, when it was last looked at.
  private var seenAt: Int64 = 0
  /// Whether two answers could not both be right: several servers, with clocks of their own.
  private(set) var isTorn = false

  /// Clocks of one second differ by less than this after another: one in a thousand.
  private static let drift: Int64 = 1000

  var width: Int64 { most - least }

  /// - Parameters:
  ///   - date: What an answer said, in whole seconds.
  ///   - began: Our clock before the request.
  ///   - ended: Our clock after the answer.
  mutating func saw(_ date: Timestamp, began: Int64, ended: Int64) {
    seenAt = ended
    // The server's clock stood in [date, date + 1 s) at some moment between the two.
    let (low, high) = (date.nanoseconds - ended, date.nanoseconds + 1_000_000_000 - began)
    if low > most || high < least {
      isTorn = true
      (least, most) = (min(least, low), max(most, high))
    } else if !isTorn {
      (least, most) = (max(least, low), min(most, high))
    } else {
      (least, most) = (min(least, low), max(most, high))
    }
  }

  /// The server's clock at one of our moments: no earlier and no later than this.
  func bounds(at now: Int64, skew: Duration) -> (earliest: Int64, latest: Int64) {
    let slack = max(0, now - seenAt) / Self.drift + skew.wholeNanoseconds
    return (now + least - slack, now + most + slack)
  }

  /// The last moment of the server's clock that may have been reached at `now`, rounded up to where its times of objects are
  /// told apart: what is at or before it may have been acknowledged by now, what comes after that moment has passed is not.
  func cut(at now: Int64, skew: Duration, hasFractions: Bool) -> Timestamp {
    let latest = bounds(at: now, skew: skew).latest
    if hasFractions { return Timestamp(nanoseconds: latest) }
    return Timestamp(nanoseconds: (latest / 1_000_000_000 + 1) * 1_000_000_000 - 1)
  }

  /// `Sun, 06 Nov 1994 08:49:37 GMT`. Source: RFC 9110, section 5.6.7.
  static func date(_ text: String?) -> Timestamp? {
    guard let text,
      let match = text.wholeMatch(of: /[A-Z][a-z]{2}, (\d{2}) ([A-Z][a-z]{2}) (\d{4}) (\d{2}:\d{2}:\d{2}) GMT/),
      let month = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
      ].firstIndex(of: String(match.2))
    else { return nil }
    let number = month + 1
    return Timestamp("\(match.3)-\(number < 10 ? "0" : "")\(number)-\(match.1)T\(match.4)Z")
  }
}
