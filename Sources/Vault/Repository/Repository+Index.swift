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
    try await inParallel(missing, limit: settings.downloads) { [self] (id) throws(VaultError) in
      let json = try await readFile(.index, id) { VaultError.indexDamaged($0, $1) }
      try await settings.pool.run { [self] () throws(VaultError) in try absorb(json, of: id) }
    }
    return isWhole
  }

  private func absorb(_ json: [UInt8], of id: Digest) throws(VaultError) {
    // Parsed whole before anything is taken over: a damaged index leaves nothing behind, and nobody waits for parsing.
    var packs: [(id: Digest, end: Int)] = []
    var blobs: [PackedBlob] = []
    do throws(JSONFault) {
      try IndexFile.decode(json) { (pack, listed) throws(JSONFault) in
        blobs.append(contentsOf: listed)
        packs.append((pack, blobs.count))
      }
    } catch { throw .indexDamaged(id, error.reason) }
    index.withLock { state in
      guard state.files.insert(id).inserted else { return }
      var start = 0
      for pack in packs {
        state.blobs.add(pack: pack.id, blobs[start..<pack.end])
        start = pack.end
      }
    }
  }

  /// How many different blobs are stored, those on their way not counted.
  package func blobCount(_ kind: BlobKind) -> Int { index.withLock { $0.blobs.count(kind) } }

  /// Every blob in the index, in no order.
  package func blobIDs(_ kind: BlobKind) -> [BlobID] { index.withLock { $0.blobs.ids(kind) } }
}
