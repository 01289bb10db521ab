import Core

/// Why the journal could not do what was asked.
package enum JournalError: Failure, Equatable {
  case unknownRun(RunID)
  case unknownStep(RunID, StepID)
  case badSpec(RunID, why: String)
  /// There is a run of that id under another plan.
  case specMismatch(RunID, recorded: Digest, given: Digest)
  case leaseHeld(RunID, by: Holder, until: Timestamp)
  /// The claim is not the newest one: somebody else acts, or it was released.
  case fenced(RunID, presented: Fence, current: Fence)
  /// Another run replaces them, or was interrupted before it ended.
  case storesTaken([StoreName], by: RunID)
  /// Somebody copies them.
  case storesRead([StoreName], by: Holder, until: Timestamp)
  /// The claim on them lapsed while it was thought to last.
  case storesLost([StoreName])
  case illegalTransition(RunID, from: RunState, to: RunState)
  case illegalStep(RunID, StepID, state: StepState, wanted: String)
  /// The database is in use by somebody who did not let go in time.
  case busy(String)
  case corrupt(String)
  case newerSchema(path: String, found: String)
  case full(String)
  case permissionDenied(String)
  /// Anything else the storage reports. Whether the write got through is not known.
  case unavailable(String)
  case cancelled

  package var report: Report {
    switch self {
    case .unknownRun(let run):
      Report("JOURNAL-101", "there is no run \(run)").remedy("list them with `salvor runs`")
    case .unknownStep(let run, let step):
      Report("JOURNAL-102", "run \(run) has no step \(step)", retry: .never)
    case .badSpec(let run, let why):
      Report("JOURNAL-103", "the plan of run \(run) makes no sense: \(why)", retry: .never)
        .state("nothing was recorded")
    case .specMismatch(let run, let recorded, let given):
      Report("JOURNAL-104", "run \(run) was begun under plan \(recorded.short), not \(given.short)")
        .state("nothing was changed")
        .remedy("resume it as it was planned, or abandon it and make a new plan")
    case .leaseHeld(let run, let holder, let until):
      Report("JOURNAL-201", "run \(run) is in the hands of \(holder) until \(until)", retry: .afterBackoff)
        .remedy("wait for it; if that process is gone, its claim lapses at that time")
    case .fenced(let run, let presented, let current):
      Report(
        "JOURNAL-202", "this process no longer holds run \(run): its fence \(presented) gave way to \(current)",
        retry: .never
      ).state("the write was refused").remedy("stop here; whoever claimed the run last carries on")
    case .storesTaken(let stores, let run):
      Report("JOURNAL-205", "run \(run) has \(listed(stores)) to itself, and has not ended", retry: .afterBackoff)
        .state("nothing was changed")
        .remedy("wait for it if it is under way; else `salvor run resume \(run)`, or `salvor run rollback \(run)`")
    case .storesRead(let stores, let holder, let until):
      Report("JOURNAL-206", "\(listed(stores)) is being backed up by \(holder)", retry: .afterBackoff)
        .state("nothing was changed")
        .remedy("wait until that backup is done, or stop it; if its process is gone, its claim lapses at \(until)")
    case .storesLost(let stores):
      Report("JOURNAL-207", "the claim on \(listed(stores)) lapsed: a restore may have begun", retry: .afterBackoff)
        .remedy("try again; if it happens again, look why this machine or its disk stands still for so long")
    case .illegalTransition(let run, let from, let to):
      Report("JOURNAL-203", "run \(run) is \(from.rawValue) and can't become \(to.rawValue)", retry: .never)
    case .illegalStep(let run, let step, let state, let wanted):
      Report(
        "JOURNAL-204", "step \(step) of run \(run) is \(state.rawValue), which leaves no room for \(wanted)",
        retry: .never)
    case .busy(let path):
      Report("JOURNAL-301", "the journal \(path) is locked by another process", retry: .afterBackoff)
        .remedy("wait, or find who holds it with `fuser`")
    case .corrupt(let what):
      Report("JOURNAL-302", "the journal is damaged: \(what)", retry: .never)
        .remedy(
          "move the file aside and start with an empty one; points and evidence are in the vault, only the "
            + "record of unfinished runs is lost")
    case .newerSchema(let path, let found):
      Report("JOURNAL-303", "the journal \(path) was written by a newer version (schema \(found))")
        .remedy("use that version of salvor, or a state directory of its own for this one")
    case .full(let path):
      Report("JOURNAL-304", "no room left for the journal \(path)").state("the write was undone")
        .remedy("make room on that file system, then resume the run")
    case .permissionDenied(let path):
      Report("JOURNAL-305", "no right to use the journal \(path)").remedy("run as the user who owns it")
    case .unavailable(let what):
      Report("JOURNAL-306", "the journal can't be used: \(what)", retry: .afterBackoff)
        .state("whether the last write got through is not known").remedy("resume the run; it finds out by itself")
    case .cancelled: Report("CORE-001", "cancelled", retry: .afterBackoff)
    }
  }
}

private func listed(_ stores: [StoreName]) -> String { stores.map(\.text).joined(separator: ", ") }
