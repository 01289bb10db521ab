import Core
import Synchronization

/// Runs the jobs of all its tasks one at a time, in an order that the seed decides.
///
/// Everything that happens inside must stay inside: no unstructured tasks, no other threads, no real clock. Then the same
/// seed gives the same order of every job, every time.
package final class SeededExecutor: TaskExecutor {
  package struct Deadlock: Error, CustomStringConvertible {
    package var description: String { "no job is ready and nobody sleeps, but the simulation is not over" }
  }

  private let jobs = Mutex<[UnownedJob]>([])
  private let randomness: any Randomness

  package init(seed: UInt64) { randomness = SeededRandomness(seed: seed) }

  package func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    jobs.withLock { $0.append(job) }
  }

  /// Runs `body` to its end, letting `time` pass whenever nobody can go on.
  ///
  /// - Throws: ``Deadlock``, or what `body` throws.
  package func run<T: Sendable>(on time: SimulatedTime, _ body: @escaping @Sendable () async throws -> T) throws -> T {
    let result = Mutex<Result<T, any Error>?>(nil)
    // The one root of all tasks of the simulation; its end is waited for below.
    let root = Task(executorPreference: self) {
      let value: Result<T, any Error>
      do { value = .success(try await body()) } catch { value = .failure(error) }
      result.withLock { $0 = value }
    }
    while true {
      if let done = result.withLock({ $0 }) {
        withExtendedLifetime(root) {}
        return try done.get()
      }
      if let job = takeJob() {
        job.runSynchronously(on: asUnownedTaskExecutor())
      } else if !time.advance() {
        throw Deadlock()
      }
    }
  }

  private func takeJob() -> UnownedJob? {
    jobs.withLock { jobs in
      guard !jobs.isEmpty else { return nil }
      return jobs.remove(at: randomness.below(jobs.count))
    }
  }
}
