import Core
import IO

extension Repository {
  /// Removes what no snapshot needs.
  ///
  /// Call it inside ``withLock(exclusive:wait:loadingIndex:_:)``, exclusive. Memory grows with the index as it is loaded
  /// anyhow, by a bit per blob and some words per pack.
  ///
  /// - Throws: Damage of any kind, before anything is changed: what can't be read can't be told from what isn't needed.
  package func prune(
    _ options: PruneOptions = PruneOptions(), progress: @escaping @Sendable (PruneProgress) -> Void = { _ in }
  ) async throws(VaultError) -> PruneReport {
    try await PruneRun(repository: self, options: options, progress: progress).run()
  }

  /// Writes blobs of a pack once more, in new packs, verified on the way; sealed bytes are taken over as they are.
  ///
  /// - Parameters:
  ///   - blobs: In any order.
  ///   - compressing: Compresses what is stored without.
  func moveBlobs(_ blobs: [PackedBlob], of pack: Digest, compressing: Bool) async throws(VaultError) {
    for batch in Self.batches(of: blobs, in: pack, upTo: settings.readBytes) {
      let range = batch.blobs[0].offset..<batch.blobs.reduce(0) { max($0, $1.range.upperBound) }
      let bytes = try await bytes(range, of: pack)
      let packClosed = try await settings.pool.run { [self] () throws(VaultError) in
        var packClosed = false
        for blob in batch.blobs where try move(blob, of: pack, bytes, from: range.lowerBound, compressing) {
          packClosed = true
        }
        return packClosed
      }
      if packClosed { while let pack = writer.next() { try await upload(pack) } }
    }
  }

  /// - Parameters:
  ///   - bytes: A stretch of the pack.
  ///   - start: Where the stretch begins.
  /// - Returns: Whether a new pack is full.
  private func move(
    _ blob: PackedBlob, of pack: Digest, _ bytes: [UInt8], from start: Int, _ compressing: Bool
  ) throws(VaultError) -> Bool {
    return try codecs.with { (codec) throws(VaultError) in
      try bytes.withRawBytes { (raw) throws(VaultError) -> Bool in
        let sealed = UnsafeRawBufferPointer(rebasing: raw[(blob.offset - start)..<(blob.offset - start + blob.length)])
        let plaintext: [UInt8]
        do throws(CodecFault) {
          plaintext = try codec.decode(sealed, uncompressedBytes: blob.uncompressedBytes, id: blob.id)
        } catch { throw .packCorrupt(pack, bytes: blob.range, "\(blob.kind) blob \(blob.id.short): \(error.reason)") }
        let room = max(sealed.count, plaintext.count + Cipher.overheadBytes)
        return try self.pack(blob.kind, blob.id, room: room) { (target) throws(VaultError) in
          if compressing, blob.uncompressedBytes == 0 {
            return try plaintext.withRawBytes { (plain) throws(VaultError) in
              try encode(blob.kind, blob.id, plain, into: target, codec)
            }
          }
          target.space.copyMemory(from: sealed)
          return SealedSize(bytes: sealed.count, uncompressedBytes: blob.uncompressedBytes)
        }
      }
    }
  }
}
