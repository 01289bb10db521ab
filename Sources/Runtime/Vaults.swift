import Catalog
import Core
import IO
import Vault

/// The repositories of a catalog, opened when first needed and kept: unlocking one costs half a second.
package actor Vaults {
  private let host: Machine
  private var open: [Place: Vault.Repository] = [:]

  /// The same place may be reached as one user or another.
  private struct Place: Hashable {
    var location: DeclaredRepository.Location
    var credentials: [String: SecretReference]?

    init(_ repository: DeclaredRepository) {
      (location, credentials) = (repository.location, repository.credentials)
    }
  }

  package init(host: Machine) { self.host = host }

  /// - Throws: ``VaultError`` or a secret's failure, wrapped.
  package func open(_ repository: DeclaredRepository) async throws(AnyFailure) -> Vault.Repository {
    if let known = open[Place(repository)] { return known }
    do {
      let password = try await host.secrets.resolve(repository.password)
      let vault = try await Vault.Repository.open(
        store: try await store(of: repository), password: password, settings: host.vaultSettings)
      open[Place(repository)] = vault
      return vault
    } catch {
      throw AnyFailure(error)
    }
  }

  private func store(of repository: DeclaredRepository) async throws -> any ObjectStore {
    var host = host
    if let credentials = repository.credentials {
      // One set of credentials is never made up of two.
      for family in ["AWS_", "RESTIC_REST_"] where credentials.keys.contains(where: { $0.hasPrefix(family) }) {
        for name in host.environment.keys where Self.isCredential(name, of: family) { host.environment[name] = nil }
      }
      for (name, reference) in credentials.sorted(by: { $0.key < $1.key }) {
        host.environment[name] = try await self.host.secrets.resolve(reference).revealed()
      }
    }
    return try Registry.store(at: repository.location.description, host: host)
  }

  private static func isCredential(_ name: String, of family: String) -> Bool {
    name.hasPrefix(family)
      && (DeclaredRepository.credentialNames.contains(name)
        || ["AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"].contains(name))
  }

  /// Makes the repository if nothing is there yet.
  ///
  /// - Returns: Whether it was made.
  package func create(_ repository: DeclaredRepository) async throws(AnyFailure) -> Bool {
    do {
      let store = try await store(of: repository)
      let password = try await host.secrets.resolve(repository.password)
      do {
        open[Place(repository)] = try await Vault.Repository.create(
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
