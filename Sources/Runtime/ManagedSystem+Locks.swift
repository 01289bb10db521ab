import Core
import Vault

extension ManagedSystem {
  /// Runs `body` while nobody can prune what it reads: under the shared lock of each store's repository.
  ///
  /// A repository that can't be written to (a read-only copy, a full disk) is read without a lock, and the
  /// log says so: at three in the morning that copy may be all there is.
  ///
  /// - Parameter end: When it comes, the locks are given back though `body` goes on; from then on no repository's trouble
  ///   is any of its business.
  func holdingRepositories<T: Sendable>(
    of stores: [StoreName], until end: ReadingEnd, _ body: @escaping @Sendable () async throws -> T
  ) async throws -> T {
    guard !stores.isEmpty else { return try await body() }
    let (held, say) = AsyncThrowingStream<Void, any Error>.makeStream()
    return try await withThrowingTaskGroup(of: T?.self) { group in
      defer { group.cancelAll() }
      group.addTask {
        do {
          try await holdingRepositories(of: stores) {
            say.finish()
            await end.wait()
          }
        } catch {
          // Cancelled: what became of the run is for `body` to tell.
          guard !end.isOver, !Task.isCancelled else {
            host.log("a lock could not be given back: \(AnyFailure(error).report)")
            return nil
          }
          say.finish(throwing: error)
          throw error
        }
        return nil
      }
      group.addTask {
        defer { end.come() }
        for try await _ in held {}
        try Task.checkCancellation()
        return try await body()
      }
      var result: T?
      while let ended = try await group.next() { if let ended { result = ended } }
      guard let result else { throw CancellationError() }
      return result
    }
  }

  private func holdingRepositories(
    of stores: [StoreName], _ body: @escaping @Sendable () async throws -> Void
  ) async throws {
    let names = Set(stores.compactMap { catalog.store($0)?.repository }).sorted()
    var vaults: [Vault.Repository] = []
    for name in names { vaults.append(try await vault(of: name)) }
    return try await holding(vaults[...], body)
  }

  private func holding(
    _ vaults: ArraySlice<Vault.Repository>, _ body: @escaping @Sendable () async throws -> Void
  ) async throws {
    guard let first = vaults.first else { return try await body() }
    do {
      return try await first.withLock(exclusive: false, wait: .seconds(30)) {
        try await holding(vaults.dropFirst(), body)
      }
    } catch VaultError.store(let error) {
      // From taking the lock: a run's own failures are the engine's, never the store's.
      switch error {
      case .readOnly, .permission, .full:
        host.log("\(first.store.location) can't be written to: reading it without a lock")
      default: throw VaultError.store(error)
      }
    }
    return try await holding(vaults.dropFirst(), body)
  }
}
