import CShim
import Synchronization

/// How this process treats memory: content comes and goes by the megabyte, and what was in use at the worst moment would stay
/// behind in every thread's own heap.
package enum ProcessMemory {
  /// To be called before the first thread is made: how many heaps there may be is decided with the second of them. Later
  /// calls change nothing.
  package static func prepare() { _ = isPrepared }

  private static let isPrepared: Bool = {
    salvor_return_large_memory()
    return true
  }()

  /// Gives what is free back to the system; does nothing if that was done lately, or the process is young. Blocks for some
  /// milliseconds.
  ///
  /// - Parameter now: Monotonic nanoseconds.
  /// - Returns: Whether it was done.
  @discardableResult
  package static func returnUnused(at now: Int64) -> Bool {
    let isDue = lastReturn.withLock { last in
      guard let before = last else {
        last = now
        return false
      }
      guard now - before >= interval || now < before else { return false }
      last = now
      return true
    }
    if isDue { salvor_return_unused_memory() }
    return isDue
  }

  /// Nanoseconds.
  package static let interval: Int64 = 60_000_000_000

  /// When it was done last, or asked for first.
  private static let lastReturn = Mutex<Int64?>(nil)
}
