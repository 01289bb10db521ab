import Catalog
import Core
import DriverKit
import Recovery
import StateKit
import Validation
import Vault

/// What the steps of a restore act on: the drivers, services and checks of one system, and one point's copies.
struct LiveRestore: RestoreEnvironment {
  let system: ManagedSystem
  let point: RecoveryPoint
  let forwards: [LogForward]
  /// Those of the plan; the others stay as they are.
  let invariantNames: Set<CheckName>
  /// Those that come back: their schema gates are asked.
  var services: [ServiceName] = []
  /// What metrics were; `nil` asks none.
  var metrics: MetricContext?

  var runner: any ServiceRunner { system.runner }

  func driver(of store: StoreName) throws(RecoveryError) -> any DataStoreDriver { try system.driver(of: store) }

  func copy(of name: StoreName) async throws(RecoveryError) -> StoreCopy {
    guard let store = system.catalog.store(name) else { throw .noSuchStore(name) }
    guard let part = point.stores[name] else {
      throw .pointDamaged(point.id.text, why: "it has no copy of \(name)")
    }
    let (system, point) = (system, point)
    let forward = forwards.first { $0.store == name }
    let origin = forward?.point
    // The vault is opened when something is read from it: swapping back needs nothing but local directories.
    var copy = StoreCopy(capture: part.capture) { () async throws(AnyFailure) in
      let vault = try await system.vault(of: store.repository)
      do {
        return try await PointCatalog(vault: vault, pool: system.host.pool)
          .copy(of: name, in: point, from: origin).source
      } catch {
        throw AnyFailure(error)
      }
    }
    if let forward {
      copy.replay = forward.replay { () async throws(AnyFailure) in
        LogArchive(vault: try await system.vault(of: store.repository), store: name, pool: system.host.pool)
      }
    }
    return copy
  }

  func unit(of service: ServiceName) throws(RecoveryError) -> ServiceUnit? { try system.unit(of: service) }

  func readiness(of name: ServiceName) async throws(RecoveryError) -> [ReadyEvidence] {
    guard let service = system.catalog.service(name) else { throw .noSuchService(name) }
    let checks = system.readyChecks(of: service)
    // Nothing was asked for, and nothing is claimed: the evidence of such a gate is empty.
    guard !checks.isEmpty else { return [] }
    // A service that somebody else starts is asked like any other.
    let unit =
      try system.unit(of: name) ?? ServiceUnit(name: name, mode: .oneshot, start: ServiceCommand([]), ready: checks)
    do throws(ServiceError) { return try await system.runner.waitUntilReady(unit) } catch {
      if case .cancelled = error { throw .cancelled }
      throw .notReady(name, why: error.report.summary)
    }
  }

  func validate(_ name: ServiceName) async -> [CheckOutcome] { await system.checks.validate(name) }

  func invariants() async -> [CheckOutcome] {
    let gates = await system.checks.gates(of: services)
    let measured = await system.checks.metrics(of: Set(point.members), metrics)
    return gates + (await system.checks.invariants(invariantNames)) + measured
  }
}
