import Core
import Synchronization

/// What background writers did, on the machine's steady clock.
package final class WriteLog: Sendable {
  package struct Write: Sendable {
    package var number: Int64
    package var began: Int64
    /// `nil` until the store has acknowledged it.
    package var acknowledged: Int64?
  }

  private struct State {
    var writes: [Int64: Write] = [:]
    var failure: String?
    var isStopped = false
  }

  private let state = Mutex(State())
  private let time = SystemTime()

  package init() {}

  package func now() -> Int64 { time.monotonicNanoseconds() }

  package var writes: [Write] { state.withLock { Array($0.writes.values) } }
  package var failure: String? { state.withLock { $0.failure } }
  package var isStopped: Bool { state.withLock { $0.isStopped } }
  package var acknowledgedCount: Int { writes.count { $0.acknowledged != nil } }

  /// The longest time a single write waited.
  package var longestWait: Duration {
    .nanoseconds(writes.compactMap { write in write.acknowledged.map { $0 - write.began } }.max() ?? 0)
  }

  package func stop() { state.withLock { $0.isStopped = true } }

  /// Writes one record of the fixture's and notes when it began and when it was acknowledged.
  package func write(_ number: Int64, to fixture: some DriverFixture) async {
    let began = now()
    state.withLock { $0.writes[number] = Write(number: number, began: began) }
    do {
      try await fixture.write(number, payload: Payload.of(number))
      let acknowledged = now()
      state.withLock { $0.writes[number]?.acknowledged = acknowledged }
    } catch {
      state.withLock { $0.failure = "write \(number): \(error)" }
    }
  }

  /// Returns once `count` more writes have been acknowledged than were when it was called.
  ///
  /// - Throws: ``ContractBroken`` if that takes longer than `limit`, or a write failed.
  package func waitForWrites(_ count: Int, within limit: Duration = .seconds(15), _ what: String) async throws {
    let goal = acknowledgedCount + count
    let deadline = now() + limit.wholeNanoseconds
    while acknowledgedCount < goal {
      if let failure { throw ContractBroken("\(what): a write failed instead of waiting: \(failure)") }
      try promise(now() < deadline, "\(what): no write was acknowledged within \(limit.brief)")
      try await time.sleep(for: .milliseconds(5))
    }
  }
}

/// Runs `body` while several writers write one record after the other, and ends them.
///
/// - Parameter series: Another for each time that writers run on one store, so that no number comes twice.
package func withWriters<Fixture: DriverFixture, T>(
  to fixture: Fixture, count: Int = 3, series: Int = 0, _ body: (WriteLog) async throws -> T
) async throws -> T {
  let log = WriteLog()
  return try await withThrowingTaskGroup(of: Void.self) { group in
    for writer in 1...count {
      group.addTask {
        var number = Int64(series * 100 + writer) * 1_000_000
        while !log.isStopped, log.failure == nil {
          number += 1
          await log.write(number, to: fixture)
          // A cancelled body must not stop the writers: they are the world outside.
          try? await SystemTime().sleep(for: .milliseconds(1))
        }
      }
    }
    do {
      try await log.waitForWrites(count * 3, "before the capture")
      let result = try await body(log)
      log.stop()
      try await group.waitForAll()
      if let failure = log.failure { throw ContractBroken("a write failed: \(failure)") }
      return result
    } catch {
      log.stop()
      throw error
    }
  }
}
