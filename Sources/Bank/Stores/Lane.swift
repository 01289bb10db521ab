import Core
import IO
import Synchronization

/// A connection to a store that can do several things as one.
protocol StoreConnection: SendableMetatype {
  /// Whether what is connected is still what the configuration names.
  var isCurrent: Bool { get }
  func begin() throws(BankError)
  /// Returns once everything since ``begin()`` is durable.
  func commit() throws(BankError)
  /// Never throws: after it the connection is in no transaction, or is dropped by the next ``isCurrent``.
  func rollback()
}

/// One connection and the queue in front of it, with group commit: whoever waits while a transaction runs goes into
/// the next one together, so that a hundred writers cost one fsync and not a hundred.
///
/// One of the waiters leads: it runs a batch on a blocking thread, wakes the others, and hands the lead on. Work must
/// be idempotent, for a batch is tried again on a fresh connection when the old one turns out to be dead.
final class Lane<Connection: StoreConnection>: Sendable {
  private struct Job: Sendable {
    var run: @Sendable (Connection) throws(BankError) -> Void
    var fail: @Sendable (BankError) -> Void
  }

  private enum Turn { case lead, done }

  private struct Waiting: Sendable {
    var job: Job
    var continuation: CheckedContinuation<Turn, Never>
  }

  private struct State {
    var isBusy = false
    var waiting: [Waiting] = []
  }

  /// Touched by the leader alone.
  private final class Slot: @unchecked Sendable {
    var connection: Connection?
  }

  /// What came of one job; written by the leader, read by its owner after it was woken.
  private final class Outcome<T: Sendable>: Sendable {
    let value = Mutex<Result<T, BankError>>(.failure(.storeAway("nothing was tried")))
  }

  private let state = Mutex(State())
  private let slot = Slot()
  private let open: @Sendable () throws(BankError) -> Connection
  private let batchLimit = 64

  init(open: @escaping @Sendable () throws(BankError) -> Connection) { self.open = open }

  /// Runs `work` in a transaction with whatever else waits; returns once it is committed.
  ///
  /// - Throws: What `work` throws, and ``BankError/storeAway(_:)``; then nothing of `work` was acknowledged.
  func submit<T: Sendable>(
    _ work: @escaping @Sendable (Connection) throws(BankError) -> T
  ) async throws(BankError) -> T {
    let outcome = Outcome<T>()
    let job = Job(
      run: { connection throws(BankError) in
        let value = try work(connection)
        outcome.value.withLock { $0 = .success(value) }
      },
      fail: { error in outcome.value.withLock { $0 = .failure(error) } })
    let turn = await withCheckedContinuation { (continuation: CheckedContinuation<Turn, Never>) in
      let leads = state.withLock { state in
        if state.isBusy {
          state.waiting.append(Waiting(job: job, continuation: continuation))
          return false
        }
        state.isBusy = true
        return true
      }
      if leads { continuation.resume(returning: .lead) }
    }
    if turn == .lead { await BlockingPool.shared.run { self.lead(job) } }
    return try outcome.value.withLock { $0 }.get()
  }

  private func lead(_ own: Job) {
    let followers = state.withLock { state in
      let taken = Array(state.waiting.prefix(batchLimit - 1))
      state.waiting.removeFirst(taken.count)
      return taken
    }
    settle([own] + followers.map(\.job))
    for follower in followers { follower.continuation.resume(returning: .done) }
    let next = state.withLock { state -> Waiting? in
      if state.waiting.isEmpty {
        state.isBusy = false
        return nil
      }
      return state.waiting.removeFirst()
    }
    next?.continuation.resume(returning: .lead)
  }

  private func settle(_ batch: [Job]) {
    let isReused = slot.connection != nil
    do throws(BankError) {
      do throws(BankError) {
        try commit(batch)
      } catch {
        guard isReused, slot.connection == nil else { throw error }
        try commit(batch)
      }
    } catch {
      if batch.count > 1, slot.connection != nil {
        // One bad apple: let each stand for itself.
        for job in batch { settle([job]) }
      } else {
        for job in batch { job.fail(error) }
      }
    }
  }

  private func commit(_ batch: [Job]) throws(BankError) {
    if let old = slot.connection, !old.isCurrent { slot.connection = nil }
    do throws(BankError) {
      let connection: Connection
      if let current = slot.connection {
        connection = current
      } else {
        connection = try open()
        slot.connection = connection
      }
      try connection.begin()
      for job in batch { try job.run(connection) }
      try connection.commit()
    } catch {
      slot.connection?.rollback()
      if case .storeAway = error { slot.connection = nil }
      throw error
    }
  }
}
