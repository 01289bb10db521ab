import Catalog
import Core
import DriverKit
import JournalMemory
import Planning
import StateKit
import TestSupport

@testable import Recovery
@testable import Runtime
@testable import Workflow

/// One restore, from the plan to its end, over as many processes as it takes: the real planner, steps and engine on a
/// simulated world.
struct Simulation {
  /// What the operator does.
  enum Order: String, CaseIterable {
    case restore
    /// And back again, once it has succeeded.
    case restoreAndRollBack
  }

  var order = Order.restore
  var seed: UInt64
  var crashes: Set<Int> = []
  var rules = World.Rules()
  /// Services that run before.
  var running: Set<ServiceName> = ["accounts", "ledger", "web"]
  /// Services may stop before every store stands compared beside; the rule that a plan must keep.
  var skipsCommitGate = false

  struct End: Equatable {
    var state: RunState
    var stores: [StoreName: World.Store]
    var running: Set<ServiceName>
  }

  struct Result {
    var end: End
    var violations: [String]
    var boundaries: Int
    var processes: Int
  }

  func run() throws -> Result {
    let time = SimulatedTime()
    let world = World(rules, running: running)
    let journal = MemoryJournal(time: time)
    let plan = CrashPlan(crashes)
    let randomness = SeededRandomness(seed: seed &+ 1)
    let spec = skipsCommitGate ? try Self.ungated.get() : try Self.gated.get()
    let order = order
    let (record, processes) = try SeededExecutor(seed: seed).run(on: time) {
      for life in 1...60 {
        let process = SimulatedProcess(world: world, plan: plan)
        let own = ProcessJournal(inner: journal, process: process)
        var options = RunEngine.Options(holder: Holder("process \(life)"))
        options.limits = ["copy": 4]
        options.parallelism = 8
        options.patience = .seconds(100_000)
        let engine = RunEngine(
          journal: own,
          handlers: restoreSteps(SimulatedSystem(process: process, time: time), precheck: "precheck"), time: time,
          randomness: randomness, options: options)
        do {
          // As the command line does: the plan is written down once, and taken up by whoever comes next.
          let known = try? await journal.load(spec.id)
          var record = known
          if known == nil {
            record = try await engine.start(spec)
          } else if known?.state != .rollingBack || order == .restore {
            record = try await engine.resume(spec.id)
          }
          if order == .restoreAndRollBack { record = try await engine.rollback(spec.id) }
          if let record { return (record, life) }
        } catch {
          try await time.sleep(for: .seconds(1))
        }
      }
      return (try await journal.load(spec.id), 60)
    }
    return Result(
      end: End(state: record.state, stores: world.stores, running: world.running), violations: world.violations,
      boundaries: plan.boundariesPassed, processes: processes)
  }

  private static let gated = Swift.Result { try spec(skipsCommitGate: false) }
  private static let ungated = Swift.Result { try spec(skipsCommitGate: true) }

  private static func spec(skipsCommitGate: Bool) throws -> RunSpec {
    let catalog = try simulatedCatalog()
    let start = Timestamp(seconds: 1_800_000_000)
    let id = PointID(time: start, group: "all", catalog: catalog.digest, marks: [:])
    let facts = PointFacts(
      id: id.text, time: start,
      stores: Dictionary(uniqueKeysWithValues: catalog.stores.map { ($0.name, StoreFacts(.held, sizeBytes: 100)) }))
    let plan = try RestorePlan.make(PlanInput(catalog: catalog, point: facts)).checked()
    let point = RecoveryPoint(
      id: id, group: "all", time: start, mode: .barrier, remarks: [], pauseNanoseconds: 0, holdBudgetNanoseconds: 0,
      catalogDigest: catalog.digest, host: "here", stores: [:])
    let input = RestoreInput(
      plan: plan, point: point, repository: "main", catalogFiles: [:], rejected: [], failedAt: nil, requestedAt: start)
    var spec = try plan.run(input, at: start)
    // What a resume reads the catalog from; nobody does here, and every load would carry it.
    spec.input = .null
    if skipsCommitGate {
      for index in spec.steps.indices { spec.steps[index].dependsOn.remove("commit") }
    }
    return spec
  }
}

private func simulatedCatalog() throws -> Catalog {
  var text = """
    apiVersion: salvor.dev/v1
    kind: Repository
    metadata: {name: main}
    spec: {location: /srv/backup, password: file:/run/secrets/repo}

    """
  for service in World.services {
    text += """
      ---
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: \(service.name)}
      spec:
        start: serve \(service.name)
        dependsOn: [\(service.needs.map(\.text).joined(separator: ", "))]
        stores: [{name: \(service.store), files: {path: /srv/\(service.store)}}]
        ready: [{tcp: "127.0.0.1:1"}]

      """
  }
  let drivers: [DriverName: [OptionSchema]] = [
    "files": [OptionSchema("path", .path, required: true, help: "The directory.")]
  ]
  return try Catalog.resolve([SourceFile(path: "c.yaml", text: text)], drivers: drivers).get()
}
