import Console
import Core
import StateKit
import Synchronization
import Workflow

/// Shows a run as it goes: a line per finished step, and one that changes for what is under way.
final class RunFollower: Sendable {
  private let display: ProgressDisplay
  private let started = Mutex<[StepID: Int]>([:])

  init(_ display: ProgressDisplay) { self.display = display }

  var observe: RunObserver { { event in self.show(event) } }

  private func show(_ event: RunEvent) {
    let style = display.style
    switch event {
    case .runChanged(let run, let state, let report):
      let reason = report.map { ": \($0.summary.harmless)" } ?? ""
      display.line.note("\(run) \(OutcomeText.paint(state, style))\(reason)")
    case .stepStarted(_, let step, let attempt):
      started.withLock { $0[step] = attempt }
      display.line.show("run", "\(step)\(attempt > 1 ? " (try \(attempt))" : "")")
    case .stepProgress(_, let step, let progress):
      let total = progress.totalBytes.map { " of \(formatBytes($0))" } ?? ""
      display.line.show("run", "\(step) \(progress.phase) \(progress.doneBytes.map(formatBytes) ?? "")\(total)")
    case .stepLog(_, let step, let line): display.line.note("  \(step): \(line.harmless)")
    case .stepRetrying(_, let step, let report, let pause):
      display.line.note(
        "  \(style.paint("retry", .warning)) \(step) in \(pause.brief): \(report.summary.harmless)")
    case .stepFinished(_, let step, let outcome):
      switch outcome {
      case .succeeded(_, let measured):
        display.line.note("  \(style.paint("done", .good))  \(step)  \(style.paint(measured.duration.brief, .faint))")
      case .failed(let report):
        display.line.note("  \(style.paint("failed", .bad)) \(step): \(report.description.harmless)")
      case .skipped(let why): display.line.note("  \(style.paint("skipped", .faint)) \(step): \(why.harmless)")
      }
    case .stepCompensating(_, let step): display.line.show("undo", step.text)
    case .stepCompensated(_, let step): display.line.note("  \(style.paint("undone", .warning)) \(step)")
    case .stepCompensationFailed(_, let step, let report):
      display.line.note("  \(style.paint("undo failed", .bad)) \(step): \(report.description.harmless)")
    }
  }
}
