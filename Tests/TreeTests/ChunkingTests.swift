import Core
import IO
import Testing
import Vault

@Suite("Cutting of contents")
struct ChunkingTests {
  /// The plainest way to say where restic cuts: the whole window divided by the polynomial, bit by bit.
  private func plainCut(_ bytes: [UInt8], _ polynomial: UInt64) -> Int {
    guard bytes.count > 512 << 10 else { return bytes.count }
    for end in (512 << 10)...min(bytes.count, 8 << 20) {
      var rest: UInt64 = 0
      for byte in bytes[end - 64..<end] {
        for bit in stride(from: 7, through: 0, by: -1) {
          rest = rest << 1 | UInt64(byte >> UInt8(bit) & 1)
          if rest >> 53 != 0 { rest ^= polynomial }
        }
      }
      if rest & (1 << 20 - 1) == 0 { return end }
    }
    return min(bytes.count, 8 << 20)
  }

  @Test(arguments: [1, 2, 3, 4, 5, 6] as [UInt64])
  func `cuts are where the window's remainder says`(_ seed: UInt64) {
    let polynomial = IrreduciblePolynomial.random(SeededRandomness(seed: seed))
    var bytes = makeNoise(1 << 20 + Int(seed) * 1000, seed: seed)
    if seed == 5 { bytes = [UInt8](repeating: 0, count: 700_000) }
    if seed == 6 { bytes.replaceSubrange(600_000..<700_000, with: repeatElement(0, count: 100_000)) }
    let cut = bytes.withUnsafeBytes { RabinChunker(polynomial).cut($0) }
    #expect(cut == plainCut(bytes, polynomial))
  }

  @Test func `no cut comes before 512 KiB or after 8 MiB`() {
    let chunker = RabinChunker(somePolynomial)
    // 0xff… has no cut anywhere, unless the remainder of 64 of them ends in twenty zeros.
    let ones = [UInt8](repeating: 0xff, count: 20 << 20)
    #expect(ones.withUnsafeBytes { chunker.cut($0) } == 8 << 20)
    #expect(ones.withUnsafeBytes { chunker.cut(UnsafeRawBufferPointer(rebasing: $0[..<1000])) } == 1000)
    #expect([UInt8](repeating: 0, count: 1 << 20).withUnsafeBytes { chunker.cut($0) } == 512 << 10)
  }

  @Test func `fixed cutting has every length but the last`() async throws {
    let vault = MemoryVault()
    let builder = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
    let bytes = makeNoise(1_000_000, seed: 3)
    let stored = try await builder.add(
      "a/b", FileMetadata(kind: .regular, permissions: 0o600, modified: Timestamp(seconds: 9)),
      cutting: .fixed(bytes: 65536), content: { MemorySource(bytes) })
    #expect(stored == StoredFile(size: 1_000_000, addedBytes: 1_000_000))
    let tree = SnapshotTree(reader: vault, root: try await builder.finish().root)
    let node = try #require(try await tree.node(at: "a/b"))
    #expect(
      node.content
        == stride(from: 0, to: bytes.count, by: 65536).map { Digest.of(bytes[$0..<min($0 + 65536, bytes.count)]) })
    #expect(try await tree.contents(of: "a/b", limitBytes: 1_000_000) == bytes)
    await #expect(throws: AnyFailure.self) { try await tree.contents(of: "a/b", limitBytes: 999_999) }
  }
}

@Suite("Cutting side by side")
struct LaneTests {
  /// A cut in any of the four stretches, or at their seams, is found where the plain loop finds it.
  @Test(arguments: 0..<12) func `a planted cut is found`(_ index: Int) {
    let chunker = RabinChunker(somePolynomial)
    let random = SeededRandomness(seed: UInt64(index))
    // 64 bytes whose remainder ends in twenty zeros: all zeros.
    for _ in 0..<20 {
      var bytes = [UInt8](repeating: 0xff, count: 900_000)
      var wanted = bytes.count
      for _ in 0..<1 + random.below(3) {
        let seam = (512 << 10) + 4096 * random.below(80)
        let place = min(bytes.count, random.chance(0.5) ? seam + random.below(3) : (512 << 10) + random.below(300_000))
        bytes.replaceSubrange(place - 64..<place, with: repeatElement(0, count: 64))
        wanted = min(wanted, max(place, 512 << 10))
      }
      #expect(bytes.withUnsafeBytes { chunker.cut($0) } == wanted)
    }
  }

  /// A source that gives bytes in pieces of any length must be cut as if it had come whole.
  @Test(arguments: 0..<6) func `what arrives in pieces is cut as if it were whole`(_ index: Int) async throws {
    let random = SeededRandomness(seed: UInt64(index))
    var bytes = makeNoise(14 << 20 + random.below(100_000), seed: UInt64(index))
    // No cut for the longest blob there is.
    if index == 2 { bytes.replaceSubrange(1 << 20..<11 << 20, with: repeatElement(0xff, count: 10 << 20)) }
    // Nothing but cuts.
    if index == 3 { bytes = [UInt8](repeating: 0, count: 3 << 20 + 5) }
    let chunker = RabinChunker(somePolynomial)
    var expected: [BlobID] = []
    var position = 0
    while position < bytes.count {
      let length = bytes.withUnsafeBytes { chunker.cut(UnsafeRawBufferPointer(rebasing: $0[position...])) }
      expected.append(Digest.of(bytes[position..<position + length]))
      position += length
    }
    let (whole, limit) = (bytes, index % 2 == 0 ? 1 + random.below(300_000) : Int.max)
    let vault = MemoryVault()
    let builder = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
    let stored = try await builder.add(
      "f", FileMetadata(kind: .regular, permissions: 0o600, size: index == 4 ? 10 : 0, modified: Timestamp(seconds: 9)),
      cutting: .content, content: { SlowSource(whole, limit) })
    #expect(stored.size == Int64(whole.count))
    let tree = SnapshotTree(reader: vault, root: try await builder.finish().root)
    #expect(try await tree.node(at: "f")?.content == expected)
  }

  @Test func `cutting keeps up`() {
    let bytes = makeNoise(16 << 20, seed: 4)
    let chunker = RabinChunker(somePolynomial)
    let time = SystemTime()
    let start = time.monotonicNanoseconds()
    var position = 0
    while position < bytes.count {
      position += bytes.withUnsafeBytes { chunker.cut(UnsafeRawBufferPointer(rebasing: $0[position...])) }
    }
    let speed = Double(bytes.count) * 1000 / Double(time.monotonicNanoseconds() - start)
    print("cutting: \(Int(speed)) MB/s")
    // Far below what it does: this machine may be busy with anything.
    #expect(speed > 20)
  }
}

/// Gives at most so many bytes at a time.
private final class SlowSource: ByteSource {
  private let bytes: [UInt8]
  private let limit: Int
  private var position = 0

  init(_ bytes: [UInt8], _ limit: Int) { (self.bytes, self.limit) = (bytes, limit) }

  func read(into buffer: UnsafeMutableRawBufferPointer) -> Int {
    let count = min(buffer.count, limit, bytes.count - position)
    buffer.copyBytes(from: bytes[position..<position + count])
    position += count
    return count
  }
}
