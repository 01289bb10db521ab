import ArgumentParser
import Core
import Runtime

/// How a command ended, for scripts. `docs/reference/exit-codes.md` has the same table.
package enum ExitStatus: Int32, Sendable, CaseIterable {
  case done = 0
  case failed = 1
  case usage = 2
  /// Some of what was asked for could not be read; the rest is stored. As restic.
  case incomplete = 3
  /// What came back is not what it should be; it was rolled back or not put in place.
  case validationFailed = 4
  /// All is right, but it took longer, or lost more, than the catalog allows.
  case objectiveMissed = 5
  /// Nothing was changed, because it would have done harm.
  case refused = 6
  case interrupted = 130

  package var meaning: String {
    switch self {
    case .done: "done"
    case .failed: "failed; the message says what state things are in"
    case .usage: "the command line or the catalog is wrong; nothing was done"
    case .incomplete: "done in part: some of what was asked for could not be read"
    case .validationFailed: "validation failed; what was there before is still, or again, in place"
    case .objectiveMissed: "done and valid, but an objective (RPO or RTO) was missed"
    case .refused: "refused; nothing was changed"
    case .interrupted: "interrupted; `salvor run resume` goes on from here"
    }
  }
}

extension ExitStatus {
  /// How a restore ended.
  init(_ outcome: RestoreOutcome) {
    let code = outcome.failure?.code ?? ""
    self =
      switch outcome.state {
      case .succeeded: outcome.missesObjective ? .objectiveMissed : .done
      // Found before anything was touched: there was nothing to roll back.
      case _ where code == "RESTORE-102": .refused
      // What came back was wrong: not the same as a disk that was full on the way.
      case .rolledBack where Self.verdicts.contains { code.hasPrefix($0) }: .validationFailed
      default: .failed
      }
  }

  /// A validator, an invariant, a gate, a proof of the engine's that said no.
  private static let verdicts = ["RESTORE-2", "RESTORE-3", "DRIVER-401", "DRIVER-402"]
}

/// An error that also decides the exit status.
package struct CommandFailure: Failure {
  package var status: ExitStatus
  package var report: Report

  package init(_ status: ExitStatus, _ report: Report) { (self.status, self.report) = (status, report) }

  /// Cancelled, in each module's own words.
  private static let interruptions: Set<String> = [
    "CORE-001", "RUN-101", "STORE-110", "VAULT-302",
  ]
  /// A point or a run that isn't there, or could be several.
  private static let unknownNames: Set<String> = [
    "POINT-201", "POINT-202", "RUN-201", "RUN-202", "RECON-104", "RECON-105", "RECON-201", "RECON-202",
  ]
  /// The plan says no, or something is in the way: a repository that is there, a key in use, a target that holds something.
  private static let refusals: Set<String> = [
    "RESTORE-101", "RESTORE-102", "POINT-204", "RUN-102", "RUN-205", "RUN-206", "JOURNAL-205", "JOURNAL-206",
    "VAULT-103", "VAULT-106", "TREE-302", "LOAD-201",
    "COMPAT-201", "RECON-203", "RECON-204", "RECON-205", "RECON-207", "REDACT-102", "REDACT-103", "REDACT-107",
    "SYNTH-106", "RECON-208",
  ]

  /// The status that belongs to `error`, by its code.
  package init(_ error: any Error) {
    if let already = error as? CommandFailure {
      self = already
      return
    }
    let failure = AnyFailure(error)
    report = failure.report
    status =
      switch true {
      case failure.isCancellation, Self.interruptions.contains(report.code): .interrupted
      case report.code == "USAGE-301", report.code == "USAGE-303": .refused
      case report.code.hasPrefix("CATALOG-"), report.code.hasPrefix("USAGE-"), report.code.hasPrefix("PLAN-0"),
        Self.unknownNames.contains(report.code), report.code == "LOAD-101":
        .usage
      case report.code.hasPrefix("PLAN-"), Self.refusals.contains(report.code): .refused
      case report.code.hasPrefix("RESTORE-2"), report.code.hasPrefix("EVIDENCE-"): .validationFailed
      case report.code.hasPrefix("OBJECTIVE-"): .objectiveMissed
      default: .failed
      }
  }
}
