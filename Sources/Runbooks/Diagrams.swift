import Core

/// The drawings of a system, from its facts.
package struct Diagrams {
  private let facts: RunbookFacts

  package init(_ facts: RunbookFacts) { self.facts = facts }

  func all(of services: [RunbookFacts.Service], _ prefix: String) -> [Drawing] {
    [dependencies(services), dataFlow(services), replication(services)].map { drawing in
      var named = drawing
      named.name = "\(prefix)-\(drawing.name)"
      return named
    }
  }

  /// What must be back before what: arrows lead from what is needed to who needs it, so that the first wave is on top.
  package func dependencies(_ services: [RunbookFacts.Service]? = nil) -> Drawing {
    let services = facts.inOrder(services ?? facts.services)
    let waves = wavesOfServices(services)
    return Drawing(
      name: "dependencies", title: "What comes back before what",
      nodes: services.map { service in
        .init(service.name, [service.name, "wave \(waves[service.name] ?? 1), \(service.tier)"], .service)
      }, edges: services.flatMap { service in service.dependsOn.map { .init($0, service.name) } })
  }

  private func wavesOfServices(_ services: [RunbookFacts.Service]) -> [String: Int] {
    var waves: [String: Int] = [:]
    for service in services { waves[service.name] = 1 + (service.dependsOn.compactMap { waves[$0] }.max() ?? 0) }
    return waves
  }

  /// Who asks whom, and who keeps what where.
  package func dataFlow(_ services: [RunbookFacts.Service]? = nil) -> Drawing {
    let services = (services ?? facts.services).sorted { $0.name < $1.name }
    let stores = self.stores(of: services)
    return Drawing(
      name: "data-flow", title: "Who asks whom, and who keeps what where",
      nodes: services.map { .init("service/" + $0.name, [$0.name], .service) }
        + stores.map { .init("store/" + $0.name, [$0.name, $0.driver], .store) },
      edges: services.flatMap { service in
        service.dependsOn.map { .init("service/" + service.name, "service/" + $0) }
          + service.stores.map { .init("service/" + service.name, "store/" + $0) }
      })
  }

  /// Which copies there are: points in repositories, logs that are followed, repositories' own copies.
  package func replication(_ services: [RunbookFacts.Service]? = nil) -> Drawing {
    let stores = self.stores(of: services ?? facts.services)
    let repositories = Set(stores.map(\.repository)).sorted().compactMap(facts.repository)
    var nodes: [Drawing.Node] = stores.map { store in
      let schedules = Set(facts.policies.filter { $0.stores.contains(store.name) }.compactMap(\.schedule)).sorted()
      return .init(
        "store/" + store.name,
        [store.name, schedules.isEmpty ? "points: when asked" : "points: " + schedules.joined(separator: ", ")], .store)
    }
    var edges: [Drawing.Edge] = []
    for store in stores {
      edges.append(.init("store/" + store.name, "repository/" + store.repository))
      guard store.followsLog else { continue }
      nodes.append(.init("log/" + store.name, ["its log", "while it is followed"], .copy))
      edges.append(.init("store/" + store.name, "log/" + store.name, isDashed: true))
      edges.append(.init("log/" + store.name, "repository/" + store.repository, isDashed: true))
    }
    for repository in repositories {
      nodes.append(.init("repository/" + repository.name, [repository.name, repository.location], .repository))
      for (index, mirror) in repository.mirrors.enumerated() {
        nodes.append(.init("mirror/\(repository.name)/\(index)", ["copy \(index + 1)", mirror], .copy))
        edges.append(.init("repository/" + repository.name, "mirror/\(repository.name)/\(index)"))
      }
    }
    return Drawing(name: "replication", title: "Which copies there are", nodes: nodes, edges: edges)
  }

  private func stores(of services: [RunbookFacts.Service]) -> [RunbookFacts.Store] {
    let own = Set(services.flatMap(\.stores))
    return facts.stores.filter { own.contains($0.name) }.sorted { $0.name < $1.name }
  }

  /// Steps, and where each leads.
  static func way(_ steps: [Step], named name: String) -> Drawing {
    // The long way by hand is one box: it has no branches worth a drawing.
    let shown = steps.filter { !$0.id.hasPrefix("m") || $0.id == "m1" }
    var nodes: [Drawing.Node] = shown.map { step in
      step.id == "m1"
        ? .init("m1", ["M. Without Salvor"], .step)
        : .init(step.id, [step.label], step.isDecision && step.command == nil ? .decision : .step)
    }
    nodes.append(.init(Step.end, ["the end"], .end))
    var edges: [Drawing.Edge] = []
    func lead(_ step: Step, to target: String, isDashed: Bool) {
      guard !edges.contains(where: { $0.from == step.id && $0.to == target }) else { return }
      edges.append(.init(step.id, target, isDashed: isDashed))
    }
    // What people decide, and where it goes when all is well; the tables have the rest.
    for step in shown {
      if step.id == "m1" { lead(step, to: Step.end, isDashed: false) }
      for (index, outcome) in step.outcomes.enumerated() where step.id != "m1" {
        if case .situation = outcome.condition { lead(step, to: outcome.target, isDashed: false) }
        if index == 0 || step.id == "d3" { lead(step, to: outcome.target, isDashed: false) }
      }
    }
    // Trouble, as far as nothing else leads to where it is dealt with.
    for step in shown {
      for outcome in step.outcomes where step.id != "m1" && !edges.contains(where: { $0.to == outcome.target }) {
        lead(step, to: outcome.target, isDashed: true)
      }
    }
    return Drawing(name: name, title: "The way through it", nodes: nodes, edges: edges)
  }
}
