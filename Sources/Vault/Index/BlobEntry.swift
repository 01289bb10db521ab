import Core

/// A blob's name for loops over millions: compared where it stands.
struct BlobName: Hashable, Comparable, Sendable {
  // The words of the digest, whose order is that of its bytes.
  var first: UInt64
  private var second: UInt64
  private var third: UInt64
  private var fourth: UInt64

  @inline(__always)
  init(_ id: BlobID) { (first, second, third, fourth) = id.words }

  @inline(__always)
  var id: BlobID { BlobID(words: (first, second, third, fourth)) }

  /// One byte of 32.
  @inline(__always)
  func byte(_ index: Int) -> Int {
    let word = index < 16 ? (index < 8 ? first : second) : (index < 24 ? third : fourth)
    return Int(truncatingIfNeeded: word >> UInt64(56 - 8 * (index & 7)) & 0xff)
  }

  @inline(__always)
  static func == (a: BlobName, b: BlobName) -> Bool {
    a.first == b.first && a.second == b.second && a.third == b.third && a.fourth == b.fourth
  }

  @inline(__always)
  static func < (a: BlobName, b: BlobName) -> Bool {
    if a.first != b.first { return a.first < b.first }
    if a.second != b.second { return a.second < b.second }
    if a.third != b.third { return a.third < b.third }
    return a.fourth < b.fourth
  }
}

/// One copy of a blob, as it lies in memory: 48 bytes, whatever the repository's size.
struct BlobEntry: Hashable, Sendable {
  var name: BlobName
  /// By number.
  var pack: UInt32
  var offset: UInt32
  var length: UInt32
  /// 0 if the blob isn't compressed.
  var uncompressed: UInt32

  init(_ blob: PackedBlob, pack: UInt32) {
    (name, self.pack) = (BlobName(blob.id), pack)
    // Parsers let nothing through that doesn't fit.
    (offset, length) = (UInt32(truncatingIfNeeded: blob.offset), UInt32(truncatingIfNeeded: blob.length))
    uncompressed = UInt32(truncatingIfNeeded: blob.uncompressedBytes)
  }

  var id: BlobID { name.id }

  func blob(_ kind: BlobKind) -> PackedBlob {
    PackedBlob(
      kind: kind, id: id, offset: Int(offset), length: Int(length), uncompressedBytes: Int(uncompressed))
  }

  /// Where it lies, as a number that grows with the pack's number and the offset.
  var position: UInt64 { UInt64(pack) << 32 | UInt64(offset) }

  private var size: UInt64 { UInt64(length) << 32 | UInt64(uncompressed) }

  @inline(__always)
  static func == (a: BlobEntry, b: BlobEntry) -> Bool {
    a.name == b.name && a.position == b.position && a.size == b.size
  }
}

extension BlobEntry: Comparable {
  /// By name; copies of the same blob by where they lie.
  @inline(__always)
  static func < (a: BlobEntry, b: BlobEntry) -> Bool {
    if a.name != b.name { return a.name < b.name }
    return a.position != b.position ? a.position < b.position : a.size < b.size
  }
}
