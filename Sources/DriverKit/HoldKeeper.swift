import Core
import Foundation
import Glibc
import Synchronization

/// Keeps a lock that this process holds itself, and lets go of it when its limit has passed.
///
/// For stores whose hold is a lock in the file system: SQLite's write lock, flock(2). A thread of its own takes the lock,
/// waits for ``release()`` or the limit, and lets go; so the limit is kept though nobody asks, without a task that
/// nobody waits for. The lock goes with the process.
package final class HoldKeeper: Sendable {
  private enum Phase { case idle, acquiring, held, over }

  /// Guarded by `mutex`; `changed` waits on the clock that never steps.
  private final class Shared: @unchecked Sendable {
    var phase = Phase.idle
    var mustEnd = false
    var hasLapsed = false
    var waiting: [CheckedContinuation<Bool, Never>] = []
    let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    let changed = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    init() {
      pthread_mutex_init(mutex, nil)
      var attributes = pthread_condattr_t()
      pthread_condattr_init(&attributes)
      pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
      pthread_cond_init(changed, &attributes)
      pthread_condattr_destroy(&attributes)
    }

    deinit {
      pthread_cond_destroy(changed)
      pthread_mutex_destroy(mutex)
      mutex.deallocate()
      changed.deallocate()
    }

    func locked<T>(_ body: () -> T) -> T {
      pthread_mutex_lock(mutex)
      defer { pthread_mutex_unlock(mutex) }
      return body()
    }

    /// With the mutex held: sleeps until `deadline` or until somebody changes something.
    func wait(until deadline: Int64) {
      var time = timespec(tv_sec: Int(deadline / 1_000_000_000), tv_nsec: Int(deadline % 1_000_000_000))
      pthread_cond_timedwait(changed, mutex, &time)
    }

    func end() {
      locked {
        mustEnd = true
        pthread_cond_broadcast(changed)
      }
    }
  }

  private let shared = Shared()

  package init() {}

  /// Takes the lock within `limit` and keeps it until ``release()``, or until `limit` has passed since this call.
  ///
  /// Called once. Both closures run on the keeper's thread, where they may block.
  ///
  /// - Parameters:
  ///   - retryEvery: The pause between two tries.
  ///   - acquire: Tries once, without waiting; `false` if somebody else has the lock.
  ///   - letGo: Called exactly once if `acquire` said `true`.
  /// - Throws: ``DriverError/holdTimeout(_:)``, ``DriverError/cancelled``, or what `acquire` throws; nothing is held then.
  package func hold(
    limit: Duration, retryEvery: Duration, acquire: @escaping @Sendable () throws(DriverError) -> Bool,
    letGo: @escaping @Sendable () -> Void
  ) async throws(DriverError) {
    let shared = shared
    let start = SystemTime().monotonicNanoseconds()
    let (sum, overflow) = start.addingReportingOverflow(max(0, limit.wholeNanoseconds))
    let deadline = overflow ? Int64.max : sum
    let pause = max(100_000, retryEvery.wholeNanoseconds)
    let result = await withTaskCancellationHandler {
      await withCheckedContinuation { (taken: CheckedContinuation<Result<Void, DriverError>, Never>) in
        let thread = Thread {
          Self.keep(shared, deadline, pause, limit, acquire, letGo, taken)
        }
        thread.name = "salvor-hold"
        shared.locked { shared.phase = .acquiring }
        thread.start()
      }
    } onCancel: {
      let isAcquiring = shared.locked { shared.phase == .idle || shared.phase == .acquiring }
      if isAcquiring { shared.end() }
    }
    try result.get()
  }

  private static func keep(
    _ shared: Shared, _ deadline: Int64, _ pause: Int64, _ limit: Duration,
    _ acquire: () throws(DriverError) -> Bool, _ letGo: () -> Void,
    _ taken: CheckedContinuation<Result<Void, DriverError>, Never>
  ) {
    let clock = SystemTime()
    var failure: DriverError?
    do throws(DriverError) {
      while true {
        let isLate = clock.monotonicNanoseconds() >= deadline
        let mustEnd = shared.locked { shared.mustEnd }
        if mustEnd { throw .cancelled }
        if isLate { throw .holdTimeout(limit) }
        if try acquire() { break }
        shared.locked {
          if !shared.mustEnd { shared.wait(until: min(deadline, clock.monotonicNanoseconds() + pause)) }
        }
      }
      let isTooLate = shared.locked {
        if shared.mustEnd || clock.monotonicNanoseconds() >= deadline { return true }
        shared.phase = .held
        return false
      }
      if isTooLate {
        letGo()
        throw shared.locked { shared.mustEnd } ? .cancelled : .holdTimeout(limit)
      }
    } catch {
      failure = error
    }
    if let failure {
      finish(shared)
      return taken.resume(returning: .failure(failure))
    }
    taken.resume(returning: .success(()))
    shared.locked {
      while !shared.mustEnd, clock.monotonicNanoseconds() < deadline { shared.wait(until: deadline) }
      shared.hasLapsed = !shared.mustEnd
    }
    letGo()
    finish(shared)
  }

  private static func finish(_ shared: Shared) {
    let (waiting, wasHeld) = shared.locked {
      let wasHeld = shared.phase == .held && !shared.hasLapsed
      if !wasHeld { shared.hasLapsed = true }
      shared.phase = .over
      defer { shared.waiting = [] }
      return (shared.waiting, wasHeld)
    }
    for one in waiting { one.resume(returning: wasHeld) }
  }

  /// Whether the lock is held now.
  package var isHeld: Bool { shared.locked { shared.phase == .held && !shared.mustEnd } }

  /// Lets go and returns once that has happened. Safe to call twice, and when nothing is held.
  ///
  /// - Returns: Whether the lock was held until now.
  package func release() async -> Bool {
    await withCheckedContinuation { continuation in
      let answer: Bool? = shared.locked {
        switch shared.phase {
        case .idle: return false
        case .over: return !shared.hasLapsed
        case .acquiring, .held:
          shared.waiting.append(continuation)
          shared.mustEnd = true
          pthread_cond_broadcast(shared.changed)
          return nil
        }
      }
      if let answer { continuation.resume(returning: answer) }
    }
  }
}
