import CShim
import Core

/// SHA-256, two streams at a time where the processor has the instructions: close to twice the speed of one after the
/// other.
///
/// The state is libcrypto's, which does whatever has no partner.
struct PairedDigest {
  private var hash = salvor_sha256()

  /// Whether pairs are hashed side by side here; otherwise one after the other, to the same digests.
  static let isParallel = salvor_sha256_pairs() != 0

  init() { salvor_sha256_begin(&hash) }

  mutating func add(_ bytes: UnsafeRawBufferPointer) { salvor_sha256_add(&hash, bytes.baseAddress, bytes.count) }

  mutating func finish() -> Digest {
    var bytes: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    return withUnsafeMutableBytes(of: &bytes) { raw in
      salvor_sha256_end(&hash, raw.baseAddress!.assumingMemoryBound(to: UInt8.self))
      return Digest(UnsafeRawBufferPointer(raw))
    }
  }

  /// Adds `x` to `a` and `y` to `b`.
  static func add(
    _ x: UnsafeRawBufferPointer, to a: inout PairedDigest, _ y: UnsafeRawBufferPointer, to b: inout PairedDigest,
    inParallel: Bool = isParallel
  ) {
    salvor_sha256_add_two(
      &a.hash, x.baseAddress, x.count, &b.hash, y.baseAddress, y.count, inParallel ? 1 : 0)
  }

  static func of(_ x: UnsafeRawBufferPointer) -> Digest {
    var hash = PairedDigest()
    hash.add(x)
    return hash.finish()
  }

  static func of(_ x: UnsafeRawBufferPointer, _ y: UnsafeRawBufferPointer) -> (Digest, Digest) {
    var (a, b) = (PairedDigest(), PairedDigest())
    add(x, to: &a, y, to: &b)
    return (a.finish(), b.finish())
  }
}
