import Core
import IO
import Synchronization

extension Repository {
  /// Brings damaged and missing packs back: as they were, from the settings' sources, or else blob by blob.
  ///
  /// A pack is whole if its SHA-256 is its name. What no source has is put together anew from what is whole in the damaged
  /// file, in other packs, and in other repositories. Nothing goes before what replaces it is durable: new packs and
  /// their index first, then indexes without the damaged pack, then that pack. Call it inside
  /// ``withLock(exclusive:wait:loadingIndex:_:)``, exclusive, with the index loaded.
  ///
  /// - Throws: What keeps it from working. Blobs that are nowhere are reported; snapshots that need them can then be
  ///   repaired with ``repairSnapshots(_:_:)``.
  package func repairPacks(_ options: PackRepairOptions) async throws(VaultError) -> PackRepairReport {
    try await PackRepairRun(repository: self, options: options).run()
  }
}

/// One repair of packs under way.
struct PackRepairRun {
  let repository: Repository
  let options: PackRepairOptions

  private struct Damaged: Sendable {
    var id: Digest
    var damage: VaultError
  }

  func run() async throws(VaultError) -> PackRepairReport {
    let index = repository.index.withLock { $0.blobs }
    let listed = try await repository.access { store throws(StoreError) in try await store.list(.data) }
    let candidates = options.packs.isEmpty ? Set(listed.compactMap(\.name.id)).union(index.packIDs) : Set(options.packs)
    var report = PackRepairReport()
    report.packs = candidates.count
    let damaged = try await findDamaged(candidates.sorted())
    var gone: [Digest] = []
    let bad = Set(damaged.map(\.id))
    let indexed = index.blobsByPack(bad)
    for pack in damaged {
      var repair = PackRepair(pack: pack.id, damage: pack.damage.report)
      if let source = try await restore(pack.id) {
        repair.outcome = .restored(from: source)
      } else if let blobs = indexed[pack.id] {
        try await salvage(blobs, of: pack.id, index, avoiding: bad, &repair)
        repair.outcome = .salvaged
        gone.append(pack.id)
      }
      report.repairs.append(repair)
    }
    if options.isDryRun || gone.isEmpty { return report }
    try await repository.flush()
    try await dropFromIndexes(Set(gone))
    for pack in gone { try await remove(pack) }
    try await repository.refreshIndex()
    return report
  }

  // MARK: Finding

  private func findDamaged(_ packs: [Digest]) async throws(VaultError) -> [Damaged] {
    let found = Mutex<[Damaged]>([])
    let tally = Tally()
    try await inParallel(packs, limit: repository.settings.downloads) { (id) throws(VaultError) in
      if let damage = try await damage(of: id) { found.withLock { $0.append(Damaged(id: id, damage: damage)) } }
      options.progress(tally.next(), packs.count)
    }
    return found.withLock { $0.sorted { $0.id < $1.id } }
  }

  private func damage(of id: Digest) async throws(VaultError) -> VaultError? {
    let bytes: [UInt8]
    do throws(StoreError) { bytes = try await repository.store.get(ObjectName(.data, id)) } catch {
      let damage = VaultError(error, pack: id, range: 0..<0)
      guard damage.isDamage else { throw damage }
      return damage
    }
    let hash = try await repository.computing { () throws(VaultError) in
      bytes.withUnsafeBytes { PairedDigest.of($0) }
    }
    return hash == id ? nil : .packCorrupt(id, bytes: 0..<bytes.count, "its content has another hash")
  }

  // MARK: Bringing back

  /// - Returns: Where the whole file came from, or would.
  private func restore(_ pack: Digest) async throws(VaultError) -> String? {
    let name = ObjectName(.data, pack)
    guard options.isDryRun else {
      guard try await repository.mend(name) != nil else { return nil }
      guard let mended = repository.mending.done.withLock({ $0[name] }) else { return repository.store.location }
      // Repairing is what was asked for: not to be able to is a failure here.
      if let failure = mended.failure { throw .store(.unavailable(failure)) }
      return mended.source
    }
    let here = try await repository.presentBytes(name)
    return try await repository.access { _ throws(StoreError) in
      try await repository.settings.sources.recover(name, damaged: here) { [pool = repository.settings.pool] bytes in
        await pool.run { bytes.withUnsafeBytes { PairedDigest.of($0) } == pack }
      }
    }?.location
  }

  private func salvage(
    _ blobs: [PackedBlob], of pack: Digest, _ index: BlobIndex, avoiding bad: Set<Digest>, _ repair: inout PackRepair
  ) async throws(VaultError) {
    let bytes = try await repository.presentBytes(ObjectName(.data, pack)) ?? []
    for blob in blobs {
      if try await isElsewhere(blob, index, avoiding: bad) {
        repair.elsewhere += 1
      } else if let plaintext = await open(blob, in: bytes) {
        repair.kept += 1
        try await write(blob, plaintext)
      } else if let plaintext = try await fetch(blob) {
        repair.fetched += 1
        try await write(blob, plaintext)
      } else {
        repair.lost.append(LostBlob(kind: blob.kind, id: blob.id))
      }
    }
  }

  private func isElsewhere(
    _ blob: PackedBlob, _ index: BlobIndex, avoiding bad: Set<Digest>
  ) async throws(VaultError) -> Bool {
    let places = [index.place(blob.kind, blob.id)].compactMap(\.self) + index.otherPlaces(blob.kind, blob.id)
    for place in places where !bad.contains(place.pack) {
      do throws(VaultError) {
        _ = try await repository.read([place.blob], of: place.pack)
        return true
      } catch {
        guard error.isDamage else { throw error }
      }
    }
    return false
  }

  private func open(_ blob: PackedBlob, in bytes: [UInt8]) async -> [UInt8]? {
    guard blob.range.upperBound <= bytes.count else { return nil }
    return try? await repository.computing { () throws(VaultError) -> [UInt8]? in
      try? repository.codecs.with { (codec) throws(CodecFault) in
        try bytes.withRawBytes { (raw) throws(CodecFault) in
          try codec.decode(
            UnsafeRawBufferPointer(rebasing: raw[blob.range]), uncompressedBytes: blob.uncompressedBytes, id: blob.id)
        }
      }
    }
  }

  private func fetch(_ blob: PackedBlob) async throws(VaultError) -> [UInt8]? {
    for other in options.others where other.contains(blob.kind, blob.id) {
      do throws(VaultError) { return try await other.load(blob.kind, blob.id) } catch {
        if case .cancelled = error { throw error }
      }
    }
    return nil
  }

  /// Into a new pack, though the index still knows of the old place.
  private func write(_ blob: PackedBlob, _ plaintext: [UInt8]) async throws(VaultError) {
    if options.isDryRun { return }
    let isFull = try await repository.computing { () throws(VaultError) in
      try repository.codecs.with { (codec) throws(VaultError) in
        try plaintext.withRawBytes { (raw) throws(VaultError) in
          try repository.pack(blob.kind, blob.id, room: raw.count + Cipher.overheadBytes) { (pack) throws(VaultError) in
            try repository.encode(blob.kind, blob.id, raw, into: pack, codec)
          }
        }
      }
    }
    if isFull { while let pack = repository.writer.next() { try await repository.upload(pack) } }
  }

  // MARK: Letting go

  /// Indexes that name one of these packs are replaced by others that don't.
  private func dropFromIndexes(_ packs: Set<Digest>) async throws(VaultError) {
    let listed = try await repository.access { store throws(StoreError) in try await store.list(.index) }
    for id in listed.compactMap(\.name.id) {
      let json = try await repository.readFile(.index, id) { VaultError.indexDamaged($0, $1) }
      var (staying, isOutdated): ([IndexedPack], Bool) = ([], false)
      do throws(JSONFault) {
        try IndexFile.decode(json) { (pack, blobs) throws(JSONFault) in
          if packs.contains(pack) { isOutdated = true } else { staying.append(IndexedPack(id: pack, blobs: blobs)) }
        }
      } catch { throw .indexDamaged(id, error.reason) }
      guard isOutdated else { continue }
      if !staying.isEmpty { _ = try await repository.writeConfirmed(.index, IndexFile.encode(staying)) }
      try await delete(ObjectName(.index, id))
    }
  }

  private func remove(_ pack: Digest) async throws(VaultError) {
    let name = ObjectName(.data, pack)
    guard let bytes = try await repository.presentBytes(name) else { return try await delete(name) }
    do { try await options.keep(pack, bytes) } catch { throw .outside(AnyFailure(error)) }
    try await delete(name)
  }

  private func delete(_ name: ObjectName) async throws(VaultError) {
    do throws(StoreError) { try await repository.store.delete(name) } catch {
      guard case .notFound = error else { throw VaultError(error) }
    }
  }
}
