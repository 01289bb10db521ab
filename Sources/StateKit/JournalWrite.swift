import Core

/// One change to a run, as the holder of its lease asks for it.
package enum JournalWrite: Sendable, Equatable {
  case intent(StepID, attempt: Int)
  case outcome(StepID, StepOutcome)
  case compensation(StepID, Compensation)
  case state(RunState, because: Report?)
  case reopen
  case release

  /// The step a journal must have at hand; `nil` for none, unless ``needsEveryStep``.
  package var step: StepID? {
    switch self {
    case .intent(let step, _), .outcome(let step, _), .compensation(let step, _): step
    case .state, .reopen, .release: nil
    }
  }

  package var needsEveryStep: Bool { self == .reopen }
}

/// The part of a run that changes: what a journal reads, lets ``apply(_:under:at:)`` decide on, and writes back.
package struct RunLedger: Sendable, Equatable {
  package var head: RunHead
  /// Those the write needs.
  package var steps: [StepID: StepRecord]

  package init(head: RunHead, steps: [StepID: StepRecord]) { (self.head, self.steps) = (head, steps) }

  /// Makes the change, or refuses it and stays as it was.
  ///
  /// - Returns: What to put on record; `nil` if this very change was made before and there is nothing to write.
  package mutating func apply(_ write: JournalWrite, under lease: Lease, at now: Timestamp) throws(JournalError)
    -> AuditDraft?
  {
    var next = self
    try next.head.require(lease)
    let isNew = try next.change(write, under: lease, at: now)
    guard isNew else { return nil }
    self = next
    return write.audit(by: lease)
  }

  private mutating func change(_ write: JournalWrite, under lease: Lease, at now: Timestamp) throws(JournalError)
    -> Bool
  {
    switch write {
    case .intent(let id, let attempt):
      var step = try step(id)
      head.touch(at: now)
      try step.intend(attempt: attempt, in: head)
      steps[id] = step
    case .outcome(let id, let outcome):
      var step = try step(id)
      head.touch(at: now)
      guard try step.finish(outcome, in: head) else { return false }
      steps[id] = step
    case .compensation(let id, let compensation):
      var step = try step(id)
      head.touch(at: now)
      guard try step.compensate(compensation, in: head) else { return false }
      steps[id] = step
    case .state(let state, let report):
      if head.state == state, head.failure == report { return false }
      try head.become(state, because: report, at: now)
    case .reopen:
      if head.state == .running { return false }
      try head.become(.running, because: nil, at: now)
      for id in steps.keys { steps[id]?.reopen() }
    case .release:
      try head.release(lease, at: now)
    }
    return true
  }

  private func step(_ id: StepID) throws(JournalError) -> StepRecord {
    guard let step = steps[id] else { throw .unknownStep(head.id, id) }
    return step
  }
}

extension JournalWrite {
  /// What the audit chain says about it. Outputs are on record as digests: they may be long.
  package func audit(by lease: Lease) -> AuditDraft {
    var details: [String: JSONValue] = ["fence": .integer(lease.fence.value)]
    let action: String
    switch self {
    case .intent(_, let attempt):
      action = "step.intended"
      details["attempt"] = .integer(Int64(attempt))
    case .outcome(_, .succeeded(let output, let measurement)):
      action = measurement.wasFoundDone ? "step.found-done" : "step.succeeded"
      if let digest = try? CanonicalJSON.digest(output) { details["outputDigest"] = .string(digest.hex) }
    case .outcome(_, .failed(let report)):
      action = "step.failed"
      details["report"] = .string(report.description)
    case .outcome(_, .skipped(let reason)):
      action = "step.skipped"
      details["reason"] = .string(reason)
    case .compensation(_, .intended): action = "step.compensating"
    case .compensation(_, .done): action = "step.compensated"
    case .compensation(_, .failed(let report)):
      action = "step.compensation-failed"
      details["report"] = .string(report.description)
    case .state(let state, let report):
      action = "run.\(state.rawValue)"
      if let report { details["report"] = .string(report.description) }
    case .reopen: action = "run.reopened"
    case .release: action = "run.released-lease"
    }
    return AuditDraft(
      run: lease.run, actor: lease.holder.text, action: action, subject: step?.text ?? lease.run.text,
      details: .object(details))
  }
}

extension AuditDraft {
  package static func created(_ spec: RunSpec, digest: Digest) -> AuditDraft {
    AuditDraft(
      run: spec.id, actor: "journal", action: "run.created", subject: spec.id.text,
      details: [
        "specDigest": .string(digest.hex), "catalogDigest": .string(spec.catalogDigest.hex),
        "title": .string(spec.title), "steps": .integer(Int64(spec.steps.count)),
      ])
  }

  package static func claimed(_ lease: Lease) -> AuditDraft {
    AuditDraft(
      run: lease.run, actor: lease.holder.text, action: "run.claimed", subject: lease.run.text,
      details: ["fence": .integer(lease.fence.value)])
  }
}

extension RunJournal {
  package func recordIntent(_ step: StepID, attempt: Int, under lease: Lease) async throws(JournalError) {
    try await write(.intent(step, attempt: attempt), under: lease)
  }

  package func recordOutcome(_ step: StepID, _ outcome: StepOutcome, under lease: Lease) async throws(JournalError) {
    try await write(.outcome(step, outcome), under: lease)
  }

  package func recordCompensation(
    _ step: StepID, _ compensation: Compensation, under lease: Lease
  ) async throws(JournalError) {
    try await write(.compensation(step, compensation), under: lease)
  }

  package func setState(
    _ state: RunState, because report: Report? = nil, under lease: Lease
  ) async throws(JournalError) {
    try await write(.state(state, because: report), under: lease)
  }

  package func reopen(_ lease: Lease) async throws(JournalError) { try await write(.reopen, under: lease) }

  package func release(_ lease: Lease) async throws(JournalError) { try await write(.release, under: lease) }
}
