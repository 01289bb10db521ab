import Core
import IO
import Synchronization

extension Repository: BlobWriter {
  private enum Taken: Sendable {
    case known(BlobID)
    case busy(BlobKey)
    /// In an open pack; the flag says that one was closed by it.
    case stored(BlobID, bytes: Int, packClosed: Bool)
  }

  package func save(_ kind: BlobKind, _ bytes: [UInt8]) async throws(VaultError) -> (id: BlobID, added: Int) {
    guard (1...BlobLimits.plaintextBytes).contains(bytes.count) else { throw .blobSize(bytes.count) }
    while true {
      switch try await settings.pool.run({ [self] () throws(VaultError) in try take(kind, bytes) }) {
      case .known(let id): return (id, 0)
      case .busy(let key): await writer.settled(key)
      case .stored(let id, let added, let packClosed):
        // A pack that failed to leave earlier goes with the next one that is full.
        if packClosed { while let pack = writer.next() { try await upload(pack) } }
        return (id, added)
      }
    }
  }

  /// Hashes; compresses, seals and packs unless the blob is known. The processor's part of a backup.
  private func take(_ kind: BlobKind, _ bytes: [UInt8]) throws(VaultError) -> Taken {
    let id = bytes.withUnsafeBytes { Digest.of($0) }
    let key = BlobKey(kind: kind, id: id)
    switch writer.reserve(key, isStored: { index.withLock { $0.blobs.contains(kind, id) } }) {
    case .known: return .known(id)
    case .busy: return .busy(key)
    case .mine: break
    }
    do throws(VaultError) {
      let blob = try bytes.withRawBytes { (raw) throws(VaultError) in
        try codecs.with { (codec) throws(VaultError) in try codec.encode(kind, id, raw) }
      }
      let slot = Int(settings.randomness.next() & 1)
      let packClosed = writer.add(blob, targetBytes: settings.packTargetBytes, slot: slot)
      return .stored(id, bytes: blob.sealed.count, packClosed: packClosed)
    } catch {
      writer.abandon(key)
      throw error
    }
  }

  /// Makes everything saved so far durable and findable: packs, then their indexes.
  ///
  /// After a failure nothing is lost: what isn't durable stays in memory, and the next call tries again.
  package func flush() async throws(VaultError) {
    let mark = writer.closeAll()
    while true {
      var packs: [PackBuffer] = []
      while let pack = writer.next(upTo: mark) { packs.append(pack) }
      try await uploadAll(packs)
      // Packs that others are sending hold blobs that were saved before this call.
      if await !writer.someoneArrived(upTo: mark) { break }
    }
    try await writeIndexes(all: true)
  }

  private func uploadAll(_ packs: [PackBuffer]) async throws(VaultError) {
    let left = Mutex(packs.map { Optional($0) })
    do throws(VaultError) {
      try await inParallel(Array(packs.indices), limit: settings.uploads) { [self] (index) throws(VaultError) in
        left.withLock { $0[index] = nil }
        try await upload(packs[index])
      }
    } catch {
      // Those whose turn never came.
      for pack in left.withLock({ $0 }) { if let pack { writer.failed(pack) } }
      throw error
    }
  }

  /// Sends one pack; on return it is durable, or back among the waiting ones.
  func upload(_ pack: PackBuffer) async throws(VaultError) {
    do throws(VaultError) {
      try await uploads.through { () throws(VaultError) in
        let id = try await settings.pool.run { [self] () throws(VaultError) in try finish(pack) }
        try await access { store throws(StoreError) in try await store.put(ObjectName(.data, id), pack.bytes) }
        index.withLock { $0.blobs.add(pack: id, pack.blobs[...]) }
        writer.arrived(pack, id, at: settings.time.monotonicNanoseconds())
      }
    } catch {
      writer.failed(pack)
      throw error
    }
    let now = settings.time.monotonicNanoseconds()
    if writer.isIndexDue(at: now, blobs: settings.indexBlobs, interval: settings.indexInterval) {
      try await writeIndexes(all: false)
    }
  }

  /// Adds the header, after reading every blob back from the very bytes that will be sent.
  ///
  /// restic learned in 0.16.4 that memory and processors fail often enough to look. It looks before packing, this
  /// after.
  private func finish(_ pack: PackBuffer) throws(VaultError) -> Digest {
    if let id = pack.id { return id }
    try codecs.with { (codec) throws(VaultError) in
      for blob in pack.blobs {
        do throws(CodecFault) {
          _ = try pack.bytes.withRawBytes { (raw) throws(CodecFault) in
            try codec.decode(
              UnsafeRawBufferPointer(rebasing: raw[blob.range]), uncompressedBytes: blob.uncompressedBytes, id: blob.id)
          }
        } catch { throw .writeVerification("\(blob.kind) blob \(blob.id.short): \(error.reason)") }
      }
      let header = PackHeader.encode(pack.blobs)
      guard case .success(let listed) = PackHeader.decode(header), listed == pack.blobs else {
        throw .writeVerification("a pack's header")
      }
      let sealed = try codec.sealPlain(header)
      guard (try? codec.open(sealed)) == header else { throw .writeVerification("a pack's header") }
      pack.bytes.append(contentsOf: sealed)
      for shift in [0, 8, 16, 24] { pack.bytes.append(UInt8(truncatingIfNeeded: sealed.count >> shift)) }
    }
    let id = pack.bytes.withUnsafeBytes { Digest.of($0) }
    pack.id = id
    return id
  }

  /// - Parameter all: Otherwise only as long as an index is due.
  private func writeIndexes(all: Bool) async throws(VaultError) {
    try await indexGate.through { () throws(VaultError) in
      while all
        || writer.isIndexDue(
          at: settings.time.monotonicNanoseconds(), blobs: settings.indexBlobs, interval: settings.indexInterval)
      {
        // A write that failed may have got through. Only the very same bytes can be sent again: another index of the
        // same packs would list them twice.
        if let unsent = unsentIndex.withLock({ $0 }) {
          try await send(unsent)
          continue
        }
        let packs = writer.takeUnindexed(blobs: settings.indexBlobs)
        if packs.isEmpty { break }
        let sealed: SealedFile
        do throws(VaultError) { sealed = try await seal(.index, IndexFile.encode(packs)) } catch {
          writer.giveBack(packs, at: settings.time.monotonicNanoseconds())
          throw error
        }
        unsentIndex.withLock { $0 = sealed }
        try await send(sealed)
      }
    }
  }

  private func send(_ sealed: SealedFile) async throws(VaultError) {
    try await send(.index, sealed)
    index.withLock { _ = $0.files.insert(sealed.id) }
    unsentIndex.withLock { $0 = nil }
  }
}
