import Core
import IO

/// What a blob holds: a piece of a file, or a directory.
package enum BlobKind: UInt8, Sendable, CaseIterable { case data, tree }

/// A blob is named by the SHA-256 of its plaintext.
package typealias BlobID = Digest

/// Takes blobs: the way into a vault.
package protocol BlobWriter: Sendable {
  /// Stores one blob unless it is there already.
  ///
  /// Thread-safe. Suspends while packs are being uploaded and no more may wait. Hashing, compressing and sealing run
  /// off the cooperative pool.
  ///
  /// - Parameter bytes: Not empty, at most 256 MiB.
  /// - Returns: The blob's name, and how many bytes this call added to the vault: 0 if it was known.
  func save(_ kind: BlobKind, _ bytes: [UInt8]) async throws(VaultError) -> SavedBlob

  /// Stores each blob of a batch unless it is there already: what the other one does, for all of them at once.
  ///
  /// - Returns: In the batch's order.
  func save(_ kind: BlobKind, _ batch: BlobBatch) async throws(VaultError) -> [SavedBlob]

  /// Does what ``save(_:_:)-(_,BlobBatch)`` does up to where it would wait for packs on their way: the caller gives its batch
  /// to the next and then calls ``sendFull()``.
  func take(_ kind: BlobKind, _ batch: BlobBatch) async throws(VaultError) -> [SavedBlob]

  /// Suspends while full packs are being uploaded and no more may wait.
  func sendFull() async throws(VaultError)
}

/// The blob's name, and how many bytes its saving added to the vault: 0 if it was known.
package typealias SavedBlob = (id: BlobID, added: Int)

extension BlobWriter {
  package func save(_ kind: BlobKind, _ batch: BlobBatch) async throws(VaultError) -> [SavedBlob] {
    var saved: [SavedBlob] = []
    for index in 0..<batch.count { saved.append(try await save(kind, Array(batch[index]))) }
    return saved
  }

  package func take(_ kind: BlobKind, _ batch: BlobBatch) async throws(VaultError) -> [SavedBlob] {
    try await save(kind, batch)
  }

  package func sendFull() async throws(VaultError) {}
}

/// Gives blobs: the way out of a vault.
package protocol BlobReader: Sendable {
  /// The plaintext of one blob, verified against its name.
  func load(_ kind: BlobKind, _ id: BlobID) async throws(VaultError) -> [UInt8]

  /// Whether the blob is stored or about to be.
  func contains(_ kind: BlobKind, _ id: BlobID) -> Bool

  /// The plaintext's length in bytes; `nil` for a blob that isn't here.
  func length(_ kind: BlobKind, _ id: BlobID) -> Int?

  /// Reads many blobs in the order that is best for the store: by pack, in order of offset, each needed range once.
  ///
  /// - Parameters:
  ///   - ids: Each is handed out once, however often it is named.
  ///   - parallel: How many packs are read side by side; `each` is called from as many tasks at once.
  ///   - each: Gets verified plaintext; what it throws ends the whole call.
  func loadMany(
    _ kind: BlobKind, _ ids: [BlobID], parallel: Int,
    _ each: @escaping @Sendable (BlobID, [UInt8]) async throws(VaultError) -> Void
  ) async throws(VaultError)

  /// Reads many blobs as ``loadMany(_:_:parallel:_:)`` does, and lends each of them out where calls may block.
  ///
  /// - Parameter each: Gets several verified plaintexts in turn, on a thread of the pool; they are gone when it returns.
  func lendMany(
    _ kind: BlobKind, _ ids: [BlobID], parallel: Int, pool: BlockingPool,
    _ each: @escaping @Sendable (BlobID, UnsafeRawBufferPointer) throws(VaultError) -> Void
  ) async throws(VaultError)
}

extension BlobReader {
  package func lendMany(
    _ kind: BlobKind, _ ids: [BlobID], parallel: Int, pool: BlockingPool,
    _ each: @escaping @Sendable (BlobID, UnsafeRawBufferPointer) throws(VaultError) -> Void
  ) async throws(VaultError) {
    try await loadMany(kind, ids, parallel: parallel) { (id, bytes) async throws(VaultError) -> Void in
      try await pool.run { () throws(VaultError) in
        try bytes.withRawBytes { (raw) throws(VaultError) -> Void in try each(id, raw) }
      }
    }
  }
}
