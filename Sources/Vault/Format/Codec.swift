import Core
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// How long a blob has become: IV, ciphertext, tag.
struct SealedSize {
  var bytes: Int
  /// Length of the plaintext in bytes if it was compressed; 0 if not.
  var uncompressedBytes: Int
}

/// Why stored bytes are not what they should be.
enum CodecFault: Error, Equatable {
  case authentication, compression, hash, encoding, content
  case library(VaultError)

  var reason: String {
    switch self {
    case .authentication: "it fails its authentication"
    case .compression: "it can't be decompressed"
    case .hash: "its content has another hash"
    case .encoding: "its encoding is unknown"
    case .content: "it is not what went in"
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
  /// Decrypted, and decompressed: two of each, since hashes are computed in pairs.
  private let opened = [Scratch(), Scratch()]
  private let unpacked = [Scratch(), Scratch()]

  init(key: MasterKey, version: Int, level: CompressionLevel, randomness: any Randomness) throws(VaultError) {
    cipher = try Cipher(key)
    zstd = try Zstd(level)
    (self.version, self.randomness) = (version, randomness)
  }

  /// Memory beyond what usual blobs need goes back.
  func trim() { for scratch in opened + unpacked { scratch.trim(to: 4 << 20) } }

  // MARK: Blobs

  /// Compresses where that helps and the version allows it, and seals.
  ///
  /// - Parameter space: 32 bytes more than the plaintext at least; filled from its front.
  func encode(
    _ plaintext: UnsafeRawBufferPointer, into space: UnsafeMutableRawBufferPointer
  ) throws(VaultError) -> SealedSize {
    precondition(space.count >= plaintext.count + Cipher.overheadBytes, "a sealed blob has 32 bytes more")
    // What shrinks by less than a 32nd costs more to read than it saves.
    let worthwhile = plaintext.count - plaintext.count / 32 - 1
    let body: UnsafeRawBufferPointer
    var uncompressedBytes = 0
    if version > 1, worthwhile > 0, zstd.isPromising(plaintext),
      let size = zstd.compress(plaintext, into: UnsafeMutableRawBufferPointer(rebasing: space[16..<16 + worthwhile]))
    {
      body = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(space)[16..<16 + size])
      uncompressedBytes = plaintext.count
    } else {
      body = plaintext
    }
    let target = UnsafeMutableRawBufferPointer(rebasing: space[..<(body.count + Cipher.overheadBytes)])
    guard cipher.seal(body, iv: randomness.bytes(16), into: target) else { throw .cryptography("seal") }
    return SealedSize(bytes: target.count, uncompressedBytes: uncompressedBytes)
  }

  /// Opens what was just sealed, and compares it with what went in.
  ///
  /// restic learned in 0.16.4 that memory and processors fail often enough to look.
  func verify(
    _ sealed: UnsafeRawBufferPointer, uncompressedBytes: Int, is plaintext: UnsafeRawBufferPointer
  ) throws(CodecFault) {
    let found = try unseal(sealed, uncompressedBytes: uncompressedBytes)
    guard found.count == plaintext.count,
      found.count == 0 || memcmp(found.baseAddress!, plaintext.baseAddress!, found.count) == 0
    else { throw .content }
  }

  /// Whether stored bytes have the tag that was made for them; far cheaper than opening them.
  func isGenuine(_ sealed: UnsafeRawBufferPointer) throws(VaultError) -> Bool { try cipher.isGenuine(sealed) }

  /// Opens and decompresses; the name is not compared yet.
  ///
  /// - Parameters:
  ///   - side: 0 or 1.
  ///   - isOurs: Whether `sealed` may be decrypted where it lies; it is lost then.
  /// - Returns: The plaintext, good until the next call for the same side, and as long as `sealed` if that is ours.
  func unseal(
    _ sealed: UnsafeRawBufferPointer, uncompressedBytes: Int, side: Int = 0, isOurs: Bool = false
  ) throws(CodecFault) -> UnsafeRawBufferPointer {
    guard sealed.count >= Cipher.overheadBytes else { throw .authentication }
    let plain =
      isOurs
      ? UnsafeMutableRawBufferPointer(mutating: UnsafeRawBufferPointer(rebasing: sealed[16..<sealed.count - 16]))
      : opened[side].bytes(sealed.count - Cipher.overheadBytes)
    let genuine: Bool
    do throws(VaultError) { genuine = try cipher.open(sealed, into: plain) } catch { throw .library(error) }
    guard genuine else { throw .authentication }
    guard uncompressedBytes > 0 else { return UnsafeRawBufferPointer(plain) }
    let packed = UnsafeRawBufferPointer(plain)
    // A frame that names another size isn't worth the memory of this one.
    guard zstd.couldHold(uncompressedBytes, packed) else { throw .compression }
    let target = unpacked[side].bytes(uncompressedBytes)
    guard zstd.decompress(packed, into: target) else { throw .compression }
    return UnsafeRawBufferPointer(target)
  }

  /// Opens, decompresses and compares the hash.
  func decode(
    _ sealed: UnsafeRawBufferPointer, uncompressedBytes: Int, id: BlobID
  ) throws(CodecFault) -> [UInt8] {
    let plaintext = try unseal(sealed, uncompressedBytes: uncompressedBytes)
    guard PairedDigest.of(plaintext) == id else { throw .hash }
    return Array(plaintext)
  }

  /// Opens and verifies blobs, in pairs, and hands out each plaintext for the length of a call.
  ///
  /// - Parameters:
  ///   - blobs: In any order.
  ///   - sealed: A blob's bytes as stored.
  ///   - isOurs: Whether they may be decrypted where they lie; they are lost then.
  ///   - each: Called in the order of `blobs`.
  func decode<E: Error>(
    _ blobs: [PackedBlob], _ sealed: (PackedBlob) -> UnsafeRawBufferPointer, isOurs: Bool,
    _ each: (PackedBlob, Result<UnsafeRawBufferPointer, CodecFault>) throws(E) -> Void
  ) throws(E) {
    func unsealed(_ blob: PackedBlob, _ side: Int) -> Result<UnsafeRawBufferPointer, CodecFault> {
      do throws(CodecFault) {
        return .success(
          try unseal(sealed(blob), uncompressedBytes: blob.uncompressedBytes, side: side, isOurs: isOurs))
      } catch { return .failure(error) }
    }
    var index = 0
    while index < blobs.count {
      let first = unsealed(blobs[index], 0)
      guard index + 1 < blobs.count else {
        try each(
          blobs[index], first.flatMap { PairedDigest.of($0) == blobs[index].id ? .success($0) : .failure(.hash) })
        return
      }
      let second = unsealed(blobs[index + 1], 1)
      let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
      let (a, b) = PairedDigest.of((try? first.get()) ?? nothing, (try? second.get()) ?? nothing)
      try each(blobs[index], first.flatMap { a == blobs[index].id ? .success($0) : .failure(.hash) })
      try each(blobs[index + 1], second.flatMap { b == blobs[index + 1].id ? .success($0) : .failure(.hash) })
      index += 2
    }
  }

  /// Opens and verifies every blob of a pack, and hashes the pack as it lies there, both in one go.
  ///
  /// - Parameters:
  ///   - blobs: Ascending by offset; those that don't lie within `pack` are passed over.
  ///   - found: Called for every blob that isn't what its name says.
  ///   - sound: Called with every other blob's plaintext, which is lent for the call.
  /// - Returns: The hash of all of `pack`, which can go on.
  func inspect(
    _ pack: UnsafeRawBufferPointer, _ blobs: [PackedBlob], _ found: (PackedBlob, CodecFault) -> Void,
    sound: (PackedBlob, UnsafeRawBufferPointer) -> Void = { _, _ in }
  ) -> PairedDigest {
    var whole = PairedDigest()
    var hashed = 0
    func opened(_ blob: PackedBlob, _ side: Int) -> UnsafeRawBufferPointer? {
      do throws(CodecFault) {
        return try unseal(
          UnsafeRawBufferPointer(rebasing: pack[blob.range]), uncompressedBytes: blob.uncompressedBytes, side: side)
      } catch {
        found(blob, error)
        return nil
      }
    }
    // First blobs beside the pack itself; once that is through, two blobs beside each other.
    let inside = blobs.filter { $0.range.upperBound <= pack.count }
    var next = 0
    while next < inside.count, hashed < pack.count {
      let blob = inside[next]
      next += 1
      guard let plaintext = opened(blob, 0) else { continue }
      var own = PairedDigest()
      let stretch = hashed..<min(pack.count, hashed + max(plaintext.count, 1))
      PairedDigest.add(plaintext, to: &own, UnsafeRawBufferPointer(rebasing: pack[stretch]), to: &whole)
      hashed = stretch.upperBound
      if own.finish() == blob.id { sound(blob, plaintext) } else { found(blob, .hash) }
    }
    while next < inside.count {
      let (a, b) = (inside[next], next + 1 < inside.count ? inside[next + 1] : nil)
      next += 2
      let (first, second) = (opened(a, 0), b.flatMap { opened($0, 1) })
      let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
      let (x, y) = PairedDigest.of(first ?? nothing, second ?? nothing)
      if let first { if x == a.id { sound(a, first) } else { found(a, .hash) } }
      if let b, let second { if y == b.id { sound(b, second) } else { found(b, .hash) } }
    }
    whole.add(UnsafeRawBufferPointer(rebasing: pack[hashed..<pack.count]))
    return whole
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
    let packed = json.withUnsafeBytes { zstd.compress($0, prefix: [Self.compressedMark]) }
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
    codec.trim()
    nonisolated(unsafe) let codec = codec
    idle.withLock { $0.codecs.append(codec) }
  }
}
