import Core
import IO
import Vault

/// Takes a repository from version 1 to 2, so that a crash at any moment can be mended by doing it again.
///
/// Where a store can't replace a config at one stroke there is a moment without one. So the new one is durable in this
/// machine's state directory before the old one goes, sealed as it will be in the repository.
package struct ConfigUpgrade: Sendable {
  private let host: Machine

  package init(_ host: Machine) { self.host = host }

  private func path(_ store: any ObjectStore) -> String {
    host.path("vault/upgrade-\(Digest.of(store.location).hex.prefix(32)).config")
  }

  package func isPending(in store: any ObjectStore) async throws(SystemFailure) -> Bool {
    let path = path(store)
    return try await host.pool.run { () throws(SystemFailure) in try Files.isThere(path) }
  }

  /// Under an exclusive lock. Mirrors that have a config get the new one too.
  ///
  /// - Returns: Mirrors that could not be given it, and why.
  package func run(
    _ repository: Vault.Repository, mirrors: [any ObjectStore]
  ) async throws -> [(mirror: any ObjectStore, reason: String)] {
    let store = repository.store
    let (path, sealed) = (path(store), try repository.upgradedConfig())
    try await host.pool.run { () throws(SystemFailure) in
      try Files.createDirectory(Files.parent(of: path), mode: 0o700)
      try Files.replace(path, with: sealed)
    }
    try await store.replace(.config, sealed)
    var behind: [(mirror: any ObjectStore, reason: String)] = []
    for mirror in mirrors {
      do throws(StoreError) {
        if try await mirror.contains(.config) { try await mirror.replace(.config, sealed) }
      } catch { behind.append((mirror, error.report.summary)) }
    }
    try await forget(path)
    return behind
  }

  /// Puts the config back that an interrupted run took away.
  package func finish(_ store: any ObjectStore, password: Secret, settings: VaultSettings) async throws {
    let path = path(store)
    let sealed = try await host.pool.run { () throws(SystemFailure) in try Files.read(path, limitBytes: 65_536) }
    try await Vault.Repository.restoreConfig(sealed, in: store, password: password, settings: settings)
    try await forget(path)
  }

  private func forget(_ path: String) async throws(SystemFailure) {
    try await host.pool.run { () throws(SystemFailure) in try Files.removeTree(path) }
  }
}
