import Core

/// Why a runbook could not be written, shown or believed.
package enum RunbookError: Failure {
  case noEdition(String)
  case unreadable(String, why: String)
  case occupied(String, [String])
  case noPrevious(String)
  case noSuchDomain(String, known: [String])
  case stale(String, [Stale])

  package var report: Report {
    switch self {
    case .noEdition(let path):
      Report("RUNBOOK-101", "there is no runbook in \(path)").remedy("write one with `salvor runbook write \(path)`")
    case .unreadable(let path, let why):
      Report("RUNBOOK-102", "\(path) can't be read as a runbook's facts: \(why)")
        .remedy(
          "bring the earlier edition back with `salvor runbook rollback`, or write a new one into an empty folder")
    case .occupied(let path, let names):
      Report("RUNBOOK-103", "\(path) holds what is no runbook's: \(names.prefix(5).joined(separator: ", "))")
        .state("nothing was written").remedy("name an empty folder, or one that a runbook was written into")
    case .noPrevious(let path):
      Report("RUNBOOK-104", "\(path) has no earlier edition").state("nothing was changed")
        .remedy("`salvor runbook write` keeps one from the second time on")
    case .noSuchDomain(let name, let known):
      Report("RUNBOOK-105", "no service is in a domain '\(name)'")
        .remedy(known.isEmpty ? "add 'domain' to services" : "there is \(known.joined(separator: ", "))")
    case .stale(let path, let reasons):
      Report(
        "RUNBOOK-201",
        "\(path) is stale: \(reasons.prefix(5).map(\.words).joined(separator: "; "))"
          + (reasons.count > 5 ? "; and \(reasons.count - 5) more" : "")
      )
      .remedy("look with `salvor runbook diff \(path)`, then `salvor runbook write \(path)`")
    }
  }
}
