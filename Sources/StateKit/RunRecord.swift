import Core

/// A run as the journal holds it.
package struct RunRecord: Sendable, Equatable {
  package var spec: RunSpec
  package var head: RunHead
  /// One per step of the spec.
  package var steps: [StepID: StepRecord]

  package init(spec: RunSpec, head: RunHead, steps: [StepID: StepRecord]) {
    (self.spec, self.head, self.steps) = (spec, head, steps)
  }

  /// A run that has just been written down.
  package init(creating spec: RunSpec, at now: Timestamp) throws(JournalError) {
    try spec.validate()
    self.spec = spec
    head = RunHead(id: spec.id, specDigest: try spec.digest, createdAt: now)
    steps = Dictionary(uniqueKeysWithValues: spec.steps.map { ($0.id, StepRecord(id: $0.id)) })
  }

  package var state: RunState { head.state }

  package func output(of step: StepID) -> JSONValue? { steps[step]?.output }
}

/// What is known of a run as a whole, its plan and steps aside. The rules every journal keeps are methods here.
package struct RunHead: Sendable, Equatable, Codable {
  package var id: RunID
  package var specDigest: Digest
  package var state: RunState = .pending
  /// Of the newest claim; grows with each.
  package var fence: Fence = .none
  /// Who holds the run; `nil` if it was released.
  package var holder: Holder?
  /// When the holder's claim lapses unless renewed.
  package var leaseExpiresAt: Timestamp?
  /// How often anything was recorded about this run; gives its steps their order.
  package var sequence: Int64 = 0
  package var createdAt: Timestamp
  package var updatedAt: Timestamp
  /// Why the run is `failed` or `rollbackFailed`.
  package var failure: Report?

  package init(id: RunID, specDigest: Digest, createdAt: Timestamp) {
    (self.id, self.specDigest, self.createdAt, updatedAt) = (id, specDigest, createdAt, createdAt)
  }

  /// Whether somebody may be at work on this run right now.
  package func isHeld(at now: Timestamp) -> Bool {
    guard holder != nil, let leaseExpiresAt else { return false }
    return now < leaseExpiresAt
  }

  // MARK: Rules

  /// - Parameter isGone: Whether a holder is known to be dead, such as a process of this machine that no longer runs.
  package mutating func claim(
    by newHolder: Holder, for period: Duration, at now: Timestamp, isGone: (Holder) -> Bool
  ) throws(JournalError) -> Lease {
    if let holder, let until = leaseExpiresAt, now < until, !isGone(holder) {
      throw .leaseHeld(id, by: holder, until: until)
    }
    fence = fence.next
    holder = newHolder
    leaseExpiresAt = now + period
    touch(at: now)
    return Lease(run: id, holder: newHolder, fence: fence, period: period, expiresAt: now + period)
  }

  /// A claim that lapsed can still be renewed while nobody else made one: the fence says so.
  package mutating func renew(_ lease: Lease, at now: Timestamp) throws(JournalError) -> Lease {
    try require(lease)
    leaseExpiresAt = now + lease.period
    var renewed = lease
    renewed.expiresAt = now + lease.period
    return renewed
  }

  package mutating func release(_ lease: Lease, at now: Timestamp) throws(JournalError) {
    try require(lease)
    holder = nil
    leaseExpiresAt = nil
    touch(at: now)
  }

  /// - Throws: ``JournalError/fenced(_:presented:current:)`` unless `lease` is the newest claim and not released.
  package func require(_ lease: Lease) throws(JournalError) {
    guard lease.run == id, lease.fence == fence, holder == lease.holder else {
      throw .fenced(id, presented: lease.fence, current: fence)
    }
  }

  package mutating func become(_ next: RunState, because report: Report?, at now: Timestamp) throws(JournalError) {
    if next == state, report == failure { return }
    guard state.mayBecome(next) else { throw .illegalTransition(id, from: state, to: next) }
    state = next
    failure = report
    touch(at: now)
  }

  package mutating func touch(at now: Timestamp) {
    sequence += 1
    updatedAt = now
  }
}

/// What is known of one step.
package struct StepRecord: Sendable, Equatable, Codable, Identifiable {
  package var id: StepID
  package var state: StepState = .pending
  /// Tries begun so far.
  package var attempt = 0
  /// Of the newest intent.
  package var fence: Fence = .none
  /// ``RunHead/sequence`` at the first intent; `nil` if this step never meant to act.
  package var intendedSequence: Int64?
  /// ``RunHead/sequence`` at success.
  package var finishedSequence: Int64?
  package var output: JSONValue?
  package var measurement: Measurement?
  /// Why it failed, or why undoing it did.
  package var failure: Report?
  package var skipReason: String?

  package init(id: StepID) { self.id = id }

  /// Whether anything of this step may be in the world.
  package var mayHaveActed: Bool { intendedSequence != nil || finishedSequence != nil }

  // MARK: Rules

  package mutating func intend(attempt newAttempt: Int, in head: RunHead) throws(JournalError) {
    guard state == .pending || state == .intended, head.state == .running else {
      throw .illegalStep(head.id, id, state: state, wanted: "intent")
    }
    guard newAttempt == attempt + 1 else {
      throw .illegalStep(head.id, id, state: state, wanted: "attempt \(newAttempt) after \(attempt)")
    }
    state = .intended
    attempt = newAttempt
    fence = head.fence
    if intendedSequence == nil { intendedSequence = head.sequence }
  }

  /// - Returns: `false` if exactly this was recorded before: the answer to the first try was lost.
  @discardableResult
  package mutating func finish(_ outcome: StepOutcome, in head: RunHead) throws(JournalError) -> Bool {
    switch outcome {
    case .succeeded(let value, let measured):
      if state == .succeeded, output == value, measurement == measured { return false }
      guard state == .intended || state == .pending, head.state == .running else {
        throw .illegalStep(head.id, id, state: state, wanted: "success")
      }
      (state, output, measurement, failure, finishedSequence) = (.succeeded, value, measured, nil, head.sequence)
    case .failed(let report):
      if state == .failed, failure == report { return false }
      guard state == .intended || state == .pending, head.state == .running else {
        throw .illegalStep(head.id, id, state: state, wanted: "failure")
      }
      (state, failure) = (.failed, report)
    case .skipped(let reason):
      if state == .skipped, skipReason == reason { return false }
      // Skipping what may have acted would lose it.
      guard state == .pending, !mayHaveActed, head.state == .running else {
        throw .illegalStep(head.id, id, state: state, wanted: "skip")
      }
      (state, skipReason) = (.skipped, reason)
    }
    return true
  }

  @discardableResult
  package mutating func compensate(_ compensation: Compensation, in head: RunHead) throws(JournalError) -> Bool {
    guard head.state == .rollingBack else {
      throw .illegalStep(head.id, id, state: state, wanted: "compensation while the run is \(head.state.rawValue)")
    }
    switch (compensation, state) {
    case (.intended, .succeeded), (.intended, .failed), (.intended, .intended), (.intended, .compensationFailed):
      (state, failure, fence) = (.compensating, nil, head.fence)
    case (.intended, .compensating): fence = head.fence
    case (.done, .compensating): state = .compensated
    case (.done, .compensated): return false
    case (.failed(let report), .compensating): (state, failure) = (.compensationFailed, report)
    default: throw .illegalStep(head.id, id, state: state, wanted: "compensation")
    }
    return true
  }

  /// Makes a step that failed or was skipped wait for its turn again. What it may have done stays on record.
  package mutating func reopen() {
    guard state == .failed || state == .skipped else { return }
    (state, failure, skipReason) = (mayHaveActed ? .intended : .pending, nil, nil)
  }
}

extension StepRecord {
  package init(from decoder: any Decoder) throws {
    let values = try decoder.container(keyedBy: CodingKeys.self)
    id = try values.decode(StepID.self, forKey: .id)
    state = try values.decode(StepState.self, forKey: .state)
    attempt = try values.decode(Int.self, forKey: .attempt)
    fence = try values.decode(Fence.self, forKey: .fence)
    intendedSequence = try values.decodeIfPresent(Int64.self, forKey: .intendedSequence)
    finishedSequence = try values.decodeIfPresent(Int64.self, forKey: .finishedSequence)
    // An output of `null` is an output.
    output = values.contains(.output) ? try values.decode(JSONValue.self, forKey: .output) : nil
    measurement = try values.decodeIfPresent(Measurement.self, forKey: .measurement)
    failure = try values.decodeIfPresent(Report.self, forKey: .failure)
    skipReason = try values.decodeIfPresent(String.self, forKey: .skipReason)
  }
}
