import Core

/// Why a release could not be tried at all; what it did to a copy is in the report instead.
package enum CompatError: Failure {
  case noRelease(String)
  case noScripts(String)
  case notOpenable(StoreName)
  case precheck(StoreName, [Report])
  /// The catalog's commands and addresses are about the live system.
  case notHere

  package var report: Report {
    switch self {
    case .noRelease(let path):
      Report("COMPAT-101", "\(path) is not there", retry: .afterChange)
        .remedy("name the release's directory, with a release.yaml in it")
    case .noScripts(let path):
      Report("COMPAT-102", "there is no script in \(path)", retry: .afterChange)
        .remedy("correct 'migrations' in release.yaml")
    case .notOpenable(let store):
      Report("COMPAT-103", "a copy of \(store) can't be opened by itself", retry: .never)
        .remedy("leave it out; a drill brings it back with the system")
    case .precheck(let store, let reports):
      Report(
        "COMPAT-104", "\(store) can't be brought back beside: \(reports.map(\.summary).joined(separator: "; "))",
        retry: .afterChange
      ).state("nothing was touched")
    case .notHere:
      Report("COMPAT-105", "commands and addresses are the live system's, and are not asked of a copy", retry: .never)
    }
  }
}
