import Core
import Planning

/// From the text of a large catalog to a checked restore plan.
enum CatalogBench: Benchmark {
  static let name = "catalog"
  static let summary = "10,000 services with 40,000 edges: read, check, resolve and plan"

  static func run(_ context: BenchmarkContext) async throws -> [BenchmarkRow] {
    let (services, rounds) = context.scale == .full ? (10_000, 5) : (50, 1)
    let readings = try (0..<rounds).map { _ in try CatalogBenchmark.run(services: services, time: context.time) }
    return [
      BenchmarkRow("services", Double(services), ""),
      BenchmarkRow("edges", Double(readings[0].edges), ""),
      BenchmarkRow("text", Double(readings[0].bytes) / 1e6, "MB"),
      BenchmarkRow("validate and resolve", median(readings.map(\.resolveSeconds)), "s"),
      BenchmarkRow("plan", median(readings.map(\.planSeconds)), "s"),
      BenchmarkRow("steps", Double(readings[0].steps), ""),
      BenchmarkRow("total", median(readings.map(\.totalSeconds)), "s", bar: .atMost(1)),
    ]
  }
}
