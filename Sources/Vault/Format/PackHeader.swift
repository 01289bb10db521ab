import Core

/// Where a blob lies in its pack.
struct PackedBlob: Hashable, Sendable {
  var kind: BlobKind
  var id: BlobID
  var offset: Int
  /// As stored, the 32 bytes of overhead included.
  var length: Int
  /// 0 if the blob isn't compressed.
  var uncompressedBytes: Int

  var plaintextBytes: Int { uncompressedBytes > 0 ? uncompressedBytes : length - Cipher.overheadBytes }
  var range: Range<Int> { offset..<offset + length }

  /// Whether lengths are such as a writer could have meant.
  var isPlausible: Bool {
    offset >= 0 && offset <= BlobLimits.packBytes && length > Cipher.overheadBytes && length <= BlobLimits.packBytes
      && uncompressedBytes >= 0 && plaintextBytes <= BlobLimits.plaintextBytes
  }
}

/// The list of blobs at the end of a pack: what makes an index nothing but a cache.
///
/// Source: restic, design document, "Pack Format".
enum PackHeader {
  static let plainEntryBytes = 37
  static let compressedEntryBytes = 41
  /// Behind the header: its length, little-endian.
  static let trailerBytes = 4
  /// restic reads no larger one.
  static let limitBytes = 16 << 20
  /// A pack is closed at this many blobs, however small.
  static let entryLimit = 65_536

  /// The header's plaintext. Offsets are implied: `blobs` are in order and without gaps.
  static func encode(_ blobs: [PackedBlob]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(blobs.count * compressedEntryBytes)
    for blob in blobs {
      bytes.append(blob.kind.rawValue | (blob.uncompressedBytes > 0 ? 2 : 0))
      append(blob.length, to: &bytes)
      if blob.uncompressedBytes > 0 { append(blob.uncompressedBytes, to: &bytes) }
      bytes.append(contentsOf: blob.id.bytes)
    }
    return bytes
  }

  /// How many bytes the sealed header and the trailer take in a pack with these blobs.
  static func sizeBytes(_ blobs: [PackedBlob]) -> Int {
    trailerBytes + Cipher.overheadBytes
      + blobs.reduce(0) { $0 + ($1.uncompressedBytes > 0 ? compressedEntryBytes : plainEntryBytes) }
  }

  /// - Returns: What is wrong with the header, or its blobs.
  static func decode(_ header: [UInt8]) -> Result<[PackedBlob], HeaderFault> {
    var blobs: [PackedBlob] = []
    var (index, offset) = (0, 0)
    while index < header.count {
      let type = header[index]
      guard type < 4, let kind = BlobKind(rawValue: type & 1) else {
        return .failure(.init("a blob of unknown type \(type)"))
      }
      let size = type & 2 == 0 ? plainEntryBytes : compressedEntryBytes
      guard header.count - index >= size else { return .failure(.init("its last entry is cut off")) }
      let length = number(header, at: index + 1)
      let uncompressed = type & 2 == 0 ? 0 : number(header, at: index + 5)
      guard let id = BlobID(bytes: header[(index + size - 32)..<(index + size)]) else {
        return .failure(.init("its last entry is cut off"))
      }
      let blob = PackedBlob(kind: kind, id: id, offset: offset, length: length, uncompressedBytes: uncompressed)
      guard blob.isPlausible else { return .failure(.init("blob \(id.short) has an impossible length")) }
      blobs.append(blob)
      offset += length
      index += size
    }
    guard !blobs.isEmpty else { return .failure(.init("it lists no blobs")) }
    return .success(blobs)
  }

  private static func append(_ value: Int, to bytes: inout [UInt8]) {
    for shift in [0, 8, 16, 24] { bytes.append(UInt8(truncatingIfNeeded: value >> shift)) }
  }

  static func number(_ bytes: [UInt8], at index: Int) -> Int {
    Int(bytes[index]) | Int(bytes[index + 1]) << 8 | Int(bytes[index + 2]) << 16 | Int(bytes[index + 3]) << 24
  }
}

struct HeaderFault: Error {
  let reason: String
  init(_ reason: String) { self.reason = reason }
}
