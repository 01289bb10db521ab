import Core
import Vault

/// How often, and after what pauses, a call is tried again.
package struct RetrySchedule: Sendable {
  package var attempts: Int
  /// The longest pause before the second try; doubled for each further one.
  package var first: Duration
  package var longest: Duration

  package init(attempts: Int = 8, first: Duration = .milliseconds(500), longest: Duration = .seconds(30)) {
    (self.attempts, self.first, self.longest) = (attempts, first, longest)
  }

  /// Between half and all of the longest pause there may be: clients that failed together come back apart.
  func pause(after attempt: Int, _ randomness: any Randomness) -> Duration {
    let limit = min(longest, first * Double(1 << min(attempt - 1, 20)))
    let share = 0.5 + 0.5 * Double(randomness.below(1 << 20)) / Double(1 << 20)
    return limit * share
  }
}

/// Tries again what a network, a server or a device couldn't do just now.
///
/// A whole object whose SHA-256 is not its name is read a second time: if it comes the same, it lies so in the store, and
/// the vault says what is damaged.
package struct RetryObjectStore: ObjectStore {
  private let base: any ObjectStore
  private let schedule: RetrySchedule
  private let time: any Timekeeper
  private let randomness: any Randomness
  private let log: @Sendable (String) -> Void

  package var location: String { base.location }

  /// - Parameter log: Takes a line for each pause.
  package init(
    _ base: any ObjectStore, _ schedule: RetrySchedule = RetrySchedule(), time: any Timekeeper,
    randomness: any Randomness, log: @escaping @Sendable (String) -> Void = { _ in }
  ) {
    (self.base, self.schedule, self.time, self.randomness, self.log) = (base, schedule, time, randomness, log)
  }

  package func prepare() async throws(StoreError) {
    try await trying { (_) throws(StoreError) in try await base.prepare() }
  }

  package func put(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    try await trying { (_) throws(StoreError) in try await base.put(name, bytes) }
  }

  package func get(_ name: ObjectName) async throws(StoreError) -> [UInt8] {
    try await trying { (_) throws(StoreError) in
      let bytes = try await base.get(name)
      guard let id = name.id, Digest.of(bytes) != id else { return bytes }
      let again = try await base.get(name)
      guard again == bytes || Digest.of(again) == id else {
        throw .unavailable("\(base.location) gives other bytes of \(name) each time")
      }
      return again
    }
  }

  package func get(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    try await trying { (_) throws(StoreError) in try await base.get(name, range: range) }
  }

  package func list(_ kind: ObjectKind) async throws(StoreError) -> [ObjectInfo] {
    try await trying { (_) throws(StoreError) in try await base.list(kind) }
  }

  package func size(of name: ObjectName) async throws(StoreError) -> Int? {
    try await trying { (_) throws(StoreError) in try await base.size(of: name) }
  }

  package func delete(_ name: ObjectName) async throws(StoreError) {
    try await trying { (attempt) throws(StoreError) in
      do throws(StoreError) { try await base.delete(name) } catch {
        // An earlier try did it, and only its answer was lost.
        if attempt > 1, error == .notFound(name) { return }
        throw error
      }
    }
  }

  package var listsAtOnce: Bool { get async { await base.listsAtOnce } }

  package var locksObjects: Bool { base.locksObjects }

  package func lock(on name: ObjectName) async throws(StoreError) -> ObjectLock? {
    try await trying { (_) throws(StoreError) in try await base.lock(on: name) }
  }

  package func setLock(_ change: ObjectLockChange, on name: ObjectName) async throws(StoreError) {
    try await trying { (_) throws(StoreError) in try await base.setLock(change, on: name) }
  }

  private func trying<T>(_ body: (Int) async throws(StoreError) -> T) async throws(StoreError) -> T {
    var attempt = 1
    while true {
      do throws(StoreError) { return try await body(attempt) } catch {
        guard case .unavailable(let reason) = error, attempt < schedule.attempts else { throw error }
        let pause = schedule.pause(after: attempt, randomness)
        log("\(reason); trying again in \(pause.brief)")
        do { try await time.sleep(for: pause) } catch { throw .cancelled }
        attempt += 1
      }
    }
  }
}
