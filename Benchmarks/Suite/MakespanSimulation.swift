import Catalog
import Core
import Planning
import Runtime
import StateKit
import Workflow

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// A made-up system, what bringing it back takes in truth, and a restore of it: planned by the planner from a history that
/// is only roughly right, and scheduled by the scheduler of every run.
///
/// Copies share one bandwidth, of which each can use a part; everything else takes its time. No step of it is real.
struct MakespanSimulation {
  struct Outcome: Sendable {
    /// From the first step's beginning to the last one's end.
    var makespan: Double
    /// No schedule is quicker: see ``lowerBound``.
    var bound: Double
    /// The longest chain alone, or all work alone, whichever is more: a bound too, and mostly a worse one, since before the
    /// first copy and after the last there is always something that can't be done meanwhile.
    var simpleBound: Double
    var steps: Int
  }

  /// What a step takes: for copies `work` of the bandwidth's seconds, of which it can use `rate` at most.
  private struct Truth {
    var work: Double
    var rate: Double
    var isCopy: Bool
    var alone: Double { work / rate }
  }

  private let plan: RestorePlan
  private let spec: RunSpec
  private let truth: [StepID: Truth]
  /// By step: what must have succeeded.
  private let needs: [StepID: [StepID]]
  /// Each step after what it needs.
  private let order: [StepID]

  /// - Parameter error: How far off the history is: the standard deviation of the logarithm.
  init(seed: UInt64, error: Double = 0.2) throws {
    let randomness = SeededRandomness(seed: seed)
    let catalog = try Self.catalog(randomness)
    let time = Timestamp(seconds: 1_800_000_000)
    var truth: [StepID: Truth] = [:]
    var history: [Planning.Measurement] = []
    let point = PointFacts(
      id: "simulated", time: time,
      stores: Dictionary(uniqueKeysWithValues: catalog.stores.map { ($0.name, StoreFacts(.held)) }))
    for step in RestorePlan.make(PlanInput(catalog: catalog, point: point)).steps {
      let one = Self.truth(of: step, randomness, copies: truth)
      truth[StepID(unchecked: step.id)] = one
      for run in 0..<5 {
        history.append(
          Planning.Measurement(
            step.action, store: step.store, service: step.service,
            seconds: one.alone * randomness.logNormal(error), at: time + .seconds(run)))
      }
    }
    plan = try RestorePlan.make(PlanInput(catalog: catalog, point: point, history: history)).checked()
    self.truth = truth
    let last = plan.steps.map(\.priority).max() ?? 0
    spec = RunSpec(
      id: "simulated", kind: "recovery", title: "simulated", catalogDigest: plan.catalogDigest,
      steps: plan.steps.map { step in
        StepSpec(
          id: StepID(unchecked: step.id), kind: "simulated", title: step.id,
          dependsOn: Set(step.dependsOn.map { StepID(unchecked: $0) }), priority: last - step.priority,
          resource: step.action.resource)
      }, createdAt: time)
    needs = Dictionary(
      uniqueKeysWithValues: plan.steps.map { step in
        (StepID(unchecked: step.id), step.dependsOn.map { StepID(unchecked: $0) })
      })
    order = plan.steps.sorted { ($0.wave, $0.id) < ($1.wave, $1.id) }.map { StepID(unchecked: $0.id) }
  }

  /// - Parameter ranks: What each copy gets is weighed by what waits for it, as runs have it; otherwise all get the same.
  func run(copies: Int = PlanLimits().parallelCopies, parallelism: Int = 32, ranks: Bool = true) throws -> Outcome {
    Outcome(
      makespan: try makespan(copies: copies, parallelism: parallelism, ranks: ranks), bound: lowerBound,
      simpleBound: simpleBound, steps: plan.steps.count)
  }

  // MARK: Carrying out

  private func makespan(copies: Int, parallelism: Int, ranks: Bool) throws -> Double {
    var schedule = RunSchedule(spec, records: [:], limits: ["copy": copies], parallelism: parallelism)
    var now = 0.0
    /// Work that is left, of copies; the moment of the end, of everything else.
    var copying: [StepID: Double] = [:]
    var others: [StepID: Double] = [:]
    func take(_ actions: [RunSchedule.Action]) {
      for case .start(let step) in actions {
        guard let one = truth[step] else { continue }
        if one.isCopy { copying[step] = one.work } else { others[step] = now + one.work }
      }
    }
    take(schedule.began())
    while !copying.isEmpty || !others.isEmpty {
      let rates = rates(copying.keys.sorted(), ranks ? schedule.ranks : [:])
      func end(_ step: StepID) -> Double { others[step] ?? now + (copying[step] ?? 0) / max(rates[step] ?? 0, 1e-12) }
      let running = (Array(copying.keys) + Array(others.keys)).sorted()
      guard let next = running.min(by: { (end($0), $0) < (end($1), $1) }) else { break }
      let then = end(next)
      for step in copying.keys { copying[step]? -= (rates[step] ?? 0) * (then - now) }
      now = then
      (copying[next], others[next]) = (nil, nil)
      take(schedule.succeeded(next))
    }
    guard schedule.outcome == .succeeded else { throw BenchmarkError.wrong("the simulated restore did not end") }
    return now
  }

  /// How the bandwidth is shared: in proportion to weights, and what one can't use goes to the others.
  private func rates(_ steps: [StepID], _ ranks: [StepID: Int]) -> [StepID: Double] {
    func weight(_ step: StepID) -> Double {
      WorkShareWeights.all[min(ranks[step] ?? 0, WorkShareWeights.all.count - 1)]
    }
    var result: [StepID: Double] = [:]
    var open = steps
    var left = 1.0
    while !open.isEmpty, left > 1e-12 {
      let sum = open.reduce(0) { $0 + weight($1) }
      let full = open.filter { (truth[$0]?.rate ?? 1) <= left * weight($0) / sum }
      guard !full.isEmpty else {
        for step in open { result[step] = left * weight(step) / sum }
        break
      }
      for step in full { result[step] = truth[step]?.rate ?? 1 }
      left = 1 - result.values.reduce(0, +)
      open.removeAll { full.contains($0) }
    }
    return result
  }

  // MARK: Bounds

  private var heads: [StepID: Double] {
    var heads: [StepID: Double] = [:]
    for step in order {
      heads[step] = needs[step]?.map { (heads[$0] ?? 0) + (truth[$0]?.alone ?? 0) }.max() ?? 0
    }
    return heads
  }

  private var tails: [StepID: Double] {
    var tails: [StepID: Double] = [:]
    for step in order.reversed() {
      let own = (tails[step] ?? 0) + (truth[step]?.alone ?? 0)
      for need in needs[step] ?? [] { tails[need] = max(tails[need] ?? 0, own) }
    }
    return tails
  }

  private var simpleBound: Double {
    let (heads, tails) = (heads, tails)
    let chain = order.map { (heads[$0] ?? 0) + (truth[$0]?.alone ?? 0) + (tails[$0] ?? 0) }.max() ?? 0
    return max(chain, truth.values.filter(\.isCopy).reduce(0) { $0 + $1.work })
  }

  /// The longest chain; or, for any set of copies, what must have passed before the first of them, the bandwidth they need
  /// together, and what must pass after the last. Sets by least head and least tail are enough. Source: Carlier's bound for
  /// one machine with heads and tails (1982).
  private var lowerBound: Double {
    let (heads, tails) = (heads, tails)
    let copies = order.filter { truth[$0]?.isCopy == true }.sorted { (tails[$0] ?? 0) > (tails[$1] ?? 0) }
    var bound = simpleBound
    for head in Set(copies.map { heads[$0] ?? 0 }) {
      var work = 0.0
      for copy in copies where (heads[copy] ?? 0) >= head {
        work += truth[copy]?.work ?? 0
        bound = max(bound, head + work + (tails[copy] ?? 0))
      }
    }
    return bound
  }

  // MARK: Making up

  private static func catalog(_ randomness: SeededRandomness) throws -> Catalog {
    let services = 2 + randomness.below(39)
    let density = min(0.3, 3 / Double(services))
    var text = """
      apiVersion: salvor.dev/v1
      kind: Repository
      metadata: {name: main}
      spec: {location: "local:/srv/backup", password: "file:/run/secrets/repository"}

      """
    for index in 0..<services {
      let needs = (0..<index).filter { _ in randomness.chance(density) }.map { "s\($0)" }
      let stores = (0..<(index == 0 ? 1 : randomness.below(3))).map {
        "{name: d\(index)-\($0), files: {path: /srv/\(index)-\($0)}}"
      }
      text += """
        ---
        apiVersion: salvor.dev/v1
        kind: Service
        metadata: {name: s\(index)}
        spec:
          stop: systemctl stop s\(index)
          dependsOn: [\(needs.joined(separator: ", "))]
          stores: [\(stores.joined(separator: ", "))]

        """
    }
    return try Catalog.resolve([SourceFile(path: "c.yaml", text: text)], drivers: SyntheticCatalog.drivers).get()
  }

  /// Copies of sizes that differ by a hundred, of which each can use a quarter of the bandwidth or more.
  private static func truth(
    of step: PlannedStep, _ randomness: SeededRandomness, copies: [StepID: Truth]
  ) -> Truth {
    func between(_ low: Double, _ high: Double) -> Double { low + (high - low) * randomness.unit }
    func takes(_ low: Double, _ high: Double) -> Truth { Truth(work: between(low, high), rate: 1, isCopy: false) }
    switch step.action {
    case .restoreBeside: return Truth(work: 2.7 * randomness.logNormal(1.2), rate: between(0.25, 1), isCopy: true)
    case .validateBeside:
      let copied = copies[StepID(unchecked: "restore-beside/\(step.store?.text ?? "")")]?.work ?? 1
      return Truth(work: copied * between(0.2, 0.6), rate: between(0.25, 1), isCopy: true)
    case .precheck: return takes(0.2, 1)
    case .stopService: return takes(0.1, 1)
    case .stopStore, .swap, .startStore, .checkInvariants: return takes(0.1, 1.5)
    case .startService: return takes(0.05, 1)
    case .readyService: return takes(0.2, 8)
    case .validateService: return takes(0.1, 2)
    case .commit, .quiesce, .record: return takes(0.001, 0.01)
    }
  }
}

/// What the kernel gives each level of ``WorkShare``, six steps of niceness apart.
private enum WorkShareWeights {
  /// Source: `sched_prio_to_weight` in the kernel, for 0, 6, 12 and 18.
  static let all: [Double] = [1, 272.0 / 1024, 70.0 / 1024, 18.0 / 1024]
}

extension SeededRandomness {
  /// From 0 to 1.
  var unit: Double { Double(next() >> 11) / 9_007_199_254_740_992 }

  /// A factor of which the logarithm has this standard deviation.
  func logNormal(_ deviation: Double) -> Double {
    let (a, b) = (max(unit, .leastNormalMagnitude), unit)
    return exp(deviation * (-2 * log(a)).squareRoot() * cos(2 * .pi * b))
  }
}
