import Core
import Foundation
import IO
import Synchronization
import TestSupport
import Testing

@testable import Vault

@Suite("Backups that have a parent") struct ParentTests {
  private func archive(
    _ source: String, in vault: MemoryVault, parent: SnapshotTree? = nil, survey: Survey? = nil
  ) async throws -> (tree: BuiltTree, source: BlobID, report: ArchiveReport) {
    let builder = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
    let survey = try survey ?? Survey([source])
    let report = try await builder.archive(survey, ArchiveOptions(parent: parent))
    let tree = try await builder.finish()
    // What lies above it changes all the time.
    return (tree, try await SnapshotTree(reader: vault, root: tree.root).tree(at: TreePath(source)), report)
  }

  private func make(_ directory: String, _ files: [String: [UInt8]]) throws {
    try Files.createDirectory(directory)
    for (name, bytes) in files { try Files.replace("\(directory)/\(name)", with: bytes) }
  }

  @Test(arguments: 0..<24) func `a parent changes what is read, and nothing else`(seed: Int) async throws {
    let directory = try TemporaryDirectory("parent")
    let source = directory.file("source")
    try TreeMaker.make(seed: UInt64(seed), at: source, entries: 60)
    let vault = MemoryVault()
    var before = try await archive(source, in: vault)
    for round in 0..<4 {
      try TreeChanges.make(
        seed: UInt64(seed * 10 + round), at: source, chance: [0, 0.01, 0.05, 0.4][(seed + round) % 4])
      let parent = SnapshotTree(reader: vault, root: before.tree.root)
      let after = try await archive(source, in: vault, parent: parent)
      let alone = try await archive(source, in: MemoryVault())
      #expect(after.source == alone.source, "round \(round)")
      var (with, without) = (after.tree.totals, alone.tree.totals)
      (with.addedBytes, with.addedTreeBytes) = (0, 0)
      (without.addedBytes, without.addedTreeBytes) = (0, 0)
      #expect(with == without, "round \(round)")
      #expect(after.report.problems.isEmpty && after.report.notes.isEmpty, "\(after.report)")
      before = after
    }
  }

  @Test func `where nothing has changed nothing is read or saved`() async throws {
    let directory = try TemporaryDirectory("same")
    let source = directory.file("source")
    try TreeMaker.make(seed: 4, at: source, entries: 200)
    let vault = MemoryVault()
    let before = try await archive(source, in: vault)
    let saves = vault.saveCount
    let after = try await archive(source, in: vault, parent: SnapshotTree(reader: vault, root: before.tree.root))
    #expect(after.source == before.source)
    #expect(after.report.unchangedFiles == before.tree.totals.files)
    // The directories above it are put together anew each time.
    #expect(vault.saveCount - saves == TreePath(source).components.count)
  }

  /// A reader that tells its trees otherwise.
  private struct OtherTrees: BlobReader {
    let vault: MemoryVault
    let change: @Sendable (BlobID, [UInt8]) -> [UInt8]

    func load(_ kind: BlobKind, _ id: BlobID) async throws(VaultError) -> [UInt8] {
      let bytes = try await vault.load(kind, id)
      return kind == .tree ? change(id, bytes) : bytes
    }
    func contains(_ kind: BlobKind, _ id: BlobID) -> Bool { vault.contains(kind, id) }
    func length(_ kind: BlobKind, _ id: BlobID) -> Int? { vault.length(kind, id) }
    func loadMany(
      _ kind: BlobKind, _ ids: [BlobID], parallel: Int,
      _ each: @escaping @Sendable (BlobID, [UInt8]) async throws(VaultError) -> Void
    ) async throws(VaultError) {
      for id in Set(ids).sorted() { try await each(id, try await load(kind, id)) }
    }
  }

  @Test func `trees that somebody spelled otherwise are understood all the same`() async throws {
    let directory = try TemporaryDirectory("spelled")
    let source = directory.file("source")
    try TreeMaker.make(seed: 9, at: source, entries: 120)
    let vault = MemoryVault()
    let before = try await archive(source, in: vault)
    let reader = OtherTrees(vault: vault) { _, bytes in
      Array(
        String(decoding: bytes, as: UTF8.self).replacingOccurrences(
          of: "{\"name\":", with: "{\"later\": [1, {}], \"name\":"
        ).utf8)
    }
    let after = try await archive(source, in: vault, parent: SnapshotTree(reader: reader, root: before.tree.root))
    #expect(after.source == before.source)
    #expect(after.report.unchangedFiles == before.tree.totals.files)
  }

  @Test func `a tree that can't be used is told, and what it held is read again`() async throws {
    let directory = try TemporaryDirectory("useless")
    let source = directory.file("source")
    for number in 0..<5 {
      try Files.createDirectory("\(source)/\(number)")
      try Files.replace("\(source)/\(number)/file", with: [UInt8(number)])
    }
    let vault = MemoryVault()
    let before = try await archive(source, in: vault)
    let tree = SnapshotTree(reader: vault, root: before.tree.root)
    let broken = try #require(try await tree.node(at: TreePath(source + "/3"))?.subtree)
    let reader = OtherTrees(vault: vault) { id, bytes in id == broken ? Array(bytes.dropLast(20)) : bytes }
    let after = try await archive(source, in: vault, parent: SnapshotTree(reader: reader, root: before.tree.root))
    #expect(after.source == before.source)
    #expect(after.report.unchangedFiles == 4)
    #expect(after.report.notes.count == 1 && after.report.notes[0].contains(broken.short), "\(after.report.notes)")
  }

  @Test func `a tree that is cut short or damaged never passes for the same`() async throws {
    let directory = try TemporaryDirectory("hostile")
    for name in ["a", "b \" c", "ü"] { try Files.replace(directory.file(name), with: Array(name.utf8)) }
    let reader = try DirectoryReader(directory.path)
    let vault = MemoryVault()
    var nodes: [TreeNode] = []
    for name in try reader.names() {
      let id = try await vault.save(.data, name.bytes).id
      nodes.append(TreeNode(name: name, metadata: try reader.metadata(of: name), content: [id]))
    }
    let tree = TreeEncoder.encode(nodes)
    let heads = nodes.map { TreeNode(name: $0.name, metadata: $0.metadata) }
    func match(_ bytes: [UInt8]) -> TreeMatcher.Match {
      TreeMatcher.match(bytes, count: heads.count, length: { vault.length(.data, $0) }) { heads[$0] }
    }
    #expect(match(tree).isWhole && match(tree).count == 3)
    for cut in 0..<tree.count { #expect(!match(Array(tree.prefix(cut))).isWhole) }
    for index in tree.indices {
      var other = tree
      other[index] ^= 1
      #expect(!match(other).isWhole, "byte \(index)")
    }
    #expect(!match(tree + [10]).isWhole)
    #expect(
      !TreeMatcher.match(tree, count: 2, length: { vault.length(.data, $0) }) { heads[$0] }.isWhole, "one is gone")
    vault.remove(.data, nodes[2].content[0])
    #expect(match(tree).count == 2, "the last one has lost its content")
  }

  @Test func `a tree whose nodes are out of order is understood all the same`() async throws {
    let directory = try TemporaryDirectory("order")
    let source = directory.file("source")
    try Files.createDirectory(source)
    for name in ["a", "b", "c"] { try Files.replace("\(source)/\(name)", with: Array(name.utf8)) }
    let vault = MemoryVault()
    let before = try await archive(source, in: vault)
    let nodes = try TreeParser.parse(try await vault.load(.tree, before.source))
    vault.put(.tree, before.source, TreeEncoder.join([0, 2, 1].map { TreeEncoder.encode(nodes[$0]) }))
    try Files.removeTree("\(source)/b")
    let after = try await archive(source, in: vault, parent: SnapshotTree(reader: vault, root: before.tree.root))
    #expect(after.source == (try await archive(source, in: MemoryVault())).source)
    #expect(after.report.unchangedFiles == 2)
  }

  @Test func `a tree that is missing is told only where there is still a directory`() async throws {
    let directory = try TemporaryDirectory("missing")
    let source = directory.file("source")
    for name in ["gone", "kept", "lost"] { try make("\(source)/\(name)", ["file": Array(name.utf8)]) }
    let vault = MemoryVault()
    let before = try await archive(source, in: vault)
    let tree = SnapshotTree(reader: vault, root: before.tree.root)
    let gone = try await tree.tree(at: TreePath("\(source)/gone"))
    let lost = try await tree.tree(at: TreePath("\(source)/lost"))
    for id in [gone, lost] { vault.remove(.tree, id) }
    try Files.removeTree("\(source)/gone")
    let after = try await archive(source, in: vault, parent: tree)
    #expect(after.report.unchangedFiles == 1)
    #expect(after.report.notes.count == 1 && after.report.notes[0].contains(lost.short), "\(after.report.notes)")
  }

  /// Says that each tree has 4 MiB, and how many were asked for at once.
  private final class HugeTrees: BlobReader {
    let vault: MemoryVault
    let most = Mutex(0)

    init(_ vault: MemoryVault) { self.vault = vault }
    func load(_ kind: BlobKind, _ id: BlobID) async throws(VaultError) -> [UInt8] { try await vault.load(kind, id) }
    func contains(_ kind: BlobKind, _ id: BlobID) -> Bool { vault.contains(kind, id) }
    func length(_ kind: BlobKind, _ id: BlobID) -> Int? {
      kind == .tree ? vault.length(kind, id).map { _ in 4 << 20 } : vault.length(kind, id)
    }
    func loadMany(
      _ kind: BlobKind, _ ids: [BlobID], parallel: Int,
      _ each: @escaping @Sendable (BlobID, [UInt8]) async throws(VaultError) -> Void
    ) async throws(VaultError) {
      most.withLock { $0 = max($0, ids.count) }
      try await vault.loadMany(kind, ids, parallel: parallel, each)
    }
  }

  @Test func `of trees that are huge only a few are loaded at once`() async throws {
    let directory = try TemporaryDirectory("huge")
    let source = directory.file("source")
    for number in 0..<40 { try make("\(source)/\(number)", ["file": Array("\(number)".utf8)]) }
    let vault = MemoryVault()
    let before = try await archive(source, in: vault)
    let reader = HugeTrees(vault)
    let after = try await archive(source, in: vault, parent: SnapshotTree(reader: reader, root: before.tree.root))
    #expect(after.source == before.source && after.report.unchangedFiles == 40)
    #expect(reader.most.withLock { $0 } <= 4)
  }

  // MARK: Surveys

  @Test func `a directory that can't be read is left out where everything else is as it was`() async throws {
    let directory = try TemporaryDirectory("left-out")
    let source = directory.file("source")
    // Each is a piece of the survey: the last one is listed when the first has been taken in.
    for name in ["a", "b"] {
      try make("\(source)/\(name)", Dictionary(uniqueKeysWithValues: (0..<1100).map { ("\($0)", []) }))
    }
    for name in ["y", "z"] { try make("\(source)/\(name)", ["file": Array(name.utf8)]) }
    let vault = MemoryVault()
    let before = try await archive(source, in: vault)
    let builder = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
    let report = try await builder.archive(
      try Survey([source], ahead: 1),
      ArchiveOptions(parent: SnapshotTree(reader: vault, root: before.tree.root)) { _ in
        try? Files.removeTree("\(source)/z")
      })
    let tree = SnapshotTree(reader: vault, root: try await builder.finish().root)
    #expect(report.problems.count == 1 && report.problems.allSatisfy { $0.contains("/z") }, "\(report.problems)")
    let names = try await tree.nodes(of: try await tree.tree(at: TreePath(source))).map(\.name)
    #expect(names == ["a", "b", "y"])
  }

  @Test func `a survey that was cancelled is not taken for whole`() async throws {
    let directory = try TemporaryDirectory("cancelled")
    try Files.replace(directory.file("file"), with: [1])
    let survey = try Survey([directory.path])
    await withTaskGroup(of: Void.self) { group in
      group.cancelAll()
      group.addTask { await survey.run() }
    }
    let builder = SnapshotBuilder(writer: MemoryVault(), polynomial: somePolynomial)
    await #expect(throws: TreeError.self) { _ = try await builder.archive(survey) }
  }

  @Test func `a survey stays a bounded way ahead, and finds everything in order`() async throws {
    let directory = try TemporaryDirectory("survey")
    for number in 0..<40 {
      try Files.createDirectory(directory.file("\(number)"))
      for file in 0..<100 { try Files.replace(directory.file("\(number)/\(file)"), with: []) }
    }
    let survey = try Survey([directory.path], ahead: 50)
    var found: [TreePath] = []
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { await survey.run() }
      var most = 0
      while case let steps = await survey.next(), !steps.isEmpty {
        most = max(most, steps.reduce(0) { $0 + $1.entries.count })
        // Whoever lists has time to run ahead.
        try await Task.sleep(for: .milliseconds(20))
        for step in steps where step.depth > 0 { found += step.entries.map { step.path.appending($0.name) } }
      }
      #expect(most < 2500, "\(most) of 4040 at once")
    }
    let prefix = TreePath(directory.path)
    let all = try TreeReader.scan(directory.path).map { prefix.appending($0.path) }
    #expect(found.count == all.count && Set(found) == Set(all))
  }

  @Test(.timeLimit(.minutes(10))) func `a survey that nobody listens to ends when it is cancelled`() async throws {
    let directory = try TemporaryDirectory("unheard")
    for number in 0..<2000 { try Files.replace(directory.file("\(number)"), with: []) }
    let survey = try Survey([directory.path, "/usr/share"], ahead: 1)
    await withTaskGroup(of: Void.self) { group in
      group.addTask { await survey.run() }
      try? await Task.sleep(for: .milliseconds(50))
      group.cancelAll()
    }
  }

  @Test func `a directory that was replaced since it was listed is not taken for it`() async throws {
    let directory = try TemporaryDirectory("replaced")
    let source = directory.file("source")
    for name in ["kept", "gone", "other"] {
      try Files.createDirectory("\(source)/\(name)")
      try Files.replace("\(source)/\(name)/file", with: Array(name.utf8))
    }
    let survey = try Survey([source])
    await survey.run()
    try Files.rename("\(source)/other", to: directory.file("aside"))
    try Files.createDirectory("\(source)/other")
    try Files.replace("\(source)/other/file", with: [1, 2, 3])
    try Files.removeTree("\(source)/gone")
    let vault = MemoryVault()
    let (tree, _, report) = try await archive(source, in: vault, survey: survey)
    #expect(report.problems.count == 2, "\(report.problems)")
    #expect(report.problems.contains { $0.contains("/other") } && report.problems.contains { $0.contains("/gone") })
    let nodes = try await SnapshotTree(reader: vault, root: tree.root).allNodes(below: TreePath(source))
    #expect(nodes.filter { $0.node.metadata.kind.isRegular }.map(\.path) == ["kept/file"])
  }
}
