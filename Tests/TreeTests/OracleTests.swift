import Core
import Foundation
import IO
import TestSupport
import Testing
import Vault

/// How many cases, from which seed on: `SALVOR_ORACLE`, `SALVOR_SEED`.
struct OracleOptions {
  private static func number(_ name: String) -> UInt64? {
    ProcessInfo.processInfo.environment[name].flatMap { UInt64($0) }
  }
  static let generations = 3
  static let seed = number("SALVOR_SEED") ?? 1
  static let subtrees = max(1, (number("SALVOR_ORACLE") ?? 540) / UInt64(generations))
}

/// Salvor and restic take turns on one repository, over generated trees that change between backups.
///
/// A case is one generated subtree in one of its generations. Each is taken by both programs, brought back by each from
/// the other's snapshot, and listed by both from both snapshots; it is compared by itself, under its own seed. Many
/// subtrees go into one backup because every call of restic costs half a second before it begins.
@Suite("Generated trees, judged by restic both ways", .serialized)
struct OracleTests {
  /// What each program made of one generation.
  struct Generation {
    var ours: Digest
    var theirs: Digest
  }

  private struct Stage {
    let directory: TemporaryDirectory
    let restic: Restic
    var source: String { directory.file("source") }
    let seeds: [UInt64]
    func place(_ seed: UInt64) -> String { "\(source)/case-\(seed)" }
  }

  @Test(.timeLimit(.minutes(60)))
  func `what either program takes, the other lists and brings back`() async throws {
    let directory = try TemporaryDirectory("oracle")
    let stage = Stage(
      directory: directory, restic: try await Restic.initialised(in: directory),
      seeds: (0..<OracleOptions.subtrees).map { OracleOptions.seed &+ $0 })
    try Files.createDirectory(stage.source)
    var generations: [Generation] = []
    var cases = 0
    for number in 0..<OracleOptions.generations {
      for seed in stage.seeds {
        if number == 0 {
          try TreeMaker.make(seed: seed, at: stage.place(seed), entries: 14, lossyLinks: false)
        } else {
          try TreeChanges.make(seed: seed &+ UInt64(number) &* 1_000_003, at: stage.place(seed))
        }
      }
      // Who comes second stores no content: pieces are cut alike, and found.
      let before = generations.last
      var ours: Digest
      var theirs: Digest
      if number % 2 == 0 {
        ours = try await salvorTakes(stage, parent: before?.theirs, isFirst: true)
        theirs = try await resticTakes(stage, parent: ours, isFirst: false)
      } else {
        theirs = try await resticTakes(stage, parent: before?.ours, isFirst: true)
        ours = try await salvorTakes(stage, parent: theirs, isFirst: false)
      }
      if number == 1, let before {
        // restic removes what only the first generation had.
        try await stage.restic("forget", before.ours.hex, before.theirs.hex, "--prune", "--max-unused", "0")
      }
      if number == 2, let before {
        let repository = try await stage.restic.opened()
        try await repository.withLock(exclusive: true) {
          try await repository.forget(before.ours)
          try await repository.forget(before.theirs)
          var options = PruneOptions()
          options.maxUnused = .bytes(0)
          _ = try await repository.prune(options)
        }
      }
      let generation = Generation(ours: ours, theirs: theirs)
      cases += try await compare(stage, generation, number)
      generations.append(generation)
    }
    let check = try await stage.restic("check", "--read-data")
    #expect(check.text.contains("no errors were found"))
    #expect(try await stage.restic.opened().check(readData: true).isSound)
    print("cases: \(cases), from seed \(OracleOptions.seed)")
    #expect(cases == stage.seeds.count * OracleOptions.generations)
  }

  // MARK: Taking

  private func salvorTakes(_ stage: Stage, parent: Digest?, isFirst: Bool) async throws -> Digest {
    var root: BlobID?
    if let parent { root = try await stage.restic.opened().loadSnapshot(parent).tree }
    let (report, built, snapshot) = try await stage.restic.salvorBackup([stage.source], parent: root)
    #expect(report.problems == [])
    if !isFirst {
      #expect(built.totals.addedBytes == 0, "content that restic stored is known")
      #expect(report.unchangedFiles == built.totals.files, "nothing has changed since restic")
    }
    return snapshot
  }

  private func resticTakes(_ stage: Stage, parent: Digest?, isFirst: Bool) async throws -> Digest {
    let known = Set(try await stage.restic.opened().snapshots().map(\.id))
    var words = ["-r", stage.restic.repository, "--no-cache", "backup", "--json", stage.source]
    if let parent { words += ["--parent", parent.hex] }
    let text = try await stage.restic.run("/usr/bin/restic", words).text
    let summary = try CanonicalJSON.decode(
      JSONValue.self, from: Array(try #require(text.split(separator: "\n").last).utf8))
    if !isFirst {
      #expect(summary["data_blobs"] == 0, "content that we stored is known: \(summary)")
      #expect(summary["files_new"] == 0 && summary["files_changed"] == 0, "nothing has changed since: \(summary)")
    }
    return try #require(try await stage.restic.opened().snapshots().map(\.id).first { !known.contains($0) })
  }

  // MARK: Comparing

  /// - Returns: How many cases were looked at.
  private func compare(_ stage: Stage, _ generation: Generation, _ number: Int) async throws -> Int {
    let (byRestic, bySalvor) = (stage.directory.file("by-restic"), stage.directory.file("by-salvor"))
    try await stage.restic("restore", generation.ours.hex, "--target", byRestic)
    let repository = try await stage.restic.opened()
    let theirTree = SnapshotTree(reader: repository, root: try await repository.loadSnapshot(generation.theirs).tree)
    let report = try await theirTree.restore(TreePath(stage.source), to: bySalvor)
    #expect(report.failures == [])
    let ourTree = SnapshotTree(reader: repository, root: try await repository.loadSnapshot(generation.ours).tree)
    let (ours, theirs) = (try await nodes(of: ourTree, stage), try await nodes(of: theirTree, stage))
    let ourListing = try await resticLists(generation.ours, stage)
    let theirListing = try await resticLists(generation.theirs, stage)
    for seed in stage.seeds {
      let again = "generation \(number + 1), SALVOR_ORACLE=\(OracleOptions.generations) SALVOR_SEED=\(seed)"
      let name = "case-\(seed)"
      // restic 0.14 makes no sockets, and knows no attributes of symbolic links.
      #expect(
        try TreeComparison.differences(
          stage.place(seed), byRestic + stage.place(seed), compareSockets: false, compareLinkAttributes: false,
          compareAccessTimes: false) == [], "restic from ours: \(again)")
      #expect(
        try TreeComparison.differences(
          stage.place(seed), "\(bySalvor)/\(name)", compareSockets: false, compareLinkAttributes: false,
          compareAccessTimes: false) == [], "Salvor from restic's: \(again)")
      let (a, b) = (ours[name] ?? [], theirs[name] ?? [])
      // restic 0.14 leaves sockets out.
      let common = a.filter { $0.node.metadata.kind != .socket }
      #expect(!a.isEmpty && common.map(\.path) == b.map(\.path), "\(again)")
      for (x, y) in zip(common, b) { #expect(plain(x.node) == plain(y.node), "\(x.path): \(again)") }
      #expect(lines(a) == ourListing[name] ?? [], "restic lists ours: \(again)")
      #expect(lines(b) == theirListing[name] ?? [], "restic lists its own: \(again)")
    }
    try Files.removeTree(byRestic)
    try Files.removeTree(bySalvor)
    return stage.seeds.count
  }

  private typealias Nodes = [String: [(path: TreePath, node: TreeNode)]]

  /// By case, with paths as in the snapshot.
  private func nodes(of tree: SnapshotTree, _ stage: Stage) async throws -> Nodes {
    let source = TreePath(stage.source)
    var result: Nodes = [:]
    for (path, node) in try await tree.allNodes(below: source) {
      guard let name = path.components.first?.lossyText else { continue }
      result[name, default: []].append((source.appending(path), node))
    }
    return result
  }

  /// A node without what restic 0.14 doesn't take.
  private func plain(_ node: TreeNode) -> TreeNode {
    var node = node
    if case .symbolicLink = node.metadata.kind { node.metadata.extendedAttributes = [] }
    // We sort them by name, restic keeps the file system's order.
    node.metadata.extendedAttributes.sort { $0.name < $1.name }
    // Names of trees differ if anything below does.
    node.subtree = nil
    return node
  }

  private func lines(_ nodes: [(path: TreePath, node: TreeNode)]) -> [[UInt8]] {
    nodes.map { TreeListing.json($0.path, $0.node) }
  }

  private func resticLists(_ snapshot: Digest, _ stage: Stage) async throws -> [String: [[UInt8]]] {
    let start = Array("\"path\":\"\(stage.source)/".utf8)
    var result: [String: [[UInt8]]] = [:]
    for line in try await stage.restic("ls", snapshot.hex, "--json").output.split(separator: 10).dropFirst() {
      guard let place = line.firstRange(of: start) else { continue }
      let name = line[place.upperBound...].prefix { $0 != 47 && $0 != 34 }
      result[String(decoding: name, as: UTF8.self), default: []].append(Array(line))
    }
    return result
  }
}
