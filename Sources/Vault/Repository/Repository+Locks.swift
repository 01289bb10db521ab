import Core

/// A lock file and its name.
package struct StoredLock: Hashable, Sendable {
  package let id: Digest
  package let file: LockFile
}

extension Repository {
  /// Runs `body` under a lock of the repository, as restic takes it, with the indexes as they are then.
  ///
  /// Locks of this host's dead processes are removed first: nobody else would, and whoever was killed can't. Every other
  /// lock counts, however old; that is for ``unlock(all:)`` to judge.
  ///
  /// The lock is renewed every five minutes and removed at the end. If it can't be renewed for 25 minutes, `body` is
  /// cancelled: others may take the lock for stale.
  ///
  /// - Parameters:
  ///   - exclusive: For what removes anything; shared locks let others read and write.
  ///   - wait: How long to try while someone else holds the repository. Who waits to have it alone leaves a lock there, so
  ///     that nobody new comes in meanwhile, and those who yield see it.
  ///   - loadingIndex: `false` leaves the index as it is, for a check of a repository whose indexes may be damaged.
  ///   - startsEarly: `body` begins as soon as the lock is written, while it is still to be seen whether somebody else wrote
  ///     one at the same moment. Whatever it writes to the repository, and its end, wait for that; until then it may only
  ///     read, and is cancelled if there is somebody. Has no effect together with `wait`.
  ///   - yields: `body` looks at ``isWanted()`` every few seconds, and ends when it is: then an exclusive lock waits for it.
  /// - Throws: ``VaultError/lockHeld(by:)``; ``VaultError/lockLost(_:)``; whatever `body` throws.
  package func withLock<T: Sendable>(
    exclusive: Bool = false, wait: Duration = .zero, loadingIndex: Bool = true, startsEarly: Bool = false,
    yields: Bool = false, _ body: @escaping @Sendable () async throws -> T
  ) async throws -> T {
    let mustWait = exclusive ? try await isYielding : false
    if startsEarly, wait == .zero, !yields, !mustWait, confirmation.begin() {
      return try await withEarlyLock(exclusive: exclusive, loadingIndex: loadingIndex, body)
    }
    let held =
      exclusive
      ? HeldLock(try await acquireAlone(wait: wait), isExclusive: true, yields: false)
      : HeldLock(
        try await acquire(wait: wait, loadingIndex: loadingIndex, yields: yields), isExclusive: false, yields: yields)
    do {
      // Somebody may have changed them before they saw this lock; if not, this only lists them.
      if loadingIndex { try await refreshIndex() }
      let result = try await keeping(held, after: {}, body)
      try await release(held)
      return result
    } catch {
      // The first failure is the one to tell of; a lock that stays is stale as soon as this process is gone.
      try? await release(held)
      throw error
    }
  }

  private func withEarlyLock<T: Sendable>(
    exclusive: Bool, loadingIndex: Bool, _ body: @escaping @Sendable () async throws -> T
  ) async throws -> T {
    defer { confirmation.clear() }
    let held: HeldLock
    do throws(VaultError) {
      try await removeDeadLocks()
      try await refuseConflicts(exclusive: exclusive, own: nil)
      held = HeldLock(try await writeLock(exclusive: exclusive), isExclusive: exclusive, yields: false)
    } catch {
      confirmation.end(.failure(error))
      throw error
    }
    do {
      let result = try await keeping(held) { [self] () async throws(VaultError) in
        try await confirm(await held.id, exclusive: exclusive, loadingIndex: loadingIndex)
      } _: { [self] in
        let result: Result<T, any Error>
        do {
          if loadingIndex { try await refreshIndex() }
          result = .success(try await body())
        } catch { result = .failure(error) }
        // Whatever it saw of somebody else's work is the lock's failure, not its own.
        try await confirmation.wait()
        return try result.get()
      }
      try await release(held)
      return result
    } catch {
      try? await release(held)
      throw error
    }
  }

  /// Looks again, once others can see the lock, and lets the body write.
  private func confirm(_ id: Digest, exclusive: Bool, loadingIndex: Bool) async throws(VaultError) {
    do throws(VaultError) {
      try await settle(id, waited: .zero)
      try await refuseConflicts(exclusive: exclusive, own: id)
      // What the body has seen must still be there; somebody who was quick may have pruned meanwhile.
      if loadingIndex, try await !refreshIndex() {
        throw .lockLost("somebody changed the repository while the lock was taken")
      }
      confirmation.end(.success(()))
    } catch {
      confirmation.end(.failure(error))
      throw error
    }
  }

  /// Locks there are.
  package func locks() async throws(VaultError) -> [StoredLock] {
    var result: [StoredLock] = []
    for info in try await access({ store throws(StoreError) in try await store.list(.lock) }) {
      guard let id = info.name.id else { continue }
      if let file = try await loadLock(id) { result.append(StoredLock(id: id, file: file)) }
    }
    return result
  }

  /// Removes stale locks.
  ///
  /// - Parameter all: Removes every lock, unreadable ones included; only when nobody else works on the repository.
  /// - Returns: How many were removed.
  package func unlock(all: Bool = false) async throws(VaultError) -> Int {
    var count = 0
    for info in try await access({ store throws(StoreError) in try await store.list(.lock) }) {
      guard let id = info.name.id else { continue }
      if !all {
        guard let file = try await loadLock(id), file.isStale(at: settings.time.now(), seenBy: settings.owner) else {
          continue
        }
      }
      if try await removeLock(id) { count += 1 }
    }
    return count
  }

  // MARK: Acquiring

  private func acquire(wait: Duration, loadingIndex: Bool, yields: Bool) async throws(VaultError) -> Digest {
    let start = settings.time.monotonicNanoseconds()
    while true {
      do throws(VaultError) { return try await tryAcquire(loadingIndex: loadingIndex, yields: yields) } catch {
        guard case .lockHeld = error else { throw error }
        let waited = Duration.nanoseconds(settings.time.monotonicNanoseconds() - start)
        guard waited < wait else { throw error }
        try await pause(min(.seconds(5), wait - waited))
      }
    }
  }

  /// Looks, writes, waits, and looks again: of two that write at the same moment, both see the other and retreat.
  ///
  /// - Parameter loadingIndex: Whether to load the indexes while it waits.
  private func tryAcquire(loadingIndex: Bool, yields: Bool) async throws(VaultError) -> Digest {
    try await removeDeadLocks()
    try await refuseConflicts(exclusive: false, own: nil)
    let id = try await writeLock(exclusive: false, yields: yields)
    do throws(VaultError) {
      let start = settings.time.monotonicNanoseconds()
      if loadingIndex { try await refreshIndex() }
      try await settle(id, waited: .nanoseconds(settings.time.monotonicNanoseconds() - start))
      try await refuseConflicts(exclusive: false, own: id)
    } catch {
      _ = try? await removeLock(id)
      throw error
    }
    return id
  }

  /// Gets the repository for itself: holds back while somebody else does the same, then keeps newcomers out and waits for
  /// those who are in.
  private func acquireAlone(wait: Duration) async throws(VaultError) -> Digest {
    let start = settings.time.monotonicNanoseconds()
    while true {
      try await removeDeadLocks()
      let others = try await locks()
      let left = patience(with: others, wait, since: start)
      if let other = others.first(where: { left <= .zero || $0.file.isExclusive }) {
        guard left > .zero else { throw .lockHeld(by: other.file.owner) }
        try await pause(min(.seconds(5), left))
        continue
      }
      let held = HeldLock(try await writeLock(exclusive: true), isExclusive: true, yields: false)
      do throws(VaultError) {
        if try await stand(held, wait, since: start) { return await held.id }
      } catch {
        try? await release(held)
        throw error
      }
      try await release(held)
      // Whoever came at the same moment does the same, and not again at the same one.
      let rest = max(.zero, wait - .nanoseconds(settings.time.monotonicNanoseconds() - start))
      try await pause(min(rest, .milliseconds(100 + Int64(settings.randomness.next() % 5000))))
    }
  }

  /// Waits behind a lock of one's own until there is no other.
  ///
  /// - Returns: `false` if somebody else stands there likewise, who may think the same of us.
  private func stand(_ held: HeldLock, _ wait: Duration, since start: Int64) async throws(VaultError) -> Bool {
    try await settle(await held.id, waited: .zero)
    var renewed = settings.time.monotonicNanoseconds()
    while true {
      let own = await held.id
      let others = try await locks().filter { $0.id != own }
      guard let first = others.first else { return true }
      let left = patience(with: others, wait, since: start)
      guard left > .zero else { throw .lockHeld(by: first.file.owner) }
      if others.contains(where: \.file.isExclusive) { return false }
      try await pause(min(.seconds(1), left))
      try await removeDeadLocks()
      let now = settings.time.monotonicNanoseconds()
      if Duration.nanoseconds(now - renewed) >= LockTiming.refresh {
        let new = try await writeLock(exclusive: true)
        await held.moved(to: new)
        renewed = now
        _ = try await removeLock(own)
      }
    }
  }

  /// How much longer to wait for others.
  private func patience(with others: [StoredLock], _ wait: Duration, since start: Int64) -> Duration {
    // Those who yield are soon gone; who waits or works alone has work to do.
    let yield = !others.isEmpty && others.allSatisfy { $0.file.yields && !$0.file.isExclusive }
    let patience = yield ? max(wait, LockTiming.yielding) : wait
    return patience - .nanoseconds(settings.time.monotonicNanoseconds() - start)
  }

  /// Whether nothing but work that yields stands in the way of who wants the repository alone.
  private var isYielding: Bool {
    get async throws(VaultError) {
      let others = try await locks()
      return others.contains { $0.file.yields } && others.allSatisfy { !$0.file.isExclusive }
    }
  }

  /// Who waits to have the repository alone; `nil` if nobody does. For work whose lock yields.
  package func isWanted() async throws(VaultError) -> String? {
    let now = settings.time.now()
    return try await locks().first { lock in
      lock.file.isExclusive && !lock.file.isStale(at: now, seenBy: settings.owner)
    }?.file.owner
  }

  /// Waits until others can see the lock, and we theirs: where listings lag, for a while; and until the store lists it. One
  /// that doesn't may hide others' locks too, and what they wrote.
  ///
  /// - Parameter waited: How long it has been there already.
  private func settle(_ id: Digest, waited: Duration) async throws(VaultError) {
    let first = await store.listsAtOnce ? .zero : LockTiming.settle - waited
    for look in 0..<LockTiming.looks {
      let rest = look == 0 ? first : LockTiming.settle
      if rest > .zero { try await pause(rest) }
      let listed = try await access { store throws(StoreError) in try await store.list(.lock) }
      if listed.contains(where: { $0.name.id == id }) { return }
    }
    throw .listingBehind(ObjectName(.lock, id))
  }

  private func removeDeadLocks() async throws(VaultError) {
    for info in try await access({ store throws(StoreError) in try await store.list(.lock) }) {
      guard let id = info.name.id else { continue }
      do throws(VaultError) {
        guard let file = try await loadLock(id), file.isOrphan(seenBy: settings.owner) else { continue }
      } catch {
        // Whose it is can't be read; whether it stands in the way is asked next.
        guard case .lockDamaged = error else { throw error }
        continue
      }
      _ = try await removeLock(id)
    }
  }

  private func refuseConflicts(exclusive: Bool, own: Digest?) async throws(VaultError) {
    for lock in try await locks() where lock.id != own {
      // Old ones too: whether their work is over is for `unlock` to say.
      if exclusive || lock.file.isExclusive { throw .lockHeld(by: lock.file.owner) }
    }
  }

  private func writeLock(exclusive: Bool, yields: Bool = false) async throws(VaultError) -> Digest {
    let owner = settings.owner
    let file = LockFile(
      time: settings.time.now(), isExclusive: exclusive, hostname: owner.hostname, username: owner.username,
      processID: owner.processID, userID: Int(owner.userID), groupID: Int(owner.groupID), yields: yields)
    return try await writeFile(.lock, file.json())
  }

  // MARK: Keeping

  /// The name of a lock that changes as it is renewed.
  private actor HeldLock {
    var id: Digest
    let isExclusive: Bool
    let yields: Bool
    init(_ id: Digest, isExclusive: Bool, yields: Bool) {
      (self.id, self.isExclusive, self.yields) = (id, isExclusive, yields)
    }
    func moved(to id: Digest) { self.id = id }
  }

  private enum End<T: Sendable>: Sendable {
    case body(Result<T, any Error>)
    case renewal(any Error)
  }

  /// Runs `body` while the lock is renewed. A lost lock ends the body, and is what is thrown then; a cancellation from
  /// outside is the body's to answer, which may know more of it.
  ///
  /// - Parameter confirm: Comes before the first renewal; if it fails, the lock is lost.
  private func keeping<T: Sendable>(
    _ held: HeldLock, after confirm: @escaping @Sendable () async throws(VaultError) -> Void,
    _ body: @escaping @Sendable () async throws -> T
  ) async throws -> T {
    try await withThrowingTaskGroup(of: End<T>.self) { group in
      group.addTask {
        do { return .body(.success(try await body())) } catch { return .body(.failure(error)) }
      }
      group.addTask { [self] in
        do {
          try await confirm()
          try await renew(held)
        } catch { return .renewal(error) }
        return .renewal(VaultError.lockLost("it could not be renewed"))
      }
      defer { group.cancelAll() }
      var lost: (any Error)?
      while let end = try await group.next() {
        switch end {
        case .body(let result): if let lost { throw lost } else { return try result.get() }
        case .renewal(let error):
          guard !AnyFailure(error).isCancellation, error as? VaultError != .cancelled else { continue }
          lost = error
          group.cancelAll()
        }
      }
      throw lost ?? CancellationError()
    }
  }

  /// Renews until it is cancelled or can't.
  private func renew(_ held: HeldLock) async throws {
    var renewed = settings.time.monotonicNanoseconds()
    while true {
      let age = Duration.nanoseconds(settings.time.monotonicNanoseconds() - renewed)
      try await settings.time.sleep(for: age < LockTiming.refresh ? LockTiming.refresh - age : .seconds(10))
      do throws(VaultError) {
        let old = await held.id
        guard try await access({ store throws(StoreError) in try await store.contains(ObjectName(.lock, old)) }) else {
          throw .lockLost("someone removed it")
        }
        // The new one first: there is never a moment without.
        let new = try await writeLock(exclusive: held.isExclusive, yields: held.yields)
        await held.moved(to: new)
        renewed = settings.time.monotonicNanoseconds()
        _ = try await removeLock(old)
      } catch {
        if case .lockLost = error { throw error }
        if case .cancelled = error { throw error }
        let age = Duration.nanoseconds(settings.time.monotonicNanoseconds() - renewed)
        if age >= LockTiming.giveUp { throw VaultError.lockLost(error.report.summary) }
      }
    }
  }

  private func release(_ held: HeldLock) async throws(VaultError) { _ = try await removeLock(await held.id) }

  // MARK: Files

  /// - Returns: `nil` if it has gone.
  private func loadLock(_ id: Digest) async throws(VaultError) -> LockFile? {
    do throws(VaultError) {
      let json = try await readFile(.lock, id) { VaultError.lockDamaged($0, $1) }
      return try LockFile(json: json, id: id)
    } catch {
      if case .store(.notFound) = error { return nil }
      throw error
    }
  }

  /// - Returns: `false` if it had gone.
  private func removeLock(_ id: Digest) async throws(VaultError) -> Bool {
    do throws(StoreError) {
      try await store.delete(ObjectName(.lock, id))
      return true
    } catch {
      if case .notFound = error { return false }
      throw VaultError(error)
    }
  }

  private func pause(_ duration: Duration) async throws(VaultError) {
    do { try await settings.time.sleep(for: duration) } catch { throw .cancelled }
  }
}
