import Core
import IO
import Synchronization

extension Repository {
  /// Learns of index files that came since, and forgets everything if one has gone.
  ///
  /// - Returns: Whether all that was known before is still there.
  @discardableResult
  package func refreshIndex() async throws(VaultError) -> Bool {
    // Not while one is being written: its packs would be in neither place.
    try await indexGate.through { () throws(VaultError) in try await readIndexes() }
  }

  private func readIndexes() async throws(VaultError) -> Bool {
    let listed = Set(
      try await access { store throws(StoreError) in try await store.list(.index) }.compactMap(\.name.id))
    let seed = settings.randomness.next()
    let unindexed = writer.unindexedPacks
    let (isWhole, missing) = index.withLock { state -> (Bool, [Digest]) in
      // Someone pruned or repaired: what the vanished file said may not hold any more.
      let isWhole = state.files.isSubset(of: listed)
      if !isWhole {
        state = IndexState(blobs: BlobIndex(seed: seed))
        for pack in unindexed { state.blobs.add(pack: pack.id, pack.blobs[...]) }
      }
      return (isWhole, listed.subtracting(state.files).sorted())
    }
    if missing.isEmpty { return isWhole }
    let load = IndexLoad(seed: seed)
    let failure: VaultError?
    do throws(VaultError) {
      try await inParallel(missing, limit: settings.downloads) { [self] (id) throws(VaultError) in
        let json = try await readFile(.index, id) { VaultError.indexDamaged($0, $1) }
        try await computing { () throws(VaultError) in
          do throws(JSONFault) { try load.add(json, of: id) } catch { throw .indexDamaged(id, error.reason) }
        }
      }
      failure = nil
    } catch { failure = error }
    // What could be read is had, whatever became of the others.
    await settings.pool.run { [self] in
      load.settle(threads: settings.processors)
      index.withLock { state in
        state.files.formUnion(load.files)
        state.blobs.take(load)
      }
    }
    if let failure { throw failure }
    return isWhole
  }

  /// How many different blobs are stored, those on their way not counted.
  package func blobCount(_ kind: BlobKind) -> Int { index.withLock { $0.blobs.count(kind) } }

  /// Every blob in the index, in no order.
  package func blobIDs(_ kind: BlobKind) -> [BlobID] { index.withLock { $0.blobs.ids(kind) } }

  /// Blobs in the index whose names begin with these digits, ascending.
  package func blobIDs(_ kind: BlobKind, beginningWith digits: String) -> [BlobID] {
    func filled(_ digit: Character) -> BlobID? {
      BlobID(hex: digits + String(repeating: digit, count: max(0, 64 - digits.utf8.count)))
    }
    guard let first = filled("0"), let last = filled("f") else { return [] }
    return index.withLock { $0.blobs.ids(kind, in: first...last) }
  }

  /// How many blobs of any kind are in the index, and how many bytes they take in packs, further copies not counted.
  package func storedBlobs() -> (count: Int, bytes: Int) { index.withLock { $0.blobs.stored() } }

  /// What the index takes in memory, in bytes, by what there is room for.
  package func indexMemory() -> (blobBytes: Int, packBytes: Int) {
    let memory = index.withLock { $0.blobs.memory }
    return (memory.blobBytes, memory.packBytes)
  }
}
