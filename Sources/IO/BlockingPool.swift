import Core
import Foundation
import Synchronization

/// Threads for calls that block: system calls, fsync, scrypt, SQL, client libraries in C.
///
/// Swift's cooperative pool has one thread per core and must never wait; whatever can wait goes through
/// ``run(_:)``. Jobs start in order of arrival, those of each level of ``WorkShare`` on threads of their own. A simulation
/// uses ``inline`` and stays deterministic.
package final class BlockingPool: Sendable {
  private struct State {
    var jobs: [@Sendable () -> Void] = []
    var head = 0
    var idle = 0
    var threads = 0
  }

  private final class Queue: @unchecked Sendable {
    // Guarded by `condition`.
    var state = State()
    let condition = NSCondition()
    let level: Int

    init(level: Int) { self.level = level }
  }

  /// By level; empty if every job runs on its caller's thread.
  private let queues: [Queue]
  private let limit: Int

  /// One for the process; 16 threads of a level are enough to keep two cores and a disk busy.
  package static let shared = BlockingPool(threads: 16)

  /// Runs every job on the caller's thread.
  package static let inline = BlockingPool()

  package init(threads: Int) {
    precondition(threads > 0, "a pool needs a thread")
    queues = (0..<WorkShare.levels).map { Queue(level: $0) }
    limit = threads
  }

  private init() {
    queues = []
    limit = 0
  }

  /// Runs `body` where it may block, and suspends the caller until it is done. Not interrupted by cancellation.
  package func run<T: Sendable, E: Error>(_ body: @escaping @Sendable () throws(E) -> T) async throws(E) -> T {
    guard !queues.isEmpty else { return try body() }
    let queue = queues[WorkShare.current?.level ?? 0]
    let result = await withCheckedContinuation { (continuation: CheckedContinuation<Result<T, E>, Never>) in
      enqueue(on: queue) {
        do throws(E) {
          continuation.resume(returning: .success(try body()))
        } catch {
          continuation.resume(returning: .failure(error))
        }
      }
    }
    return try result.get()
  }

  /// Runs `body` on several threads at once, this one among them, and returns when all are done. Blocks, and suits what keeps a
  /// processor busy.
  package static func sideBySide(_ threads: Int, _ body: @Sendable () -> Void) {
    DispatchQueue.concurrentPerform(iterations: max(1, threads)) { _ in body() }
  }

  private func enqueue(on queue: Queue, _ job: @escaping @Sendable () -> Void) {
    queue.condition.lock()
    queue.state.jobs.append(job)
    // An idle thread that was woken counts as idle until it runs: of jobs that come together it takes one, and whoever waited
    // behind it might be what it waits for.
    let waiting = queue.state.jobs.count - queue.state.head
    let needsThread = waiting > queue.state.idle && queue.state.threads < limit
    if needsThread { queue.state.threads += 1 }
    queue.condition.signal()
    queue.condition.unlock()
    if needsThread {
      let thread = Thread { Self.work(queue) }
      thread.name = "salvor-io"
      thread.stackSize = 1 << 20
      thread.start()
    }
  }

  private static func work(_ queue: Queue) {
    WorkShare.takeOn(queue.level)
    while true {
      queue.condition.lock()
      while queue.state.head == queue.state.jobs.count {
        queue.state.idle += 1
        queue.condition.wait()
        queue.state.idle -= 1
      }
      let job = queue.state.jobs[queue.state.head]
      queue.state.head += 1
      if queue.state.head == queue.state.jobs.count {
        queue.state.jobs.removeAll(keepingCapacity: true)
        queue.state.head = 0
      } else if queue.state.head > 1024 {
        queue.state.jobs.removeFirst(queue.state.head)
        queue.state.head = 0
      }
      queue.condition.unlock()
      autoreleasepool { job() }
    }
  }
}

#if !canImport(ObjectiveC)
  private func autoreleasepool(_ body: () -> Void) { body() }
#endif
