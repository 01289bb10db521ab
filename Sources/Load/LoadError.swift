import Catalog
import Core

/// Why a workflow could not be gone through; what its steps answer is in the report instead.
package enum LoadError: Failure {
  case noSuchWorkflow(String)
  /// A value to fill in that isn't there.
  case missing(String)
  case unwritable(String)
  case badData(String, line: Int, why: String)
  /// It leaves something behind, and nobody agreed to that.
  case consent(WorkflowName)

  package var report: Report {
    switch self {
    case .noSuchWorkflow(let name):
      Report("LOAD-101", "there is no workflow '\(name)'", retry: .never)
        .remedy("`salvor load list` shows those there are")
    case .missing(let what):
      Report("LOAD-102", what, retry: .afterChange).remedy("see what the step before answers, and what the data holds")
    case .unwritable(let what):
      Report("LOAD-103", "what was filled in makes \(what)", retry: .afterChange)
        .remedy("correct the data, or the workflow")
    case .badData(let path, let line, let why):
      Report("LOAD-104", "\(path):\(line): \(why)", retry: .afterChange)
        .remedy("write one JSON object on each line, in at most 64 MiB")
    case .consent(let name):
      Report("LOAD-201", "workflow '\(name)' writes, and this is the live system", retry: .afterChange)
        .state("nothing was sent")
        .remedy("let a drill go through it, or add --consent if what it leaves behind is welcome")
    }
  }
}
