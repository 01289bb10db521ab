import Core
import StateKit
import Telemetry

/// What happens in a run, as it happens; for people who watch. The journal is the record, not this.
package enum RunEvent: Sendable, Equatable {
  case runChanged(RunID, RunState, Report?)
  case stepStarted(RunID, StepID, attempt: Int)
  case stepProgress(RunID, StepID, Progress)
  case stepLog(RunID, StepID, String)
  /// Failed, and will be tried again after the pause.
  case stepRetrying(RunID, StepID, Report, after: Duration)
  case stepFinished(RunID, StepID, StepOutcome)
  case stepCompensating(RunID, StepID)
  case stepCompensated(RunID, StepID)
  case stepCompensationFailed(RunID, StepID, Report)
}

/// Takes events; called from any thread, and must not wait.
package typealias RunObserver = @Sendable (RunEvent) -> Void

/// Why an execution ended before its run did. The run can be resumed.
package enum RunError: Failure {
  /// The task was cancelled; nothing runs any more.
  case interrupted(RunID)
  /// The claim on the run, or the journal, was lost on the way.
  case journal(RunID, JournalError)
  /// The run is in a state from which this can't be done.
  case notPossible(RunID, RunState, wanted: String)

  package var report: Report {
    switch self {
    case .interrupted(let run):
      Report("RUN-101", "run \(run) was interrupted", retry: .afterBackoff)
        .state("what was done is on record; nothing runs any more").remedy("carry on with `salvor run resume \(run)`")
    case .journal(_, let error): error.report
    case .notPossible(let run, let state, let wanted):
      Report("RUN-102", "run \(run) is \(state.rawValue): it can't be \(wanted)", retry: .never)
        .state("nothing was changed").remedy("`salvor run show \(run)` tells what became of it")
    }
  }
}
