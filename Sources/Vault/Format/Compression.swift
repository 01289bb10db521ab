import CZstd
import Core

/// How hard to compress.
package enum CompressionLevel: String, Hashable, Sendable, CaseIterable {
  case off, fast
  /// As large as restic's own default leaves it.
  case auto
  case better, max

  /// zstd's level; `nil` for none.
  var zstd: Int32? {
    switch self {
    case .off: nil
    case .fast: 1
    case .auto: 3
    case .better: 9
    case .max: 19
    }
  }
}

/// zstd with its contexts set up once. Not thread-safe; see ``CodecPool``.
final class Zstd {
  private let compressor: OpaquePointer
  /// The same for what is long, with tables that fit the caches nearest to a core.
  private let longCompressor: OpaquePointer
  private let sampler: OpaquePointer
  private let decompressor: OpaquePointer
  private let isOff: Bool

  init(_ level: CompressionLevel) throws(VaultError) {
    let (compressor, sampler, decompressor) = (ZSTD_createCCtx(), ZSTD_createCCtx(), ZSTD_createDCtx())
    guard let compressor, let sampler, let decompressor, let longCompressor = ZSTD_createCCtx() else {
      ZSTD_freeCCtx(compressor)
      ZSTD_freeCCtx(sampler)
      ZSTD_freeDCtx(decompressor)
      throw .cryptography("ZSTD_createCCtx")
    }
    ZSTD_CCtx_setParameter(compressor, ZSTD_c_compressionLevel, level.zstd ?? 3)
    ZSTD_CCtx_setParameter(sampler, ZSTD_c_compressionLevel, 1)
    ZSTD_CCtx_setParameter(longCompressor, ZSTD_c_compressionLevel, level.zstd ?? 3)
    if level == .auto {
      // Level 3's own tables are of 2^17 and 2^16 entries: 1 % smaller output for 15 % more time.
      ZSTD_CCtx_setParameter(longCompressor, ZSTD_c_hashLog, 16)
      ZSTD_CCtx_setParameter(longCompressor, ZSTD_c_chainLog, 14)
    }
    (self.compressor, self.sampler, self.decompressor) = (compressor, sampler, decompressor)
    self.longCompressor = longCompressor
    isOff = level.zstd == nil
  }

  deinit {
    ZSTD_freeCCtx(compressor)
    ZSTD_freeCCtx(longCompressor)
    ZSTD_freeCCtx(sampler)
    ZSTD_freeDCtx(decompressor)
  }

  /// zstd has tables of its own for what is shorter.
  private static let longBytes = 256 << 10

  // MARK: In

  /// Whether it is worth a try: media, archives and encrypted files give themselves away in a few samples.
  func isPromising(_ input: UnsafeRawBufferPointer) -> Bool {
    if isOff { return false }
    let (size, count) = (Self.sampleBytes, Self.samples)
    guard input.count >= 4 * size * count else { return true }
    return withUnsafeTemporaryAllocation(byteCount: 2 * size * count, alignment: 16) { space in
      for index in 0..<count {
        let from = (input.count - size) / (count - 1) * index
        (space.baseAddress! + index * size).copyMemory(from: input.baseAddress! + from, byteCount: size)
      }
      let total = size * count
      let packed = ZSTD_compress2(sampler, space.baseAddress! + total, total - total / 64, space.baseAddress, total)
      // What doesn't fit, or saves less than a 64th, is noise.
      return ZSTD_isError(packed) == 0
    }
  }

  private static let sampleBytes = 4096
  private static let samples = 8

  /// One frame with its content size, after a prefix.
  ///
  /// - Returns: `nil` if zstd refuses.
  func compress(_ input: UnsafeRawBufferPointer, prefix: [UInt8]) -> [UInt8]? {
    let capacity = ZSTD_compressBound(input.count) + prefix.count
    var size: Int?
    let result = [UInt8](unsafeUninitializedCapacity: capacity) { buffer, count in
      _ = buffer.update(fromContentsOf: prefix)
      size = compress(
        input,
        into: UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(buffer)[prefix.count..<capacity]))
      count = size.map { prefix.count + $0 } ?? 0
    }
    return size == nil ? nil : result
  }

  /// One frame with its content size.
  ///
  /// - Returns: Its length; `nil` if it would not fit.
  func compress(_ input: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) -> Int? {
    let context = input.count > Self.longBytes ? longCompressor : compressor
    let size = ZSTD_compress2(context, target.baseAddress, target.count, input.baseAddress, input.count)
    return ZSTD_isError(size) == 0 ? size : nil
  }

  // MARK: Out

  /// Whether a frame doesn't say that it holds anything but `size` bytes.
  func couldHold(_ size: Int, _ input: UnsafeRawBufferPointer) -> Bool {
    let named = ZSTD_getFrameContentSize(input.baseAddress, input.count)
    return named == UInt64(size) || named == UInt64(bitPattern: -1)
  }

  /// - Returns: Whether `input` is zstd for exactly as many bytes as `target` has.
  func decompress(_ input: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) -> Bool {
    let size = ZSTD_decompressDCtx(decompressor, target.baseAddress, target.count, input.baseAddress, input.count)
    return ZSTD_isError(size) == 0 && size == target.count
  }

  /// - Returns: `nil` unless `input` is whole frames of zstd that hold no more than `limit` bytes.
  func decompress(_ input: UnsafeRawBufferPointer, limit: Int) -> [UInt8]? {
    // A frame that says how much it holds is believed until it turns out wrong; pages that nothing comes into cost nothing.
    let named = ZSTD_getFrameContentSize(input.baseAddress, input.count)
    if named > 0, named <= UInt64(max(0, limit)) {
      var isWhole = false
      let result = [UInt8](unsafeUninitializedCapacity: Int(named)) { buffer, count in
        isWhole = decompress(input, into: UnsafeMutableRawBufferPointer(buffer))
        count = isWhole ? buffer.count : 0
      }
      if isWhole { return result }
    }
    guard ZSTD_isError(ZSTD_DCtx_reset(decompressor, ZSTD_reset_session_only)) == 0 else { return nil }
    var source = ZSTD_inBuffer(src: input.baseAddress, size: input.count, pos: 0)
    var result: [UInt8] = []
    var block = [UInt8](repeating: 0, count: 128 << 10)
    var isFrameOpen = true
    while true {
      let written = block.withUnsafeMutableBytes { raw -> Int? in
        var target = ZSTD_outBuffer(dst: raw.baseAddress, size: raw.count, pos: 0)
        let hint = ZSTD_decompressStream(decompressor, &target, &source)
        guard ZSTD_isError(hint) == 0 else { return nil }
        isFrameOpen = hint != 0
        return target.pos
      }
      guard let written, result.count + written <= limit else { return nil }
      result.append(contentsOf: block[..<written])
      if source.pos == source.size && (!isFrameOpen || written < block.count) { break }
    }
    return isFrameOpen ? nil : result
  }
}
