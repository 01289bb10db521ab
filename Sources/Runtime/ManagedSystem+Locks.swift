import Core
import Vault

extension ManagedSystem {
  /// Runs `body` while nobody can prune what it reads: under the shared lock of each store's repository.
  ///
  /// A repository that can't be written to (a read-only copy, a full disk) is read without a lock, and the
  /// log says so: at three in the morning that copy may be all there is.
  func holdingRepositories<T: Sendable>(
    of stores: [StoreName], _ body: @escaping @Sendable () async throws -> T
  ) async throws -> T {
    let names = Set(stores.compactMap { catalog.store($0)?.repository }).sorted()
    var vaults: [Vault.Repository] = []
    for name in names { vaults.append(try await vault(of: name)) }
    return try await holding(vaults[...], body)
  }

  private func holding<T: Sendable>(
    _ vaults: ArraySlice<Vault.Repository>, _ body: @escaping @Sendable () async throws -> T
  ) async throws -> T {
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
