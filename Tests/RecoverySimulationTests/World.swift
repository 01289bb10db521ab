import Core
import DriverKit
import StateKit
import Synchronization

/// Three stores and three services, as durable as disks, shared by all processes that ever act on them.
///
/// Knows by itself what must never happen, and takes it down in ``violations``.
final class World: Sendable {
  struct Rules: Sendable {
    /// As the port demands; without it a second `swapIn` swaps back, as an exchange of two names would.
    var swapsOnce = true
    /// As the port demands; without it a second `swapOut` puts the restored state back.
    var swapsBackOnce = true
    /// The service whose validator says no.
    var validatorFails: ServiceName?
  }

  struct Store: Equatable, Sendable {
    var live: String?
    var beside: String?
    var kept: String?
    /// A swap that has begun: what came from beside and is on its way.
    var incoming: String?
    /// A swap back that has begun: what was kept and is on its way.
    var outgoing: String?
    var isCompared = false
    /// Has a server of its own that must run to be asked, and must not while states are swapped.
    var hasServer: Bool
    var serves: Bool
  }

  private struct State {
    var stores: [StoreName: Store]
    var running: Set<ServiceName>
    var violations: [String] = []
  }

  static let services: [(name: ServiceName, needs: [ServiceName], store: StoreName)] = [
    ("accounts", [], "accounts-db"), ("ledger", ["accounts"], "ledger-db"), ("web", ["ledger"], "web-files"),
  ]

  let rules: Rules
  private let state: Mutex<State>

  /// - Parameter running: The services that run before anything happens.
  init(_ rules: Rules, running: Set<ServiceName>) {
    self.rules = rules
    state = Mutex(
      State(
        stores: Dictionary(
          uniqueKeysWithValues: Self.services.enumerated().map { index, service in
            (service.store, Store(live: "original \(service.store)", hasServer: index == 1, serves: true))
          }), running: running))
  }

  var stores: [StoreName: Store] { state.withLock { $0.stores } }
  var running: Set<ServiceName> { state.withLock { $0.running } }
  var violations: [String] { state.withLock { $0.violations } }

  func serves(_ store: StoreName) -> Bool { state.withLock { $0.stores[store]?.serves ?? false } }

  // MARK: Stores

  /// One act on one store; afterwards nothing may have been lost.
  func act(_ name: StoreName, _ what: String, _ body: (inout Store) -> Void) {
    state.withLock { state in
      guard var store = state.stores[name] else { return }
      let users = Self.services.filter { $0.store == name && state.running.contains($0.name) }
      let before = store
      body(&store)
      if before.live != store.live {
        if !users.isEmpty { state.violations.append("\(name): \(what) under \(users.map(\.name.text))") }
        if store.hasServer, store.serves { state.violations.append("\(name): \(what) under its server") }
        if let early = state.stores.first(where: { !$0.value.isCompared }) {
          state.violations.append("\(name): \(what) before \(early.key) was compared")
        }
      }
      state.stores[name] = store
      let places = [store.live, store.beside, store.kept, store.incoming, store.outgoing]
      if !places.contains("original \(name)") { state.violations.append("\(name): \(what) lost the original") }
      if store.isCompared, !places.contains("restored \(name)") {
        state.violations.append("\(name): \(what) lost what was restored")
      }
      if Set(places.compactMap { $0 }).count != places.compactMap({ $0 }).count {
        state.violations.append("\(name): \(what) doubled a state")
      }
    }
  }

  // MARK: Services

  func start(_ service: ServiceName) {
    state.withLock { state in
      guard let known = Self.services.first(where: { $0.name == service }) else { return }
      if let store = state.stores[known.store], store.live == nil || !store.serves {
        state.violations.append("\(service) started on nothing")
      }
      for (name, store) in state.stores where store.incoming != nil || store.outgoing != nil {
        state.violations.append("\(service) started while \(name) was half swapped")
      }
      let lives = state.stores.values.compactMap(\.live)
      let restored = lives.count { $0.hasPrefix("restored") }
      if restored != 0, restored != lives.count { state.violations.append("\(service) started on mixed states") }
      state.running.insert(service)
    }
  }

  func stop(_ service: ServiceName) { state.withLock { _ = $0.running.remove(service) } }
}
