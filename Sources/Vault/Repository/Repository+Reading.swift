import Core
import IO
import Synchronization

extension Repository: BlobReader {
  package func contains(_ kind: BlobKind, _ id: BlobID) -> Bool {
    index.withLock { $0.blobs.contains(kind, id) } || writer.unstoredBytes(BlobKey(kind: kind, id: id)) != nil
      // It may have moved from the one to the other between the two questions.
      || index.withLock { $0.blobs.contains(kind, id) }
  }

  package func length(_ kind: BlobKind, _ id: BlobID) -> Int? {
    index.withLock { $0.blobs.place(kind, id) }?.blob.plaintextBytes
      ?? writer.unstoredBytes(BlobKey(kind: kind, id: id))
      ?? index.withLock { $0.blobs.place(kind, id) }?.blob.plaintextBytes
  }

  package func load(_ kind: BlobKind, _ id: BlobID) async throws(VaultError) -> [UInt8] {
    let key = BlobKey(kind: kind, id: id)
    if let place = index.withLock({ $0.blobs.place(kind, id) }) { return try await load(key, at: place) }
    if let (sealed, blob) = writer.unstored(key) {
      return try await settings.pool.run { [codecs] () throws(VaultError) in
        do throws(CodecFault) {
          return try codecs.with { (codec) throws(CodecFault) in
            try sealed.withRawBytes { (raw) throws(CodecFault) in
              try codec.decode(raw, uncompressedBytes: blob.uncompressedBytes, id: id)
            }
          }
        } catch { throw .writeVerification("\(kind) blob \(id.short): \(error.reason)") }
      }
    }
    guard let place = index.withLock({ $0.blobs.place(kind, id) }) else { throw .blobMissing(kind, id) }
    return try await load(key, at: place)
  }

  /// From its first place, or from any other pack that holds it too.
  private func load(_ key: BlobKey, at place: BlobIndex.Place) async throws(VaultError) -> [UInt8] {
    do throws(VaultError) { return try await read([place.blob], of: place.pack)[0] } catch {
      return try await loadElsewhere(key, instead: error)
    }
  }

  private func loadElsewhere(_ key: BlobKey, instead error: VaultError) async throws(VaultError) -> [UInt8] {
    guard error.isDamage else { throw error }
    for place in index.withLock({ $0.blobs.otherPlaces(key.kind, key.id) }) {
      do throws(VaultError) { return try await read([place.blob], of: place.pack)[0] } catch {
        guard error.isDamage else { throw error }
      }
    }
    throw error
  }

  package func loadMany(
    _ kind: BlobKind, _ ids: [BlobID], parallel: Int,
    _ each: @escaping @Sendable (BlobID, [UInt8]) async throws(VaultError) -> Void
  ) async throws(VaultError) {
    let (places, unstored) = try find(kind, ids)
    try await readMany(places, parallel: parallel) { [self] (place, result) throws(VaultError) in
      switch result {
      case .success(let plaintext): try await each(place.blob.id, plaintext)
      case .failure(let error):
        try await each(place.blob.id, try await loadElsewhere(BlobKey(kind: kind, id: place.blob.id), instead: error))
      }
    }
    for id in unstored { try await each(id, try await load(kind, id)) }
  }

  /// Reads each place once, in the order that is best for the store, and says of each how that went.
  func readMany(
    _ places: [BlobIndex.Place], parallel: Int,
    _ each: @escaping @Sendable (BlobIndex.Place, Result<[UInt8], VaultError>) async throws(VaultError) -> Void
  ) async throws(VaultError) {
    try await inParallel(batches(of: places), limit: parallel) { [self] (batch) throws(VaultError) in
      let plaintexts: [[UInt8]]
      do throws(VaultError) { plaintexts = try await read(batch.blobs, of: batch.pack) } catch {
        guard error.isDamage else { throw error }
        try await readSingly(batch, instead: error, each)
        return
      }
      for (blob, plaintext) in zip(batch.blobs, plaintexts) {
        try await each(BlobIndex.Place(pack: batch.pack, blob: blob), .success(plaintext))
      }
    }
  }

  /// One blob of the batch is damaged: finds out which, so that the others are still had.
  private func readSingly(
    _ batch: Batch, instead error: VaultError,
    _ each: @Sendable (BlobIndex.Place, Result<[UInt8], VaultError>) async throws(VaultError) -> Void
  ) async throws(VaultError) {
    for blob in batch.blobs {
      let place = BlobIndex.Place(pack: batch.pack, blob: blob)
      guard batch.blobs.count > 1 else {
        try await each(place, .failure(error))
        continue
      }
      let result: Result<[UInt8], VaultError>
      do throws(VaultError) { result = .success(try await read([blob], of: batch.pack)[0]) } catch {
        guard error.isDamage else { throw error }
        result = .failure(error)
      }
      try await each(place, result)
    }
  }

  struct Batch: Sendable {
    var pack: Digest
    /// Ascending by offset.
    var blobs: [PackedBlob]
  }

  private func batches(of places: [BlobIndex.Place]) -> [Batch] {
    var packs: [Digest: [PackedBlob]] = [:]
    for place in places { packs[place.pack, default: []].append(place.blob) }
    var batches = packs.flatMap { pack, blobs in Self.batches(of: blobs, in: pack, upTo: settings.readBytes) }
    batches.sort { ($0.pack, $0.blobs[0].offset) < ($1.pack, $1.blobs[0].offset) }
    return batches
  }

  /// Cuts a pack's wanted blobs into reads: a small hole is read over, and no read holds more than `storedBytes`.
  static func batches(of blobs: [PackedBlob], in pack: Digest, upTo storedBytes: Int) -> [Batch] {
    let (holeBytes, plaintextBytes) = (256 << 10, 32 << 20)
    var result: [Batch] = []
    var plaintext = 0
    for blob in blobs.sorted(by: { $0.offset < $1.offset }) {
      if let last = result.last, let first = last.blobs.first, let end = last.blobs.last?.range.upperBound,
        blob.offset - end <= holeBytes, blob.range.upperBound - first.offset <= storedBytes,
        plaintext + blob.plaintextBytes <= plaintextBytes
      {
        result[result.count - 1].blobs.append(blob)
        plaintext += blob.plaintextBytes
      } else {
        result.append(Batch(pack: pack, blobs: [blob]))
        plaintext = blob.plaintextBytes
      }
    }
    return result
  }

  /// Reads blobs of one pack in a single range, and verifies each.
  ///
  /// - Parameter blobs: Not empty, ascending by offset.
  func read(_ blobs: [PackedBlob], of pack: Digest) async throws(VaultError) -> [[UInt8]] {
    do throws(VaultError) { return try await readOnce(blobs, of: pack) } catch {
      guard error.isDamage, let whole = try await mend(ObjectName(.data, pack)),
        blobs.allSatisfy({ $0.range.upperBound <= whole.count })
      else { throw error }
      return try await plaintexts(of: blobs, of: pack, in: whole, from: 0)
    }
  }

  private func readOnce(_ blobs: [PackedBlob], of pack: Digest) async throws(VaultError) -> [[UInt8]] {
    let (bytes, start) = try await fetch(blobs, of: pack)
    return try await plaintexts(of: blobs, of: pack, in: bytes, from: start)
  }

  private func plaintexts(
    of blobs: [PackedBlob], of pack: Digest, in bytes: [UInt8], from start: Int
  ) async throws(VaultError) -> [[UInt8]] {
    try await computing { [self] () throws(VaultError) in
      var result: [[UInt8]] = []
      result.reserveCapacity(blobs.count)
      try bytes.withRawBytes { (raw) throws(VaultError) -> Void in
        try open(blobs, of: pack, in: raw, from: start) { (_, plaintext) throws(VaultError) -> Void in
          result.append(Array(plaintext))
        }
      }
      return result
    }
  }

  /// The same range, in memory that is used over and over.
  private func fetch(
    _ blobs: [PackedBlob], of pack: Digest, into pages: PageBuffer
  ) async throws(VaultError) {
    try await read(Self.range(of: blobs), of: pack, into: pages)
  }

  private static func range(of blobs: [PackedBlob]) -> Range<Int> {
    blobs[0].offset..<blobs.reduce(0) { max($0, $1.range.upperBound) }
  }

  /// The single range that holds all of `blobs`, and where it starts.
  private func fetch(
    _ blobs: [PackedBlob], of pack: Digest
  ) async throws(VaultError) -> (bytes: [UInt8], start: Int) {
    let range = Self.range(of: blobs)
    let bytes = try await bytes(range, of: pack, isMetadata: blobs.allSatisfy { $0.kind == .tree })
    return (bytes, range.lowerBound)
  }

  /// Verifies blobs, in pairs, and lends each of them out. Keeps a processor busy.
  ///
  /// - Parameter isOurs: Whether `raw` is memory that may be overwritten, which saves a second one of its size.
  private func open(
    _ blobs: [PackedBlob], of pack: Digest, in raw: UnsafeRawBufferPointer, from start: Int, isOurs: Bool = false,
    _ each: (PackedBlob, UnsafeRawBufferPointer) throws(VaultError) -> Void
  ) throws(VaultError) {
    try codecs.with { (codec) throws(VaultError) -> Void in
      try codec.decode(
        blobs,
        { UnsafeRawBufferPointer(rebasing: raw[$0.offset - start..<$0.offset - start + $0.length]) }, isOurs: isOurs,
        { (blob, result) throws(VaultError) -> Void in
          switch result {
          case .success(let plaintext): try each(blob, plaintext)
          case .failure(let fault):
            throw .packCorrupt(pack, bytes: blob.range, "\(blob.kind) blob \(blob.id.short): \(fault.reason)")
          }
        })
    }
  }

  package func lendMany(
    _ kind: BlobKind, _ ids: [BlobID], parallel: Int, pool: BlockingPool,
    _ each: @escaping @Sendable (BlobID, UnsafeRawBufferPointer) throws(VaultError) -> Void
  ) async throws(VaultError) {
    let (places, unstored) = try find(kind, ids)
    try await inParallel(batches(of: places), limit: parallel) { [self] (batch) throws(VaultError) in
      let lent = Lent()
      do throws(VaultError) {
        try await pages.with(Self.range(of: batch.blobs).count) { (pages) throws(VaultError) in
          try await fetch(batch.blobs, of: batch.pack, into: pages)
          // Whoever borrows may write to a disk: meanwhile the processor is another's.
          try await lenders.through { () throws(VaultError) in
            try await settings.pool.run { [self] () throws(VaultError) in
              try open(batch.blobs, of: batch.pack, in: pages.bytes, from: batch.blobs[0].offset, isOurs: true) {
                (blob, plaintext) throws(VaultError) -> Void in
                lent.count += 1
                try each(blob.id, plaintext)
              }
            }
          }
        }
      } catch {
        guard error.isDamage else { throw error }
        // One blob is damaged: the others are still had, and it may lie elsewhere too.
        for blob in batch.blobs[lent.count...] {
          let place = BlobIndex.Place(pack: batch.pack, blob: blob)
          let plaintext = try await load(BlobKey(kind: kind, id: blob.id), at: place)
          try await lend(blob.id, plaintext, each)
        }
      }
    }
    for id in unstored { try await lend(id, try await load(kind, id), each) }
  }

  /// How many blobs of a batch were lent out already; none is twice.
  private final class Lent: @unchecked Sendable {
    // Handed from one thread to the next, never shared.
    var count = 0
  }

  private func lend(
    _ id: BlobID, _ plaintext: [UInt8],
    _ each: @escaping @Sendable (BlobID, UnsafeRawBufferPointer) throws(VaultError) -> Void
  ) async throws(VaultError) {
    try await settings.pool.run { () throws(VaultError) in
      try plaintext.withRawBytes { (raw) throws(VaultError) -> Void in try each(id, raw) }
    }
  }

  /// Where blobs lie, each once; what is in no index is about to be stored.
  ///
  /// - Throws: For what is missing, before any work.
  private func find(
    _ kind: BlobKind, _ ids: [BlobID]
  ) throws(VaultError) -> (places: [BlobIndex.Place], unstored: [BlobID]) {
    var (places, unstored): ([BlobIndex.Place], [BlobID]) = ([], [])
    var seen = Set<BlobID>(minimumCapacity: ids.count)
    index.withLock { state in
      for id in ids where seen.insert(id).inserted {
        if let place = state.blobs.place(kind, id) { places.append(place) } else { unstored.append(id) }
      }
    }
    for id in unstored where !contains(kind, id) { throw .blobMissing(kind, id) }
    return (places, unstored)
  }
}

extension VaultError {
  /// What a store's failure at reading a pack means.
  init(_ error: StoreError, pack: Digest, range: Range<Int>) {
    switch error {
    case .notFound: self = .packMissing(pack)
    case .pastEnd(_, let size): self = .packTruncated(pack, sizeBytes: size, neededBytes: range.upperBound)
    case .corrupt(_, let reason): self = .packCorrupt(pack, bytes: range, reason)
    default: self.init(error)
    }
  }

  /// Whether stored bytes are at fault, so that another copy may do.
  var isDamage: Bool {
    switch self {
    case .packCorrupt, .packTruncated, .packMissing: true
    default: false
    }
  }
}
