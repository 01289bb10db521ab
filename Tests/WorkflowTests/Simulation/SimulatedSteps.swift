import Core
import StateKit
import Telemetry

/// Puts a few keys into the world, one effect each, with pauses between; what it puts is derived from its id and from
/// what the steps before it gave.
struct SimulatedStep: Step {
  static let kind: StepKind = "sim.put.v1"
  static let retry = RetryPolicy(attempts: 4, first: .seconds(1), attemptLimit: .seconds(600))

  struct Input: Codable {
    var name: String
    /// Effects of this step.
    var keys: Int
    /// Before each effect.
    var pauseMilliseconds: Int64
    /// Tries that fail before one succeeds.
    var failures: Int
    /// Fails for good, after its first effect.
    var isHopeless: Bool
    var after: [StepID]
  }

  struct Output: Codable, Equatable { var digest: String }

  let process: SimulatedProcess

  private func value(_ input: Input, _ context: StepContext) throws -> String {
    let before = try input.after.map { try context.output(of: $0, as: Output.self).digest }
    return Digest.of(([input.name] + before).joined(separator: "+")).short
  }

  private func key(_ input: Input, _ index: Int) -> String { "\(input.name)/\(index)" }

  func probe(_ input: Input, in context: StepContext) async throws -> Output? {
    try await process.effect("probe \(input.name)") {
      let value = try value(input, context)
      if input.isHopeless { return nil }
      let isDone = (0..<input.keys).allSatisfy { process.world.read(key(input, $0)) == value }
      return isDone ? Output(digest: value) : nil
    }
  }

  func run(_ input: Input, in context: StepContext) async throws -> Output {
    let value = try value(input, context)
    for index in 0..<input.keys {
      try await context.time.sleep(for: .milliseconds(input.pauseMilliseconds))
      try await process.effect("put \(key(input, index))") {
        // What an earlier try left is found and used. A step that is one effect leaves that to its probe alone.
        if (input.keys == 1 && !input.isHopeless) || process.world.read(key(input, index)) != value {
          try process.world.put(key(input, index), value, fence: context.fence)
        }
      }
      context.progress(Progress("put", doneBytes: Int64(index + 1), totalBytes: Int64(input.keys)))
      if index == 0, input.isHopeless { throw Broken(retry: .never) }
      if index == 0, process.world.failsStill(input.name, count: input.failures) { throw Broken(retry: .afterBackoff) }
    }
    return Output(digest: value)
  }

  func verify(_ output: Output, of input: Input, in context: StepContext) async throws {
    for index in 0..<input.keys where process.world.read(key(input, index)) != output.digest {
      throw StepError.verificationFailed(context.step, "\(key(input, index)) is not there")
    }
  }

  func compensate(_ input: Input, output: Output?, in context: StepContext) async throws {
    for index in 0..<input.keys {
      try await process.effect("remove \(key(input, index))") {
        try process.world.remove(key(input, index), fence: context.fence)
      }
    }
  }

  struct Broken: Failure {
    var retry: Report.Retry
    var report: Report { Report("SIM-2", "it broke", retry: retry) }
  }
}

/// A plan that the seed decides: four to ten steps in a graph, some slow, some that fail a few times, perhaps one that
/// fails for good.
func simulatedSpec(seed: UInt64) -> RunSpec {
  let randomness = SeededRandomness(seed: seed &* 7 &+ 3)
  let count = 4 + randomness.below(7)
  let ids = (0..<count).map { StepID(unchecked: "s\($0)") }
  let hopeless = randomness.chance(0.4) ? randomness.below(count) : nil
  let onFailure: RunSpec.FailureResponse = randomness.chance(0.6) ? .rollback : .stop
  let steps = (0..<count).map { index in
    let after = ids[..<index].filter { _ in randomness.chance(0.35) }
    let input = SimulatedStep.Input(
      name: ids[index].text, keys: 1 + randomness.below(3),
      pauseMilliseconds: Int64([0, 100, 4000, 20_000][randomness.below(4)]),
      failures: randomness.chance(0.25) ? 1 + randomness.below(2) : 0, isHopeless: index == hopeless, after: after)
    return StepSpec(
      id: ids[index], kind: SimulatedStep.kind, title: "put \(index)",
      input: (try? JSONValue(encoding: input)) ?? .null, dependsOn: Set(after), priority: randomness.below(3),
      resource: randomness.chance(0.5) ? "disk" : nil, compensates: true)
  }
  return RunSpec(
    id: RunID(unchecked: "sim-\(seed)"), kind: "sim", title: "simulated", catalogDigest: Digest.of("none"),
    steps: steps,
    onFailure: onFailure, createdAt: Timestamp(seconds: 0))
}
