import Catalog
import Core

/// Why a drill was not carried out, or what it found that no other part of Salvor says.
package enum DrillError: Failure {
  case noSuchDrill(String)
  case noPoint(DrillName, why: String)
  case notIsolated(String)
  case cannotCover(String, why: String)
  case reached([String])
  case noMirror(RepositoryName)
  case interrupted(String)
  case incident(String)
  case clock(String)
  case objective(ServiceName, String)
  case deadline(Duration)
  case notRecorded(Report)

  package var report: Report {
    switch self {
    case .noSuchDrill(let name):
      Report("DRILL-001", "the catalog has no drill '\(name)'").remedy("`salvor drill list` shows them")
    case .noPoint(let name, let why):
      Report("DRILL-002", "there is no point for drill \(name): \(why)")
        .remedy("take one with `salvor backup`, or widen the drill's window")
    case .notIsolated(let why):
      Report("DRILL-101", "a drill can't be kept apart on this machine: \(why)")
        .state("nothing was restored")
        .remedy("run it as root; `salvor drill run NAME --level tabletop` needs no place of its own")
    case .cannotCover(let path, let why):
      Report("DRILL-102", "\(path) can't be covered by a place of the drill's own: \(why)")
        .state("nothing was restored").remedy("name another state directory with --state, or move the store")
    case .reached(let doors):
      Report("DRILL-103", "the drill reaches production: \(doors.joined(separator: ", "))", retry: .never)
        .state("nothing was restored").remedy("this is a defect of Salvor's: report it, with `salvor drill show`")
    case .noMirror(let repository):
      Report("DRILL-104", "a lost region is practised with a mirror, and repository \(repository) has none")
        .state("nothing was restored").remedy("give it `mirrors`, or practise at another level")
    case .interrupted(let why):
      Report("DRILL-105", "the drill ended before it had a result: \(why)", retry: .afterBackoff)
        .state("all it had made is gone").remedy("run it again")
    case .incident(let run):
      Report("DRILL-201", "stopped: \(run) is a real restore, and has the right of way", retry: .afterBackoff)
        .state("all the drill had made is gone").remedy("run it again when the restore is over")
    case .clock(let why):
      Report("DRILL-302", "the clock can't be right: \(why)").remedy("set this machine's clock, then run it again")
    case .objective(let service, let what):
      Report("DRILL-303", "\(service) \(what)").remedy("`salvor objectives` says what to change, in order of effect")
    case .deadline(let limit):
      Report("DRILL-304", "the drill took longer than its deadline of \(limit.brief)")
        .remedy("look at where it was with `salvor drill show`; raise 'deadline' if that is how long it takes")
    case .notRecorded(let report):
      Report("DRILL-305", "the drill's record could not be kept: \(report.summary)")
        .remedy("make journal and repository writable; what the drill found is told above")
    }
  }
}
