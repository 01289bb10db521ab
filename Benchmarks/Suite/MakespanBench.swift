import Core
import Planning
import Recovery
import Runtime
import StateKit
import Workflow

/// How near restores are to the quickest there can be: many made-up systems in a simulation, and the bank for real.
enum MakespanBench: Benchmark {
  static let name = "makespan"
  static let summary =
    "how near a restore is to the quickest possible one, simulated and on the bank: --set graphs=, rounds=, real=0"

  static func run(_ context: BenchmarkContext) async throws -> [BenchmarkRow] {
    let isFull = context.scale == .full
    var rows = try simulated(context.number("graphs") ?? 200)
    if context.number("real") ?? 1 != 0 {
      rows += try await real(context, engines: isFull, rounds: context.number("rounds") ?? (isFull ? 5 : 1))
    }
    return rows
  }

  // MARK: Simulated

  static func simulated(_ graphs: Int) throws -> [BenchmarkRow] {
    var (over, alike, simple): ([Double], [Double], [Double]) = ([], [], [])
    var beyond = 0
    for seed in 1...max(1, graphs) {
      let simulation = try MakespanSimulation(seed: UInt64(seed))
      let outcome = try simulation.run()
      over.append(outcome.makespan / outcome.bound)
      simple.append(outcome.makespan / outcome.simpleBound)
      if outcome.bound > 1.1 * outcome.simpleBound { beyond += 1 }
      alike.append(try simulation.run(ranks: false).makespan / outcome.bound)
    }
    return [
      BenchmarkRow("simulated systems", Double(over.count), ""),
      BenchmarkRow("makespan over lower bound, median", median(over), "×"),
      BenchmarkRow("makespan over lower bound, worst", over.max() ?? .nan, "×", bar: .atMost(1.1)),
      BenchmarkRow("… if all copies get the same, worst", alike.max() ?? .nan, "×"),
      BenchmarkRow("… over longest chain or all work, median", median(simple), "×"),
      BenchmarkRow("… of which no schedule can be within 1.1", Double(beyond), ""),
    ]
  }

  // MARK: Real

  /// The bank lost and brought back, with copies one at a time and as usual by turns.
  ///
  /// The bound is the longest chain of what steps take when copies don't share the machine.
  private static func real(_ context: BenchmarkContext, engines: Bool, rounds: Int) async throws -> [BenchmarkRow] {
    let bank = try await BenchmarkBank(
      context, engines: engines, basePort: 18_700, transfers: engines ? 4000 : 40)
    let result: Result<[BenchmarkRow], any Error>
    do {
      try await bank.point()
      result = .success(try await measure(bank, context, rounds: rounds))
    } catch { result = .failure(error) }
    await bank.end(context.time)
    return try result.get()
  }

  private static func measure(
    _ bank: BenchmarkBank, _ context: BenchmarkContext, rounds: Int
  ) async throws -> [BenchmarkRow] {
    var alone: [StepID: [Double]] = [:]
    var (single, usual): ([Double], [Double]) = ([], [])
    var needs: [StepID: Set<StepID>] = [:]
    for round in 0...(2 * max(1, rounds)) {
      try await bank.lose(context.time)
      let restore = Restore(bank.system, journal: bank.journal)
      var request = Restore.Request()
      request.verifies = false
      let isAlone = round % 2 == 1
      request.copies = isAlone ? 1 : nil
      let outcome = try await restore.run(try await restore.prepare(request)) { _ in }
      guard outcome.state == .succeeded else { throw BenchmarkError.wrong("the bank did not come back: \(outcome)") }
      let run = try await bank.journal.load(outcome.run)
      let measured = run.steps.compactMapValues(\.measurement)
      guard let first = measured.values.map(\.startedMonotonicNanoseconds).min(),
        let last = measured.values.map(\.finishedMonotonicNanoseconds).max()
      else { continue }
      // The first one teaches the planner.
      if round == 0 { continue }
      if isAlone {
        single.append(Double(last - first) / 1e9)
        for (step, measurement) in measured { alone[step, default: []].append(measurement.duration.seconds) }
      } else {
        usual.append(Double(last - first) / 1e9)
        needs = Dictionary(uniqueKeysWithValues: run.spec.steps.map { ($0.id, $0.dependsOn) })
      }
    }
    var ends: [StepID: Double] = [:]
    func end(_ step: StepID) -> Double {
      if let known = ends[step] { return known }
      let end = (needs[step]?.map(end).max() ?? 0) + median(alone[step] ?? [0])
      ends[step] = end
      return end
    }
    let bound = needs.keys.map(end).max() ?? .nan
    return [
      BenchmarkRow("the bank, longest chain of steps alone", bound, "s"),
      BenchmarkRow("the bank, makespan, copies one at a time", median(single), "s"),
      BenchmarkRow("the bank, makespan", median(usual), "s"),
      BenchmarkRow("the bank, makespan over the longest chain", median(usual) / bound, "×", bar: .atMost(1.1)),
    ]
  }
}
