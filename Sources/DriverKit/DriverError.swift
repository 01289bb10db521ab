import Core

/// Why a driver could not do what was asked, the same list for every engine.
package enum DriverError: Failure {
  case badOption(store: StoreName, option: String, why: String)
  /// Nobody answers, or the door is shut.
  case unreachable(String)
  case authenticationFailed(String)
  case permissionDenied(String, needs: String)
  /// The engine can't do this, or not in this version or setting.
  case unsupported(String)
  case holdTimeout(Duration)
  case holdImpossible(String)
  /// The data contradicts itself: a page checksum, an integrity check, a digest.
  case corrupt(String)
  /// What is needed to be consistent is not there: a WAL segment, a stretch of the replication stream.
  case logGap(String)
  case engineVersion(captured: String, found: String)
  case engineFailed(String, log: String)
  case serverRunning(String)
  /// Files of the store are open, and what has them open is nothing this driver stops.
  case inUse(String, by: [OpenFiles.User])
  case queryFailed(String)
  case sink(AnyFailure)
  case system(SystemReport)
  case cancelled

  /// A failed system call, already put in words.
  package struct SystemReport: Sendable, Equatable {
    package var report: Report
    package init(_ report: Report) { self.report = report }
  }

  package init(_ error: any Error) {
    switch error {
    case let error as DriverError: self = error
    case is CancellationError: self = .cancelled
    case let error as any Failure: self = .system(SystemReport(error.report))
    default: self = .system(SystemReport(AnyFailure(error).report))
    }
  }

  package var report: Report {
    switch self {
    case .badOption(let store, let option, let why):
      Report("DRIVER-101", "store \(store): option '\(option)' \(why)").remedy(
        "correct it in the catalog; see docs/drivers")
    case .unreachable(let what):
      Report("DRIVER-201", "can't reach \(what)", retry: .afterBackoff)
        .remedy("check that the server runs and that address, port and network are right")
    case .authenticationFailed(let what):
      Report("DRIVER-202", "the server refused the credential: \(what)").remedy(
        "check user and secret reference in the catalog")
    case .permissionDenied(let what, let needs):
      Report("DRIVER-203", "not allowed: \(what)").remedy("grant what the driver needs: \(needs)")
    case .unsupported(let what):
      Report("DRIVER-204", what, retry: .never).remedy("see docs/drivers for what each engine and version can do")
    case .holdTimeout(let limit):
      Report("DRIVER-301", "writers could not be held within \(limit.brief)", retry: .afterBackoff)
        .state("they were released at once").remedy("take the point again, or raise the group's holdBudget")
    case .holdImpossible(let why):
      Report("DRIVER-302", "the store can't be held: \(why)")
    case .corrupt(let what):
      Report("DRIVER-401", "the data is damaged: \(what)", retry: .never)
        .remedy("don't trust this copy; choose another point, and look at the disk it came from")
    case .logGap(let what):
      Report("DRIVER-402", "the log has a gap: \(what)", retry: .never).remedy(
        "take a new backup; points after the gap can't be reached")
    case .engineVersion(let captured, let found):
      Report("DRIVER-403", "captured with version \(captured), but version \(found) is installed")
        .remedy("install the engine in the captured version and try again")
    case .engineFailed(let what, let log):
      Report("DRIVER-501", log.isEmpty ? what : "\(what): \(log)", retry: .afterChange)
        .remedy("the engine's own log tells more")
    case .serverRunning(let what):
      Report("DRIVER-502", "\(what) is running").remedy("stop it, or give the store a 'stop' command")
    case .inUse(let path, let users):
      Report(
        "DRIVER-504",
        "files of \(path) are open in \(users.prefix(5).map(\.description).joined(separator: ", "))"
          + (users.count > 5 ? " and \(users.count - 5) more" : ""), retry: .afterBackoff
      ).state("nothing was swapped by this call")
        .remedy("stop it, or give the service that uses \(path) a 'start' or 'stop' command, so that Salvor can")
    case .queryFailed(let what):
      Report("DRIVER-503", "the query failed: \(what)")
    case .sink(let failure): failure.report
    case .system(let system): system.report
    case .cancelled: Report("CORE-001", "cancelled", retry: .afterBackoff)
    }
  }
}
