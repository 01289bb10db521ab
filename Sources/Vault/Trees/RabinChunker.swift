import Core

/// Finds the places where restic would cut: where the low 20 bits of a Rabin fingerprint over the last 64 bytes are
/// zero, no sooner than 512 KiB and no later than 8 MiB after the last cut.
///
/// Source: restic's chunker. It leaves the first 512 KiB − 64 bytes of a chunk unrolled, so the fingerprint at a
/// possible cut covers exactly the 64 bytes before it.
package struct RabinChunker: Sendable {
  package static let window = 64
  package static let minimum = 512 << 10
  package static let maximum = 8 << 20
  static let mask: UInt64 = 1 << 20 - 1

  /// What a byte leaving the window, and the byte above the degree, contribute.
  private let out: [UInt64]
  private let modulo: [UInt64]

  /// - Parameter polynomial: Irreducible, of degree 53, as ``RepositoryConfig`` makes sure.
  package init(_ polynomial: UInt64) {
    precondition(polynomial >> 53 == 1, "restic's chunker needs a polynomial of degree 53")
    func remainder(_ value: UInt64) -> UInt64 {
      var value = value
      while value >> 53 != 0 { value ^= polynomial << UInt64(10 - value.leadingZeroBitCount) }
      return value
    }
    out = (0..<256).map { byte in
      var hash = UInt64(byte)
      for _ in 0..<Self.window - 1 { hash = remainder(hash << 8) }
      return hash
    }
    modulo = (0..<256).map { byte in
      let high = UInt64(byte) << 53
      return remainder(high) | high
    }
  }

  /// Where the chunk that begins at the start of `bytes` ends.
  ///
  /// - Parameters:
  ///   - bytes: The rest of the file, or so much of it that 8 MiB are there.
  ///   - searched: Bytes that an earlier call found no cut in, because there were no more of them then.
  /// - Returns: The length of the chunk; `bytes.count` if nothing in them calls for a cut.
  package func cut(_ bytes: UnsafeRawBufferPointer, from searched: Int = 0) -> Int {
    guard bytes.count > Self.minimum, let base = bytes.baseAddress else { return bytes.count }
    let start = max(Self.minimum, searched)
    let end = min(bytes.count, Self.maximum)
    return out.withUnsafeBufferPointer { out in
      modulo.withUnsafeBufferPointer { modulo in
        guard let outTable = out.baseAddress, let moduloTable = modulo.baseAddress else { return end }
        return Roller(base: base, out: outTable, modulo: moduloTable).cut(from: min(start, end), to: end)
      }
    }
  }

  /// The loop itself, over raw memory: this is where every byte of a backup goes through.
  private struct Roller {
    let base: UnsafeRawPointer
    let out: UnsafePointer<UInt64>
    let modulo: UnsafePointer<UInt64>

    /// Bytes in each of the four stretches that are rolled side by side.
    static let lane = 4096

    /// - Parameters:
    ///   - start: The first place to cut at, at least a window from the beginning.
    ///   - end: Where to cut if nothing else says so.
    func cut(from start: Int, to end: Int) -> Int {
      var position = start
      var digest = fingerprint(at: position)
      if digest & RabinChunker.mask == 0 { return position }
      // Rolling waits for one table look-up after another; four stretches hide that. If any of them has a cut, the
      // block is rolled again from its front to find the first.
      while end - position >= 4 * Self.lane {
        guard let next = rollFour(position, digest) else { break }
        digest = next
        position += 4 * Self.lane
      }
      while position < end {
        digest = roll(digest, position)
        position += 1
        if digest & RabinChunker.mask == 0 { return position }
      }
      return end
    }

    /// The fingerprint of the window that ends before `position`.
    ///
    /// restic starts a chunk's window with a single 1, which has left it again by then.
    private func fingerprint(at position: Int) -> UInt64 {
      var digest: UInt64 = 0
      for offset in position - RabinChunker.window..<position { digest = append(digest, offset) }
      return digest
    }

    /// - Returns: The fingerprint after four stretches; `nil` if there is a cut in one of them.
    private func rollFour(_ position: Int, _ digest: UInt64) -> UInt64? {
      let lane = Self.lane
      var a = digest
      var b = fingerprint(at: position + lane)
      var c = fingerprint(at: position + 2 * lane)
      var d = fingerprint(at: position + 3 * lane)
      let mask = RabinChunker.mask
      if b & mask == 0 || c & mask == 0 || d & mask == 0 { return nil }
      for offset in position..<position + lane {
        a = roll(a, offset)
        b = roll(b, offset + lane)
        c = roll(c, offset + 2 * lane)
        d = roll(d, offset + 3 * lane)
        if a & mask == 0 || b & mask == 0 || c & mask == 0 || d & mask == 0 { return nil }
      }
      return d
    }

    @inline(__always) private func roll(_ digest: UInt64, _ position: Int) -> UInt64 {
      let gone = base.load(fromByteOffset: position - RabinChunker.window, as: UInt8.self)
      return append(digest ^ out[Int(gone)], position)
    }

    @inline(__always) private func append(_ digest: UInt64, _ position: Int) -> UInt64 {
      let byte = base.load(fromByteOffset: position, as: UInt8.self)
      return (digest << 8 | UInt64(byte)) ^ modulo[Int(truncatingIfNeeded: digest >> 45)]
    }
  }
}
