import Synchronization

/// Tells calls that wait, on a socket or for a program, to give up; set from another thread, for good.
package final class Interruption: Sendable {
  private let flag = Atomic<Bool>(false)
  package init() {}
  package var isSet: Bool { flag.load(ordering: .relaxed) }
  package func set() { flag.store(true, ordering: .relaxed) }

  /// Runs `body`; when the task is cancelled, whatever looks at this gives up.
  package func during<T: Sendable>(
    _ body: @Sendable () async throws(DriverError) -> T
  ) async throws(DriverError) -> T {
    let result = await withTaskCancellationHandler { () async -> Result<T, DriverError> in
      do throws(DriverError) { return .success(try await body()) } catch { return .failure(error) }
    } onCancel: {
      set()
    }
    return try result.get()
  }
}
