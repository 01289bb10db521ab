import Core
import StateKit

/// What other restores speak against touching the same stores.
///
/// Each restore keeps what it replaced, so they come off in the opposite order only, like a stack. That no two are at work
/// at once is for the journal to see to: ``RunSpec/exclusiveStores``.
struct OtherRuns: Sendable {
  let journal: any RunJournal

  /// - Throws: ``RunsError/newer(_:than:stores:)``.
  func requireNewest(_ record: RunRecord) async throws {
    let states: Set<RunState> = [.running, .succeeded, .failed, .rollingBack, .rollbackFailed]
    for other in try await runs(in: states, touching: record.stores, but: record.spec.id)
    where other.head.createdAt > record.head.createdAt {
      throw RunsError.newer(
        other.spec.id, than: record.spec.id, stores: other.stores.intersection(record.stores).sorted())
    }
  }

  private func runs(in states: Set<RunState>, touching stores: Set<StoreName>, but run: RunID) async throws
    -> [RunRecord]
  {
    var found: [RunRecord] = []
    for summary in try await journal.list(RunFilter(kinds: [.recovery], states: states, limit: 10_000))
    where summary.id != run {
      let record = try await journal.load(summary.id)
      if !record.stores.isDisjoint(with: stores) { found.append(record) }
    }
    return found
  }
}

extension RunRecord {
  fileprivate var stores: Set<StoreName> { Set(spec.steps.compactMap(\.store)) }
}
