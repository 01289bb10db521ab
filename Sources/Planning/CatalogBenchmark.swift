import Catalog
import Core

/// How long a large catalog takes, from text to plan; `scripts/bench` prints it.
package enum CatalogBenchmark {
  package struct Reading: Sendable, Equatable, Codable {
    package var services: Int
    package var edges: Int
    package var bytes: Int
    /// Reading, checking, resolving and taking the digest.
    package var resolveSeconds: Double
    package var planSeconds: Double
    package var steps: Int

    package var totalSeconds: Double { resolveSeconds + planSeconds }
  }

  /// - Throws: ``CatalogError`` if the made-up catalog is not right, ``PlanError`` if its plan is refused.
  package static func run(services: Int, edgesPerService: Int = 4, time: any Timekeeper) throws -> Reading {
    let synthetic = SyntheticCatalog(services: services, edgesPerService: edgesPerService)
    let sources = synthetic.sources()
    let begin = time.monotonicNanoseconds()
    let catalog = try Catalog.resolve(sources, drivers: SyntheticCatalog.drivers).get()
    let resolved = time.monotonicNanoseconds()
    let point = PointFacts(
      id: "synthetic", time: Timestamp(seconds: 1_800_000_000),
      stores: Dictionary(uniqueKeysWithValues: catalog.stores.map { ($0.name, StoreFacts(.held, sizeBytes: 1 << 20)) }))
    let planning = time.monotonicNanoseconds()
    let plan = try RestorePlan.make(PlanInput(catalog: catalog, point: point)).checked()
    let planned = time.monotonicNanoseconds()
    return Reading(
      services: services, edges: catalog.services.reduce(0) { $0 + $1.dependsOn.count },
      bytes: sources.reduce(0) { $0 + $1.text.utf8.count }, resolveSeconds: Double(resolved - begin) / 1e9,
      planSeconds: Double(planned - planning) / 1e9,
      steps: plan.steps.count)
  }
}
