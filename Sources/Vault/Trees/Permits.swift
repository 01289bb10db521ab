import Synchronization

/// A number of permits; who finds none waits in order of arrival. One permit makes a lock that may be held across
/// an `await`.
///
/// Waiting does not end at a cancellation: permits are held for one step only, and given back whatever happens.
final class Permits: Sendable {
  private struct State {
    var available: Int
    var waiting: [CheckedContinuation<Void, Never>] = []
    var head = 0
  }

  private let state: Mutex<State>

  init(_ count: Int) { state = Mutex(State(available: max(1, count))) }

  func acquire() async {
    await withCheckedContinuation { continuation in
      let granted = state.withLock { state in
        if state.available > 0 {
          state.available -= 1
          return true
        }
        state.waiting.append(continuation)
        return false
      }
      if granted { continuation.resume() }
    }
  }

  func release() {
    let next = state.withLock { state -> CheckedContinuation<Void, Never>? in
      guard state.head < state.waiting.count else {
        state.available += 1
        return nil
      }
      let next = state.waiting[state.head]
      state.head += 1
      if state.head == state.waiting.count {
        state.waiting.removeAll(keepingCapacity: true)
        state.head = 0
      }
      return next
    }
    next?.resume()
  }
}
