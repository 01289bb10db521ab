import Core
import Synchronization

/// Lets a fixed number of tasks through at a time, in order of arrival; the others are suspended.
final class Gate: Sendable {
  private struct Waiter {
    var number: UInt64
    var continuation: CheckedContinuation<Bool, Never>
  }

  private struct State {
    var free: Int
    var arrivals: UInt64 = 0
    var waiters: [Waiter] = []
  }

  private let state: Mutex<State>

  init(limit: Int) { state = Mutex(State(free: max(1, limit))) }

  /// Runs `body` when it is this task's turn.
  ///
  /// - Throws: `.cancelled` if the task was cancelled while it waited.
  func through<T>(_ body: () async throws(VaultError) -> T) async throws(VaultError) -> T {
    guard await enter() else { throw .cancelled }
    defer { leave() }
    return try await body()
  }

  /// The same for what throws anything.
  ///
  /// - Throws: `CancellationError` if the task was cancelled while it waited.
  func pass<T>(_ body: () async throws -> T) async throws -> T {
    guard await enter() else { throw CancellationError() }
    defer { leave() }
    return try await body()
  }

  private func enter() async -> Bool {
    let number = state.withLock { state in
      state.arrivals += 1
      return state.arrivals
    }
    return await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        let answer: Bool? = state.withLock { state in
          // Cancelled before it is among the waiters: the handler finds nobody, so look here.
          if Task.isCancelled { return false }
          if state.free > 0 {
            state.free -= 1
            return true
          }
          state.waiters.append(Waiter(number: number, continuation: continuation))
          return nil
        }
        if let answer { continuation.resume(returning: answer) }
      }
    } onCancel: {
      let waiter: Waiter? = state.withLock { state in
        guard let index = state.waiters.firstIndex(where: { $0.number == number }) else { return nil }
        return state.waiters.remove(at: index)
      }
      waiter?.continuation.resume(returning: false)
    }
  }

  private func leave() {
    let next: Waiter? = state.withLock { state in
      guard state.waiters.isEmpty else { return state.waiters.removeFirst() }
      state.free += 1
      return nil
    }
    next?.continuation.resume(returning: true)
  }
}

/// Runs `body` for every item, `limit` at a time; the first error cancels the others and is thrown.
func inParallel<Item: Sendable>(
  _ items: [Item], limit: Int, _ body: @escaping @Sendable (Item) async throws(VaultError) -> Void
) async throws(VaultError) {
  let cursor = Cursor()
  let failure: VaultError? = await withTaskGroup(of: VaultError?.self) { group in
    for _ in 0..<min(max(1, limit), items.count) {
      group.addTask {
        while true {
          if Task.isCancelled { return .cancelled }
          let index = cursor.next()
          guard index < items.count else { return nil }
          do throws(VaultError) { try await body(items[index]) } catch { return error }
        }
      }
    }
    var first: VaultError?
    for await result in group where result != nil && first == nil {
      first = result
      group.cancelAll()
    }
    return first
  }
  if let failure { throw failure }
}

/// Numbers from zero, each given out once.
private final class Cursor: Sendable {
  private let value = Atomic(0)
  func next() -> Int { value.add(1, ordering: .relaxed).oldValue }
}
