import Core
import StateKit
import Workflow

extension RunJournal {
  /// Runs `body` while no restore touches `stores`. A claim that is lost on the way ends the body: what it read may be half
  /// of one state and half of another.
  ///
  /// - Throws: ``RunsError/unfinished(_:stores:)``; whatever `body` throws.
  func whileReading<T: Sendable>(
    _ stores: Set<StoreName>, time: any Timekeeper, _ body: @escaping @Sendable () async throws -> T
  ) async throws -> T {
    let lease: StoreLease
    do { lease = try await reserve(stores, as: Holder.thisProcess, for: .seconds(30)) } catch {
      throw RunsError.of(error)
    }
    let result: Result<T, any Error>
    do {
      result = .success(
        try await withThrowingTaskGroup(of: T?.self) { group in
          defer { group.cancelAll() }
          group.addTask {
            try await keep(lease, time: time)
            return nil
          }
          group.addTask { try await body() }
          // The keeper never ends but by throwing.
          while let ended = try await group.next() { if let ended { return ended } }
          throw CancellationError()
        })
    } catch {
      result = .failure(error)
    }
    // Best effort: a claim that can't be given back lapses.
    try? await release(lease)
    return try result.get()
  }

  /// Renews until cancelled; a journal that doesn't answer is asked again until the claim lapses.
  private func keep(_ lease: StoreLease, time: any Timekeeper) async throws {
    var lease = lease
    var pause = lease.period / 3
    while true {
      do { try await time.sleep(for: pause) } catch { return }
      do {
        lease = try await renew(lease)
        pause = lease.period / 3
      } catch {
        if case .storesLost = error { throw error }
        guard error.report.retry == .afterBackoff, time.now() < lease.expiresAt else { throw error }
        pause = lease.period / 10
      }
    }
  }
}

extension RunsError {
  /// A refusal for the sake of another restore, in the words of who asked for it; any other error as it is.
  static func of(_ error: any Error) -> any Error {
    let refusal: JournalError? =
      if let error = error as? JournalError {
        error
      } else if case RunError.journal(_, let error) = error {
        error
      } else {
        nil
      }
    guard case .storesTaken(let stores, let run) = refusal else { return error }
    return RunsError.unfinished(run, stores: stores)
  }
}
