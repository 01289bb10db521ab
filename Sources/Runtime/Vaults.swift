import Catalog
import Core
import Drills
import IO
import ObjectStoreOverlay
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

  private let view: RepositoryView?

  package init(host: Machine) { (self.host, view) = (host, nil) }

  /// - Parameter view: How they are seen in a drill.
  init(host: Machine, view: RepositoryView) { (self.host, self.view) = (host, view) }

  /// - Throws: ``VaultError`` or a secret's failure, wrapped.
  package func open(_ repository: DeclaredRepository) async throws(AnyFailure) -> Vault.Repository {
    if let known = open[Place(repository)] { return known }
    do {
      let password =
        if let own = view?.passwords[repository.name] { own } else {
          try await host.secrets.resolve(repository.password)
        }
      let (store, settings) = try await store(of: repository)
      let vault = try await Vault.Repository.open(store: store, password: password, settings: settings)
      open[Place(repository)] = vault
      return vault
    } catch {
      throw AnyFailure(error)
    }
  }

  /// The repository's store with its parity and mirrors, and where what is damaged comes from.
  private func store(
    of repository: DeclaredRepository
  ) async throws -> (store: any ObjectStore, settings: VaultSettings) {
    if let view {
      // One copy, as it is: what another would have mended is what a drill is to find.
      let location = view.locations[repository.name] ?? repository.location
      let base = try Registry.store(at: location.description, host: host)
      return (OverlayObjectStore(base, damage: view.damage, reading: view.reading), host.vaultSettings)
    }
    let location = repository.location.description
    let own = try await machine(for: repository)
    let base = try Registry.store(at: location, host: own)
    let parity = try await ParityStore.open(try Registry.parityPlace(of: location, host: own), pool: host.pool)
    // Credentials of a repository's own are not its mirrors'.
    let mirrors = try (repository.mirrors ?? []).map { try Registry.store(at: $0.description, host: host) }
    var settings = host.vaultSettings
    settings.sources = [parity].compactMap(\.self) + mirrors.map { CopySource($0) }
    settings.onMended = { [host] object in
      let end = object.failure.map { "it could not be put back: \($0)" } ?? "it was brought back"
      host.log("warning: \(object.name) was damaged or missing; it was read from \(object.source), and \(end)")
    }
    return (Registry.mirrored(Registry.protected(base, by: parity), mirrors), settings)
  }

  /// The machine as the repository's place is to see it.
  private func machine(for repository: DeclaredRepository) async throws -> Machine {
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
    return host
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
      let (store, settings) = try await store(of: repository)
      let password = try await host.secrets.resolve(repository.password)
      do {
        open[Place(repository)] = try await Vault.Repository.create(
          store: store, password: password, settings: settings)
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

/// How a drill sees repositories: never written to, and damaged where something was planted.
struct RepositoryView: Sendable {
  /// Copies that take the place of the declared ones.
  var locations: [RepositoryName: DeclaredRepository.Location] = [:]
  var passwords: [RepositoryName: Secret] = [:]
  var damage: [ObjectName: PlantedDamage] = [:]
  var reading: @Sendable (_ bytes: Int) -> Void = { _ in }
}

extension Vault.Repository {
  /// After writing, under the lock: lets mirrors catch up that missed something, and tells which are behind.
  func settleCopies(_ log: @Sendable (String) -> Void) async {
    if let parity = Registry.parity(in: store) {
      await parity.finish()
      if let problem = parity.problem { log("warning: parity could not be written: \(problem)") }
    }
    for (mirror, problem) in Registry.standings(store) {
      guard let problem else { continue }
      var reason = problem.reason
      // A place that is no copy yet may be a disk that isn't mounted.
      if problem.isBehind, (try? await mirror.contains(.config)) == true {
        do {
          if try await synchronize(mirror).isComplete { continue }
          reason = "files of the repository are damaged"
        } catch { reason = AnyFailure(error).report.summary }
      }
      log("warning: the mirror \(mirror.location) is behind: \(reason); run `salvor vault mirror sync`")
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
