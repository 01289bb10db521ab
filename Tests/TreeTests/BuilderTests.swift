import Core
import Foundation
import IO
import Synchronization
import TestSupport
import Testing
import Vault

private func file(_ seconds: Int64 = 5) -> FileMetadata {
  FileMetadata(kind: .regular, permissions: 0o640, modified: Timestamp(seconds: seconds))
}

@Suite("The builder as a sink, the tree as a source")
struct BuilderTests {
  @Test func `entries come in any order and several at a time, and the tree is the same`() async throws {
    var roots: Set<BlobID> = []
    for seed in UInt64(1)...5 {
      let vault = MemoryVault()
      let builder = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
      var entries: [(TreePath, FileMetadata, [UInt8]?)] = (0..<60).map { index in
        (
          TreePath("d\(index % 7)/e\(index % 3)/f\(index)"), file(Int64(index)),
          makeNoise(index * 100, seed: UInt64(index))
        )
      }
      entries.append(("d1", FileMetadata(kind: .directory, permissions: 0o700, modified: Timestamp(seconds: 3)), nil))
      entries.append(
        (
          "link", FileMetadata(kind: .symbolicLink(target: [65]), permissions: 0o777, modified: Timestamp(seconds: 3)),
          nil
        ))
      let random = SeededRandomness(seed: seed)
      for index in entries.indices.dropFirst() { entries.swapAt(index, random.below(index + 1)) }
      try await withThrowingTaskGroup(of: Void.self) { group in
        for (path, metadata, bytes) in entries {
          group.addTask {
            let source: OpenSource? = if let bytes { { MemorySource(bytes) } } else { nil }
            _ = try await builder.add(path, metadata, cutting: .content, content: source)
          }
        }
        try await group.waitForAll()
      }
      let built = try await builder.finish()
      roots.insert(built.root)
      #expect(built.totals.files == 60)
      #expect(built.totals.others == 1)
      #expect(built.totals.directories == 28)
      let tree = SnapshotTree(reader: vault, root: built.root)
      let all = try await tree.entries(below: "")
      #expect(all.count == 89)
      #expect(all.first { $0.path == "d1" }?.metadata.permissions == 0o700)
      #expect(all.first { $0.path == "d2" }?.metadata.permissions == 0o755)
      #expect(try await tree.contents(of: "d3/e1/f31", limitBytes: 1 << 20) == makeNoise(3100, seed: 31))
    }
    #expect(roots.count == 1)
  }

  // MARK: Parts taken over

  @Test func `a file takes parts over from an earlier tree, and reads the others`() async throws {
    let vault = MemoryVault()
    let (bytes, cut) = (makeNoise(10_000, seed: 1), 4096)
    let first = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
    _ = try await first.add("base/1", file(), cutting: .fixed(bytes: cut)) { MemorySource(bytes) }
    _ = try await first.add("base/2", file(), cutting: .fixed(bytes: cut * 2)) { MemorySource(bytes) }
    let earlier = EarlierSnapshot(SnapshotTree(reader: vault, root: try await first.finish().root), below: "base")
    let known = try #require(try await earlier.file("1", cutEvery: cut))
    #expect(known.size == 10_000)
    #expect(known.parts.count == 3)
    #expect(try await earlier.file("2", cutEvery: cut) == nil, "cut otherwise")
    #expect(try await earlier.file("3", cutEvery: cut) == nil)
    #expect(try await earlier.file("elsewhere/1", cutEvery: cut) == nil)

    let read = Mutex<[Digest: [UInt8]]>([:])
    try await earlier.read(known.parts + [known.parts[0]]) { (digest, part) throws(AnyFailure) -> Void in
      let isFirst = read.withLock { $0.updateValue(part, forKey: digest) == nil }
      #expect(isFirst, "each comes once")
    }
    let parts = read.withLock { $0 }
    #expect(known.parts.flatMap { parts[$0] ?? [] } == bytes)
    await #expect(throws: AnyFailure.self) {
      try await earlier.read([Digest.of("nothing")]) { (_, _) throws(AnyFailure) -> Void in }
    }

    let saves = vault.saveCount
    let builder = SnapshotBuilder(writer: vault, polynomial: somePolynomial, reader: vault)
    let new = makeNoise(cut + 100, seed: 2)
    let stored = try await builder.add(
      "base/1", file(), partBytes: cut, parts: [known.parts[0], nil, known.parts[1], nil]
    ) { MemorySource(new) }
    #expect(stored.size == Int64(3 * cut + 100))
    #expect(stored.addedBytes == Int64(cut + 100))
    #expect(vault.saveCount == saves + 2, "what is taken over is not stored again")
    _ = try await builder.add("base/2", file(), partBytes: cut, parts: known.parts, content: nil)
    let tree = SnapshotTree(reader: vault, root: try await builder.finish().root)
    let expected = bytes[..<cut] + new[..<cut] + bytes[cut..<2 * cut] + new[cut...]
    #expect(try await tree.contents(of: "base/1", limitBytes: 1 << 20) == Array(expected))
    #expect(try await tree.contents(of: "base/2", limitBytes: 1 << 20) == bytes)
  }

  @Test func `a part of a file is read, across blobs and past its end`() async throws {
    let vault = MemoryVault()
    let bytes = makeNoise(10_000, seed: 3)
    let builder = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
    _ = try await builder.add("a/b", file(), cutting: .fixed(bytes: 4096)) { MemorySource(bytes) }
    let tree = SnapshotTree(reader: vault, root: try await builder.finish().root)
    for range in [0..<10_000, 0..<1, 4095..<4097, 4096..<8192, 100..<9000, 9999..<20_000, 10_000..<10_001, 50..<50] {
      let expected = Array(bytes[min(range.lowerBound, 10_000)..<min(range.upperBound, 10_000)])
      let found = try await tree.contents(of: "a/b", range: Int64(range.lowerBound)..<Int64(range.upperBound))
      #expect(found == expected, "\(range)")
    }
    await #expect(throws: AnyFailure.self) { try await tree.contents(of: "a", range: 0..<1) }
  }

  @Test func `parts that are not here, or not in their places, are refused`() async throws {
    let vault = MemoryVault()
    let first = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
    _ = try await first.add("1", file(), cutting: .fixed(bytes: 4096)) { MemorySource(makeNoise(6000, seed: 1)) }
    let earlier = EarlierSnapshot(SnapshotTree(reader: vault, root: try await first.finish().root))
    let parts = try #require(try await earlier.file("1", cutEvery: 4096)).parts
    let builder = SnapshotBuilder(writer: vault, polynomial: somePolynomial, reader: vault)
    // The shorter one would move what follows; one is nowhere; more comes than is missing; less does.
    let attempts: [([Digest?], Int?)] = [
      ([parts[1], parts[0]], nil), ([BlobID.of([1])], nil), ([parts[0], nil], 9000), ([nil, nil, parts[1]], 4000),
    ]
    for (index, (parts, count)) in attempts.enumerated() {
      let source: OpenSource? = if let count { { MemorySource(makeNoise(count, seed: 3)) } } else { nil }
      await #expect(throws: AnyFailure.self) {
        _ = try await builder.add(TreePath("\(index)"), file(), partBytes: 4096, parts: parts, content: source)
      }
    }
    await #expect(throws: TreeError.self) { _ = try await builder.finish() }
    vault.remove(.data, parts[0])
    #expect(try await earlier.file("1", cutEvery: 4096) == nil, "a part of it is gone")
  }

  private final class BrokenSource: ByteSource {
    struct Broken: Failure { var report: Report { Report("TEST-001", "the source broke") } }
    private var left = 3
    func read(into buffer: UnsafeMutableRawBufferPointer) throws -> Int {
      left -= 1
      if left == 0 { throw Broken() }
      buffer.initializeMemory(as: UInt8.self, repeating: 7)
      return buffer.count
    }
  }

  @Test func `a content that fails leaves the snapshot unfinished until it is repeated`() async throws {
    let builder = SnapshotBuilder(writer: MemoryVault(), polynomial: somePolynomial)
    await #expect(throws: AnyFailure.self) {
      try await builder.add("x", file(), cutting: .content, content: { BrokenSource() })
    }
    await #expect { try await builder.finish() } throws: { ($0 as? TreeError)?.report.code == "TREE-301" }
    _ = try await builder.add("x", file(), cutting: .content, content: { MemorySource([1]) })
    #expect(try await builder.finish().totals.files == 1)
  }

  @Test func `names that can't be, and names taken, are refused`() async throws {
    let builder = SnapshotBuilder(writer: MemoryVault(), polynomial: somePolynomial)
    _ = try await builder.add("a", file(), cutting: .content, content: { MemorySource([1]) })
    for path in [TreePath([".."]), TreePath(["a\0b"]), "a", "a/b", TreePath([FileName("x/y")]), TreePath([""])]
      as [TreePath]
    {
      await #expect(throws: AnyFailure.self, "\(path)") {
        try await builder.add(path, file(), cutting: .content, content: { MemorySource([1]) })
      }
    }
  }

  @Test func `excluded, unreadable and absent entries`() async throws {
    let directory = try TemporaryDirectory("archive")
    let source = directory.file("source")
    try Files.createDirectory(source + "/keep/cache")
    for name in ["/keep/a.o", "/keep/a.c", "/keep/cache/x", "/drop"] { try Files.replace(source + name, with: [1]) }
    let vault = MemoryVault()
    let builder = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
    let report = try await builder.archive(
      try Survey(
        [source, "/proc/self/mem", source + "/keep", directory.file("absent")],
        excludes: [ExcludePattern("*.o"), ExcludePattern("keep/cache"), ExcludePattern(source + "/dr?p")]))
    #expect(report.isPartial)
    #expect(report.problems.count == 2)
    #expect(report.problems.contains { $0.contains("/proc/self/mem") })
    #expect(report.problems.contains { $0.contains("absent") })
    let tree = SnapshotTree(reader: vault, root: try await builder.finish().root)
    #expect(try await tree.allNodes(below: TreePath(source)).map(\.path) == ["keep", "keep/a.c"])
    await #expect(throws: TreeError.self, "nothing at all is no backup") {
      try await SnapshotBuilder(writer: vault, polynomial: somePolynomial).archive(
        try Survey([directory.file("absent")]))
    }
  }

  @Test func `what is unchanged is not read again`() async throws {
    let directory = try TemporaryDirectory("parent")
    let source = directory.file("source")
    try TreeMaker.make(seed: 77, at: source)
    let vault = MemoryVault()
    let first = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
    _ = try await first.archive(try Survey([source]))
    let before = try await first.finish()
    try Files.replace(source + "/new", with: [1, 2, 3])
    let second = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
    let parent = SnapshotTree(reader: vault, root: before.root)
    let report = try await second.archive(try Survey([source]), ArchiveOptions(parent: parent))
    #expect(report.unchangedFiles == before.totals.files)
    let after = try await second.finish()
    #expect(after.totals.files == before.totals.files + 1)
    #expect(after.totals.bytes == before.totals.bytes + 3)
    #expect(after.totals.addedBytes == 3)
    #expect(after.root != before.root)

    // A file whose blob is gone is read, parent or not.
    let nodes = try await SnapshotTree(reader: vault, root: after.root).allNodes(below: TreePath(source))
    let victim = try #require(
      nodes.first { !$0.node.content.isEmpty && $0.node.metadata.size < 3000 && $0.path.components.count == 1 })
    vault.remove(.data, victim.node.content[0])
    let third = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
    let again = try await third.archive(
      try Survey([source]), ArchiveOptions(parent: SnapshotTree(reader: vault, root: after.root)))
    #expect(again.unchangedFiles < after.totals.files)
    #expect(vault.contains(.data, victim.node.content[0]))
    // Reading a directory may have moved its access time; everything else is the same tree.
    #expect(try await third.finish().totals.files == after.totals.files)
  }

  @Test func `a single file and the root's own layout`() async throws {
    let directory = try TemporaryDirectory("single")
    try Files.replace(directory.file("one"), with: [9])
    let vault = MemoryVault()
    let builder = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
    _ = try await builder.archive(try Survey([directory.file("one")]))
    let tree = SnapshotTree(reader: vault, root: try await builder.finish().root)
    let all = try await tree.allNodes()
    #expect(all.map(\.path) == ["tmp", TreePath(directory.path), TreePath(directory.file("one"))])
    #expect(all[0].node.metadata.permissions == 0o1777)
  }
}
