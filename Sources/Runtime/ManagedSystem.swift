import Catalog
import Core
import DriverKit
import IO
import Recovery
import StateKit
import Validation
import Vault

/// A system as its catalog declares it, with everything that acts on it: drivers, repositories, runner, journal.
package struct ManagedSystem: Sendable {
  package let host: Machine
  package let loaded: LoadedCatalog
  package let vaults: Vaults
  package let runner: any ServiceRunner
  private let drivers: [StoreName: any DataStoreDriver]

  package var catalog: Catalog { loaded.catalog }

  /// - Throws: ``DriverError/badOption(store:option:why:)`` and its like, before anything is touched.
  ///
  /// - Parameter around: Stands between a driver and whoever asks for it, in drills.
  package init(
    _ loaded: LoadedCatalog, host: Machine, vaults: Vaults? = nil,
    around: (StoreName, any DataStoreDriver) -> any DataStoreDriver = { $1 }
  ) throws(AnyFailure) {
    self.loaded = loaded
    self.host = host
    self.vaults = vaults ?? Vaults(host: host)
    var drivers: [StoreName: any DataStoreDriver] = [:]
    do {
      for store in loaded.catalog.stores {
        guard let factory = Registry.driver(store.driver) else { throw RegistryError.unknownDriver(store.driver) }
        let made = try factory.make(
          StoreConfiguration(name: store.name, options: store.options), in: host.driverEnvironment)
        drivers[store.name] = around(store.name, made)
      }
    } catch {
      throw AnyFailure(error)
    }
    self.drivers = drivers
    let stores = drivers
    runner = Registry.runner(host) { store, query, timeout in
      guard let driver = stores[store] else { throw RecoveryError.noSuchStore(store) }
      return try await driver.query(query, limit: QueryLimit(rows: 1, timeout: timeout)).rows
    }
  }

  package func driver(of store: StoreName) throws(RecoveryError) -> any DataStoreDriver {
    guard let driver = drivers[store] else { throw .noSuchStore(store) }
    return driver
  }

  package func vault(of repository: RepositoryName) async throws(AnyFailure) -> Vault.Repository {
    guard let declared = catalog.repository(repository) else {
      throw AnyFailure(RecoveryError.noSuchRepository(repository))
    }
    return try await vaults.open(declared)
  }

  /// Repositories that hold points, each once.
  package var repositories: [DeclaredRepository] { catalog.repositories }

  /// How a service is started, stopped and asked.
  ///
  /// A service with a `stop` command is started by a command that ends; one without is its own start command, and is
  /// stopped by signal.
  ///
  /// - Returns: `nil` for a service that somebody else starts.
  package func unit(of name: ServiceName) throws(RecoveryError) -> ServiceUnit? {
    guard let service = catalog.service(name) else { throw .noSuchService(name) }
    guard service.start != nil || service.stop != nil else { return nil }
    return ServiceUnit(
      name: name, mode: service.stop == nil ? .daemon : .oneshot,
      // Without a start command somebody else starts it, and its stop command is still ours to run.
      start: service.start.map { ServiceCommand($0) } ?? ServiceCommand([]),
      stop: service.stop.map { ServiceCommand($0) }, stopTimeoutMilliseconds: 10_000, ready: readyChecks(of: service))
  }

  package func readyChecks(of service: Service) -> [ReadyCheck] {
    service.ready.enumerated().map { index, probe in ReadyCheck(probe, number: index + 1) }
  }
}

extension ServiceCommand {
  package init(_ command: Command) {
    var plain: [String: String] = [:]
    var secrets: [String: SecretReference] = [:]
    for (name, value) in command.environment {
      switch value {
      case .text(let text): plain[name] = text
      case .secret(let reference): secrets[name] = reference
      }
    }
    self.init(
      command.words, environment: plain, secrets: secrets, workingDirectory: command.workingDirectory,
      user: command.user, timeoutMilliseconds: Int64(command.timeout.milliseconds))
  }
}

extension ReadyCheck {
  init(_ probe: DeclaredProbe, number: Int) {
    let name: String
    let question: ReadyCheck.Probe
    switch probe.question {
    case .exec(let command):
      (name, question) = ("exec \(command.words.first ?? "")", .exec(ServiceCommand(command)))
    case .tcp(let host, let port): (name, question) = ("tcp \(host):\(port)", .tcp(host: host, port: port))
    case .http(let url, let status):
      (name, question) = ("http \(url)", .http(url: url, status: status...status, bodyContains: nil))
    case .sql(let store, let query): (name, question) = ("sql \(store)", .sql(store: store, query: query, expect: nil))
    }
    self.init(
      name, question, timeoutMilliseconds: Int64(probe.timeout.milliseconds),
      intervalMilliseconds: Int64(probe.interval.milliseconds), attempts: probe.retries + 1)
  }
}
