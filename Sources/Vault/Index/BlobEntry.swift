import Core

/// One copy of a blob, as it lies in memory: 48 bytes, whatever the repository's size.
struct BlobEntry: Hashable, Sendable {
  var id: BlobID
  /// By number.
  var pack: UInt32
  var offset: UInt32
  var length: UInt32
  /// 0 if the blob isn't compressed.
  var uncompressed: UInt32

  init(_ blob: PackedBlob, pack: UInt32) {
    (id, self.pack) = (blob.id, pack)
    // Parsers let nothing through that doesn't fit.
    (offset, length) = (UInt32(truncatingIfNeeded: blob.offset), UInt32(truncatingIfNeeded: blob.length))
    uncompressed = UInt32(truncatingIfNeeded: blob.uncompressedBytes)
  }

  func blob(_ kind: BlobKind) -> PackedBlob {
    PackedBlob(
      kind: kind, id: id, offset: Int(offset), length: Int(length), uncompressedBytes: Int(uncompressed))
  }

  /// Where it lies, as a number that grows with the pack's number and the offset.
  var position: UInt64 { UInt64(pack) << 32 | UInt64(offset) }

  private var size: UInt64 { UInt64(length) << 32 | UInt64(uncompressed) }
}

extension BlobEntry: Comparable {
  /// By name; copies of the same blob by where they lie.
  @inline(__always)
  static func < (a: BlobEntry, b: BlobEntry) -> Bool {
    if a.id != b.id { return a.id < b.id }
    return a.position != b.position ? a.position < b.position : a.size < b.size
  }
}
