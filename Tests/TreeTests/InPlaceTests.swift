import CShim
import Core
import IO
import Synchronization
import TestSupport
import Testing
import Vault

#if canImport(Glibc)
  import Glibc
#endif

@Suite("Restores in place") struct InPlaceTests {
  /// Gives blobs of a vault, counts them, and fails at the one it is told to.
  private final class Watched: BlobReader {
    let vault: MemoryVault
    private let state = Mutex((loaded: [BlobID](), broken: Set<BlobID>()))

    init(_ vault: MemoryVault) { self.vault = vault }

    var loaded: [BlobID] { state.withLock { $0.loaded } }

    func forget() { state.withLock { $0.loaded = [] } }

    func fail(at ids: Set<BlobID>) { state.withLock { $0.broken = ids } }

    func load(_ kind: BlobKind, _ id: BlobID) async throws(VaultError) -> [UInt8] { try await vault.load(kind, id) }

    func contains(_ kind: BlobKind, _ id: BlobID) -> Bool { vault.contains(kind, id) }

    func length(_ kind: BlobKind, _ id: BlobID) -> Int? { vault.length(kind, id) }

    func loadMany(
      _ kind: BlobKind, _ ids: [BlobID], parallel: Int,
      _ each: @escaping @Sendable (BlobID, [UInt8]) async throws(VaultError) -> Void
    ) async throws(VaultError) {
      try await vault.loadMany(kind, ids, parallel: parallel) { [self] (id, bytes) async throws(VaultError) -> Void in
        let isBroken = state.withLock { state in
          if kind == .data { state.loaded.append(id) }
          return state.broken.contains(id)
        }
        if isBroken { throw .blobMissing(kind, id) }
        try await each(id, bytes)
      }
    }
  }

  private let part = 10_000

  private func bytes(_ seed: UInt64, parts: Int) -> [UInt8] { SeededRandomness(seed: seed).bytes(parts * part) }

  /// A file of parts of equal length.
  private func node(
    _ name: FileName, _ content: [UInt8], in vault: MemoryVault, inode: UInt64 = 0, links: UInt64 = 1,
    modified: Int64 = 100, mode: UInt16 = 0o644
  ) async throws -> TreeNode {
    var ids: [BlobID] = []
    for start in stride(from: 0, to: content.count, by: part) {
      ids.append(try await vault.save(.data, Array(content[start..<min(start + part, content.count)])).id)
    }
    return TreeNode(
      name: name,
      metadata: FileMetadata(
        kind: .regular, permissions: mode, userID: geteuid(), groupID: getegid(), size: Int64(content.count),
        modified: Timestamp(seconds: modified), device: inode > 0 ? 1 : 0, inode: inode, links: links),
      content: ids)
  }

  private func tree(_ nodes: [TreeNode], in vault: MemoryVault) async throws -> (SnapshotTree, Watched) {
    let root = try await vault.save(.tree, TreeEncoder.encode(nodes)).id
    let watched = Watched(vault)
    return (SnapshotTree(reader: watched, root: root), watched)
  }

  private func inPlace(
    _ existing: RestoreOptions.Existing = .always, first: [String] = [], isDryRun: Bool = false
  ) -> RestoreOptions {
    RestoreOptions(overwrite: .inPlace(existing), first: first.map { ExcludePattern($0) }, isDryRun: isDryRun)
  }

  private func put(_ path: String, _ bytes: [UInt8], modified: Int = 5) throws {
    let file = try File(path, O_RDWR | O_CREAT | O_TRUNC, mode: 0o640)
    try bytes.withUnsafeBytes { try file.write($0) }
    let time = timespec(tv_sec: modified, tv_nsec: 0)
    #expect(futimens(file.descriptor, [time, time]) == 0)
  }

  /// What is there is found by part, however the file is cut, read and damaged; slices find what one pass does.
  @Test(arguments: 0..<60 as Range<UInt64>) func `parts that are right are found`(seed: UInt64) async throws {
    let random = SeededRandomness(seed: seed)
    let vault = MemoryVault()
    // Some longer than what is compared at once.
    let longest = [3000, 40_000, 700_000, 1_300_000][random.below(4)]
    let usual = 1 + random.below(longest)
    var (content, lengths, ids): ([UInt8], [Int], [BlobID]) = ([], [], [])
    for _ in 0..<1 + random.below(longest > 100_000 ? 6 : 40) {
      lengths.append(seed % 2 == 0 ? usual : 1 + random.below(longest))
      let bytes = random.bytes(lengths[lengths.count - 1])
      ids.append(try await vault.save(.data, bytes).id)
      content += bytes
    }
    var there = content
    for _ in 0..<random.below(4) { there[random.below(there.count)] ^= 1 }
    if random.below(3) == 0 { there.removeLast(random.below(there.count)) }
    if random.below(3) == 0 { there += random.bytes(1 + random.below(2 * longest)) }
    var (kept, start) = (0, 0)
    for length in lengths {
      let range = start..<start + length
      if range.upperBound <= there.count, there[range] == content[range] { kept += length }
      start += length
    }
    let node = TreeNode(
      name: "file",
      metadata: FileMetadata(
        kind: .regular, permissions: 0o644, userID: geteuid(), groupID: getegid(), size: Int64(content.count),
        modified: Timestamp(seconds: 100)), content: ids)
    let (tree, watched) = try await tree([node], in: vault)
    for slice in [Int64(1), 50_000, 16 << 20] {
      let directory = try TemporaryDirectory("parts")
      try put(directory.file("file"), there)
      watched.forget()
      var options = inPlace()
      options.sliceBytes = slice
      let report = try await tree.restore(to: directory.path, options)
      #expect(report.failures == [])
      #expect(report.keptBytes == Int64(kept), "in slices of \(slice)")
      #expect(report.writtenBytes == Int64(content.count - kept))
      #expect(try Files.read(directory.file("file")) == content)
      #expect(Set(watched.loaded).count <= lengths.count)
    }
  }

  @Test func `only what differs is read from the vault and written`() async throws {
    let directory = try TemporaryDirectory("delta")
    let vault = MemoryVault()
    let wanted = bytes(1, parts: 10)
    var zeros = bytes(2, parts: 4)
    zeros.replaceSubrange(part..<2 * part, with: [UInt8](repeating: 0, count: part))
    let (tree, watched) = try await tree(
      [
        try await node("changed", wanted, in: vault), try await node("longer", bytes(3, parts: 3), in: vault),
        try await node("missing", bytes(4, parts: 2), in: vault),
        try await node("right", bytes(5, parts: 2), in: vault),
        try await node("shorter", bytes(6, parts: 3), in: vault), try await node("zeros", zeros, in: vault),
        try await node("empty", [], in: vault), try await node("single", bytes(7, parts: 1), in: vault),
      ], in: vault)
    var there = wanted
    for index in 3 * part + 5..<3 * part + 9 { there[index] ^= 1 }
    try put(directory.file("changed"), there)
    try put(directory.file("longer"), bytes(3, parts: 3) + [1, 2, 3])
    try put(directory.file("right"), bytes(5, parts: 2))
    try put(directory.file("shorter"), Array(bytes(6, parts: 3).prefix(part + 17)))
    try put(directory.file("zeros"), bytes(2, parts: 4))
    try put(directory.file("empty"), [9, 9])
    try put(directory.file("single"), bytes(8, parts: 1))
    try put(directory.file("other"), [1])
    let inode = try File(directory.file("changed"), O_RDONLY).status().st_ino
    let dry = try await tree.restore(to: directory.path, inPlace(isDryRun: true))
    #expect(watched.loaded.isEmpty)
    #expect(try Files.read(directory.file("changed")) == there)

    let report = try await tree.restore(to: directory.path, inPlace())
    #expect(report.failures == [])
    // One of ten, both of what was missing, two of the shorter one, the zeros, and the single one.
    #expect(watched.loaded.count == 7 && report.writtenBytes == Int64(7 * part))
    #expect(report.keptBytes == report.totals.bytes - report.writtenBytes)
    #expect(dry.keptBytes == report.keptBytes && dry.writtenBytes == report.writtenBytes)
    for (name, content) in [
      ("changed", wanted), ("longer", bytes(3, parts: 3)), ("missing", bytes(4, parts: 2)),
      ("right", bytes(5, parts: 2)), ("shorter", bytes(6, parts: 3)), ("zeros", zeros), ("empty", []),
      ("single", bytes(7, parts: 1)), ("other", [1]),
    ] {
      #expect(try Files.read(directory.file(name)) == content, "\(name)")
      let status = try File(directory.file(name), O_RDONLY).status()
      if name != "other" { #expect(status.st_mode & 0o7777 == 0o644 && status.st_mtim.tv_sec == 100, "\(name)") }
      if name == "changed" { #expect(status.st_ino == inode, "the same file") }
    }
    watched.forget()
    let again = try await tree.restore(to: directory.path, inPlace())
    #expect(watched.loaded.isEmpty && again.writtenBytes == 0 && again.keptBytes == again.totals.bytes)
  }

  @Test func `an interrupted restore is taken up`() async throws {
    let directory = try TemporaryDirectory("resumed")
    let vault = MemoryVault()
    var nodes: [TreeNode] = []
    for number in 0..<20 {
      nodes.append(try await node(FileName("f\(10 + number)"), bytes(UInt64(number), parts: 5), in: vault))
    }
    let (tree, watched) = try await tree(nodes, in: vault)
    // Blobs come in order of their names: the hundredth is never had.
    let all = nodes.flatMap(\.content).sorted()
    watched.fail(at: [all[60]])
    let target = directory.file("target")
    await #expect(throws: TreeError.self) { try await tree.restore(to: target) }
    let had = watched.loaded.count
    #expect(had > 30 && had < 100)
    watched.forget()
    watched.fail(at: [])
    let report = try await tree.restore(to: target, inPlace())
    #expect(report.failures == [] && report.keptBytes >= Int64(30 * part))
    #expect(watched.loaded.count == Int(report.writtenBytes) / part)
    for (number, node) in nodes.enumerated() {
      #expect(try Files.read("\(target)/\(node.name.lossyText)") == bytes(UInt64(number), parts: 5))
    }
  }

  @Test func `names outside keep their content, links are not followed, directories are not removed`() async throws {
    let directory = try TemporaryDirectory("hazards")
    let vault = MemoryVault()
    let content = bytes(1, parts: 2)
    let link = TreeNode(
      name: "link",
      metadata: FileMetadata(
        kind: .symbolicLink(target: Array("new".utf8)), permissions: 0o777, userID: geteuid(), groupID: getegid(),
        modified: Timestamp(seconds: 1)))
    let (tree, _) = try await tree(
      [
        try await node("a", content, in: vault, inode: 7, links: 2),
        try await node("b", content, in: vault, inode: 7, links: 2), try await node("directory", content, in: vault),
        try await node("fifo", content, in: vault), try await node("shared", content, in: vault),
        try await node("symlink", content, in: vault), link,
      ], in: vault)
    let (target, outside) = (directory.file("target"), directory.file("outside"))
    try Files.createDirectory(target + "/directory")
    try put(outside, [1, 2, 3])
    try put(target + "/directory/precious", [4])
    #expect(symlink(outside, target + "/symlink") == 0)
    #expect(symlink("old", target + "/link") == 0)
    #expect(Glibc.link(outside, target + "/shared") == 0)
    #expect(mkfifo(target + "/fifo", 0o600) == 0)
    // One file of two names, as in the snapshot: both are the snapshot's own, so it may stay.
    try put(target + "/a", Array(content.prefix(part)) + [1])
    #expect(Glibc.link(target + "/a", target + "/b") == 0)
    let inode = try File(target + "/a", O_RDONLY).status().st_ino

    let report = try await tree.restore(to: target, inPlace())
    #expect(report.failures.count == 1 && report.failures[0].contains("directory"), "\(report.failures)")
    #expect(report.keptBytes == Int64(part))
    #expect(try Files.read(outside) == [1, 2, 3])
    #expect(try Files.read(target + "/directory/precious") == [4])
    for name in ["a", "b", "fifo", "shared", "symlink"] {
      #expect(try Files.read("\(target)/\(name)") == content, "\(name)")
      let status = try File("\(target)/\(name)", O_RDONLY | O_NOFOLLOW).status()
      #expect(status.st_mode & S_IFMT == S_IFREG && status.st_nlink == (name.count == 1 ? 2 : 1), "\(name)")
      if name.count == 1 { #expect(status.st_ino == inode) }
    }
    #expect(try TreeReader.scan(target).contains { $0.path == "link" && $0.metadata.kind == link.metadata.kind })
  }

  @Test func `a link where the snapshot has a directory ends it before anything is written`() async throws {
    let directory = try TemporaryDirectory("planted")
    let vault = MemoryVault()
    let inner = try await vault.save(.tree, TreeEncoder.encode([try await node("x", [1], in: vault)])).id
    let below = TreeNode(
      name: "d",
      metadata: FileMetadata(kind: .directory, permissions: 0o755, modified: Timestamp(seconds: 1)), subtree: inner)
    let (tree, _) = try await tree([try await node("a", [1, 2], in: vault), below], in: vault)
    let (target, outside) = (directory.file("target"), directory.file("outside"))
    try Files.createDirectory(target)
    try Files.createDirectory(outside)
    try put(target + "/a", [7, 7])
    #expect(symlink(outside, target + "/d") == 0)
    await #expect(throws: TreeError.self) { try await tree.restore(to: target, inPlace()) }
    #expect(try Files.read(target + "/a") == [7, 7] && Files.names(in: outside).isEmpty)
  }

  @Test(arguments: RestoreOptions.Existing.allCases)
  func `what is touched is what was asked for`(_ existing: RestoreOptions.Existing) async throws {
    let directory = try TemporaryDirectory("existing")
    let vault = MemoryVault()
    let content = bytes(1, parts: 2)
    let names: [FileName] = ["newer", "older", "same", "absent"]
    var nodes: [TreeNode] = []
    for name in names { nodes.append(try await node(name, content, in: vault)) }
    let (tree, _) = try await tree(nodes, in: vault)
    let other = bytes(2, parts: 2)
    try put(directory.file("newer"), other, modified: 500)
    try put(directory.file("older"), other, modified: 50)
    try put(directory.file("same"), other, modified: 100)
    let report = try await tree.restore(to: directory.path, inPlace(existing))
    let written = try names.filter { try Files.read(directory.file($0.lossyText)) == content }
    switch existing {
    case .always: #expect(written == names && report.leftFiles == 0)
    case .ifChanged: #expect(written == ["newer", "older", "absent"] && report.keptBytes == Int64(2 * part))
    case .ifNewer: #expect(written == ["older", "absent"] && report.leftFiles == 2)
    case .never: #expect(written == ["absent"] && report.leftFiles == 3)
    }
    #expect(report.failures == [])
  }

  @Test func `a program that runs goes on with its own file; attributes that were added go`() async throws {
    let directory = try TemporaryDirectory("busy")
    let vault = MemoryVault()
    let (tree, _) = try await tree(
      [
        try await node("program", bytes(1, parts: 2), in: vault),
        try await node("tagged", bytes(2, parts: 2), in: vault),
        try await node("guarded", bytes(3, parts: 2), in: vault, mode: 0o400),
      ], in: vault)
    // Copied by another program: no process that is started meanwhile may hold it open for writing.
    try await CommandRun(["cp", "/bin/sleep", directory.file("program")]).succeeded()
    try put(directory.file("tagged"), bytes(2, parts: 2))
    try put(directory.file("guarded"), bytes(2, parts: 2))
    #expect(chmod(directory.file("guarded"), 0o400) == 0)
    #expect(salvor_lsetxattr(directory.file("tagged"), "user.stray", "x", 1) == 0)
    let process = try PipedProcess([directory.file("program"), "3000"])
    while (try? File(directory.file("program"), O_WRONLY)) != nil { usleep(1000) }
    let report = try await tree.restore(to: directory.path, inPlace())
    #expect(process.isRunning)
    process.kill()
    #expect(report.failures == [])
    #expect(try Files.read(directory.file("program")) == bytes(1, parts: 2))
    #expect(try Files.read(directory.file("guarded")) == bytes(3, parts: 2))
    #expect(try TreeReader.scan(directory.path).allSatisfy { $0.metadata.extendedAttributes.isEmpty })
  }

  @Test func `what has to come first is whole before others are begun`() async throws {
    let vault = MemoryVault()
    var below: [TreeNode] = []
    for number in 0..<10 {
      below.append(try await node(FileName("f\(number)"), bytes(UInt64(number), parts: 4), in: vault))
    }
    let inner = try await vault.save(.tree, TreeEncoder.encode(below)).id
    let subtree = TreeNode(
      name: "etc", metadata: FileMetadata(kind: .directory, permissions: 0o755, modified: Timestamp(seconds: 1)),
      subtree: inner)
    var top: [TreeNode] = [subtree]
    for number in 0..<10 {
      top.append(try await node(FileName("g\(number)"), bytes(UInt64(20 + number), parts: 4), in: vault))
    }
    top.append(try await node("z.conf", bytes(40, parts: 4), in: vault))
    let (tree, watched) = try await tree(top, in: vault)
    for overwrite in [RestoreOptions.Overwrite.never, .inPlace(.always)] {
      let directory = try TemporaryDirectory("first")
      watched.forget()
      _ = try await tree.restore(
        to: directory.path,
        RestoreOptions(overwrite: overwrite, first: [ExcludePattern("*.conf"), ExcludePattern("/etc")]))
      let loaded = watched.loaded
      #expect(loaded.count == 84)
      #expect(Set(loaded[..<4]) == Set(top[11].content))
      #expect(Set(loaded[4..<44]) == Set(below.flatMap(\.content)))
    }
    // Whatever happens to the others afterwards.
    let directory = try TemporaryDirectory("first")
    watched.fail(at: Set(top[1...10].flatMap(\.content)))
    await #expect(throws: AnyFailure.self) {
      try await tree.materialise(TreePath(), at: directory.path, first: ["etc"]) { _ in }
    }
    for (number, node) in below.enumerated() {
      let path = "\(directory.path)/etc/\(node.name.lossyText)"
      #expect(try Files.read(path) == bytes(UInt64(number), parts: 4))
      #expect(try File(path, O_RDONLY).status().st_mtim.tv_sec == 100)
    }
  }
}
