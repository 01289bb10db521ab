import CZstd
import Core

/// How hard to compress.
package struct CompressionLevel: Hashable, Sendable {
  package let zstd: Int32
  /// Out as fast as in; what incompressible data gets anyway.
  package static let fast = CompressionLevel(zstd: 1)
  package static let standard = CompressionLevel(zstd: 3)
  package static let high = CompressionLevel(zstd: 12)
}

/// zstd with its contexts set up once. Not thread-safe; see ``CodecPool``.
final class Zstd {
  private let compressor: OpaquePointer
  private let decompressor: OpaquePointer

  init(_ level: CompressionLevel) throws(VaultError) {
    guard let compressor = ZSTD_createCCtx() else { throw .cryptography("ZSTD_createCCtx") }
    guard let decompressor = ZSTD_createDCtx() else {
      ZSTD_freeCCtx(compressor)
      throw .cryptography("ZSTD_createDCtx")
    }
    ZSTD_CCtx_setParameter(compressor, ZSTD_c_compressionLevel, level.zstd)
    (self.compressor, self.decompressor) = (compressor, decompressor)
  }

  deinit {
    ZSTD_freeCCtx(compressor)
    ZSTD_freeDCtx(decompressor)
  }

  /// One frame with its content size.
  ///
  /// - Parameter limit: Larger results are not worth having.
  /// - Returns: `nil` if the frame would have more than `limit` bytes.
  func compress(_ input: UnsafeRawBufferPointer, prefix: [UInt8] = [], limit: Int) -> [UInt8]? {
    let capacity = min(limit, ZSTD_compressBound(input.count)) + prefix.count
    var fits = true
    let result = [UInt8](unsafeUninitializedCapacity: capacity) { buffer, count in
      _ = buffer.update(fromContentsOf: prefix)
      let size = ZSTD_compress2(
        compressor, buffer.baseAddress! + prefix.count, capacity - prefix.count, input.baseAddress, input.count)
      fits = ZSTD_isError(size) == 0
      count = fits ? prefix.count + size : 0
    }
    return fits ? result : nil
  }

  /// - Returns: `nil` unless `input` is zstd for exactly `size` bytes.
  func decompress(_ input: UnsafeRawBufferPointer, size: Int) -> [UInt8]? {
    // A frame that names another size isn't worth the memory of this one.
    let named = ZSTD_getFrameContentSize(input.baseAddress, input.count)
    guard named == UInt64(size) || named == UInt64(bitPattern: -1) else { return nil }
    var exact = true
    let result = [UInt8](unsafeUninitializedCapacity: max(1, size)) { buffer, count in
      let written = ZSTD_decompressDCtx(decompressor, buffer.baseAddress, size, input.baseAddress, input.count)
      exact = ZSTD_isError(written) == 0 && written == size
      count = exact ? size : 0
    }
    return exact ? result : nil
  }

  /// - Returns: `nil` unless `input` is whole frames of zstd that hold no more than `limit` bytes.
  func decompress(_ input: UnsafeRawBufferPointer, limit: Int) -> [UInt8]? {
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
