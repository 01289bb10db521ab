import Core
import Synchronization

/// A blob as a pack holds it.
struct StoredBlob: Sendable {
  var kind: BlobKind
  var id: BlobID
  /// IV, ciphertext, tag.
  var sealed: [UInt8]
  /// Length of the plaintext in bytes if it was compressed; 0 if not.
  var uncompressedBytes: Int
}

/// Why stored bytes are not what they should be.
enum CodecFault: Error, Equatable {
  case authentication, compression, hash, encoding
  case library(VaultError)

  var reason: String {
    switch self {
    case .authentication: "it fails its authentication"
    case .compression: "it can't be decompressed"
    case .hash: "its content has another hash"
    case .encoding: "its encoding is unknown"
    case .library(let error): error.report.summary
    }
  }
}

/// Turns plaintext into what is stored, and back. Not thread-safe; a ``CodecPool`` hands each to one caller at a time.
final class Codec {
  /// First byte of a compressed index, snapshot or lock.
  private static let compressedMark: UInt8 = 2

  private let cipher: Cipher
  private let zstd: Zstd
  private let randomness: any Randomness
  private let version: Int

  init(key: MasterKey, version: Int, level: CompressionLevel, randomness: any Randomness) throws(VaultError) {
    cipher = try Cipher(key)
    zstd = try Zstd(level)
    (self.version, self.randomness) = (version, randomness)
  }

  // MARK: Blobs

  /// Compresses where that helps and the version allows it, and seals.
  func encode(_ kind: BlobKind, _ id: BlobID, _ plaintext: UnsafeRawBufferPointer) throws(VaultError) -> StoredBlob {
    // What shrinks by less than a 32nd costs more to read than it saves.
    let worthwhile = plaintext.count - plaintext.count / 32 - 1
    if version > 1, worthwhile > 0, let small = zstd.compress(plaintext, limit: worthwhile) {
      let sealed = try small.withRawBytes { (raw) throws(VaultError) in try cipher.seal(raw, iv: randomness.bytes(16)) }
      return StoredBlob(kind: kind, id: id, sealed: sealed, uncompressedBytes: plaintext.count)
    }
    return StoredBlob(
      kind: kind, id: id, sealed: try cipher.seal(plaintext, iv: randomness.bytes(16)), uncompressedBytes: 0)
  }

  /// Opens, decompresses and compares the hash.
  func decode(
    _ sealed: UnsafeRawBufferPointer, uncompressedBytes: Int, id: BlobID
  ) throws(CodecFault) -> [UInt8] {
    var plaintext = try open(sealed)
    if uncompressedBytes > 0 {
      let unpacked = plaintext.withUnsafeBytes { zstd.decompress($0, size: uncompressedBytes) }
      guard let unpacked else { throw .compression }
      plaintext = unpacked
    }
    guard plaintext.withUnsafeBytes({ Digest.of($0) }) == id else { throw .hash }
    return plaintext
  }

  // MARK: Whole files: config, index, snapshot, lock

  func sealPlain(_ plaintext: [UInt8]) throws(VaultError) -> [UInt8] {
    try plaintext.withRawBytes { (raw) throws(VaultError) in try cipher.seal(raw, iv: randomness.bytes(16)) }
  }

  func open(_ sealed: UnsafeRawBufferPointer) throws(CodecFault) -> [UInt8] {
    let opened: [UInt8]?
    do throws(VaultError) { opened = try cipher.open(sealed) } catch { throw .library(error) }
    guard let opened else { throw .authentication }
    return opened
  }

  func open(_ sealed: [UInt8]) throws(CodecFault) -> [UInt8] {
    try sealed.withRawBytes { (raw) throws(CodecFault) in try open(raw) }
  }

  /// Seals JSON, compressed in version 2.
  func encodeFile(_ json: [UInt8]) throws(VaultError) -> [UInt8] {
    guard version > 1 else { return try sealPlain(json) }
    let packed = json.withUnsafeBytes { zstd.compress($0, prefix: [Self.compressedMark], limit: .max) }
    guard let packed else { throw .cryptography("ZSTD_compress2") }
    return try sealPlain(packed)
  }

  func decodeFile(_ sealed: [UInt8]) throws(CodecFault) -> [UInt8] {
    let plain = try open(sealed)
    if version == 1 { return plain }
    switch plain.first {
    case 0x5b, 0x7b: return plain
    case Self.compressedMark:
      let json = plain.withUnsafeBytes {
        zstd.decompress(UnsafeRawBufferPointer(rebasing: $0[1...]), limit: BlobLimits.metadataBytes)
      }
      guard let json else { throw .compression }
      return json
    default: throw .encoding
    }
  }
}

/// Codecs for as many threads as ask at once.
final class CodecPool: Sendable {
  private struct Idle: @unchecked Sendable { var codecs: [Codec] = [] }

  private let idle = Mutex(Idle())
  private let make: @Sendable () throws(VaultError) -> Codec

  init(key: MasterKey, version: Int, level: CompressionLevel, randomness: any Randomness) {
    make = { () throws(VaultError) in
      try Codec(key: key, version: version, level: level, randomness: randomness)
    }
  }

  /// Lends a codec for the length of a call.
  func with<T>(_ body: (Codec) throws(CodecFault) -> T) throws(CodecFault) -> T {
    let codec: Codec
    do throws(VaultError) { codec = try take() } catch { throw .library(error) }
    defer { give(codec) }
    return try body(codec)
  }

  func with<T>(_ body: (Codec) throws(VaultError) -> T) throws(VaultError) -> T {
    let codec = try take()
    defer { give(codec) }
    return try body(codec)
  }

  private func take() throws(VaultError) -> Codec {
    nonisolated(unsafe) var taken: Codec?
    idle.withLock { taken = $0.codecs.popLast() }
    if let taken { return taken }
    return try make()
  }

  private func give(_ codec: Codec) {
    nonisolated(unsafe) let codec = codec
    idle.withLock { $0.codecs.append(codec) }
  }
}
