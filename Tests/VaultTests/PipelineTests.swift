import Core
import IO
import ObjectStoreFaulty
import ObjectStoreMemory
import Testing

@testable import Vault

@Suite("The pipeline's parts")
struct PipelineTests {
  @Test(arguments: [true, false]) func `two hashes at once are the two hashes`(_ inParallel: Bool) {
    let random = SeededRandomness(seed: 7)
    let bytes = random.bytes(20_000)
    for _ in 0..<3000 {
      var hashes = (PairedDigest(), PairedDigest())
      var expected: ([UInt8], [UInt8]) = ([], [])
      // In pieces of any length, so that blocks are begun and left unfinished on either side.
      for _ in 0..<1 + random.below(4) {
        let sizes = (random.below(random.chance(0.5) ? 300 : 5000), random.below(random.chance(0.5) ? 300 : 5000))
        let from = (random.below(15_000), random.below(15_000))
        bytes.withUnsafeBytes { raw in
          PairedDigest.add(
            UnsafeRawBufferPointer(rebasing: raw[from.0..<from.0 + sizes.0]), to: &hashes.0,
            UnsafeRawBufferPointer(rebasing: raw[from.1..<from.1 + sizes.1]), to: &hashes.1,
            inParallel: inParallel && PairedDigest.isParallel)
        }
        expected.0 += bytes[from.0..<from.0 + sizes.0]
        expected.1 += bytes[from.1..<from.1 + sizes.1]
      }
      // swift-crypto's, not this module's own.
      #expect(hashes.0.finish() == Digest.of(expected.0))
      #expect(hashes.1.finish() == Digest.of(expected.1))
    }
    #expect(PairedDigest.of(UnsafeRawBufferPointer(start: nil, count: 0)) == Digest.of([UInt8]()))
  }

  @Test func `a batch is saved as its blobs are one by one`() async throws {
    let memory = MemoryObjectStore()
    let repository = try await Repository.create(store: memory, password: password, settings: .quick(packBytes: 30_000))
    let random = SeededRandomness(seed: 1)
    let blobs = (0..<41).map { random.bytes(1 + $0 * 97) } + [[UInt8](repeating: 7, count: 50_000)]
    let batch = BlobBatch()
    // One comes twice in the batch, one is there already.
    for blob in blobs + [blobs[3]] { blob.withUnsafeBytes { batch.append(copying: $0) } }
    _ = try await repository.save(.data, blobs[9])
    let saved = try await repository.save(.data, batch)
    #expect(saved.map(\.id) == (blobs + [blobs[3]]).map { Digest.of($0) })
    #expect(saved[9].added == 0 && saved[42].added == 0 && saved[41].added < 200)
    #expect(saved[40].added == blobs[40].count + 32)
    try await repository.flush()
    let reader = try await Repository.open(store: memory, password: password, settings: .quick())
    for blob in blobs { #expect(try await reader.load(.data, Digest.of(blob)) == blob) }
    #expect(try await reader.check(readData: true).findings == [])
  }

  @Test func `batches with the same blobs, saved side by side, store each once`() async throws {
    let memory = MemoryObjectStore()
    let repository = try await Repository.create(store: memory, password: password, settings: .quick())
    let blobs = (0..<60).map { SeededRandomness(seed: UInt64($0)).bytes(3000) }
    let added = try await withThrowingTaskGroup(of: Int.self) { group in
      for turn in 0..<8 {
        group.addTask {
          let batch = BlobBatch()
          for index in blobs.indices { blobs[(index + turn * 7) % 60].withUnsafeBytes { batch.append(copying: $0) } }
          return try await repository.save(.data, batch).reduce(0) { $0 + $1.added }
        }
      }
      return try await group.reduce(0, +)
    }
    #expect(added == 60 * 3032)
    try await repository.flush()
    #expect(try await repository.check(readData: true).findings == [])
  }

  @Test func `lent blobs come once each, from another copy where one is damaged`() async throws {
    let memory = MemoryObjectStore(checksNames: false)
    let one = try await Repository.create(store: memory, password: password, settings: .quick())
    let two = try await Repository.open(store: memory, password: password, settings: .quick())
    let blobs = (0..<7).map { SeededRandomness(seed: $0).bytes(2000) }
    for repository in [one, two] {
      for blob in blobs { _ = try await repository.save(.data, blob) }
      try await repository.flush()
    }
    for damaged in try await memory.list(.data) {
      memory.tamper(damaged.name) { $0?[500] ^= 1 }
      defer { memory.tamper(damaged.name) { $0?[500] ^= 1 } }
      let reader = try await Repository.open(store: memory, password: password, settings: .quick())
      let seen = Shared<[BlobID]>([])
      try await reader.lendMany(.data, blobs.map { Digest.of($0) }, parallel: 2, pool: .shared) {
        (id, bytes) throws(VaultError) -> Void in
        #expect(Digest.of(bytes) == id)
        seen.withLock { $0.append(id) }
      }
      #expect(seen.value.sorted() == blobs.map { Digest.of($0) }.sorted())
    }
  }

  @Test(arguments: CompressionLevel.allCases) func `every level is read by every other`(
    _ level: CompressionLevel
  ) async throws {
    let memory = MemoryObjectStore()
    var settings = VaultSettings.quick(packBytes: 4 << 20)
    settings.compression = level
    let repository = try await Repository.create(store: memory, password: password, settings: settings)
    let text = Array(String(repeating: "what compresses well, and what does not; ", count: 20_000).utf8)
    let noise = SeededRandomness(seed: 3).bytes(1 << 20)
    let added = try await repository.save(.data, text).added
    if level == .off { #expect(added == text.count + 32) } else { #expect(added < text.count / 20) }
    #expect(try await repository.save(.data, noise).added == noise.count + 32)
    try await repository.flush()
    let reader = try await Repository.open(store: memory, password: password, settings: .quick())
    #expect(try await reader.load(.data, Digest.of(text)) == text)
    #expect(try await reader.load(.data, Digest.of(noise)) == noise)
    #expect(try await reader.check(readData: true).findings == [])
  }

  @Test func `samples give noise away, and nothing that has anything to save`() throws {
    let zstd = try Zstd(.auto)
    func isPromising(_ bytes: [UInt8]) -> Bool { bytes.withUnsafeBytes { zstd.isPromising($0) } }
    let noise = SeededRandomness(seed: 5).bytes(1 << 20)
    #expect(!isPromising(noise))
    #expect(isPromising(Array(noise[..<10_000])), "too short to bother")
    #expect(isPromising(noise.map { $0 & 0x7f }), "seven bits of eight")
    var half = noise
    half.replaceSubrange(0..<512 << 10, with: repeatElement(32, count: 512 << 10))
    #expect(isPromising(half))
  }
}
