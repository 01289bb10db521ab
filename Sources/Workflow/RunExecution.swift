import Core
import IO
import StateKit

/// One engine's work on one run under one claim: the schedule's actions turned into tasks, and back into events.
struct RunExecution: Sendable {
  let engine: RunEngine
  let lease: Lease

  private var journal: any RunJournal { engine.journal }
  private var run: RunID { lease.run }

  private enum Event: Sendable {
    case ended(StepID, StepExecution.Result)
    case woke(StepID)
    case wasCancelled
  }

  /// Brings the run forwards, or backwards, to a settled state.
  func carryOut(_ record: RunRecord) async throws {
    var record = record
    if record.state == .running, let (report, rollsBack) = try await goForward(&record) {
      try await engine.change(run, to: rollsBack ? .rollingBack : .failed, because: report, under: lease)
    } else if record.state == .running {
      try await engine.change(run, to: .succeeded, under: lease)
    }
    record = try await journal.load(run)
    if record.state == .rollingBack { try await goBack(record) }
  }

  // MARK: Forwards

  /// - Returns: Why the run failed and whether to undo it; `nil` if every step succeeded.
  private func goForward(_ record: inout RunRecord) async throws -> (Report, rollsBack: Bool)? {
    let spec = record.spec
    var steps = record.steps
    var schedule = RunSchedule(
      spec, records: steps, limits: engine.options.limits, parallelism: engine.options.parallelism)
    var tries: [StepID: Int] = [:]
    var shares: [StepID: WorkShare] = [:]

    try await withThrowingTaskGroup(of: Event.self) { group in
      // On the way out by an error too: no step outlives the claim.
      defer { group.cancelAll() }
      var open = 0
      var actions = schedule.began()
      while true {
        for action in actions {
          switch action {
          case .start(let id):
            guard let step = spec.step(id), let known = steps[id] else { continue }
            tries[id, default: 0] += 1
            var execution = execution(of: step, known, outputs: steps.compactMapValues(\.output))
            if step.resource != nil {
              let share = WorkShare(level: 0)
              (shares[id], execution.share) = (share, share)
            }
            group.addTask { [execution] in .ended(id, await execution.attempt()) }
            open += 1
          case .wait(let id, let pause):
            let time = engine.time
            group.addTask {
              do { try await time.sleep(for: pause) } catch { return .wasCancelled }
              return .woke(id)
            }
            open += 1
          case .skip(let id, let cause):
            let outcome = StepOutcome.skipped(reason: "\(cause) failed")
            try await journal.recordOutcome(id, outcome, under: lease)
            engine.observer(.stepFinished(run, id, outcome))
          }
        }
        // Of those that share what there is, the one that most waits for goes first.
        for (step, rank) in schedule.ranks { shares[step]?.level = rank }
        guard open > 0, let event = try await group.next() else { break }
        open -= 1
        actions = try await handle(event, in: &schedule, &steps, tries)
      }
    }
    record.steps = steps
    switch schedule.outcome {
    case .succeeded: return nil
    case .failed(_, let report): return (report, spec.onFailure == .rollback)
    case nil: throw CancellationError()
    }
  }

  private func handle(
    _ event: Event, in schedule: inout RunSchedule, _ steps: inout [StepID: StepRecord], _ tries: [StepID: Int]
  ) async throws -> [RunSchedule.Action] {
    switch event {
    case .woke(let id): return schedule.woke(id)
    case .wasCancelled: throw CancellationError()
    case .ended(_, .cancelled): throw CancellationError()
    case .ended(_, .journal(let error)): throw error
    case .ended(let id, .succeeded(let output)):
      steps[id]?.state = .succeeded
      steps[id]?.output = output
      return schedule.succeeded(id)
    case .ended(let id, .failed(let report)):
      try Task.checkCancellation()
      // Whether this try got as far as an intent is for the journal to say: the next one counts on from it.
      steps[id] = try await journal.load(run).steps[id]
      let policy = steps[id].flatMap { _ in handler(of: id, in: schedule) }?.retry ?? .once
      if let pause = policy.pause(after: tries[id] ?? 1, report, randomness: engine.randomness) {
        let actions = schedule.failed(id, report, retryAfter: pause)
        if actions.contains(where: { if case .wait(id, _) = $0 { true } else { false } }) {
          engine.observer(.stepRetrying(run, id, report, after: pause))
          return actions
        }
        return try await giveUp(id, report, actions)
      }
      return try await giveUp(id, report, schedule.failed(id, report, retryAfter: nil))
    }
  }

  private func giveUp(_ id: StepID, _ report: Report, _ actions: [RunSchedule.Action]) async throws
    -> [RunSchedule.Action]
  {
    try await journal.recordOutcome(id, .failed(report), under: lease)
    engine.observer(.stepFinished(run, id, .failed(report)))
    return actions
  }

  private func handler(of id: StepID, in schedule: RunSchedule) -> (any StepHandler)? {
    schedule.kind(of: id).flatMap { engine.handlers[$0] }
  }

  private func execution(of step: StepSpec, _ record: StepRecord, outputs: [StepID: JSONValue]) -> StepExecution {
    StepExecution(
      run: run, spec: step, handler: engine.handlers[step.kind], lease: lease, record: record, outputs: outputs,
      journal: journal, time: engine.time, randomness: engine.randomness, observer: engine.observer,
      probes: engine.probes)
  }

  // MARK: Backwards

  /// Undoes what was or may have been done, one step at a time, last first, so that nothing stands on what is gone.
  private func goBack(_ record: RunRecord) async throws {
    let outputs = record.steps.compactMapValues(\.output)
    for step in record.stepsToUndo {
      guard let known = record.steps[step.id] else { continue }
      try Task.checkCancellation()
      engine.observer(.stepCompensating(run, step.id))
      try await journal.recordCompensation(step.id, .intended, under: lease)
      if let report = try await undo(step, known, outputs: outputs) {
        try await journal.recordCompensation(step.id, .failed(report), under: lease)
        engine.observer(.stepCompensationFailed(run, step.id, report))
        try await engine.change(run, to: .rollbackFailed, because: report, under: lease)
        return
      }
      try await journal.recordCompensation(step.id, .done, under: lease)
      engine.observer(.stepCompensated(run, step.id))
    }
    try await engine.change(run, to: .rolledBack, because: record.head.failure, under: lease)
  }

  /// - Returns: Why it could not be undone, after as many tries as the handler allows.
  private func undo(_ step: StepSpec, _ record: StepRecord, outputs: [StepID: JSONValue]) async throws -> Report? {
    guard let handler = engine.handlers[step.kind] else { return StepError.unknownKind(step.kind, step.id).report }
    var tries = 0
    while true {
      tries += 1
      do {
        let context = execution(of: step, record, outputs: outputs).context(number: max(1, record.attempt))
        try await handler.compensate(step.input, output: record.output, in: context)
        return nil
      } catch let error as JournalError where error != .cancelled {
        throw error
      } catch {
        try Task.checkCancellation()
        let report = AnyFailure(error).report
        guard let pause = handler.retry.pause(after: tries, report, randomness: engine.randomness) else {
          return report
        }
        engine.observer(.stepRetrying(run, step.id, report, after: pause))
        try await engine.time.sleep(for: pause)
      }
    }
  }
}

extension RunRecord {
  /// What a rollback has to undo, in its order: interrupted and failed steps first, then those that succeeded, last first.
  var stepsToUndo: [StepSpec] {
    func rank(_ step: StepSpec) -> (Int64, Int64) {
      let record = steps[step.id]
      return (record?.finishedSequence ?? .max, record?.intendedSequence ?? .max)
    }
    return spec.steps.filter { step in
      guard step.compensates, let record = steps[step.id] else { return false }
      return record.mayHaveActed && record.state != .compensated
    }.sorted { rank($0) > rank($1) }
  }
}
