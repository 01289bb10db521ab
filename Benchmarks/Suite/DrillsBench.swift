import Catalog
import Core
import Drills
import Planning
import Runtime

/// How good predictions are: the bank is practised with again and again while it grows, and what the plan said of each
/// service is held against what it took.
enum DrillsBench: Benchmark {
  static let name = "drills"
  static let summary = "predicted against measured RTO over drills of the bank: --set drills=, transfers="
  /// From then on it is known what steps take.
  private static let known = 5

  static func run(_ context: BenchmarkContext) async throws -> [BenchmarkRow] {
    let isFull = context.scale == .full
    let count = context.number("drills") ?? (isFull ? 30 : 2)
    let transfers = context.number("transfers") ?? (isFull ? 4000 : 40)
    let document =
      "---\napiVersion: salvor.dev/v1\nkind: Drill\nmetadata: {name: whole}\n"
      + "spec: {level: system, schedule: every 7d, proves: 20d}\n"
    let bank = try await BenchmarkBank(
      context, engines: isFull, basePort: 18_600, more: document, transfers: transfers)
    let result: Result<[DrillRecord], any Error>
    do {
      guard let drill = bank.system.catalog.drill("whole") else { throw BenchmarkError.wrong("there is no drill") }
      let runner = DrillRunner(bank.system, journal: bank.journal, program: bank.program)
      var records: [DrillRecord] = []
      for round in 0..<count {
        if round.isMultiple(of: 3) {
          try await bank.use(transfers / 10, seed: UInt64(round + 2))
          try await bank.point()
        }
        let record = try await runner.run(DrillRunner.Request(drill))
        guard record.verdict == .passed else { throw BenchmarkError.wrong("a drill: \(record.findings)") }
        records.append(record)
      }
      result = .success(records)
    } catch { result = .failure(error) }
    await bank.end(context.time)
    return rows(try result.get())
  }

  private static func rows(_ records: [DrillRecord]) -> [BenchmarkRow] {
    var services: [Double] = []
    var whole: [Double] = []
    for record in records.dropFirst(min(known, records.count / 2)) {
      var last: (predicted: Double, measured: Double) = (0, 0)
      for service in record.results {
        guard let predicted = service.predictedSeconds, let measured = service.rtoSeconds, measured > 0 else {
          continue
        }
        services.append(abs(predicted - measured) / measured)
        last = (max(last.predicted, predicted), max(last.measured, measured))
      }
      if last.measured > 0 { whole.append(abs(last.predicted - last.measured) / last.measured) }
    }
    return [
      BenchmarkRow("drills", Double(records.count), ""),
      BenchmarkRow("predictions", Double(services.count), ""),
      BenchmarkRow("RTO measured, median", median(records.flatMap { $0.results.compactMap(\.rtoSeconds) }), "s"),
      BenchmarkRow("off by, services, median", median(services), "", bar: .atMost(0.2)),
      BenchmarkRow("off by, services, 9 of 10", percentile(services, 0.9), ""),
      BenchmarkRow("off by, the last service, median", median(whole), "", bar: .atMost(0.2)),
    ]
  }
}
