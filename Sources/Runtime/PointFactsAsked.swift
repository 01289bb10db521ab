import Catalog
import Core
import Recovery
import Validation

/// What stores are asked about the business and their schemas when a point is taken, and what that means later.
struct PointFactsAsked: Sendable {
  private static let limit = Duration.seconds(10)

  private let system: ManagedSystem
  private let metrics: [Metric]
  private let gates: [(service: ServiceName, gate: SchemaGate)]

  init(_ system: ManagedSystem, stores: [StoreName]) {
    self.system = system
    let stores = Set(stores)
    metrics = system.catalog.metrics.filter { stores.contains($0.source.store) }
    gates = system.catalog.services.flatMap { service in
      (service.schema ?? []).filter { stores.contains($0.source.store) }.map { (service.name, $0) }
    }
  }

  var isEmpty: Bool { metrics.isEmpty && gates.isEmpty }

  /// What doesn't answer in time is left out: a point isn't lost for the sake of a number.
  func ask() async -> RecoveryPoint.Measured? {
    let checks = system.checks
    var result = RecoveryPoint.Measured()
    await withTaskGroup(of: (String, StoreQuery, String?).self) { group in
      for metric in metrics {
        group.addTask { (metric.name.text, metric.source, await checks.reading(metric.source, within: Self.limit)) }
      }
      for query in Set(gates.map(\.gate.source)) {
        group.addTask { ("", query, await checks.reading(query, within: Self.limit)) }
      }
      for await (name, query, value) in group {
        guard let value else { continue }
        if name.isEmpty {
          result.schemas.append(.init(store: query.store, query: query.query, version: value))
        } else {
          result.metrics[name] = value
        }
      }
    }
    result.schemas.sort { ($0.store, $0.query) < ($1.store, $1.query) }
    return result.isEmpty ? nil : result
  }

  /// Refuses a point whose schema a service doesn't work with, as far as the point knows.
  ///
  /// - Parameter goingOn: Stores that go on along their log, beyond what the point knows.
  func requireAccepted(
    _ point: RecoveryPoint, by services: [ServiceName], goingOn: Set<StoreName>
  ) throws(SchemaGateError) {
    for (service, gate) in gates where services.contains(service) && !goingOn.contains(gate.source.store) {
      let known = point.measured?.schemas.first { $0.store == gate.source.store && $0.query == gate.source.query }
      guard let known, !gate.accepts.contains(known.version) else { continue }
      throw SchemaGateError(point: point.id, why: gate.refusal(of: known.version, by: service))
    }
  }

  /// What metrics were, in the point and before it.
  func context(of point: RecoveryPoint) async throws -> MetricContext? {
    guard !metrics.isEmpty else { return nil }
    var context = MetricContext()
    context.recorded = point.measured?.metrics ?? [:]
    guard metrics.contains(where: { $0.trend != nil }) else { return context }
    let names = Set(metrics.map(\.source.store).compactMap { system.catalog.store($0)?.repository }).sorted()
    for name in names {
      let vault = try await system.vault(of: name)
      let earlier = try await PointCatalog(vault: vault, pool: system.host.pool).list().points
        .filter { $0.group == point.group && $0.time < point.time }.sorted { $0.time < $1.time }
      for metric in metrics {
        guard let trend = metric.trend else { continue }
        let values = earlier.compactMap { $0.measured?.metrics[metric.name.text] }
        context.history[metric.name.text, default: []] += values.suffix(trend.points)
      }
    }
    return context
  }
}

/// A point whose schema a service does not work with.
struct SchemaGateError: Failure {
  var point: PointID
  var why: String

  var report: Report {
    Report("COMPAT-201", "point \(point) is not for this release: \(why)", retry: .afterChange)
      .state("nothing was changed")
      .remedy(
        "restore a point with such a schema, bring the release back that belongs to this one, or see with `salvor compat` "
          + "whether this release can migrate it and add the version to 'accepts'")
  }
}
