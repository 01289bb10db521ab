import Core
import Failover
import StateKit

/// The routes in front of a failover policy's members, as the agent that conducts moves them.
///
/// They speed a failover up and hold nothing up: whatever a router does or doesn't do takes no longer than the budget.
package actor FailoverTraffic {
  private let routers: [any TrafficRouter]
  private let host: Machine
  private let budget: Duration
  private var said: [RouteName: TrafficFacts] = [:]
  private var busy: Set<RouteName> = []

  package init(_ routers: [any TrafficRouter], host: Machine, budget: Duration = .seconds(3)) {
    (self.routers, self.host, self.budget) = (routers, host, budget)
  }

  /// What the routers said last, by route; `nil` if there are none.
  package var facts: [TrafficFacts]? {
    untold?.map { said[RouteName(unchecked: $0.route)] ?? $0 }
  }

  /// What is known before anybody was told anything.
  package nonisolated var untold: [TrafficFacts]? {
    routers.isEmpty ? nil : routers.map { TrafficFacts(route: $0.route.text, epoch: .none, open: nil) }
  }

  /// The old side gets nothing new, and what it has is ended; at PgBouncer clients wait.
  package func close(_ member: MemberName, _ epoch: Fence) async {
    await each(epoch, "close \(member)") { router throws(TrafficError) in
      guard router.backends.contains(member) else { return try await router.view() }
      let closed = try await router.close(member)
      return router.traits.cuts ? try await router.cut(member) : closed
    }
  }

  /// All goes to the new side, once the others are seen closed.
  package func open(_ member: MemberName, _ epoch: Fence) async {
    await each(epoch, "open \(member)") { router throws(TrafficError) in
      let before = try await router.view()
      return before.isAll(at: member) ? before : try await router.move(to: member)
    }
  }

  private func each(
    _ epoch: Fence, _ what: String,
    _ body: @escaping @Sendable (any TrafficRouter) async throws(TrafficError) -> RouteView
  ) async {
    await withDiscardingTaskGroup { group in
      for router in routers { group.addTask { await self.one(router, epoch, what, body) } }
    }
  }

  private func one(
    _ router: any TrafficRouter, _ epoch: Fence, _ what: String,
    _ body: @escaping @Sendable (any TrafficRouter) async throws(TrafficError) -> RouteView
  ) async {
    // One at a time per router: what was begun first ends first, within its own budget.
    while !busy.insert(router.route).inserted {
      do { try await host.time.sleep(for: .milliseconds(10)) } catch { return }
    }
    defer { busy.remove(router.route) }
    var facts = TrafficFacts(route: router.route.text, epoch: epoch, open: nil)
    do {
      let view = try await host.time.withTimeLimit(budget) { try await body(router) }
      facts.open = view.backends.filter(\.isOpen).map(\.name)
      host.log("traffic: \(what) at \(router.route): \(Self.text(view))")
    } catch {
      facts.why = error is TimeLimitExceeded ? "nothing within \(budget.brief)" : AnyFailure(error).report.summary
      host.log("traffic: \(what) at \(router.route): not known to be so: \(facts.why ?? "")")
    }
    if epoch >= said[router.route]?.epoch ?? .none { said[router.route] = facts }
  }

  private static func text(_ view: RouteView) -> String {
    view.backends.map { "\($0.name) \($0.isOpen ? "open" : "closed")" }.joined(separator: ", ")
  }
}
