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
    let pack = PackBuffer(.data, capacity: 20 << 20)
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
          try timed(\.encoding) { _ = pack.append(try codec.encode(.data, id, chunk)) }
          guard pack.bytes.count >= 16 << 20 else { continue }
          try inspect()
        }
      }
    }
    try inspect()
    return result

    func inspect() throws {
      var isRight = true
      timed(\.inspecting) {
        _ = pack.bytes.withUnsafeBytes { raw in codec.inspect(raw, pack.blobs) { _, _ in isRight = false } }
      }
      guard isRight else { throw VaultError.writeVerification("a pack") }
      pack.bytes.removeAll(keepingCapacity: true)
      pack.blobs.removeAll(keepingCapacity: true)
    }
  }
}
