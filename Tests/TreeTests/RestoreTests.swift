import Core
import Foundation
import IO
import Synchronization
import TestSupport
import Testing

@testable import Vault

@Suite("Restores that must not go wrong")
struct RestoreTests {
  private func tree(_ entries: [(TreePath, FileKind, [UInt8])], in vault: MemoryVault) async throws -> SnapshotTree {
    let builder = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
    for (path, kind, bytes) in entries {
      let source: OpenSource? = if kind == .regular { { MemorySource(bytes) } } else { nil }
      _ = try await builder.add(
        path, FileMetadata(kind: kind, permissions: 0o755, modified: Timestamp(seconds: 8)), cutting: .content,
        content: source)
    }
    return SnapshotTree(reader: vault, root: try await builder.finish().root)
  }

  @Test func `a target that is not empty is left alone`() async throws {
    let directory = try TemporaryDirectory("restore")
    try Files.replace(directory.file("mine"), with: [1])
    let tree = try await tree([("a", .regular, [2])], in: MemoryVault())
    await #expect { try await tree.restore(to: directory.path) } throws: {
      ($0 as? TreeError)?.report.code == "TREE-302"
    }
    #expect(try Files.names(in: directory.path) == ["mine"])
    let report = try await tree.restore(to: directory.path, RestoreOptions(overwrite: .besides))
    #expect(report.failures == [])
    #expect(try Files.read(directory.file("mine")) == [1])
    let again = try await tree.restore(to: directory.path, RestoreOptions(overwrite: .besides))
    #expect(again.failures.count == 1)
    #expect(try Files.read(directory.file("a")) == [2])
  }

  @Test func `a planted link is not followed`() async throws {
    let directory = try TemporaryDirectory("planted")
    let outside = directory.file("outside")
    try Files.createDirectory(outside)
    let target = directory.file("target")
    try Files.createDirectory(target)
    // Where the snapshot has a directory, an attacker has put a link that leads out.
    #expect(symlink(outside, target + "/d") == 0)
    #expect(symlink(outside + "/file", target + "/f") == 0)
    let tree = try await tree(
      [("d/x", .regular, [1]), ("d/e/y", .regular, [2]), ("f", .regular, [3])], in: MemoryVault())
    await #expect(throws: TreeError.self) {
      let report = try await tree.restore(to: target, RestoreOptions(overwrite: .besides))
      if !report.failures.isEmpty { throw TreeError.partlyRestored(report.failures) }
    }
    #expect(try Files.names(in: outside) == [])
  }

  @Test func `a link of the snapshot's own leads nothing out`() async throws {
    // A forged tree: a link and a directory of the same name are two nodes, which is refused when read.
    let vault = MemoryVault()
    let inner = try await vault.save(.tree, TreeEncoder.encode([])).id
    let link = TreeNode(
      name: "d",
      metadata: FileMetadata(
        kind: .symbolicLink(target: Array("/tmp".utf8)), permissions: 0o777, modified: Timestamp(seconds: 1)))
    let child = TreeNode(
      name: "d", metadata: FileMetadata(kind: .directory, permissions: 0o755, modified: Timestamp(seconds: 1)),
      subtree: inner)
    let root = try await vault.save(.tree, TreeEncoder.encode([link, child])).id
    let directory = try TemporaryDirectory("forged")
    await #expect { try await SnapshotTree(reader: vault, root: root).restore(to: directory.file("t")) } throws: {
      ($0 as? TreeError)?.report.code == "VAULT-130"
    }
    #expect(!Files.exists(directory.file("t")))
  }

  @Test func `a tree that unfolds without end is refused`() async throws {
    let vault = MemoryVault()
    var id = try await vault.save(.tree, TreeEncoder.encode([])).id
    for _ in 0..<40 {
      let nodes = ["a", "b"].map { (name: FileName) in
        TreeNode(
          name: name, metadata: FileMetadata(kind: .directory, permissions: 0o755, modified: Timestamp(seconds: 1)),
          subtree: id)
      }
      id = try await vault.save(.tree, TreeEncoder.encode(nodes)).id
    }
    let tree = SnapshotTree(reader: vault, root: id)
    let directory = try TemporaryDirectory("bomb")
    await #expect { try await tree.restore(to: directory.file("t")) } throws: {
      ($0 as? TreeError)?.report.code == "TREE-104"
    }
    await #expect(throws: AnyFailure.self) { try await tree.entries(below: "") }
    #expect(!Files.exists(directory.file("t")))
  }

  @Test func `an inode's number given away again joins nothing`() async throws {
    let vault = MemoryVault()
    let builder = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
    for (name, byte) in [("a", 1), ("b", 1), ("c", 2)] as [(String, UInt8)] {
      let metadata = FileMetadata(
        kind: .regular, permissions: 0o600, modified: Timestamp(seconds: 1), device: 1, inode: 2, links: 2)
      _ = try await builder.add(TreePath(name), metadata, cutting: .content, content: { MemorySource([byte]) })
    }
    let tree = SnapshotTree(reader: vault, root: try await builder.finish().root)
    let directory = try TemporaryDirectory("reused")
    let report = try await tree.restore(to: directory.file("t"))
    #expect(report.hardLinks == 1)
    #expect(try Files.read(directory.file("t/c")) == [2])
    #expect(try TreeReader.scan(directory.file("t")).map(\.metadata.links) == [2, 2, 1])
  }

  @Test func `parts, dry runs and missing blobs`() async throws {
    let vault = MemoryVault()
    let tree = try await tree(
      [("a/b/c", .regular, [1]), ("a/b/d", .regular, [2, 2]), ("a/x", .regular, [3]), ("y", .fifo, [])], in: vault)
    let directory = try TemporaryDirectory("parts")
    let dry = try await tree.restore(to: directory.file("dry"), RestoreOptions(include: ["a/b"], isDryRun: true))
    #expect(dry.totals.files == 2)
    #expect(dry.totals.bytes == 3)
    #expect(!Files.exists(directory.file("dry")))
    _ = try await tree.restore(to: directory.file("one"), RestoreOptions(include: ["a/b/d"]))
    #expect(try TreeReader.scan(directory.file("one")).map(\.path) == ["a", "a/b", "a/b/d"])
    try await tree.materialise("a/b", at: directory.file("two")) { _ in }
    #expect(try TreeReader.scan(directory.file("two")).map(\.path) == ["c", "d"])
    vault.remove(.data, .of([3]))
    await #expect { try await tree.materialise("", at: directory.file("three")) { _ in } } throws: {
      ($0 as? AnyFailure)?.report.code == "TREE-205"
    }
    #expect(!Files.exists(directory.file("three")))
    await #expect(throws: TreeError.self) { try await tree.restore("a/none", to: directory.file("four")) }
    await #expect(throws: TreeError.self) { try await tree.restore("a/x", to: directory.file("four")) }
  }

  @Test func `runs of zeros come back as holes, and large files whole`() async throws {
    let directory = try TemporaryDirectory("holes")
    var bytes = makeNoise(30 << 20, seed: 5)
    bytes.replaceSubrange(5 << 20..<25 << 20, with: repeatElement(0, count: 20 << 20))
    let tree = try await tree(
      [("big", .regular, bytes), ("zeros", .regular, [UInt8](repeating: 0, count: 3_000_001))], in: MemoryVault())
    try await tree.materialise("", at: directory.file("t")) { _ in }
    #expect(try Files.read(directory.file("t/big")) == bytes)
    var status = stat()
    #expect(stat(directory.file("t/big"), &status) == 0)
    #expect(Int(status.st_blocks) * 512 < 11 << 20)
    #expect(stat(directory.file("t/zeros"), &status) == 0)
    #expect(status.st_size == 3_000_001)
    #expect(status.st_blocks == 0)
  }

  @Test func `paths deeper than the kernel takes at once`() async throws {
    let name = FileName(bytes: [UInt8](repeating: 120, count: 200))
    let path = TreePath([FileName](repeating: name, count: 60) + ["end"])
    let vault = MemoryVault()
    let directory = try TemporaryDirectory("deep")
    let tree = try await tree([(path, .regular, [7])], in: vault)
    try await tree.materialise("", at: directory.file("t")) { _ in }
    let found = try TreeReader.scan(directory.file("t"))
    #expect(found.last?.path == path)
    // And back in again.
    let builder = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
    #expect(try await builder.archive(try Survey([directory.file("t")])).problems == [])
    let again = SnapshotTree(reader: vault, root: try await builder.finish().root)
    #expect(try await again.contents(of: TreePath(directory.file("t")).appending(path), limitBytes: 9) == [7])
    // rm knows how to remove it; Files.removeTree works with whole paths.
    _ = try await Restic(repository: "").run("/bin/rm", ["-rf", directory.file("t")])
  }

  @Test func `access lists as setfacl writes them`() async throws {
    let directory = try TemporaryDirectory("acl")
    let source = directory.file("source")
    try Files.createDirectory(source + "/d")
    try Files.replace(source + "/f", with: [1])
    let tools = Restic(repository: "")
    _ = try await tools.run("/usr/bin/setfacl", ["-m", "u:1234:rwx,g:daemon:r,m::rx", source + "/f"])
    _ = try await tools.run("/usr/bin/setfacl", ["-m", "u:1234:rwx", "-d", "-m", "u:daemon:rw", source + "/d"])
    let vault = MemoryVault()
    let builder = SnapshotBuilder(writer: vault, polynomial: somePolynomial)
    _ = try await builder.archive(try Survey([source]))
    let tree = SnapshotTree(reader: vault, root: try await builder.finish().root)
    try await tree.materialise(TreePath(source), at: directory.file("target")) { _ in }
    func lists(_ path: String) async throws -> String {
      try await tools.run("/usr/bin/getfacl", ["-R", "d", "f"], in: path).text
    }
    #expect(try await lists(source) == lists(directory.file("target")))
    #expect(try await lists(source).contains("user:1234:rwx"))
  }

  @Test func `a failure that was told while more was written is told again where it counts`() async throws {
    let calls = Mutex(0)
    let writeBack = WriteBack {
      let number = calls.withLock {
        $0 += 1
        return $0
      }
      // As syncfs(2) does: one of them hears of it.
      if number == 1 { throw SystemFailure("syncfs", path: "disk", number: EIO) }
    }
    await #expect(throws: SystemFailure.self) {
      try await writeBack.during {
        writeBack.wrote(1 << 30, files: 1)
        while calls.withLock({ $0 }) == 0 { try await Task.sleep(for: .milliseconds(1)) }
        do {
          try await writeBack.synchronize()
          Issue.record("nobody hears of it")
        } catch { #expect(error is SystemFailure) }
      }
    }
    #expect(calls.withLock { $0 } == 1)
  }
}
