import Core
import Synchronization

/// Has what was written brought to stable storage while more is written, so that little is left to wait for at the end.
final class WriteBack: Sendable {
  private struct State {
    var bytes: Int64 = 0
    var isOver = false
    var failure: (any Error)?
    var waiter: CheckedContinuation<Void, Never>?
  }

  private let state = Mutex(State())
  private let turn = Gate(limit: 1)
  private let synchronizing: @Sendable () async throws -> Void

  /// - Parameter synchronizing: Brings everything written to stable storage. A failure may be told only once.
  init(_ synchronizing: @escaping @Sendable () async throws -> Void) { self.synchronizing = synchronizing }

  /// - Throws: Also what went wrong when this was done before: what was written by then can't be relied on.
  func synchronize() async throws {
    try await turn.pass {
      if let failure = state.withLock({ $0.failure }) { throw failure }
      do { try await synchronizing() } catch {
        state.withLock { $0.failure = error }
        throw error
      }
    }
  }

  /// Bytes that are worth a round.
  private static let roundBytes: Int64 = 256 << 20
  private static let fileBytes: Int64 = 16 << 10

  /// - Parameter files: New ones; each costs about as much as some pages.
  func wrote(_ bytes: Int64, files: Int) {
    state.withLock { state in
      state.bytes += bytes + Int64(files) * Self.fileBytes
      guard state.bytes >= Self.roundBytes else { return nil as CheckedContinuation<Void, Never>? }
      defer { state.waiter = nil }
      return state.waiter
    }?.resume()
  }

  /// Synchronises again and again, each time after enough was written, while `body` runs.
  func during(_ body: () async throws -> Void) async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { [self] in while await isWorthIt() { try await synchronize() } }
      defer { end() }
      try await body()
      end()
      try await group.waitForAll()
    }
  }

  /// - Returns: `false` once it is over.
  private func isWorthIt() async -> Bool {
    await withCheckedContinuation { continuation in
      let goesOn = state.withLock { state in
        if state.isOver || state.bytes >= Self.roundBytes { return true }
        state.waiter = continuation
        return false
      }
      if goesOn { continuation.resume() }
    }
    return state.withLock { state in
      state.bytes = 0
      return !state.isOver
    }
  }

  private func end() {
    state.withLock { state in
      state.isOver = true
      defer { state.waiter = nil }
      return state.waiter
    }?.resume()
  }
}
