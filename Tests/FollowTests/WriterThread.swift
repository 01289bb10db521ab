import Foundation
import Synchronization

/// What a writer has done: its number, and when it was acknowledged, in seconds since 1970.
struct WrittenRow: Equatable, Sendable {
  var number: Int64
  var seconds: Double
}

/// One client that writes again and again, on a thread of its own, and keeps what was acknowledged.
final class WriterThread: Sendable {
  private struct State {
    var rows: [WrittenRow] = []
    var isOver = false
    var hasEnded = false
  }

  private let state = Mutex(State())

  /// - Parameter write: What is written next; the writer ends by itself with the first that isn't acknowledged.
  init(everyMicroseconds pause: UInt32, _ write: @escaping @Sendable () -> WrittenRow?) {
    let thread = Thread { [self] in
      while !state.withLock({ $0.isOver }), let row = write() {
        state.withLock { $0.rows.append(row) }
        usleep(pause)
      }
      state.withLock { $0.hasEnded = true }
    }
    thread.start()
  }

  var rows: [WrittenRow] { state.withLock { $0.rows } }

  func stop() {
    state.withLock { $0.isOver = true }
    join()
  }

  func join() {
    for _ in 0..<6000 where !state.withLock({ $0.hasEnded }) { usleep(10_000) }
  }
}
