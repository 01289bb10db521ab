import Catalog
import Core
import Synchronization

/// Goes through a workflow at its load, and measures.
///
/// With a rate, runs are due at moments that are known beforehand, and each is timed from the moment it was due: what a
/// server that stalls does to those who come meanwhile is in the figures, though nobody could be sent while all users
/// waited. Memory is that of one histogram per step and user, whatever the number of runs.
package struct LoadRunner: Sendable {
  private let workflow: LoadWorkflow
  private let ports: LoadPorts
  private let data: [[String: JSONValue]]
  private let secrets: [String: Secret]
  private let seed: UInt64
  private let shared: Mutex<Shared>.Reference

  /// - Parameter data: What `data.…` is filled in from, taken in turn.
  package init(
    _ workflow: LoadWorkflow, _ ports: LoadPorts, data: [[String: JSONValue]] = [], secrets: [String: Secret] = [:],
    seed: UInt64
  ) {
    (self.workflow, self.ports, self.data, self.secrets, self.seed) = (workflow, ports, data, secrets, seed)
    shared = Mutex<Shared>.Reference()
  }

  /// What the users of one run share.
  struct Shared {
    var next = 0
    var counted: Int64 = 0
    var failed: Int64 = 0
    var isStopped = false
  }

  /// - Parameter progress: Told now and then how many runs counted and how many of them failed.
  /// - Throws: ``LoadError`` before anything is sent; `CancellationError`.
  package func run(
    progress: @escaping @Sendable (_ counted: Int64, _ failed: Int64) -> Void = { _, _ in }
  ) async throws -> LoadReport {
    for step in workflow.steps { _ = try StepRunner(step) }
    let at = ports.time.now()
    let start = ports.time.monotonicNanoseconds()
    let total = try await withThrowingTaskGroup(of: Tally.self) { group in
      for user in 0..<workflow.load.users {
        group.addTask { try await self.work(user, since: start, progress) }
      }
      var total = Tally(workflow)
      for try await tally in group { total.add(tally) }
      return total
    }
    return report(total, at, ports.time.monotonicNanoseconds() - start)
  }

  // MARK: One user

  private func work(
    _ user: Int, since start: Int64, _ progress: @Sendable (Int64, Int64) -> Void
  ) async throws -> Tally {
    var tally = Tally(workflow)
    let steps = try workflow.steps.map { try StepRunner($0) }
    let schedule = workflow.load.rate.map { Schedule(workflow.load, rate: $0) }
    let load = workflow.load
    if schedule == nil, load.ramp > .zero, user > 0 {
      try await ports.time.sleep(for: load.ramp * user / load.users)
    }
    while true {
      let (number, isStopped) = shared.value.withLock { shared in
        defer { shared.next += 1 }
        return (shared.next, shared.isStopped)
      }
      if isStopped || number >= load.iterations ?? .max { return tally }
      let elapsed = ports.time.monotonicNanoseconds() - start
      let due: Int64
      if let schedule {
        guard let offset = schedule.due(number) else { return tally }
        due = offset.wholeNanoseconds
        if due > elapsed { try await ports.time.sleep(for: .nanoseconds(due - elapsed)) }
      } else {
        if let duration = load.duration, elapsed >= (duration + load.warmUp).wholeNanoseconds { return tally }
        due = elapsed
      }
      try Task.checkCancellation()
      let isCounted = due >= load.warmUp.wholeNanoseconds
      let isPassed = try await runThrough(number, steps, due: start + due, isCounted: isCounted, &tally)
      if isCounted { tell(isPassed, progress) }
    }
  }

  private func tell(_ isPassed: Bool, _ progress: @Sendable (Int64, Int64) -> Void) {
    let (counted, failed) = shared.value.withLock { shared in
      shared.counted += 1
      if !isPassed { shared.failed += 1 }
      if Self.isHopeless(shared.counted, shared.failed, workflow.bounds) { shared.isStopped = true }
      return (shared.counted, shared.failed)
    }
    if counted % 16 == 0 || counted < 16 { progress(counted, failed) }
  }

  /// Whether to go on would only burden a system that doesn't work.
  package static func isHopeless(_ counted: Int64, _ failed: Int64, _ bounds: LoadWorkflow.Bounds) -> Bool {
    let share = Double(failed) / Double(max(1, counted))
    return counted >= 50 && share >= 0.5 && share * 1_000_000 > Double(bounds.failedPerMillion)
  }

  /// - Returns: Whether every step passed.
  private func runThrough(
    _ number: Int, _ steps: [StepRunner], due: Int64, isCounted: Bool, _ tally: inout Tally
  ) async throws -> Bool {
    var values = TemplateValues(number: number, seed: seed)
    values.secrets = secrets
    if !data.isEmpty { values.data = data[number % data.count] }
    var began = due
    if isCounted, ports.time.monotonicNanoseconds() - due > 10_000_000 { tally.late += 1 }
    for (index, step) in steps.enumerated() {
      let complaint = try await step.take(&values, ports)
      let ended = ports.time.monotonicNanoseconds()
      if isCounted { tally.took(index, ended - began, complaint) }
      if complaint != nil {
        if isCounted { tally.failed += 1 } else { tally.uncounted += 1 }
        return false
      }
      began = ended
    }
    if isCounted { tally.latency.add(began - due) } else { tally.uncounted += 1 }
    return true
  }

  // MARK: All users

  private func report(_ total: Tally, _ at: Timestamp, _ nanoseconds: Int64) -> LoadReport {
    let failures = total.failures.map { LoadReport.Failed(step: $0.key.step, why: $0.key.why, count: $0.value) }
      .sorted { ($1.count, $0.step, $0.why) < ($0.count, $1.step, $1.why) }
    var report = LoadReport(
      workflow: workflow.name, effects: workflow.effects, seed: seed, startedAt: at, durationNanoseconds: nanoseconds,
      rate: workflow.load.rate?.text, users: workflow.load.users, passed: total.latency.count, failed: total.failed,
      uncounted: total.uncounted, late: total.late, latency: LoadReport.Latency(total.latency),
      steps: zip(workflow.steps, total.steps).map { step, tally in
        LoadReport.Step(
          name: step.name, passed: tally.latency.count, failed: tally.failed,
          latency: LoadReport.Latency(tally.latency))
      }, failures: failures, isStoppedEarly: shared.value.withLock(\.isStopped), violations: [])
    report.violations = report.broken(workflow.bounds)
    return report
  }
}

/// What one user saw, and all together.
private struct Tally: Sendable {
  struct Step: Sendable {
    var latency = Histogram()
    var failed: Int64 = 0
  }

  struct Reason: Sendable, Hashable {
    var step: CheckName
    var why: String
  }

  private let names: [CheckName]
  var latency = Histogram()
  var failed: Int64 = 0
  var uncounted: Int64 = 0
  var late: Int64 = 0
  var steps: [Step]
  var failures: [Reason: Int64] = [:]

  /// How many ways of failing are told apart.
  private static let reasonLimit = 50

  init(_ workflow: LoadWorkflow) {
    names = workflow.steps.map(\.name)
    steps = names.map { _ in Step() }
  }

  mutating func took(_ index: Int, _ nanoseconds: Int64, _ complaint: String?) {
    guard let complaint else { return steps[index].latency.add(nanoseconds) }
    steps[index].failed += 1
    note(Reason(step: names[index], why: complaint), 1)
  }

  private mutating func note(_ reason: Reason, _ count: Int64) {
    let isKnown = failures[reason] != nil || failures.count < Self.reasonLimit
    failures[isKnown ? reason : Reason(step: reason.step, why: "other reasons"), default: 0] += count
  }

  mutating func add(_ other: Tally) {
    latency.add(other.latency)
    failed += other.failed
    uncounted += other.uncounted
    late += other.late
    for index in steps.indices {
      steps[index].latency.add(other.steps[index].latency)
      steps[index].failed += other.steps[index].failed
    }
    for (reason, count) in other.failures { note(reason, count) }
  }
}

extension Mutex where Value == LoadRunner.Shared {
  /// One that is shared by value types.
  final class Reference: Sendable {
    let value = Mutex(LoadRunner.Shared())
  }
}
