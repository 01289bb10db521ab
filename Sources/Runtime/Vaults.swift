import Catalog
import Core
import IO
import Vault

/// The repositories of a catalog, opened when first needed and kept: unlocking one costs half a second.
package actor Vaults {
  private let host: Machine
  private var open: [DeclaredRepository.Location: Vault.Repository] = [:]

  package init(host: Machine) { self.host = host }

  /// - Throws: ``VaultError`` or a secret's failure, wrapped.
  package func open(_ repository: DeclaredRepository) async throws(AnyFailure) -> Vault.Repository {
    if let known = open[repository.location] { return known }
    do {
      let password = try await host.secrets.resolve(repository.password)
      let vault = try await Vault.Repository.open(
        store: try Registry.store(at: repository.location.description, host: host), password: password,
        settings: host.vaultSettings)
      open[repository.location] = vault
      return vault
    } catch {
      throw AnyFailure(error)
    }
  }

  /// Makes the repository if nothing is there yet.
  ///
  /// - Returns: Whether it was made.
  package func create(_ repository: DeclaredRepository) async throws(AnyFailure) -> Bool {
    do {
      let store = try Registry.store(at: repository.location.description, host: host)
      let password = try await host.secrets.resolve(repository.password)
      do {
        open[repository.location] = try await Vault.Repository.create(
          store: store, password: password, settings: host.vaultSettings)
        return true
      } catch VaultError.repositoryExists {
        _ = try await self.open(repository)
        return false
      }
    } catch {
      throw AnyFailure(error)
    }
  }
}

extension Machine {
  package var vaultSettings: VaultSettings {
    var settings = VaultSettings()
    (settings.time, settings.randomness, settings.pool) = (time, randomness, pool)
    settings.owner.hostname = name
    return settings
  }
}
