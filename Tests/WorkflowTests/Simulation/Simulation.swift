import Core
import JournalMemory
import StateKit
import TestSupport

@testable import Workflow

/// One simulated history: controllers work on one run, crash, stall, are started again, until the run is settled.
struct Simulation {
  var spec: RunSpec
  var seed: UInt64
  var faults: [Int: FaultPlan.Fault] = [:]
  var controllers = 1
  var rules = SimulatedWorld.Rules()
  // What the suite must notice when it is missing.
  var probes = true
  var journalIgnoresFences = false

  struct Result: Equatable {
    /// What must be the same however often the run was interrupted.
    struct End: Equatable {
      var state: RunState
      var failure: Report?
      var keys: [String: String]
      /// State and output of each step; not compared after a failure that stops others from starting, for then it is
      /// chance how far the others came.
      var steps: [StepID: String]
    }

    var end: End
    var violations: [String]
    var boundaries: Int
    var traceDigest: Digest
    var recordedEffects: Int
  }

  func run() throws -> Result {
    let time = SimulatedTime()
    let world = SimulatedWorld(rules)
    let inner = MemoryJournal(time: time)
    let plan = FaultPlan(faults)
    let randomness = SeededRandomness(seed: seed &+ 1)
    let (spec, controllers, probes, ignoresFences) = (spec, controllers, probes, journalIgnoresFences)
    let executor = SeededExecutor(seed: seed)
    let record = try executor.run(on: time) {
      try await inner.create(spec)
      try await withThrowingTaskGroup(of: Void.self) { group in
        for controller in 0..<controllers {
          group.addTask {
            for life in 0..<50 {
              let process = SimulatedProcess("c\(controller).\(life)", world: world, time: time, plan: plan)
              var options = RunEngine.Options(holder: Holder(process.name))
              options.patience = .seconds(100_000)
              options.limits = ["disk": 2]
              var engine = RunEngine(
                journal: ProcessJournal(inner: inner, process: process, ignoresFences: ignoresFences),
                handlers: [SimulatedStep(process: process).handler], time: time, randomness: randomness,
                options: options)
              engine.probes = probes
              do {
                try await engine.execute(spec.id)
                return
              } catch {
                world.note("\(process.name) ended: \(AnyFailure(error).report.code)")
                // Nobody comes back in no time; and a journal that refuses must not be asked in a tight loop.
                try await time.sleep(for: .seconds(1))
              }
            }
          }
        }
        try await group.waitForAll()
      }
      return try await inner.load(spec.id)
    }
    let mattersWhere = spec.onFailure == .stop || record.state == RunState.succeeded
    return Result(
      end: Result.End(
        state: record.state, failure: record.head.failure, keys: world.keys,
        steps: mattersWhere ? record.steps.mapValues { "\($0.state) \(String(describing: $0.output))" } : [:]),
      violations: world.violations, boundaries: plan.boundariesPassed,
      traceDigest: Digest.of(world.trace.joined(separator: "\n")), recordedEffects: world.trace.count)
  }
}
