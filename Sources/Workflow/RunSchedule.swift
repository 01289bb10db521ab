import Core
import StateKit

/// Decides which step of a run starts next. Knows neither time nor journal: events go in, actions come out.
///
/// A step is ready when all it depends on has succeeded. Of the ready ones the highest priority starts first, then the
/// one that stands first in the plan, while parallelism and its resource's limit leave room; a step without room lets
/// a lower one on another resource pass.
package struct RunSchedule {
  /// What the executor has to do.
  package enum Action: Equatable {
    case start(StepID)
    /// Come back with ``woke(_:)`` after the pause.
    case wait(StepID, Duration)
    /// Never to be started: a step it depends on, directly or not, failed.
    case skip(StepID, because: StepID)
  }

  package enum Outcome: Equatable {
    case succeeded
    /// The first step that failed for good.
    case failed(StepID, Report)
  }

  private enum Phase: Equatable {
    case waiting(left: Int)
    case ready
    case running
    case backingOff
    case succeeded
    case failed
    case skipped
  }

  let order: [StepSpec]
  private let dependents: [StepID: [StepID]]
  private let limits: [String: Int]
  private let parallelism: Int
  /// After a failure nothing new begins: everything will be undone.
  private let stopsAtFailure: Bool
  private var phases: [StepID: Phase] = [:]
  private var runningCount = 0
  private var runningByResource: [String: Int] = [:]
  private var firstFailure: (step: StepID, report: Report)?

  /// - Parameters:
  ///   - records: What the journal knows; an intent without an outcome is to be started again.
  ///   - limits: How many steps of a resource may run at once; a resource that isn't listed has no limit of its own.
  ///   - parallelism: How many steps may run at once in all; at least 1.
  package init(_ spec: RunSpec, records: [StepID: StepRecord], limits: [String: Int], parallelism: Int) {
    order = spec.steps.enumerated().sorted { ($1.element.priority, $0.offset) < ($0.element.priority, $1.offset) }
      .map(\.element)
    var dependents: [StepID: [StepID]] = [:]
    for step in spec.steps { for other in step.dependsOn { dependents[other, default: []].append(step.id) } }
    self.dependents = dependents
    self.limits = limits
    self.parallelism = max(1, parallelism)
    stopsAtFailure = spec.onFailure == .rollback
    for step in spec.steps {
      switch records[step.id]?.state ?? .pending {
      case .succeeded: phases[step.id] = .succeeded
      case .failed:
        phases[step.id] = .failed
        if firstFailure == nil, let report = records[step.id]?.failure { firstFailure = (step.id, report) }
      case .skipped: phases[step.id] = .skipped
      case .pending, .intended, .compensating, .compensated, .compensationFailed:
        let left = step.dependsOn.count { records[$0]?.state != .succeeded }
        phases[step.id] = left == 0 ? .ready : .waiting(left: left)
      }
    }
  }

  // MARK: Events

  /// The run begins, or is taken up again. Skips whose records a crash lost are given again.
  package mutating func began() -> [Action] {
    var actions: [Action] = []
    for step in order where phases[step.id] == .failed { actions += skipDependents(of: step.id) }
    return actions + startReady()
  }

  package mutating func succeeded(_ step: StepID) -> [Action] {
    leave(step, to: .succeeded)
    for dependent in dependents[step] ?? [] {
      if case .waiting(let left) = phases[dependent] {
        phases[dependent] = left <= 1 ? .ready : .waiting(left: left - 1)
      }
    }
    return startReady()
  }

  /// - Parameter pause: After which the step is tried again; `nil` if it failed for good.
  package mutating func failed(_ step: StepID, _ report: Report, retryAfter pause: Duration?) -> [Action] {
    if let pause, firstFailure == nil || !stopsAtFailure {
      leave(step, to: .backingOff)
      return [.wait(step, pause)] + startReady()
    }
    leave(step, to: .failed)
    if firstFailure == nil { firstFailure = (step, report) }
    return skipDependents(of: step) + startReady()
  }

  /// The pause of a step is over.
  package mutating func woke(_ step: StepID) -> [Action] {
    guard phases[step] == .backingOff else { return [] }
    phases[step] = .ready
    return startReady()
  }

  // MARK: State

  /// How it ended; `nil` while steps run or may still start.
  package var outcome: Outcome? {
    if runningCount > 0 || phases.values.contains(.backingOff) { return nil }
    if let firstFailure {
      guard stopsAtFailure || !phases.values.contains(.ready) else { return nil }
      return .failed(firstFailure.step, firstFailure.report)
    }
    return phases.values.allSatisfy { $0 == .succeeded } ? .succeeded : nil
  }

  func isRunning(_ step: StepID) -> Bool { phases[step] == .running }

  /// The running steps that share a resource, by how much waits for them: 0 for the one that most hangs on.
  package var ranks: [StepID: Int] {
    var next: [String: Int] = [:]
    var result: [StepID: Int] = [:]
    for step in order where phases[step.id] == .running {
      guard let resource = step.resource else { continue }
      result[step.id] = next[resource, default: 0]
      next[resource, default: 0] += 1
    }
    return result
  }

  // MARK: Rules

  private mutating func startReady() -> [Action] {
    if firstFailure != nil, stopsAtFailure { return [] }
    var actions: [Action] = []
    for step in order where phases[step.id] == .ready {
      guard runningCount < parallelism else { break }
      if let resource = step.resource {
        if runningByResource[resource, default: 0] >= max(1, limits[resource] ?? .max) { continue }
        runningByResource[resource, default: 0] += 1
      }
      runningCount += 1
      phases[step.id] = .running
      actions.append(.start(step.id))
    }
    return actions
  }

  private mutating func leave(_ step: StepID, to phase: Phase) {
    precondition(phases[step] == .running, "step \(step) ended without having begun")
    phases[step] = phase
    runningCount -= 1
    if let resource = order.first(where: { $0.id == step })?.resource { runningByResource[resource, default: 1] -= 1 }
  }

  private mutating func skipDependents(of failed: StepID) -> [Action] {
    var actions: [Action] = []
    var next = dependents[failed] ?? []
    var seen: Set<StepID> = []
    while !next.isEmpty {
      let step = next.removeFirst()
      guard seen.insert(step).inserted else { continue }
      if case .waiting = phases[step] {
        phases[step] = .skipped
        actions.append(.skip(step, because: failed))
      }
      next += dependents[step] ?? []
    }
    return actions
  }
}

extension RunSchedule {
  func kind(of step: StepID) -> StepKind? { order.first { $0.id == step }?.kind }
}
