import Core
import StateKit

/// Why a point could not be taken, or a system not brought back.
package enum RecoveryError: Failure {
  case notHeld([StoreName: Report], pause: Duration)
  case notMarked([StoreName: Report])
  case captureFailed([StoreName: Report])
  case noSuchPoint(String)
  case ambiguousPoint(String, [String])
  case noPoint(why: [String])
  case pointDamaged(String, why: String)
  case logDamaged(StoreName, String)
  case logBroken(StoreName, from: String, to: String)
  case logLagsBehind(StoreName, target: String, why: String)
  case logNotFollowed(StoreName)
  case logTakenOver(StoreName, stretch: Int64)
  case refused([String])
  case precheckFailed([Report])
  /// Every check that was made, those that passed too.
  case validationFailed(String, [CheckOutcome])
  case positionMissed(StoreName, expected: String, found: String)
  case digestDiffers(StoreName, parts: [String])
  case notReady(ServiceName, why: String)
  case noSuchStore(StoreName)
  case noSuchGroup(GroupName)
  case groupAcrossRepositories(GroupName, [RepositoryName])
  case noSuchService(ServiceName)
  case noSuchRepository(RepositoryName)
  case store(StoreName, Report)
  case vault(Report)
  case cancelled

  package var report: Report {
    switch self {
    case .notHeld(let stores, let pause):
      Report(
        "POINT-101",
        "no consistent point was taken, because \(listed(stores.keys)) could not be held: \(firstReason(stores))",
        retry: .afterBackoff
      )
      .state("all writers were released after \(pause.brief)")
      .remedy("try again, raise holdBudget in the ConsistencyGroup, or look for a long transaction")
    case .notMarked(let stores):
      Report(
        "POINT-102", "\(listed(stores.keys)) could not name a position: \(firstReason(stores))", retry: .afterBackoff
      )
      .state("all writers were released; no point was recorded").remedy("look at that store, then take the point again")
    case .captureFailed(let stores):
      Report("POINT-103", "\(listed(stores.keys)) could not be copied: \(firstReason(stores))", retry: .afterBackoff)
        .state("no point was recorded; what reached the vault is reused by the next try")
        .remedy(stores.min { $0.key < $1.key }?.value.remedy ?? "look at that store, then take the point again")
    case .noSuchPoint(let id):
      Report("POINT-201", "there is no recovery point '\(id)'").remedy("`salvor points` lists them")
    case .ambiguousPoint(let id, let matches):
      Report("POINT-202", "'\(id)' could be any of \(matches.joined(separator: ", "))").remedy("give more of the id")
    case .noPoint(let why):
      Report("POINT-203", "no recovery point fits: \(why.isEmpty ? "there is none yet" : why.joined(separator: "; "))")
        .remedy("take one with `salvor backup`, choose another time, or name one with --point to have it as it is")
    case .pointDamaged(let id, let why):
      Report("POINT-204", "recovery point \(id) can't be trusted: \(why)", retry: .never)
        .state("nothing was changed").remedy(
          "choose another with `salvor points`; run `salvor vault check --read-data`")
    case .logDamaged(let store, let why):
      Report("LOG-101", "the log of \(store) can't be trusted: \(why)", retry: .never)
        .remedy("run `salvor vault check --read-data`; `salvor timeline \(store)` shows what can be reached")
    case .logBroken(let store, let from, let to):
      Report("LOG-102", "the log of \(store) does not lead from \(from) to \(to) without a gap", retry: .never)
        .state("nothing was changed").remedy("`salvor timeline \(store)` shows what can be reached, and why not more")
    case .logLagsBehind(let store, let target, let why):
      Report("LOG-103", "\(store) can't be brought to \(target): \(why)", retry: .never)
        .state("nothing was changed").remedy("`salvor timeline \(store)` shows what can be reached, and why not more")
    case .logNotFollowed(let store):
      Report("LOG-104", "the log of \(store) can't be followed: its driver offers none", retry: .never)
        .remedy(
          "some drivers follow only where the catalog says `log` (files, NATS); else name stores that have one, or take recovery "
            + "points of this one more often")
    case .logTakenOver(let store, let stretch):
      Report(
        "LOG-106", "somebody else follows \(store) too: the log has a stretch \(stretch) by now", retry: .afterBackoff
      )
      .state("nothing of it was taken for durable; it is looked up anew where the log ends")
      .remedy("let one process follow a store; several may stand ready, and take over")
    case .refused(let reasons):
      Report("RESTORE-101", "refused: \(reasons.joined(separator: "; "))").state("nothing was changed")
    case .precheckFailed(let reports):
      Report("RESTORE-102", "not started: \(reports.map(\.description).joined(separator: "; "))")
        .state("nothing was changed").remedy("mend what the list says, then run it again")
        .details(try? JSONValue(encoding: reports))
    case .validationFailed(let what, let checks):
      Report(
        "RESTORE-201",
        "\(what) did not validate: "
          + checks.filter(\.isBad).map { "\($0.name): \($0.summary)" }.joined(separator: "; "), retry: .never
      ).details(try? JSONValue(encoding: checks))
    case .positionMissed(let store, let expected, let found):
      Report("RESTORE-202", "\(store) came back at \(found), not at \(expected)", retry: .never)
    case .digestDiffers(let store, let parts):
      Report(
        "RESTORE-203", "\(store) differs from what was recorded at the mark, in \(parts.joined(separator: ", "))",
        retry: .never
      ).remedy("choose another point; this one's copy of \(store) is not what it was")
    case .notReady(let service, let why):
      Report("RESTORE-301", "\(service) is not ready: \(why)", retry: .afterBackoff)
    case .noSuchStore(let name):
      Report("PLAN-001", "the catalog has no store '\(name)'").remedy("`salvor graph` lists them")
    case .noSuchGroup(let name):
      Report("PLAN-004", "the catalog has no consistency group '\(name)'").remedy("`salvor graph` lists them")
    case .groupAcrossRepositories(let name, let repositories):
      Report(
        "PLAN-005",
        "the stores of \(name) go to different repositories: \(repositories.map(\.text).joined(separator: ", "))"
      )
      .remedy("give the stores of one group one repository")
    case .noSuchService(let name):
      Report("PLAN-002", "the catalog has no service '\(name)'").remedy("`salvor graph` lists them")
    case .noSuchRepository(let name):
      Report("PLAN-003", "the catalog has no repository '\(name)'").remedy("add a Repository, or correct the name")
    case .store(let store, let report): report.prefixed("\(store): ")
    case .vault(let report): report
    case .cancelled: Report("CORE-001", "cancelled", retry: .afterBackoff)
    }
  }
}

private func listed(_ names: some Sequence<StoreName>) -> String { names.sorted().map(\.text).joined(separator: ", ") }

private func firstReason(_ reports: [StoreName: Report]) -> String {
  guard let first = reports.min(by: { $0.key < $1.key }) else { return "unknown" }
  return reports.count == 1 ? first.value.description : "\(first.key): \(first.value)"
}
