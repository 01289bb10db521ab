import Core

/// Finds the places where restic would cut: where the low 20 bits of a Rabin fingerprint over the last 64 bytes are
/// zero, no sooner than 512 KiB and no later than 8 MiB after the last cut.
///
/// Source: restic's chunker. The window of a new chunk starts with a single byte 1, and the first 512 KiB − 64 bytes
/// are not rolled at all, so the fingerprint at a possible cut covers exactly the 64 bytes before it.
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
  /// - Returns: The length of the chunk; `bytes.count` if nothing in them calls for a cut.
  package func cut(_ bytes: UnsafeRawBufferPointer) -> Int {
    guard bytes.count > Self.minimum, let base = bytes.baseAddress else { return bytes.count }
    let end = min(bytes.count, Self.maximum)
    return out.withUnsafeBufferPointer { out in
      modulo.withUnsafeBufferPointer { modulo in
        var digest: UInt64 = 0
        let (outTable, moduloTable) = (out.baseAddress!, modulo.baseAddress!)
        @inline(__always) func roll(in byte: UInt8, out gone: UInt8) {
          digest ^= outTable[Int(gone)]
          let index = Int(truncatingIfNeeded: digest >> 45)
          digest = (digest << 8 | UInt64(byte)) ^ moduloTable[index]
        }
        // The window before the first possible cut, begun as restic begins it: its zeros and its single 1 have left
        // by the time 64 bytes are in, so nothing of them remains.
        var position = Self.minimum - Self.window
        while position < Self.minimum {
          roll(in: base.load(fromByteOffset: position, as: UInt8.self), out: 0)
          position += 1
        }
        if digest & Self.mask == 0 { return position }
        while position < end {
          roll(
            in: base.load(fromByteOffset: position, as: UInt8.self),
            out: base.load(fromByteOffset: position - Self.window, as: UInt8.self))
          position += 1
          if digest & Self.mask == 0 { return position }
        }
        return end
      }
    }
  }
}
