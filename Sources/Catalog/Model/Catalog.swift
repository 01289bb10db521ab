import Core

/// A system as it was declared, checked and resolved: every default filled in, every name known to exist.
///
/// Made by ``resolve(_:drivers:)`` alone, so whoever holds one need not check again: names are unique, references lead
/// somewhere, service and store dependencies have no cycle, and every store has a repository.
/// All lists are sorted by name; two catalogs that mean the same have the same ``digest``, whatever files, order and
/// comments they were written in.
package struct Catalog: Sendable, Equatable {
  package let services: [Service]
  package let stores: [DataStore]
  package let repositories: [Repository]
  package let policies: [BackupPolicy]
  package let groups: [ConsistencyGroup]
  package let invariants: [Invariant]
  package let drills: [Drill]
  package let workflows: [LoadWorkflow]
  package let metrics: [Metric]
  package let domains: [Domain]
  package let reconciliations: [ReconciliationRule]
  package let failovers: [FailoverPolicy]
  package let routes: [TrafficRoute]
  package let rollouts: [Rollout]

  /// Names what the catalog means: the SHA-256 of its canonical JSON.
  package private(set) var digest: Digest

  private let serviceIndex: [ServiceName: Int]
  private let storeIndex: [StoreName: Int]

  init(
    services: [Service], stores: [DataStore], repositories: [Repository], policies: [BackupPolicy],
    groups: [ConsistencyGroup], invariants: [Invariant], drills: [Drill] = [], workflows: [LoadWorkflow] = [],
    metrics: [Metric] = [], domains: [Domain] = [], reconciliations: [ReconciliationRule] = [],
    failovers: [FailoverPolicy] = [],
    routes: [TrafficRoute] = [], rollouts: [Rollout] = []
  ) {
    let services = services.sorted { $0.name < $1.name }
    let stores = stores.sorted { $0.name < $1.name }
    (self.services, self.stores) = (services, stores)
    self.repositories = repositories.sorted { $0.name < $1.name }
    self.policies = policies.sorted { $0.name < $1.name }
    self.groups = groups.sorted { $0.name < $1.name }
    self.invariants = invariants.sorted { $0.name < $1.name }
    self.drills = drills.sorted { $0.name < $1.name }
    self.workflows = workflows.sorted { $0.name < $1.name }
    self.metrics = metrics.sorted { $0.name < $1.name }
    self.domains = domains.sorted { $0.name < $1.name }
    self.reconciliations = reconciliations.sorted { $0.name < $1.name }
    self.failovers = failovers.sorted { $0.name < $1.name }
    self.routes = routes.sorted { $0.name < $1.name }
    self.rollouts = rollouts.sorted { $0.name < $1.name }
    serviceIndex = Dictionary(services.indices.map { (services[$0].name, $0) }, uniquingKeysWith: { a, _ in a })
    storeIndex = Dictionary(stores.indices.map { (stores[$0].name, $0) }, uniquingKeysWith: { a, _ in a })
    digest = Digest.of("")
    digest = canonicalBytes.withUnsafeBytes { Digest.of($0) }
  }

  package func service(_ name: ServiceName) -> Service? { serviceIndex[name].map { services[$0] } }

  package func store(_ name: StoreName) -> DataStore? { storeIndex[name].map { stores[$0] } }

  package func repository(_ name: RepositoryName) -> Repository? { repositories.first { $0.name == name } }

  package func policy(_ name: PolicyName) -> BackupPolicy? { policies.first { $0.name == name } }

  package func group(_ name: GroupName) -> ConsistencyGroup? { groups.first { $0.name == name } }

  /// The group `store` is marked with; `nil` for a store that is captured on its own.
  package func group(of store: StoreName) -> ConsistencyGroup? { groups.first { $0.stores.contains(store) } }

  package func invariant(_ name: CheckName) -> Invariant? { invariants.first { $0.name == name } }

  package func domain(_ name: String) -> Domain? { domains.first { $0.name.text == name } }

  package func reconciliation(_ name: CheckName) -> ReconciliationRule? { reconciliations.first { $0.name == name } }

  package func failover(_ name: PolicyName) -> FailoverPolicy? { failovers.first { $0.name == name } }
  package func route(_ name: CheckName) -> TrafficRoute? { routes.first { $0.name == name } }

  package func rollout(_ name: PolicyName) -> Rollout? { rollouts.first { $0.name == name } }

  package func drill(_ name: DrillName) -> Drill? { drills.first { $0.name == name } }

  package func workflow(_ name: WorkflowName) -> LoadWorkflow? { workflows.first { $0.name == name } }
}

extension Catalog: Codable {
  private enum CodingKeys: String, CodingKey {
    case services, stores, repositories, policies, groups, invariants, drills, workflows, metrics, domains,
      reconciliations, failovers, routes, rollouts
  }

  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    self.init(
      services: try container.decode([Service].self, forKey: .services),
      stores: try container.decode([DataStore].self, forKey: .stores),
      repositories: try container.decode([Repository].self, forKey: .repositories),
      policies: try container.decode([BackupPolicy].self, forKey: .policies),
      groups: try container.decode([ConsistencyGroup].self, forKey: .groups),
      invariants: try container.decode([Invariant].self, forKey: .invariants),
      drills: try container.decodeIfPresent([Drill].self, forKey: .drills) ?? [],
      workflows: try container.decodeIfPresent([LoadWorkflow].self, forKey: .workflows) ?? [],
      metrics: try container.decodeIfPresent([Metric].self, forKey: .metrics) ?? [],
      domains: try container.decodeIfPresent([Domain].self, forKey: .domains) ?? [],
      reconciliations: try container.decodeIfPresent([ReconciliationRule].self, forKey: .reconciliations) ?? [],
      failovers: try container.decodeIfPresent([FailoverPolicy].self, forKey: .failovers) ?? [],
      routes: try container.decodeIfPresent([TrafficRoute].self, forKey: .routes) ?? [],
      rollouts: try container.decodeIfPresent([Rollout].self, forKey: .rollouts) ?? [])
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    try container.encode(services, forKey: .services)
    try container.encode(stores, forKey: .stores)
    try container.encode(repositories, forKey: .repositories)
    try container.encode(policies, forKey: .policies)
    try container.encode(groups, forKey: .groups)
    try container.encode(invariants, forKey: .invariants)
    // Left out where there are none: catalogs from before keep their digests.
    if !drills.isEmpty { try container.encode(drills, forKey: .drills) }
    if !workflows.isEmpty { try container.encode(workflows, forKey: .workflows) }
    if !metrics.isEmpty { try container.encode(metrics, forKey: .metrics) }
    if !domains.isEmpty { try container.encode(domains, forKey: .domains) }
    if !reconciliations.isEmpty { try container.encode(reconciliations, forKey: .reconciliations) }
    if !failovers.isEmpty { try container.encode(failovers, forKey: .failovers) }
    if !routes.isEmpty { try container.encode(routes, forKey: .routes) }
    if !rollouts.isEmpty { try container.encode(rollouts, forKey: .rollouts) }
  }
}
