import Core

/// Where a blob lies: sealed, in a pack.
package struct BlobLocation: Hashable, Sendable {
  package let pack: Digest
  package let offset: Int
  /// Sealed bytes, overhead included.
  package let length: Int
}

extension Repository {
  /// - Returns: `nil` for a blob the index does not know.
  package func location(of kind: BlobKind, _ id: BlobID) -> BlobLocation? {
    index.withLock { $0.blobs.place(kind, id) }.map {
      BlobLocation(pack: $0.pack, offset: $0.blob.offset, length: $0.blob.length)
    }
  }
}

extension Repository {
  /// Packs that the indexes name, in no order.
  package var packIDs: [Digest] { index.withLock { $0.blobs.packIDs } }
}
