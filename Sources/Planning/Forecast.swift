import Catalog
import Core

/// When everything would happen: priorities, the critical path, and each service's moment, within the limits.
struct Forecast {
  private(set) var steps: [PlannedStep] = []
  private(set) var criticalPath = CriticalPath(steps: [], seconds: 0, unknownSteps: 0)
  private(set) var predictions: [ServicePrediction] = []
  private(set) var warnings: [PlanNote] = []

  init(_ graph: StepGraph, estimates: Estimates, point: PointFacts, limits: PlanLimits, scope: PlanScope) {
    let ids = graph.steps.map(\.id)
    let expected = Self.durations(graph, estimates, point, limits)
    let seconds = expected.map { $0.seconds ?? 0 }
    let order = Self.order(graph)
    var users = [[Int]](repeating: [], count: ids.count)
    for (step, needs) in graph.needs.enumerated() { for need in needs { users[need].append(step) } }

    // What still has to pass once a step begins.
    var tail = seconds
    for step in order.reversed() { tail[step] += users[step].lazy.map { tail[$0] }.max() ?? 0 }

    let priority = Self.priorities(graph, ids, tail, scope)
    let ends = Self.ends(graph, users: users, seconds: seconds, priority: priority, copies: limits.parallelCopies)

    var isKnown = [Bool](repeating: true, count: ids.count)
    for step in order { isKnown[step] = expected[step].seconds != nil && graph.needs[step].allSatisfy { isKnown[$0] } }

    criticalPath = Self.path(from: order, graph, users, tail, ids, expected)
    let shown = graph.steps.indices.sorted { a, b in
      if graph.wave[a] != graph.wave[b] { return graph.wave[a] < graph.wave[b] }
      let (first, second) = (graph.steps[a].action, graph.steps[b].action)
      return first != second ? first < second : ids[a] < ids[b]
    }
    steps = shown.map { index in
      let step = graph.steps[index]
      return PlannedStep(
        id: ids[index], action: step.action, service: step.service, store: step.store,
        dependsOn: graph.needs[index].map { ids[$0] }.sorted(), wave: graph.wave[index], priority: priority[index],
        predictedSeconds: expected[index].seconds, basis: expected[index].basis)
    }
    for index in graph.steps.indices where graph.steps[index].action == .validateService {
      guard let name = graph.steps[index].service, let service = scope.catalog.service(name) else { continue }
      predictions.append(Self.prediction(service, ends[index], isKnown[index]))
    }
    warn()
  }

  private static func durations(
    _ graph: StepGraph, _ estimates: Estimates, _ point: PointFacts, _ limits: PlanLimits
  ) -> [Estimates.Estimate] {
    let copies = graph.steps.count { $0.action == .restoreBeside }
    let sharers = Double(max(1, min(copies, limits.parallelCopies)))
    return graph.steps.map { step in
      let bytes = step.store.flatMap { point.stores[$0]?.sizeBytes }
      var estimate = estimates.estimate(step, bytes: bytes)
      if step.action == .restoreBeside, let bytes, bytes > 0, let bandwidth = limits.bandwidthBytesPerSecond {
        let floor = Double(bytes) * sharers / Double(bandwidth)
        if floor > estimate.seconds ?? 0 { estimate = .init(seconds: floor, basis: "size at the bandwidth limit") }
      }
      return estimate
    }
  }

  /// Every step after what it needs; among equals by number.
  private static func order(_ graph: StepGraph) -> [Int] {
    graph.steps.indices.sorted { (graph.wave[$0], $0) < (graph.wave[$1], $1) }
  }

  private static func priorities(_ graph: StepGraph, _ ids: [String], _ tail: [Double], _ scope: PlanScope) -> [Int] {
    var tiers: [ServiceName: Int] = [:]
    for service in scope.services { tiers[service.name] = service.tier.rank }
    let tier = graph.steps.map { step in step.service.flatMap { tiers[$0] } ?? 0 }
    let ranking = graph.steps.indices.sorted { a, b in
      if tail[a] != tail[b] { return tail[a] > tail[b] }
      if graph.wave[a] != graph.wave[b] { return graph.wave[a] < graph.wave[b] }
      return tier[a] != tier[b] ? tier[a] < tier[b] : ids[a] < ids[b]
    }
    var priority = [Int](repeating: 0, count: ids.count)
    for (place, step) in ranking.enumerated() { priority[step] = place + 1 }
    return priority
  }

  /// When each step ends if copies take turns by priority and everything else begins as soon as it may.
  private static func ends(
    _ graph: StepGraph, users: [[Int]], seconds: [Double], priority: [Int], copies: Int
  ) -> [Double] {
    var ends = [Double](repeating: 0, count: seconds.count)
    var open = graph.needs.map(\.count)
    var free = copies
    var running = Heap<Moment>()
    var waiting = Heap<Moment>()

    func begin(_ step: Int, at now: Double) {
      ends[step] = now + seconds[step]
      running.push(Moment(key: ends[step], step: step))
    }
    func offer(_ step: Int, at now: Double) {
      if graph.steps[step].action.isCopy {
        waiting.push(Moment(key: Double(priority[step]), step: step))
      } else {
        begin(step, at: now)
      }
    }
    for step in open.indices where open[step] == 0 { offer(step, at: 0) }
    while let done = running.pop() {
      let now = done.key
      if graph.steps[done.step].action.isCopy { free += 1 }
      for user in users[done.step] {
        open[user] -= 1
        if open[user] == 0 { offer(user, at: now) }
      }
      // All that ends now has ended before the free places are given away.
      if let next = running.first, next.key == now { continue }
      while free > 0, let next = waiting.pop() {
        free -= 1
        begin(next.step, at: now)
      }
    }
    return ends
  }

  private static func path(
    from order: [Int], _ graph: StepGraph, _ users: [[Int]], _ tail: [Double], _ ids: [String],
    _ expected: [Estimates.Estimate]
  ) -> CriticalPath {
    func longest(_ candidates: some Sequence<Int>) -> Int? {
      candidates.min { (-tail[$0], ids[$0]) < (-tail[$1], ids[$1]) }
    }
    var path: [Int] = []
    var next = longest(order.lazy.filter { graph.needs[$0].isEmpty })
    while let step = next {
      path.append(step)
      next = longest(users[step])
    }
    return CriticalPath(
      steps: path.map { ids[$0] }, seconds: path.first.map { tail[$0] } ?? 0,
      unknownSteps: path.count { expected[$0].seconds == nil })
  }

  private static func prediction(_ service: Service, _ seconds: Double, _ isComplete: Bool) -> ServicePrediction {
    let rto = service.objectives.rto?.seconds
    let verdict: ServicePrediction.Verdict =
      if let rto { seconds > rto ? .missed : isComplete ? .met : .unknown } else { .none }
    return ServicePrediction(
      service: service.name, seconds: seconds, isComplete: isComplete, rtoSeconds: rto, verdict: verdict)
  }

  private mutating func warn() {
    let missed = predictions.filter { $0.verdict == .missed }.map(\.service)
    if !missed.isEmpty {
      warnings.append(
        PlanNote(
          "PLAN-207", "predicted to be back later than their objective asks: \(quoted(missed))",
          remedy: "look at the critical path; allow more copies at once, or change the objective"))
    }
  }
}

extension RestoreAction {
  /// Takes one of the places for copies.
  fileprivate var isCopy: Bool { self == .restoreBeside || self == .validateBeside }
}

private struct Moment: Comparable {
  var key: Double
  var step: Int

  static func < (a: Moment, b: Moment) -> Bool { (a.key, a.step) < (b.key, b.step) }
}

/// The least element first; O(log *n*) each way.
struct Heap<Element: Comparable> {
  private var elements: [Element] = []

  var first: Element? { elements.first }

  mutating func push(_ element: Element) {
    elements.append(element)
    var child = elements.count - 1
    while child > 0, elements[child] < elements[(child - 1) / 2] {
      elements.swapAt(child, (child - 1) / 2)
      child = (child - 1) / 2
    }
  }

  mutating func pop() -> Element? {
    guard let least = elements.first, let last = elements.popLast() else { return nil }
    guard !elements.isEmpty else { return least }
    elements[0] = last
    var parent = 0
    while true {
      var least = parent
      for child in [2 * parent + 1, 2 * parent + 2] where child < elements.count && elements[child] < elements[least] {
        least = child
      }
      guard least != parent else { break }
      elements.swapAt(parent, least)
      parent = least
    }
    return least
  }
}
