import Catalog
import Core

/// What a plan is about, and what speaks against it.
struct PlanScope {
  let catalog: Catalog
  let point: PointFacts
  /// Sorted by name.
  var services: [Service] = []
  var stores: [DataStore] = []
  var disturbed: [ServiceName] = []
  var invariants: [CheckName] = []
  var refusals: [PlanNote] = []
  var warnings: [PlanNote] = []

  init(_ input: PlanInput) {
    (catalog, point) = (input.catalog, input.point)
    for name in input.services.sorted() where catalog.service(name) == nil {
      refusals.append(
        PlanNote(
          "PLAN-101", "there is no service '\(name)' in the catalog", remedy: "`salvor graph` lists the services"))
    }
    services = catalog.services.filter { input.services.isEmpty || input.services.contains($0.name) }
    let planned = Set(services.map(\.name))
    stores = catalog.stores.filter { planned.contains($0.service) }
    if stores.isEmpty, refusals.isEmpty {
      refusals.append(
        PlanNote("PLAN-105", "the services have no store to bring back", remedy: "choose services that own stores"))
    }
    checkPoint()
    checkLinks(allowed: input.allowsBrokenLinks)
    findDisturbed(planned)
    checkServices()
  }

  private mutating func checkPoint() {
    for store in stores {
      switch point.stores[store.name]?.state ?? .missing {
      case .held: break
      case .outside(let reason):
        warnings.append(
          PlanNote(
            "PLAN-202", "store '\(store.name)' is in point \(point.id), but not at the moment of its mark: \(reason)",
            remedy: "the invariants tell whether it fits"))
      case .missing:
        refusals.append(
          PlanNote(
            "PLAN-102", "point \(point.id) does not hold store '\(store.name)'",
            remedy: "choose a point that does (`salvor points`), or leave service '\(store.service)' out"))
      case .unreachable(let reason):
        refusals.append(
          PlanNote(
            "PLAN-107", "store '\(store.name)' can't be brought to point \(point.id): \(reason)",
            remedy: "choose another point (`salvor timeline \(store.name)` shows what can be reached)"))
      case .corrupt(let reason):
        refusals.append(
          PlanNote(
            "PLAN-103", "the snapshot of store '\(store.name)' in point \(point.id) is damaged: \(reason)",
            remedy: "choose another point; look at the disk this one is on"))
      }
    }
    if point.mode == .fuzzy, stores.count > 1 {
      warnings.append(
        PlanNote(
          "PLAN-203", "point \(point.id) is fuzzy: its stores stand at different moments",
          remedy: "prefer a barrier point; the invariants tell whether this one fits"))
    }
    if !point.isVerified {
      warnings.append(
        PlanNote(
          "PLAN-204", "point \(point.id) was never verified",
          remedy: "run `salvor verify` first; the pre-check reads it back anyway"))
    }
  }

  /// Invariants between a store that is brought back and one that stays: bringing back one side breaks the link.
  private mutating func checkLinks(allowed: Bool) {
    let restored = Set(stores.map(\.name))
    for invariant in catalog.invariants {
      let inside = invariant.stores.filter(restored.contains)
      let outside = invariant.stores.filter { !restored.contains($0) }
      if outside.isEmpty {
        invariants.append(invariant.name)
        continue
      }
      guard !inside.isEmpty else { continue }
      let owners = Set(outside.compactMap { catalog.store($0)?.service }).sorted()
      let message =
        "invariant '\(invariant.name)' joins \(quoted(inside)), which would go back to \(point.time), "
        + "to \(quoted(outside)), which would stay as it is"
      if allowed {
        warnings.append(PlanNote("PLAN-205", message, remedy: "expect broken links; it was allowed"))
      } else {
        refusals.append(
          PlanNote(
            "PLAN-106", message,
            remedy: "bring back \(quoted(owners)) too, or accept broken links with --allow-broken-links"))
      }
    }
  }

  private mutating func findDisturbed(_ planned: Set<ServiceName>) {
    disturbed = catalog.services
      .filter { !planned.contains($0.name) && $0.dependsOn.contains(where: planned.contains) }.map(\.name)
    if !disturbed.isEmpty {
      warnings.append(
        PlanNote(
          "PLAN-201", "not in the plan, but depending on it, and without it for a while: \(quoted(disturbed))",
          remedy: "warn their owners, or add them to the plan"))
    }
  }

  private mutating func checkServices() {
    let unstoppable = services.filter { !$0.stores.isEmpty && $0.stop == nil && $0.start == nil }.map(\.name)
    if !unstoppable.isEmpty {
      warnings.append(
        PlanNote(
          "PLAN-206", "nothing is known of how to stop \(quoted(unstoppable))",
          remedy: "make sure that nothing writes to their stores during the restore"))
    }
  }
}

/// `'a', 'b' and 3 more`.
func quoted(_ names: some Collection<some CustomStringConvertible>) -> String {
  let shown = names.prefix(10).map { "'\($0)'" }.joined(separator: ", ")
  return names.count > 10 ? "\(shown) and \(names.count - 10) more" : shown
}
