import Synchronization

/// The moment from which on a run reads no repository any more; comes once.
final class ReadingEnd: Sendable {
  private let hasCome = Mutex(false)
  private let stream: AsyncStream<Void>
  private let continuation: AsyncStream<Void>.Continuation

  init() { (stream, continuation) = AsyncStream.makeStream() }

  var isOver: Bool { hasCome.withLock { $0 } }

  func come() {
    hasCome.withLock { $0 = true }
    continuation.finish()
  }

  /// Returns early if the task is cancelled. For one waiter.
  func wait() async { for await _ in stream {} }
}
