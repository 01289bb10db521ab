import Catalog
import Core
import DriverKit
import Recovery
import Runtime
import StateKit
import Vault

/// What most people do at three in the morning: the newest copy of each store that can be read, whatever the others are.
struct NaiveRestore: Sendable {
  let system: ManagedSystem
  let points: [RecoveryPoint]
  let vault: Vault.Repository

  struct Outcome: Sendable, Codable {
    /// Which point each store came from.
    var taken: [StoreName: PointID]
    /// Health checks that said yes.
    var healthy: [ServiceName]
    var checks: [CheckOutcome]
  }

  func run(say: @Sendable (String) -> Void) async throws -> Outcome {
    let catalog = PointCatalog(vault: vault, pool: system.host.pool)
    var taken: [StoreName: PointID] = [:]
    for store in system.catalog.stores {
      for point in points.sorted(by: { $0.id > $1.id }) {
        if let damage = try await catalog.damage(of: store.name, in: point) {
          say("\(store.name): the newest copy can't be read (\(damage)); taking the one before")
          continue
        }
        let copy = try await catalog.copy(of: store.name, in: point)
        let driver = try system.driver(of: store.name)
        let request = RestoreRequest(id: "naive", source: copy.source, capture: copy.capture)
        _ = try await driver.restoreBeside(request)
        try await driver.stop()
        try await driver.swapIn(request)
        try await driver.start()
        try await driver.discardKept(request)
        taken[store.name] = point.id
        break
      }
    }
    // Before anyone writes, as fair as can be.
    let checks = await system.checks.invariants(Set(system.catalog.invariants.map(\.name)))
    return Outcome(taken: taken, healthy: try await system.startAll(), checks: checks)
  }
}
