import Core
import IO
import Synchronization

extension Repository: BlobWriter {
  package func save(_ kind: BlobKind, _ bytes: [UInt8]) async throws(VaultError) -> SavedBlob {
    let batch = BlobBatch()
    bytes.withUnsafeBytes { batch.append(copying: $0) }
    return try await save(kind, batch)[0]
  }

  package func save(_ kind: BlobKind, _ batch: BlobBatch) async throws(VaultError) -> [SavedBlob] {
    for index in 0..<batch.count where !(1...BlobLimits.plaintextBytes).contains(batch.bytes(index)) {
      throw .blobSize(batch.bytes(index))
    }
    let taken = Taken(batch)
    while true {
      let outcome = try await computing { [self] () throws(VaultError) in try take(kind, batch, taken) }
      // A pack that failed to leave earlier goes with the next one that is full.
      if outcome.packClosed { while let pack = writer.next() { try await upload(pack) } }
      guard let busy = outcome.busy else { return taken.saved }
      await writer.settled(busy)
    }
  }

  /// What has become of a batch so far.
  private final class Taken: @unchecked Sendable {
    // Handed from one thread to the next, never shared.
    var saved: [SavedBlob]
    /// Not stored yet, ascending.
    var left: [Int]

    init(_ batch: BlobBatch) {
      saved = []
      left = Array(0..<batch.count)
    }
  }

  private struct Outcome: Sendable {
    /// A blob that someone else is sealing.
    var busy: BlobKey?
    var packClosed = false
  }

  /// Hashes; compresses, seals and packs what is unknown. The processor's part of a backup.
  private func take(_ kind: BlobKind, _ batch: BlobBatch, _ taken: Taken) throws(VaultError) -> Outcome {
    if taken.saved.isEmpty { taken.saved = Self.names(batch) }
    return try codecs.with { (codec) throws(VaultError) in
      var outcome = Outcome()
      var busy: [Int] = []
      for index in taken.left {
        let id = taken.saved[index].id
        let key = BlobKey(kind: kind, id: id)
        switch writer.reserve(key, isStored: { self.index.withLock { $0.blobs.contains(kind, id) } }) {
        case .known: continue
        case .busy:
          busy.append(index)
          outcome.busy = outcome.busy ?? key
          continue
        case .mine: break
        }
        do throws(VaultError) {
          let blob = try codec.encode(kind, id, batch[index])
          let slot = Int(settings.randomness.next() & 1)
          taken.saved[index].added = blob.sealed.count
          if writer.add(blob, targetBytes: settings.packTargetBytes, slot: slot) { outcome.packClosed = true }
        } catch {
          writer.abandon(key)
          throw error
        }
      }
      taken.left = busy
      return outcome
    }
  }

  private static func names(_ batch: BlobBatch) -> [SavedBlob] {
    var result: [SavedBlob] = []
    result.reserveCapacity(batch.count)
    for index in stride(from: 0, to: batch.count - 1, by: 2) {
      let (a, b) = PairedDigest.of(batch[index], batch[index + 1])
      result.append((a, 0))
      result.append((b, 0))
    }
    if batch.count % 2 == 1 { result.append((PairedDigest.of(batch[batch.count - 1]), 0)) }
    return result
  }

  /// Runs what keeps a processor busy, on as many threads as there are processors.
  func computing<T: Sendable>(_ body: @escaping @Sendable () throws(VaultError) -> T) async throws(VaultError) -> T {
    try await processors.through { () throws(VaultError) in try await settings.pool.run(body) }
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
        let id = try await computing { [self] () throws(VaultError) in try finish(pack) }
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
    let id = try codecs.with { (codec) throws(VaultError) -> Digest in
      var fault: VaultError?
      var hash = pack.bytes.withUnsafeBytes { raw in
        codec.inspect(raw, pack.blobs) { blob, reason in
          fault = fault ?? .writeVerification("\(blob.kind) blob \(blob.id.short): \(reason.reason)")
        }
      }
      if let fault { throw fault }
      let header = PackHeader.encode(pack.blobs)
      guard case .success(let listed) = PackHeader.decode(header), listed == pack.blobs else {
        throw .writeVerification("a pack's header")
      }
      let sealed = try codec.sealPlain(header)
      guard (try? codec.open(sealed)) == header else { throw .writeVerification("a pack's header") }
      let end = pack.bytes.count
      pack.bytes.append(contentsOf: sealed)
      for shift in [0, 8, 16, 24] { pack.bytes.append(UInt8(truncatingIfNeeded: sealed.count >> shift)) }
      pack.bytes.withUnsafeBytes { hash.add(UnsafeRawBufferPointer(rebasing: $0[end...])) }
      return hash.finish()
    }
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
