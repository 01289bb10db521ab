import Core

#if canImport(Glibc)
  import Glibc
#endif

/// Time whose sleep goes on in a cancelled task; for cleaning up only, in small pieces.
package struct UncancelledTime: Timekeeper {
  private let time: any Timekeeper
  private let pool: BlockingPool

  package init(_ time: any Timekeeper, pool: BlockingPool = .shared) { (self.time, self.pool) = (time, pool) }

  package func now() -> Timestamp { time.now() }
  package func monotonicNanoseconds() -> Int64 { time.monotonicNanoseconds() }

  package func sleep(for duration: Duration) async throws {
    guard Task.isCancelled else { return try await time.sleep(for: duration) }
    let microseconds = UInt32(
      clamping: duration.components.seconds * 1_000_000 + duration.components.attoseconds / 1_000_000_000_000)
    await pool.run { _ = usleep(microseconds) }
  }
}
