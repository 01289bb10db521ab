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
    let saved = try await take(kind, batch)
    try await sendFull()
    return saved
  }

  // A pack that failed to leave earlier goes with the next one that is full.
  package func sendFull() async throws(VaultError) { while let pack = writer.next() { try await upload(pack) } }

  package func take(_ kind: BlobKind, _ batch: BlobBatch) async throws(VaultError) -> [SavedBlob] {
    for index in 0..<batch.count where !(1...BlobLimits.plaintextBytes).contains(batch.bytes(index)) {
      throw .blobSize(batch.bytes(index))
    }
    let taken = Taken(batch)
    while true {
      let outcome = try await computing { [self] () throws(VaultError) in try take(kind, batch, taken) }
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

  /// Hashes; compresses, seals into a pack and opens again what is unknown. The processor's part of a backup.
  private func take(_ kind: BlobKind, _ batch: BlobBatch, _ taken: Taken) throws(VaultError) -> Outcome {
    var pack = lendPack(kind, room: 0)
    var isLent = true
    defer { if isLent { _ = writer.giveBack(pack, targetBytes: settings.packTargetBytes) } }
    if taken.saved.isEmpty { taken.saved = Self.names(batch, beside: pack) }
    let outcome = try codecs.with { (codec) throws(VaultError) in
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
          let room = batch.bytes(index) + Cipher.overheadBytes
          // What may fill a pack by itself gets one.
          let isAlone = room >= settings.packTargetBytes && !pack.blobs.isEmpty
          if isAlone || pack.space.count < room {
            if writer.giveBack(pack, targetBytes: settings.packTargetBytes) { outcome.packClosed = true }
            pack = lendPack(kind, room: room, isAlone: isAlone)
          }
          let sealed = try encode(kind, id, batch[index], into: pack, codec)
          taken.saved[index].added = sealed.bytes
          writer.add(pack.take(id, sealed), to: pack)
        } catch {
          writer.abandon(key)
          throw error
        }
        if pack.isFull(settings.packTargetBytes) {
          if writer.giveBack(pack, targetBytes: settings.packTargetBytes) { outcome.packClosed = true }
          pack = lendPack(kind, room: 0)
        }
      }
      taken.left = busy
      return outcome
    }
    isLent = false
    let closed = writer.giveBack(pack, targetBytes: settings.packTargetBytes)
    return Outcome(busy: outcome.busy, packClosed: outcome.packClosed || closed)
  }

  /// Seals into the front of a pack's space, and opens it again from there.
  func encode(
    _ kind: BlobKind, _ id: BlobID, _ plaintext: UnsafeRawBufferPointer, into pack: PackBuffer, _ codec: Codec
  ) throws(VaultError) -> SealedSize {
    let sealed = try codec.encode(plaintext, into: pack.space)
    let space = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(pack.space)[..<sealed.bytes])
    do throws(CodecFault) {
      try codec.verify(space, uncompressedBytes: sealed.uncompressedBytes, is: plaintext)
    } catch { throw .writeVerification("\(kind) blob \(id.short): \(error.reason)") }
    return sealed
  }

  /// Puts one blob into a pack, whatever the index says.
  ///
  /// - Parameter fill: Puts the sealed blob into the front of the pack's space.
  /// - Returns: Whether a pack is full.
  func pack(
    _ kind: BlobKind, _ id: BlobID, room: Int, _ fill: (PackBuffer) throws(VaultError) -> SealedSize
  ) throws(VaultError) -> Bool {
    let target = lendPack(kind, room: room)
    do throws(VaultError) { writer.add(target.take(id, try fill(target)), to: target) } catch {
      _ = writer.giveBack(target, targetBytes: settings.packTargetBytes)
      throw error
    }
    return writer.giveBack(target, targetBytes: settings.packTargetBytes)
  }

  func lendPack(_ kind: BlobKind, room: Int, isAlone: Bool = false) -> PackBuffer {
    writer.lend(
      kind, targetBytes: settings.packTargetBytes, room: room, isAlone: isAlone, chance: settings.randomness.next())
  }

  /// Hashes every blob of a batch: beside what has come into `pack` since it was hashed last, then beside each other.
  private static func names(_ batch: BlobBatch, beside pack: PackBuffer) -> [SavedBlob] {
    var result: [SavedBlob] = []
    result.reserveCapacity(batch.count)
    while result.count < batch.count, pack.unhashedBytes > 0 {
      result.append((pack.hash(beside: batch[result.count]), 0))
    }
    while result.count + 1 < batch.count {
      let (a, b) = PairedDigest.of(batch[result.count], batch[result.count + 1])
      result.append((a, 0))
      result.append((b, 0))
    }
    if result.count < batch.count { result.append((PairedDigest.of(batch[result.count]), 0)) }
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
    writer.dropSpare()
    try await writeIndexes(all: true)
    let now = settings.time.monotonicNanoseconds()
    await settings.pool.run { _ = ProcessMemory.returnUnused(at: now) }
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
        try await confirmation.wait()
        try await access { store throws(StoreError) in try await store.put(ObjectName(.data, id), pack.pages) }
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

  /// Adds the header and computes the name.
  ///
  /// Every blob was opened again when it came, from these very bytes; now it is seen that they have not changed since.
  private func finish(_ pack: PackBuffer) throws(VaultError) -> Digest {
    if let id = pack.id { return id }
    let header = PackHeader.encode(pack.blobs)
    guard case .success(let listed) = PackHeader.decode(header), listed == pack.blobs else {
      throw .writeVerification("a pack's header")
    }
    let sealed = try codecs.with { (codec) throws(VaultError) in
      let sealed = try codec.sealPlain(header)
      guard (try? codec.open(sealed)) == header else { throw .writeVerification("a pack's header") }
      return sealed
    }
    // Hashed first: what changes from here on no longer fits the name. The header comes last, so that a pack that is refused
    // stays as it is, however often it is tried again.
    pack.hashRest()
    let damaged = try codecs.with { (codec) throws(VaultError) -> PackedBlob? in
      for blob in pack.blobs where try !codec.isGenuine(pack.pages[blob.range]) { return blob }
      return nil
    }
    if let damaged { throw .writeVerification("\(damaged.kind) blob \(damaged.id.short) has changed in memory") }
    pack.pages.append(sealed)
    pack.pages.append([0, 8, 16, 24].map { UInt8(truncatingIfNeeded: sealed.count >> $0) })
    let id = pack.finishHash()
    pack.id = id
    return id
  }

  /// - Parameter all: Otherwise only as long as an index is due.
  private func writeIndexes(all: Bool) async throws(VaultError) {
    // Before the gate: what makes it certain goes through that gate, too.
    try await confirmation.wait()
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
