import Core

/// Where a run stands.
package enum RunState: String, Sendable, Codable, CaseIterable {
  /// Recorded, never begun.
  case pending
  /// Begun. With nobody holding its lease: interrupted, and can be resumed.
  case running
  case succeeded
  /// A step failed for good; what was done is still there.
  case failed
  case rollingBack
  case rolledBack
  /// Undoing failed; somebody has to look.
  case rollbackFailed
  /// Succeeded, and the state kept for a rollback has been given up.
  case released
  /// Given up by the operator, as it stands.
  case abandoned

  /// Whether nothing more happens without being asked for.
  package var isSettled: Bool {
    switch self {
    case .pending, .running, .rollingBack: false
    case .succeeded, .failed, .rolledBack, .rollbackFailed, .released, .abandoned: true
    }
  }

  package func mayBecome(_ next: RunState) -> Bool {
    switch (self, next) {
    case (.pending, .running), (.pending, .abandoned): true
    case (.running, .succeeded), (.running, .failed), (.running, .rollingBack), (.running, .abandoned): true
    case (.succeeded, .rollingBack), (.succeeded, .released): true
    case (.failed, .running), (.failed, .rollingBack), (.failed, .abandoned): true
    case (.rollingBack, .rolledBack), (.rollingBack, .rollbackFailed), (.rollingBack, .abandoned): true
    case (.rollbackFailed, .rollingBack), (.rollbackFailed, .abandoned): true
    default: false
    }
  }
}

/// Where a step stands, as recorded; what is true of the world is for ``StepHandler/probe(_:in:)`` to find out.
package enum StepState: String, Sendable, Codable {
  case pending
  /// About to act, or acting, or interrupted while acting.
  case intended
  case succeeded
  case failed
  case skipped
  case compensating
  case compensated
  case compensationFailed
}

/// How a step ended.
package enum StepOutcome: Sendable, Equatable {
  case succeeded(JSONValue, Measurement)
  case failed(Report)
  case skipped(reason: String)
}

/// How undoing a step went.
package enum Compensation: Sendable, Equatable {
  case intended
  case done
  case failed(Report)
}

/// How long the try that succeeded took, for planning.
package struct Measurement: Sendable, Equatable, Codable {
  /// Wall clock.
  package var startedAt: Timestamp
  package var finishedAt: Timestamp
  /// On the clock that never steps; comparable within one boot only.
  package var startedMonotonicNanoseconds: Int64
  package var finishedMonotonicNanoseconds: Int64
  /// What the step said it moved, as far as it said.
  package var bytes: Int64?
  /// Found done by the probe: says nothing about how long doing it takes.
  package var wasFoundDone: Bool

  package init(
    startedAt: Timestamp, finishedAt: Timestamp, startedMonotonicNanoseconds: Int64,
    finishedMonotonicNanoseconds: Int64, bytes: Int64? = nil, wasFoundDone: Bool = false
  ) {
    (self.startedAt, self.finishedAt, self.bytes, self.wasFoundDone) = (startedAt, finishedAt, bytes, wasFoundDone)
    self.startedMonotonicNanoseconds = startedMonotonicNanoseconds
    self.finishedMonotonicNanoseconds = finishedMonotonicNanoseconds
  }

  package var duration: Duration {
    .nanoseconds(max(0, finishedMonotonicNanoseconds &- startedMonotonicNanoseconds))
  }
}

/// One measured step of the past.
package struct HistoryEntry: Sendable, Equatable, Codable {
  package var run: RunID
  package var step: StepID
  package var kind: StepKind
  package var service: ServiceName?
  package var store: StoreName?
  package var measurement: Measurement

  package init(
    run: RunID, step: StepID, kind: StepKind, service: ServiceName?, store: StoreName?, measurement: Measurement
  ) {
    (self.run, self.step, self.kind) = (run, step, kind)
    (self.service, self.store, self.measurement) = (service, store, measurement)
  }
}
