import Core
import StateKit

/// Keeps this process's claim on a run alive, and throws the moment the claim is lost.
actor LeaseKeeper {
  private(set) var lease: Lease
  private let journal: any RunJournal
  private let time: any Timekeeper

  init(_ lease: Lease, journal: any RunJournal, time: any Timekeeper) {
    (self.lease, self.journal, self.time) = (lease, journal, time)
  }

  /// Renews until cancelled.
  ///
  /// A journal that doesn't answer is asked again until the claim lapses; after that somebody else may act.
  ///
  /// - Throws: `CancellationError`, or why the claim is lost.
  func hold() async throws {
    var pause = lease.period / 3
    while true {
      try await time.sleep(for: pause)
      do {
        let renewed = try await journal.renew(lease)
        // `lease` may have moved during the await: never set its fence back.
        if renewed.fence >= lease.fence { lease = renewed }
        pause = lease.period / 3
      } catch {
        guard error.report.retry == .afterBackoff, time.now() < lease.expiresAt else { throw error }
        pause = lease.period / 10
      }
    }
  }
}
