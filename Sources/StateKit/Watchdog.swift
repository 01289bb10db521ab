import Core

/// Resets the machine unless it is fed: what ends an engine whose agent can't.
///
/// Calls return at once; one that can't is as good as none, for then nothing is fed.
package protocol Watchdog: Sendable {
  /// From here on the machine is reset once so much time has passed without ``feed()``, also if this process is gone.
  ///
  /// - Throws: ``WatchdogError``, and nothing is armed, if it can't be had at so short a time.
  func arm(_ timeout: Duration) throws(WatchdogError)

  func feed() throws(WatchdogError)

  /// Nothing is reset any more. Fine if it isn't armed.
  func disarm() throws(WatchdogError)
}

/// Why a watchdog can't be relied on.
package enum WatchdogError: Failure, Equatable {
  case unusable(String, String)

  package var report: Report {
    switch self {
    case .unusable(let path, let why):
      Report("FAILOVER-110", "the watchdog \(path) can't be used: \(why)")
        .state("nothing resets this machine if its agent stands still")
        .remedy("see docs/operating/failover.md, \"A watchdog\"")
    }
  }
}
