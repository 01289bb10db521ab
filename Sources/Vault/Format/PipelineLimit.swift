import Core
import IO

/// What the processor's part of a backup costs, step by step and on one thread: what the pipeline can't be faster than.
package struct PipelineLimit: Sendable {
  package var bytes: Int64 = 0
  package var cutting = Duration.zero
  package var hashing = Duration.zero
  /// Compressing and sealing.
  package var encoding = Duration.zero
  /// Opening everything again, comparing it, and hashing the packs.
  package var inspecting = Duration.zero

  package var total: Duration { cutting + hashing + encoding + inspecting }

  package init() {}

  /// Takes files through every step, and keeps nothing. Blocks.
  ///
  /// - Parameter limitBytes: Files beyond this sum are left out.
  package static func measure(
    _ files: [String], limitBytes: Int64, level: CompressionLevel, time: any Timekeeper
  ) throws -> PipelineLimit {
    let randomness = SeededRandomness(seed: 1)
    let codec = try Codec(key: MasterKey(from: randomness), version: 2, level: level, randomness: randomness)
    let chunker = RabinChunker(IrreduciblePolynomial.random(randomness))
    var result = PipelineLimit()
    var pack = PackBuffer(.data, room: 32 << 20)
    func timed<T>(_ sum: WritableKeyPath<PipelineLimit, Duration>, _ body: () throws -> T) rethrows -> T {
      let start = time.monotonicNanoseconds()
      defer { result[keyPath: sum] += .nanoseconds(time.monotonicNanoseconds() - start) }
      return try body()
    }
    for path in files where result.bytes < limitBytes {
      let content = try Files.read(path)
      if content.isEmpty { continue }
      result.bytes += Int64(content.count)
      try content.withUnsafeBytes { raw in
        var chunks: [UnsafeRawBufferPointer] = []
        timed(\.cutting) {
          var start = 0
          while start < raw.count {
            let length = chunker.cut(UnsafeRawBufferPointer(rebasing: raw[start...]))
            chunks.append(UnsafeRawBufferPointer(rebasing: raw[start..<start + length]))
            start += length
          }
        }
        let ids = timed(\.hashing) {
          stride(from: 0, to: chunks.count, by: 2).flatMap { index -> [Digest] in
            guard index + 1 < chunks.count else { return [PairedDigest.of(chunks[index])] }
            let (a, b) = PairedDigest.of(chunks[index], chunks[index + 1])
            return [a, b]
          }
        }
        for (id, chunk) in zip(ids, chunks) {
          let sealed = try timed(\.encoding) { try codec.encode(chunk, into: pack.space) }
          let start = pack.pages.count
          _ = pack.take(id, sealed)
          try timed(\.inspecting) {
            try codec.verify(
              pack.pages[start..<pack.pages.count], uncompressedBytes: sealed.uncompressedBytes, is: chunk)
          }
          if pack.isFull(16 << 20) { finish() }
        }
      }
    }
    finish()
    return result

    func finish() {
      timed(\.inspecting) { _ = pack.finishHash() }
      pack = PackBuffer(.data, reusing: pack.pages, room: 32 << 20)
    }
  }
}
