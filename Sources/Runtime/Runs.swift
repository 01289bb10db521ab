import Catalog
import Core
import IO
import Recovery
import StateKit
import Workflow

/// Runs that were begun: listed, shown, resumed, rolled back, released.
package struct Runs: Sendable {
  package let journal: any RunJournal
  private let host: Machine

  package init(_ journal: any RunJournal, host: Machine) { (self.journal, self.host) = (journal, host) }

  package func list(limit: Int = 50) async throws(AnyFailure) -> [RunSummary] {
    do { return try await journal.list(RunFilter(limit: limit)) } catch { throw AnyFailure(error) }
  }

  /// - Parameter text: An id, the beginning of one that fits no other, or `latest`.
  package func find(_ text: String) async throws(AnyFailure) -> RunRecord {
    do {
      let runs = try await journal.list(RunFilter(limit: 10_000))
      // A drill is looked at by `salvor drill`; what people mean is the restore.
      if text == "latest", let newest = runs.first(where: { $0.kind != .drill }) {
        return try await journal.load(newest.id)
      }
      let matches = runs.filter { $0.id.text == text || $0.id.text.hasPrefix(text) || $0.id.text.hasSuffix("-" + text) }
      if let exact = matches.first(where: { $0.id.text == text }) { return try await journal.load(exact.id) }
      guard let match = matches.first else { throw RunsError.noSuchRun(text) }
      guard matches.count == 1 else { throw RunsError.ambiguous(text, matches.map(\.id.text)) }
      return try await journal.load(match.id)
    } catch {
      throw AnyFailure(error)
    }
  }

  /// Goes on where a restore was left, with the catalog it was planned under.
  package func resume(_ record: RunRecord, observer: @escaping RunObserver) async throws(AnyFailure) -> RestoreOutcome {
    try await carryOut(record, observer: observer) { engine in try await engine.resume(record.spec.id) }
  }

  /// Swaps the kept state back and starts what ran before.
  package func rollback(_ record: RunRecord, observer: @escaping RunObserver) async throws(AnyFailure) -> RestoreOutcome
  {
    // No lock on any repository: nothing is read from it, and nothing may keep the old state from coming back.
    try await carryOut(record, locking: false, observer: observer) { engine in
      if record.state != .rolledBack { try await OtherRuns(journal: journal).requireNewest(record) }
      return try await engine.rollback(record.spec.id)
    }
  }

  private func carryOut(
    _ record: RunRecord, locking: Bool = true, observer: @escaping RunObserver,
    _ body: @escaping @Sendable (RunEngine) async throws -> RunRecord
  ) async throws(AnyFailure) -> RestoreOutcome {
    do {
      let (restore, input) = try restore(of: record)
      let end = ReadingEnd()
      let engine = restore.engine(for: input, observer: restore.telling(end, observer, input))
      let isRead =
        record.state != .rollingBack && input.plan.commitGate.flatMap { record.steps[$0]?.state } != .succeeded
      let stores = locking && isRead ? input.plan.stores : []
      let settled = try await restore.system.holdingRepositories(of: stores, until: end) { try await body(engine) }
      return try await restore.finish(settled, input)
    } catch {
      throw AnyFailure(RunsError.of(error))
    }
  }

  /// Gives up the state that a run kept for its rollback, and frees the space. There is no way back after it.
  package func release(_ record: RunRecord) async throws(AnyFailure) -> [StoreName] {
    do {
      let (restore, input) = try restore(of: record)
      let record = try await journal.load(record.spec.id)
      let swapped = record.spec.steps.contains {
        $0.kind == SwapStore.kind && record.steps[$0.id]?.mayHaveActed == true
      }
      switch record.state {
      case .succeeded:
        // First on record, under a claim: from here on nobody can roll back to a state that is half gone.
        try await restore.engine(for: input, observer: { _ in }).settle(record.spec.id, as: .released)
      case .released, .rolledBack: break
      case .failed, .abandoned:
        guard !swapped else { throw RunError.notPossible(record.spec.id, record.state, wanted: "released") }
      case .pending, .running, .rollingBack, .rollbackFailed:
        throw RunError.notPossible(record.spec.id, record.state, wanted: "released")
      }
      let environment = LiveRestore(
        system: restore.system, point: input.point, forwards: input.forwards, invariantNames: [])
      for store in input.plan.stores {
        let copy = try await environment.copy(of: store)
        try await restore.system.driver(of: store).discardKept(
          .init(id: record.spec.id.text, source: copy.source, capture: copy.capture))
      }
      await EvidenceLog(host: host, journal: journal).publishOrWarn()
      return input.plan.stores
    } catch {
      throw AnyFailure(RunsError.of(error))
    }
  }

  private func restore(of record: RunRecord) throws(AnyFailure) -> (Restore, RestoreInput) {
    do {
      guard record.spec.kind == .recovery else { throw RunsError.notARestore(record.spec.id) }
      let input = try record.spec.input.decoded(as: RestoreInput.self)
      let files = input.catalogFiles.map { SourceFile(path: $0.key, text: $0.value) }
      let loaded = try CatalogFiles.resolve(files, below: "")
      guard loaded.catalog.digest == record.spec.catalogDigest else { throw RunsError.otherCatalog(record.spec.id) }
      return (Restore(try ManagedSystem(loaded, host: host), journal: journal), input)
    } catch {
      throw AnyFailure(error)
    }
  }
}

package enum RunsError: Failure {
  case noSuchRun(String)
  case ambiguous(String, [String])
  case notARestore(RunID)
  case otherCatalog(RunID)
  /// It is under way, or was interrupted, and is about the same stores.
  case unfinished(RunID, stores: [StoreName])
  /// It has replaced what the other would put back.
  case newer(RunID, than: RunID, stores: [StoreName])

  package var report: Report {
    switch self {
    case .noSuchRun(let text): Report("RUN-201", "there is no run '\(text)'").remedy("`salvor runs` lists them")
    case .ambiguous(let text, let matches):
      Report("RUN-202", "'\(text)' could be any of \(matches.joined(separator: ", "))").remedy("give more of the id")
    case .notARestore(let run): Report("RUN-203", "run \(run) is not a restore", retry: .never)
    case .otherCatalog(let run):
      Report("RUN-204", "the catalog kept with run \(run) does not resolve to what it was", retry: .never)
        .state("nothing was changed").remedy("resume it with the version of salvor that began it")
    case .unfinished(let run, let stores):
      Report("RUN-205", "run \(run) is about \(stores.map(\.text).joined(separator: ", ")) too, and has not ended")
        .state("nothing was changed")
        .remedy("wait for it if it is under way; else `salvor run resume \(run)`, or `salvor run rollback \(run)`")
    case .newer(let run, let older, let stores):
      Report("RUN-206", "run \(run) has replaced \(stores.map(\.text).joined(separator: ", ")) since \(older)")
        .state("nothing was changed")
        .remedy("first `salvor run rollback \(run)`, or `salvor run release \(run)` if its state is to stay")
    }
  }
}
