import Core
import Synchronization

/// What became of the locks of a repository's objects.
package struct ObjectLockReport: Hashable, Sendable, Codable {
  package var snapshots = 0
  /// Objects that the snapshots need, the repository's own included.
  package var objects = 0
  package var packs = 0
}

extension Repository {
  /// Changes the lock of every object that a snapshot needs: config, keys, snapshots, indexes, and the packs that hold
  /// anything in use.
  ///
  /// Call it inside ``withLock(exclusive:wait:loadingIndex:_:)``, with the index. Repeating it is fine. Packs that hold
  /// nothing in use are left alone: their locks run out.
  package func setLocks(
    _ change: ObjectLockChange, progress: @escaping @Sendable (PruneProgress) -> Void = { _ in }
  ) async throws(VaultError) -> ObjectLockReport {
    var report = ObjectLockReport()
    let used = BlobSet(index.withLock { $0.blobs.freeze() })
    let trees = used.numbering.count(.tree)
    report.snapshots = try await markUsed(used) { done in
      progress(PruneProgress(phase: .trees, done: done, total: trees))
    }.count
    var names: Set<ObjectName> = [.config]
    for kind in [ObjectKind.key, .snapshot, .index] {
      names.formUnion(try await access { store throws(StoreError) in try await store.list(kind) }.map(\.name))
    }
    for id in names.filter({ $0.kind == .index }).compactMap(\.id) {
      let json = try await readFile(.index, id) { VaultError.indexDamaged($0, $1) }
      let packs = try await settings.pool.run { () throws(VaultError) in
        var packs: [Digest] = []
        do throws(JSONFault) {
          try IndexFile.decode(json) { (pack, blobs) throws(JSONFault) in
            if blobs.contains(where: { used.contains($0.kind, $0.id) }) { packs.append(pack) }
          }
        } catch { throw .indexDamaged(id, error.reason) }
        return packs
      }
      names.formUnion(packs.map { ObjectName(.data, $0) })
    }
    (report.objects, report.packs) = (names.count, names.count { $0.kind == .data })
    let total = names.count
    let done = Mutex(0)
    try await inParallel(names.sorted(), limit: settings.downloads) { [self] (name) throws(VaultError) in
      try await access { store throws(StoreError) in try await store.setLock(change, on: name) }
      let number = done.withLock { done in
        done += 1
        return done
      }
      progress(PruneProgress(phase: .lock, done: number, total: total))
    }
    return report
  }

  /// Those of `names` that can't be deleted now.
  func locked(_ names: [ObjectName]) async throws(VaultError) -> Set<ObjectName> {
    guard store.locksObjects else { return [] }
    let now = settings.time.now()
    let result = Mutex<Set<ObjectName>>([])
    try await inParallel(names, limit: settings.downloads) { [self] (name) throws(VaultError) in
      let lock: ObjectLock?
      do throws(StoreError) { lock = try await store.lock(on: name) } catch {
        // Not there: nothing is in the way.
        guard case .notFound = error else { throw VaultError(error) }
        return
      }
      if let lock, lock.holds(at: now) { _ = result.withLock { $0.insert(name) } }
    }
    return result.withLock { $0 }
  }
}
