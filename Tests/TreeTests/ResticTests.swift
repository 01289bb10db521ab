import Core
import Foundation
import IO
import ObjectStoreLocal
import TestSupport
import Testing
import Vault

extension Restic {
  func opened() async throws -> Repository {
    try await Repository.open(store: LocalObjectStore(repository), password: Secret(password))
  }

  /// Takes `paths` as `salvor` would, under a lock, with a snapshot at the end.
  @discardableResult
  func salvorBackup(
    _ paths: [String], parent: BlobID? = nil
  ) async throws -> (report: ArchiveReport, built: BuiltTree, snapshot: Digest) {
    let repository = try await opened()
    return try await repository.withLock {
      let builder = SnapshotBuilder(repository)
      let options = ArchiveOptions(parent: parent.map { SnapshotTree(reader: repository, root: $0) })
      let report = try await builder.archive(try Survey(paths), options)
      let built = try await builder.finish()
      try await repository.flush()
      let snapshot = try await repository.save(
        Snapshot(time: SystemTime().now(), tree: built.root, paths: paths, hostname: "test"))
      return (report, built, snapshot)
    }
  }
}

@Suite("Trees, judged by restic")
struct ResticTests {
  @Test func `restic's own trees come out of the encoder byte for byte`() async throws {
    let directory = try TemporaryDirectory("restic")
    let restic = try await Restic.initialised(in: directory)
    let source = directory.file("source")
    try NameMaker.make(at: source + "/names")
    for seed in TreeSeeds.all.prefix(15) { try TreeMaker.make(seed: seed, at: "\(source)/\(seed)", lossyLinks: false) }
    try await restic("backup", source)
    let repository = try await restic.opened()
    var compared = 0
    for id in repository.blobIDs(.tree) {
      let bytes = try await repository.load(.tree, id)
      let nodes = try TreeParser.parse(bytes)
      let again = TreeEncoder.encode(nodes)
      let common = zip(bytes, again).prefix { $0 == $1 }.count
      func around(_ bytes: [UInt8]) -> String {
        String(decoding: bytes.dropFirst(max(0, common - 80)).prefix(160), as: UTF8.self)
      }
      #expect(Digest.of(again) == id, "…\(around(bytes))… became …\(around(again))…")
      compared += 1
    }
    #expect(compared > 20)
    // Every name is the name on disk.
    let names = try await SnapshotTree(reader: repository, root: try await restic.newestRoot())
      .allNodes(below: TreePath(source + "/names")).map(\.path)
    #expect(names == (try TreeReader.scan(source + "/names").map(\.path)))
    // What restic wrote comes back.
    let tree = SnapshotTree(reader: repository, root: try await restic.newestRoot())
    let report = try await tree.restore(TreePath(source), to: directory.file("target"))
    #expect(report.failures == [])
    // restic 0.14 takes neither sockets nor attributes of symbolic links.
    let differences = try TreeComparison.differences(
      source, directory.file("target"), compareSockets: false, compareLinkAttributes: false,
      compareAccessTimes: false)
    #expect(differences == [])
  }

  @Test func `chunks are restic's chunks`() async throws {
    let directory = try TemporaryDirectory("chunks")
    let restic = try await Restic.initialised(in: directory)
    let source = directory.file("source")
    try Files.createDirectory(source)
    try Files.replace(source + "/random", with: makeNoise(20 << 20, seed: 7))
    try Files.replace(source + "/zeros", with: [UInt8](repeating: 0, count: 3_000_000))
    try Files.replace(source + "/minimum", with: makeNoise(512 << 10, seed: 8))
    try Files.replace(source + "/more", with: makeNoise(512 << 10 + 1, seed: 9))
    try await restic("backup", source)
    let repository = try await restic.opened()
    let theirs = try await SnapshotTree(reader: repository, root: try await restic.newestRoot())
      .allNodes(below: TreePath(source))
    let vault = MemoryVault()
    let builder = SnapshotBuilder(writer: vault, polynomial: repository.config.chunkerPolynomial)
    _ = try await builder.archive(try Survey([source]))
    let ours = try await SnapshotTree(reader: vault, root: try await builder.finish().root)
      .allNodes(below: TreePath(source))
    #expect(ours.map(\.node.content) == theirs.map(\.node.content))
    #expect(theirs.first { $0.path == "random" }.map { $0.node.content.count > 8 } == true)
    // The nodes too, in every field: the file system says the same to both.
    #expect(ours.map(\.node) == theirs.map(\.node))
  }

  @Test func `what we write, restic checks and restores`() async throws {
    let directory = try TemporaryDirectory("judge")
    let restic = try await Restic.initialised(in: directory)
    let source = directory.file("source")
    for seed in TreeSeeds.all {
      try TreeMaker.make(seed: seed, at: "\(source)/\(seed)", entries: 40, lossyLinks: false)
    }
    let (report, built, ours) = try await restic.salvorBackup([source])
    #expect(report.problems == [])
    let check = try await restic("check", "--read-data")
    #expect(check.text.contains("no errors were found"))
    try await restic("restore", "latest", "--target", directory.file("target"))
    // restic 0.14 makes no sockets, and sets no attributes of symbolic links.
    let differences = try TreeComparison.differences(
      source, directory.file("target") + source, compareSockets: false, compareLinkAttributes: false,
      compareAccessTimes: false)
    #expect(differences == [])

    let nodes = try await SnapshotTree(reader: try await restic.opened(), root: built.root).allNodes()
    #expect(nodes.count == Int(built.totals.files + built.totals.directories + built.totals.others))
    let listed = try await restic("ls", "latest", "--json").output
    let ourList = nodes.map { TreeListing.json($0.path, $0.node) }
    #expect(listed.split(separator: 10).dropFirst().map { Array($0) } == ourList)
    let long = try await restic("ls", "latest", "--long").output
    let ourLong = nodes.map { TreeListing.long($0.path, $0.node) }
    let expected = ourLong.reduce(into: [UInt8]()) { text, line in text += [10] + line } + [10]
    let found = Array(long[(long.firstIndex(of: 10) ?? 0)...])
    let common = zip(found, expected).prefix { $0 == $1 }.count
    func around(_ bytes: [UInt8]) -> String {
      String(decoding: bytes.dropFirst(max(0, common - 80)).prefix(160), as: UTF8.self)
    }
    #expect(found == expected, "…\(around(found))… is not …\(around(expected))…")

    // Over our snapshot, restic finds every file unchanged.
    let again = try await restic("backup", "--json", "--parent", ours.hex, source).text
    #expect(again.contains("\"files_new\":0,\"files_changed\":0"), "\(again.split(separator: "\n").last ?? "")")
    let theirs = try await restic.newestRoot()

    // Over restic's, so do we. A link that restic 0.14 could not keep doesn't trouble its check.
    #expect(withPath([0xff, 0x41]) { symlink($0, source + "/link") } == 0)
    let (second, _, latest) = try await restic.salvorBackup([source], parent: theirs)
    #expect(second.unchangedFiles == built.totals.files)
    #expect(try await restic("check").text.contains("no errors were found"))
    let diff = try await restic("diff", ours.hex, latest.hex).text
    #expect(diff.contains("Files:           0 new,     0 removed,     0 changed"), "\(diff)")
    #expect(diff.contains("Others:          1 new,     0 removed"))
  }
}

/// Files whose names cover every byte and the runes Go treats differently.
enum NameMaker {
  static func make(at directory: String) throws {
    try Files.createDirectory(directory)
    for byte in UInt8(1)...255 where byte != 47 {
      try touch(directory, [byte] == [46] ? [46, 97] : [byte])
      try touch(directory, [97, byte, 98])
    }
    // All scalars that begin a new run of printable or unprintable ones somewhere, and a sweep over the rest.
    var name: [UInt8] = []
    for value in stride(from: UInt32(0x80), to: 0x110000, by: 1)
    where value < 0x3400 || value % 37 == 0 || (0xfb00..<0x1fc00).contains(value) {
      guard let scalar = Unicode.Scalar(value) else { continue }
      let encoded = Array(String(Character(scalar)).utf8)
      if name.count + encoded.count > 255 {
        try touch(directory, name)
        name = []
      }
      name += encoded
    }
    try touch(directory, name)
    try touch(directory, Array("\u{ed}\u{a0}".utf8) + [0xed, 0xa0, 0x80])
    try touch(directory, [0xf0, 0x90, 0x80])
    try touch(directory, [0xc0, 0xaf])
  }

  private static func touch(_ directory: String, _ name: [UInt8]) throws {
    let path = Array(directory.utf8) + [47] + name
    let descriptor = withPath(path) { open($0, O_RDWR | O_CREAT, 0o600) }
    try check(descriptor, "open")
    close(descriptor)
  }
}
