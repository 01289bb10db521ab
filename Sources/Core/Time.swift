import Synchronization

/// All time there is. Acts, engine and adapters ask this and nothing else, so that a simulation can own it.
package protocol Timekeeper: Sendable {
  /// The wall clock; may step.
  func now() -> Timestamp
  /// Nanoseconds on a clock that never steps; only differences mean anything.
  func monotonicNanoseconds() -> Int64
  /// - Throws: `CancellationError` as soon as the task is cancelled.
  func sleep(for duration: Duration) async throws
}

extension Timekeeper {
  /// How long `body` took on the clock that never steps.
  package func measure<T>(
    isolation: isolated (any Actor)? = #isolation, _ body: () async throws -> T
  ) async rethrows -> (T, Duration) {
    let start = monotonicNanoseconds()
    let result = try await body()
    return (result, .nanoseconds(monotonicNanoseconds() - start))
  }

  /// Runs `body`, and cancels it when `limit` has passed.
  ///
  /// - Throws: ``TimeLimitExceeded`` if the limit came first; whatever `body` throws otherwise.
  package func withTimeLimit<T: Sendable>(
    _ limit: Duration, _ body: @escaping @Sendable () async throws -> T
  ) async throws -> T {
    try await withThrowingTaskGroup(of: T?.self) { group in
      group.addTask { try await body() }
      group.addTask {
        try await sleep(for: limit)
        return nil
      }
      defer { group.cancelAll() }
      guard let first = try await group.next(), let value = first else { throw TimeLimitExceeded(limit: limit) }
      return value
    }
  }
}

package struct TimeLimitExceeded: Failure {
  package let limit: Duration
  package init(limit: Duration) { self.limit = limit }
  package var report: Report { Report("CORE-003", "took longer than \(limit.brief)", retry: .afterBackoff) }
}

/// The machine's clocks.
package struct SystemTime: Timekeeper {
  package init() {}

  package func now() -> Timestamp {
    var value = timespec()
    clock_gettime(CLOCK_REALTIME, &value)
    return Timestamp(seconds: Int64(value.tv_sec), nanoseconds: Int64(value.tv_nsec))
  }

  package func monotonicNanoseconds() -> Int64 {
    var value = timespec()
    clock_gettime(CLOCK_MONOTONIC, &value)
    return Int64(value.tv_sec) * 1_000_000_000 + Int64(value.tv_nsec)
  }

  package func sleep(for duration: Duration) async throws { try await Task.sleep(for: duration) }
}

/// Time that passes only when everyone waits for it.
///
/// Sleepers are woken in order of their deadline, then of their arrival, one at a time, whenever
/// ``advance()`` is called; a simulation calls it when its executor has nothing left to run.
package final class SimulatedTime: Timekeeper {
  private struct Sleeper {
    var deadline: Int64
    var arrival: UInt64
    var continuation: CheckedContinuation<Void, any Error>
  }

  private struct State {
    var elapsed: Int64 = 0
    var arrivals: UInt64 = 0
    var sleepers: [Sleeper] = []
    var cancelled: Set<UInt64> = []
  }

  private let epoch: Timestamp
  private let state = Mutex(State())

  package init(epoch: Timestamp = Timestamp(seconds: 1_800_000_000)) { self.epoch = epoch }

  package func now() -> Timestamp { epoch + .nanoseconds(state.withLock { $0.elapsed }) }

  package func monotonicNanoseconds() -> Int64 { state.withLock { $0.elapsed } }

  package func sleep(for duration: Duration) async throws {
    let id = state.withLock { state in
      state.arrivals += 1
      return state.arrivals
    }
    try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
        let alreadyCancelled = state.withLock { state in
          if state.cancelled.remove(id) != nil || Task.isCancelled { return true }
          state.sleepers.append(
            Sleeper(
              deadline: state.elapsed + max(0, duration.wholeNanoseconds), arrival: id, continuation: continuation))
          return false
        }
        if alreadyCancelled { continuation.resume(throwing: CancellationError()) }
      }
    } onCancel: {
      let sleeper = state.withLock { state -> Sleeper? in
        guard let index = state.sleepers.firstIndex(where: { $0.arrival == id }) else {
          state.cancelled.insert(id)
          return nil
        }
        return state.sleepers.remove(at: index)
      }
      sleeper?.continuation.resume(throwing: CancellationError())
    }
  }

  /// Moves time to the next deadline and wakes who waited for it.
  ///
  /// - Returns: `false` if nobody sleeps.
  @discardableResult
  package func advance() -> Bool {
    let next = state.withLock { state -> Sleeper? in
      guard
        let index = state.sleepers.indices.min(by: {
          (state.sleepers[$0].deadline, state.sleepers[$0].arrival)
            < (state.sleepers[$1].deadline, state.sleepers[$1].arrival)
        })
      else { return nil }
      let sleeper = state.sleepers.remove(at: index)
      state.elapsed = max(state.elapsed, sleeper.deadline)
      return sleeper
    }
    next?.continuation.resume()
    return next != nil
  }

  /// Lets time pass without waking anyone who is not due: what a slow computation or a stall costs.
  package func elapse(_ duration: Duration) {
    state.withLock { $0.elapsed += max(0, duration.wholeNanoseconds) }
  }
}

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif
