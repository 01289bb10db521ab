import Foundation
import IO
import Testing

@Suite("Threads for calls that block") struct BlockingPoolTests {
  /// Where jobs meet: each waits until all are there.
  private final class Meeting: @unchecked Sendable {
    // Guarded by `condition`.
    private var present = 0
    private let condition = NSCondition()
    private let size: Int

    init(_ size: Int) { self.size = size }

    /// - Returns: Whether the others came.
    func wait() -> Bool {
      condition.lock()
      defer { condition.unlock() }
      present += 1
      condition.broadcast()
      let limit = Date(timeIntervalSinceNow: 600)
      while present < size {
        guard condition.wait(until: limit) else { return false }
      }
      return true
    }
  }

  @Test(.timeLimit(.minutes(60)))
  func `jobs that come together run side by side, also where one thread was idle`() async throws {
    for _ in 0..<50 {
      let pool = BlockingPool(threads: 8)
      await pool.run {}
      let meeting = Meeting(4)
      let all = await withTaskGroup(of: Bool.self) { group in
        for _ in 0..<4 { group.addTask { await pool.run { meeting.wait() } } }
        return await group.reduce(true) { $0 && $1 }
      }
      try #require(all)
    }
  }
}
