import Catalog
import Core

/// The steps of a restore and their gates, by number.
struct StepGraph {
  struct Step {
    var action: RestoreAction
    var service: ServiceName?
    var store: StoreName?
  }

  private(set) var steps: [Step] = []
  /// By step: the steps that must have succeeded.
  private(set) var needs: [[Int]] = []
  private(set) var wave: [Int] = []

  /// - Returns: `nil` if the steps wait for each other in a circle, which a resolved catalog can't cause.
  init?(_ scope: PlanScope) {
    let precheck = add(.precheck)
    var validated: [Int] = []
    for store in scope.stores {
      let copy = add(.restoreBeside, store: store, needs: [precheck])
      validated.append(add(.validateBeside, store: store, needs: [copy]))
    }
    // One gate instead of an edge from every store to every stop.
    let commit = add(.commit, needs: validated.isEmpty ? [precheck] : validated)

    let stops = Dictionary(uniqueKeysWithValues: scope.services.map { ($0.name, add(.stopService, service: $0)) })
    for service in scope.services {
      guard let own = stops[service.name] else { continue }
      // A dependent stops before what it depends on.
      for dependency in service.dependsOn { if let other = stops[dependency] { needs[other].append(own) } }
    }
    for (_, stop) in stops where needs[stop].isEmpty { needs[stop] = [commit] }
    // The last to stop are those that depend on nobody in the plan.
    let last = scope.services.filter { service in !service.dependsOn.contains { stops[$0] != nil } }
    let quiesce = add(.quiesce, needs: last.compactMap { stops[$0.name] })

    let storeStops = Dictionary(
      uniqueKeysWithValues: scope.stores.map { store in
        (store.name, add(.stopStore, store: store, needs: [quiesce]))
      })
    for store in scope.stores {
      guard let own = storeStops[store.name] else { continue }
      for dependency in store.dependsOn { if let other = storeStops[dependency] { needs[other].append(own) } }
    }
    let starts = Dictionary(
      uniqueKeysWithValues: scope.stores.map { store in
        let swap = add(.swap, store: store, needs: [storeStops[store.name]].compactMap { $0 })
        return (store.name, add(.startStore, store: store, needs: [swap]))
      })
    for store in scope.stores {
      guard let own = starts[store.name] else { continue }
      for dependency in store.dependsOn { if let other = starts[dependency] { needs[own].append(other) } }
    }
    let invariants = add(.checkInvariants, needs: scope.stores.compactMap { starts[$0.name] })

    let ready = Dictionary(
      uniqueKeysWithValues: scope.services.map { service in
        let start = add(.startService, service: service, needs: [invariants])
        return (service.name, (start: start, ready: add(.readyService, service: service, needs: [start])))
      })
    var checked: [Int] = []
    for service in scope.services {
      guard let own = ready[service.name] else { continue }
      for dependency in service.dependsOn { if let other = ready[dependency] { needs[own.start].append(other.ready) } }
      checked.append(add(.validateService, service: service, needs: [own.ready]))
    }
    _ = add(.record, needs: checked)

    guard let waves = Digraph(needs).waves() else { return nil }
    wave = waves
  }

  private mutating func add(
    _ action: RestoreAction, service: Service? = nil, store: DataStore? = nil, needs: [Int] = []
  ) -> Int {
    steps.append(Step(action: action, service: service?.name ?? store?.service, store: store?.name))
    self.needs.append(needs)
    return steps.count - 1
  }
}

extension StepGraph.Step {
  var id: String {
    if let store { return "\(action.rawValue)/\(store.text)" }
    if let service { return "\(action.rawValue)/\(service.text)" }
    return action.rawValue
  }
}
