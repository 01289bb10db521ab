import Synchronization

/// Whether a lock that was written is known to be the only one: what writes to the repository waits for it.
final class Confirmation: Sendable {
  private enum State {
    case known
    case open([CheckedContinuation<Result<Void, VaultError>, Never>])
    case refused(VaultError)
  }

  private let state = Mutex(State.known)

  /// From now on ``wait()`` suspends, until ``end(_:)``.
  ///
  /// - Returns: `false`, with nothing changed, if that is so already.
  func begin() -> Bool {
    state.withLock { state in
      if case .open = state { return false }
      state = .open([])
      return true
    }
  }

  /// Nothing is to be waited for any more: whoever was refused has ended.
  func clear() {
    state.withLock { state in if case .refused = state { state = .known } }
  }

  func end(_ result: Result<Void, VaultError>) {
    let waiting = state.withLock { state in
      guard case .open(let waiting) = state else { return [CheckedContinuation<Result<Void, VaultError>, Never>]() }
      switch result {
      case .success: state = .known
      case .failure(let error): state = .refused(error)
      }
      return waiting
    }
    for continuation in waiting { continuation.resume(returning: result) }
  }

  /// Returns at once if nothing is to be waited for. Whoever called ``begin()`` calls ``end(_:)`` whatever happens.
  func wait() async throws(VaultError) {
    let result = await withCheckedContinuation { continuation in
      let answer = state.withLock { state -> Result<Void, VaultError>? in
        switch state {
        case .known: return .success(())
        case .refused(let error): return .failure(error)
        case .open(let waiting):
          state = .open(waiting + [continuation])
          return nil
        }
      }
      if let answer { continuation.resume(returning: answer) }
    }
    try result.get()
  }
}
