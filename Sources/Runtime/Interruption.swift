import Core
import Dispatch

#if canImport(Glibc)
  import Glibc
#endif

/// Turns SIGINT and SIGTERM into cancellation: work stops at the next safe place, and a run can be resumed.
///
/// A second signal ends the process at once, which a run survives as well.
package enum Interruption {
  package static func cancelling<T: Sendable>(_ body: @escaping @Sendable () async throws -> T) async throws -> T {
    // The one unstructured task of a program: a signal must be able to reach the work from outside.
    let task = Task { try await body() }
    let queue = DispatchQueue(label: "salvor.signals")
    let sources = [SIGINT, SIGTERM].map { number in
      signal(number, SIG_IGN)
      let source = DispatchSource.makeSignalSource(signal: number, queue: queue)
      source.setEventHandler {
        if task.isCancelled { _exit(130) }
        task.cancel()
      }
      source.resume()
      return source
    }
    defer { for source in sources { source.cancel() } }
    return try await task.value
  }

  /// Runs `body` to its own end: a cancellation of the caller only ends `stopped`, so that what has to be put in order can be.
  package static func finishing<T: Sendable>(
    _ body: @escaping @Sendable (_ stopped: AsyncStream<Never>) async throws -> T
  ) async throws -> T {
    let (stopped, sink) = AsyncStream.makeStream(of: Never.self)
    let task = Task { try await body(stopped) }
    return try await withTaskCancellationHandler {
      try await task.value
    } onCancel: {
      sink.finish()
    }
  }
}
