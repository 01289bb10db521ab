import Core
import Foundation
import IO
import Synchronization

/// Writes orders without pause, on a thread of its own, until told to stop; knows what was acknowledged.
final class ShopWriter: Sendable {
  private struct State {
    var begun: Int
    var acknowledged: Int
    var longestNanoseconds: Int64 = 0
    var failure: String?
    var isStopped = false
    var hasEnded = false
  }

  private let state: Mutex<State>
  private let paths: (customers: String, orders: String, papers: String, lock: String)

  init(_ shop: ShopSystem, from count: Int) {
    state = Mutex(State(begun: count, acknowledged: count))
    paths = (shop.customers, shop.orders, shop.papers, shop.lock)
  }

  var begun: Int { state.withLock { $0.begun } }
  var acknowledged: Int { state.withLock { $0.acknowledged } }
  /// The longest that one order took.
  var longest: Duration { .nanoseconds(state.withLock { $0.longestNanoseconds }) }
  /// Why an order could not be written, if one could not.
  var failure: String? { state.withLock { $0.failure } }

  func start() {
    let thread = Thread { [self] in
      while !state.withLock({ $0.isStopped }) {
        do {
          try writeOne()
          usleep(2000)
        } catch {
          state.withLock { $0.failure = "\(error)" }
          break
        }
      }
      state.withLock { $0.hasEnded = true }
    }
    thread.start()
  }

  func stop() {
    state.withLock { $0.isStopped = true }
    while !state.withLock({ $0.hasEnded }) { usleep(500) }
  }

  func writeOne() throws {
    let id = state.withLock { state in
      state.begun += 1
      return state.begun
    }
    let start = SystemTime().monotonicNanoseconds()
    let filling = String(repeating: "\(id) ", count: 300)
    try Database(paths.customers).run("INSERT INTO customer VALUES (\(id), 'customer \(id)', '\(filling)')")
    try writePaper(id, filling)
    try Database(paths.orders).run("INSERT INTO entry VALUES (\(id), \(id), '\(id).txt', \(filling.utf8.count))")
    let took = SystemTime().monotonicNanoseconds() - start
    state.withLock { state in
      state.acknowledged = id
      state.longestNanoseconds = max(state.longestNanoseconds, took)
    }
  }

  private func writePaper(_ id: Int, _ text: String) throws {
    let lock = try File(paths.lock, O_RDONLY)
    let deadline = SystemTime().monotonicNanoseconds() + 5_000_000_000
    while flock(lock.descriptor, LOCK_SH | LOCK_NB) != 0 {
      guard SystemTime().monotonicNanoseconds() < deadline else {
        throw Database.Failed(description: "the papers' lock is stuck")
      }
      usleep(500)
    }
    try Files.replace("\(paths.papers)/\(id).txt", with: Array(text.utf8), mode: 0o644)
  }
}
