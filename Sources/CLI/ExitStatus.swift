import ArgumentParser
import Core

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

/// An error that also decides the exit status.
package struct CommandFailure: Failure {
  package var status: ExitStatus
  package var report: Report

  package init(_ status: ExitStatus, _ report: Report) { (self.status, self.report) = (status, report) }

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
      case failure.isCancellation || ["CORE-001", "VAULT-302", "STORE-110"].contains(report.code): .interrupted
      case report.code.hasPrefix("CATALOG-") || report.code.hasPrefix("USAGE-"): .usage
      case report.code.hasPrefix("PLAN-"), report.code == "RESTORE-101", report.code == "RESTORE-102", report.code == "POINT-204":
        .refused
      // A repository that is there, a key in use, a target that holds something.
      case ["VAULT-103", "VAULT-106", "TREE-302"].contains(report.code): .refused
      case report.code.hasPrefix("RESTORE-2"), report.code.hasPrefix("EVIDENCE-"): .validationFailed
      case report.code.hasPrefix("OBJECTIVE-"): .objectiveMissed
      default: .failed
      }
  }
}
