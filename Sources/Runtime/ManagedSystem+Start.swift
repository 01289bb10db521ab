import Catalog
import Core
import Recovery
import StateKit

extension ManagedSystem {
  /// Starts every store's server and every service, each after what it depends on is ready.
  ///
  /// - Returns: The services that said they are ready, in the order in which they did.
  package func startAll() async throws(AnyFailure) -> [ServiceName] {
    do {
      for store in catalog.stores { try await driver(of: store.name).start() }
      var ready: [ServiceName] = []
      var waiting = catalog.services
      while let index = waiting.firstIndex(where: { Set(ready).isSuperset(of: $0.dependsOn) }) {
        let service = waiting.remove(at: index)
        if let unit = try unit(of: service.name), !unit.start.arguments.isEmpty {
          _ = try await runner.start(unit)
          if !unit.ready.isEmpty { _ = try await runner.waitUntilReady(unit) }
        }
        ready.append(service.name)
      }
      return ready
    } catch {
      throw AnyFailure(error)
    }
  }

  /// Stops every service, users before what they use, and every store's server.
  package func stopAll() async throws(AnyFailure) {
    do {
      var order: [Service] = []
      var waiting = catalog.services
      while let index = waiting.firstIndex(where: { Set(order.map(\.name)).isSuperset(of: $0.dependsOn) }) {
        order.append(waiting.remove(at: index))
      }
      for service in order.reversed() {
        if let unit = try unit(of: service.name) { try await runner.stop(unit) }
      }
      for store in catalog.stores { try await driver(of: store.name).stop() }
    } catch {
      throw AnyFailure(error)
    }
  }
}
