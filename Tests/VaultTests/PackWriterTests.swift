import Core
import Foundation
import IO
import ObjectStoreLocal
import Testing

@testable import Vault

/// Packs that are filled in place, and the memory they lie in.
@Suite struct PackWriterTests {
  private func blob(_ pack: PackBuffer, _ bytes: [UInt8]) -> PackedBlob {
    pack.space.copyBytes(from: bytes)
    return pack.take(.of(bytes), SealedSize(bytes: bytes.count, uncompressedBytes: 0))
  }

  @Test func `a flush waits for a pack that somebody else is filling`() {
    let writer = PackWriter()
    let pack = writer.lend(.data, targetBytes: 1000, room: 0, isAlone: false, chance: 0)
    let packed = blob(pack, SeededRandomness(seed: 1).bytes(100))
    writer.add(packed, to: pack)
    // Whoever finds the blob here counts on the next flush.
    let mark = writer.closeAll()
    #expect(writer.next(upTo: mark) == nil, "it isn't whole yet")
    #expect(writer.isOnItsWay(upTo: mark), "and a flush must not end without it")
    #expect(writer.giveBack(pack, targetBytes: 1000), "it is closed, though not full")
    #expect(writer.next(upTo: mark) === pack)
    #expect(writer.unstored(BlobKey(kind: .data, id: packed.id))?.sealed.count == 100)
  }

  /// Two that write at once, of whom one has nothing new: its pack was closed by the other's flush.
  @Test func `a pack that a flush closed and nothing came into is none`() async {
    let writer = PackWriter()
    let pack = writer.lend(.data, targetBytes: 1000, room: 0, isAlone: false, chance: 0)
    let mark = writer.closeAll()
    #expect(writer.isOnItsWay(upTo: mark))
    #expect(!writer.giveBack(pack, targetBytes: 1000), "nothing is to be sent")
    #expect(writer.next(upTo: mark) == nil)
    #expect(await !writer.someoneArrived(upTo: mark), "and nobody waits for it")
  }

  @Test func `what is neither full nor wanted goes on to be filled`() {
    let writer = PackWriter()
    let pack = writer.lend(.data, targetBytes: 1000, room: 0, isAlone: false, chance: 0)
    writer.add(blob(pack, [1, 2, 3]), to: pack)
    #expect(!writer.giveBack(pack, targetBytes: 1000))
    var again: Set<ObjectIdentifier> = []
    for chance in 0..<8 as Range<UInt64> {
      let next = writer.lend(.data, targetBytes: 1000, room: 0, isAlone: false, chance: chance)
      if next.blobs.isEmpty { writer.add(blob(next, [UInt8(chance), 9, 9]), to: next) }
      again.insert(ObjectIdentifier(next))
      _ = writer.giveBack(next, targetBytes: 1000)
    }
    #expect(again.count == 2 && again.contains(ObjectIdentifier(pack)), "two are open, and chance decides")
  }

  @Test func `a pack's hash is that of its bytes, whatever was hashed beside it`() {
    let random = SeededRandomness(seed: 2)
    for _ in 0..<50 {
      let pack = PackBuffer(.data, room: 1 << 20)
      for _ in 0..<random.below(12) {
        _ = blob(pack, random.bytes(1 + random.below(3000)))
        let other = random.bytes(random.below(5000))
        #expect(other.withUnsafeBytes { pack.hash(beside: $0) } == .of(other))
      }
      let expected = Digest.of(Array(pack.pages.bytes))
      #expect(pack.finishHash() == expected)
    }
  }

  @Test(arguments: [NSTemporaryDirectory(), "/dev/shm"])
  func `what is written past the page cache is what was given`(_ directory: String) throws {
    let random = SeededRandomness(seed: 3)
    let pages = PageBuffer(capacity: 1 << 20)
    let path = "\(directory)/salvor-uncached-\(UUID().uuidString)"
    defer { try? Files.removeTree(path) }
    for count in [0, 1, 4095, 4096, 65_535, 65_536, 70_000, 1_000_000, 1 << 20] {
      let bytes = random.bytes(count)
      pages.clear()
      pages.append(bytes)
      try Files.removeTree(path)
      try File(path, O_RDWR | O_CREAT).writeUncached(pages.memory, count: count)
      #expect(try Files.read(path) == bytes, "\(count) bytes")
    }
    for _ in 0..<60 {
      var whole = random.bytes(400_000)
      try Files.replace(path, with: whole)
      let (offset, bytes) = (random.below(200_000), random.bytes(random.below(150_000)))
      let space = UnsafeMutableRawBufferPointer(rebasing: pages.memory[..<(4096 << random.below(5))])
      try bytes.withUnsafeBytes { try File(path, O_RDWR).writeUncached($0, at: Int64(offset), through: space) }
      whole.replaceSubrange(offset..<offset + bytes.count, with: bytes)
      #expect(try Files.read(path) == whole, "\(bytes.count) bytes at \(offset)")
    }
  }
}
