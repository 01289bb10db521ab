import Core
import IO
import Synchronization

/// One prune under way.
///
/// Nothing is removed before what replaces it is durable: first the packs that are written again and their index, then
/// indexes without the packs that go, then the old indexes, and the packs at last. A prune that ends anywhere leaves a
/// repository in which every snapshot is whole, and the next one finishes the work.
struct PruneRun {
  let repository: Repository
  let options: PruneOptions
  let progress: @Sendable (PruneProgress) -> Void

  func run() async throws(VaultError) -> PruneReport {
    let report = try await decideAndAct()
    // The index is read anew only when nobody holds the old one any more.
    if !options.isDryRun { try await repository.refreshIndex() }
    return report
  }

  private func decideAndAct() async throws(VaultError) -> PruneReport {
    var report = PruneReport()
    let used = BlobSet(repository.index.withLock { $0.blobs.freeze() })
    let trees = used.numbering.count(.tree)
    let snapshots = try await repository.markUsed(used) { done in
      progress(PruneProgress(phase: .trees, done: done, total: trees))
    }
    report.snapshots = snapshots.count
    let indexes = try await list(.index).compactMap(\.name.id)
    // What this session reads is what is planned with.
    if let gone = repository.index.withLock({ $0.files }).subtracting(indexes).min() {
      throw .listingBehind(ObjectName(.index, gone))
    }
    var survey = try await survey(indexes, used)
    var sizes: [Digest: Int] = [:]
    for info in try await list(.data) { if let id = info.name.id { sizes[id] = info.sizeBytes } }
    try survey.settle(sizes)
    let (plan, locked) = try await planned(survey, indexes)
    var unindexed = sizes.keys.filter { !survey.isKnown($0) }.sorted()
    let lockedUnindexed = try await repository.locked(unindexed.map { ObjectName(.data, $0) })
    unindexed.removeAll { lockedUnindexed.contains(ObjectName(.data, $0)) }
    survey.describe(plan, sizes, &report)
    report.packsLocked = locked.count + lockedUnindexed.count
    report.lockedBytes = (locked + lockedUnindexed.compactMap(\.id)).reduce(0) { $0 + (sizes[$1] ?? 0) }
    report.packs = sizes.count
    report.packsUnindexed = unindexed.count
    report.freedBytes += unindexed.reduce(0) { $0 + (sizes[$1] ?? 0) }
    if options.isDryRun { return report }

    try await lookAgain(snapshots, indexes)
    try await delete(unindexed.map { ObjectName(.data, $0) })
    try await repack(plan, survey, indexes)
    let (outdated, fresh) = try await rewriteIndexes(indexes, without: plan, &report)
    try await confirm(fresh) { survey.isKnown($0) && sizes[$0] == nil }
    try await lookAgain(snapshots, indexes + fresh)
    try await delete(outdated.map { ObjectName(.index, $0) })
    let going = plan.repacked.union(plan.removed).filter { sizes[$0] != nil }.sorted()
    try await delete(going.map { ObjectName(.data, $0) })
    return report
  }

  // MARK: Deciding

  private func survey(_ indexes: [Digest], _ used: BlobSet) async throws(VaultError) -> PruneSurvey {
    let start = PruneSurvey(used)
    let result = Mutex(start)
    let done = Tally()
    try await inParallel(indexes, limit: repository.settings.downloads) { (id) throws(VaultError) in
      let packs = try await read(index: id)
      let found = try await repository.computing { () throws(VaultError) in packs.map { start.look(at: $0) } }
      try result.withLock { (survey) throws(VaultError) in try survey.add(found) }
      progress(PruneProgress(phase: .packs, done: done.next(), total: indexes.count))
    }
    return result.withLock { $0 }
  }

  /// What is locked stays, and so does every pack that a locked index names: that index would name what isn't there.
  ///
  /// - Returns: The plan, and the packs that would go but for a lock.
  private func planned(
    _ survey: PruneSurvey, _ indexes: [Digest]
  ) async throws(VaultError) -> (PrunePlan, locked: [Digest]) {
    var (pinned, asked): (Set<Digest>, Set<Digest>) = ([], [])
    func plan() -> PrunePlan {
      PrunePlan(
        survey.packs, options, version: repository.config.version,
        targetBytes: repository.settings.packTargetBytes, pinned: pinned)
    }
    guard repository.store.locksObjects else { return (plan(), []) }
    let wanted = plan()
    while true {
      let plan = plan()
      let fresh = plan.removed.union(plan.repacked).filter { asked.insert($0).inserted }
      var found = Set(try await repository.locked(fresh.map { ObjectName(.data, $0) }).compactMap(\.id))
      for id in indexes where !asked.contains(id) {
        let packs = try await read(index: id)
        guard packs.contains(where: { plan.isGoing($0.id) }) else { continue }
        asked.insert(id)
        if try await !repository.locked([ObjectName(.index, id)]).isEmpty { found.formUnion(packs.map(\.id)) }
      }
      guard !found.isSubset(of: pinned) else { return (plan, pinned.filter(wanted.isGoing).sorted()) }
      pinned.formUnion(found)
    }
  }

  /// Before anything goes. Under an exclusive lock nobody adds anything, so what shows up now was there before, and what
  /// it needs was not looked at.
  private func lookAgain(_ snapshots: Set<Digest>, _ indexes: [Digest]) async throws(VaultError) {
    let known = snapshots.union(indexes).union(repository.index.withLock { $0.files })
    for kind in [ObjectKind.snapshot, .index] {
      for info in try await list(kind) {
        if let id = info.name.id, !known.contains(id) { throw .listingBehind(info.name) }
      }
    }
  }

  /// What is about to be the only copy is there: new indexes can be read, and the store has every pack they name.
  ///
  /// - Parameter wasMissing: Packs that were not there before either; nobody needs them.
  private func confirm(_ indexes: [Digest], _ wasMissing: (Digest) -> Bool) async throws(VaultError) {
    guard !indexes.isEmpty else { return }
    var sizes: [Digest: Int] = [:]
    for info in try await list(.data) { if let id = info.name.id { sizes[id] = info.sizeBytes } }
    for id in indexes {
      let packs: [IndexedPack]
      do throws(VaultError) { packs = try await read(index: id) } catch {
        guard case .store(.notFound(let name)) = error else { throw error }
        throw .notKept(name, "it is not there")
      }
      for pack in packs {
        let needed = pack.blobs.reduce(PackHeader.sizeBytes(pack.blobs)) { $0 + $1.length }
        if let size = sizes[pack.id], size >= needed { continue }
        if wasMissing(pack.id) { continue }
        throw .notKept(ObjectName(.data, pack.id), sizes[pack.id].map { "it has \($0) bytes" } ?? "it is not there")
      }
    }
  }

  // MARK: Indexes

  private func read(index id: Digest) async throws(VaultError) -> [IndexedPack] {
    let json = try await repository.readFile(.index, id) { VaultError.indexDamaged($0, $1) }
    return try await repository.settings.pool.run { () throws(VaultError) in
      var packs: [IndexedPack] = []
      do throws(JSONFault) {
        try IndexFile.decode(json) { (pack, blobs) throws(JSONFault) in
          packs.append(IndexedPack(id: pack, blobs: blobs))
        }
      } catch { throw .indexDamaged(id, error.reason) }
      return packs
    }
  }

  // MARK: Writing again

  private func repack(_ plan: PrunePlan, _ survey: PruneSurvey, _ indexes: [Digest]) async throws(VaultError) {
    guard !plan.repacked.isEmpty else { return }
    let (total, tally) = (plan.repacked.count, Tally())
    var done: Set<Digest> = []
    // Index by index: what packs hold is never in memory all at once.
    for id in indexes {
      let packs = try await read(index: id).filter { plan.repacked.contains($0.id) && done.insert($0.id).inserted }
      try await inParallel(packs, limit: repository.settings.downloads) { (pack) throws(VaultError) in
        try await repository.moveBlobs(
          survey.wanted(of: pack), of: pack.id, compressing: options.repackUncompressed)
        progress(PruneProgress(phase: .repack, done: tally.next(), total: total))
      }
    }
    // The old copies stay where they are until the new ones are durable and listed.
    try await repository.flush()
  }

  /// Indexes that name a pack that goes are replaced by others that don't.
  ///
  /// - Returns: The indexes that were replaced, and every one that this run wrote.
  private func rewriteIndexes(
    _ indexes: [Digest], without plan: PrunePlan, _ report: inout PruneReport
  ) async throws(VaultError) -> (outdated: [Digest], fresh: [Digest]) {
    // Those of packs that were written again.
    var fresh = repository.index.withLock { $0.files }.subtracting(indexes).sorted()
    var outdated: [Digest] = []
    var pending: [IndexedPack] = []
    var pendingBlobs = 0
    // A pack that two indexes name is named once afterwards.
    var written: Set<Digest> = []
    for (number, id) in indexes.enumerated() {
      progress(PruneProgress(phase: .index, done: number, total: indexes.count))
      let packs = try await read(index: id)
      guard packs.contains(where: { plan.isGoing($0.id) }) else { continue }
      outdated.append(id)
      for pack in packs where !plan.isGoing(pack.id) && written.insert(pack.id).inserted {
        pending.append(pack)
        pendingBlobs += pack.blobs.count
        if pendingBlobs >= repository.settings.indexBlobs {
          fresh.append(try await repository.writeFile(.index, IndexFile.encode(pending)))
          report.indexesWritten += 1
          (pending, pendingBlobs) = ([], 0)
        }
      }
    }
    if !pending.isEmpty {
      fresh.append(try await repository.writeFile(.index, IndexFile.encode(pending)))
      report.indexesWritten += 1
    }
    report.indexesRemoved = outdated.count
    return (outdated, fresh)
  }

  private func delete(_ names: [ObjectName]) async throws(VaultError) {
    let done = Tally()
    try await inParallel(names, limit: repository.settings.downloads) { (name) throws(VaultError) in
      do throws(StoreError) { try await repository.store.delete(name) } catch {
        // Removed already: by this run, if the answer to an earlier try was lost.
        guard case .notFound = error else { throw VaultError(error) }
      }
      progress(PruneProgress(phase: .delete, done: done.next(), total: names.count))
    }
  }

  private func list(_ kind: ObjectKind) async throws(VaultError) -> [ObjectInfo] {
    try await repository.access { store throws(StoreError) in try await store.list(kind) }
  }
}
