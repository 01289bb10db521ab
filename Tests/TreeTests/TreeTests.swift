import Core
import Foundation
import IO
import TestSupport
import Testing
import Vault

/// How many generated trees: `SALVOR_TREE_COUNT`, from `SALVOR_TREE_SEED` on.
enum TreeSeeds {
  static let first = ProcessInfo.processInfo.environment["SALVOR_TREE_SEED"].flatMap { UInt64($0) } ?? 1
  static let count = ProcessInfo.processInfo.environment["SALVOR_TREE_COUNT"].flatMap { Int($0) } ?? 40
  static var all: [UInt64] { (0..<count).map { first &+ UInt64($0) } }
}

/// Any irreducible one does where restic isn't asked.
let somePolynomial = 0x3D_A335_8B4D_C173 as UInt64

@Suite("Trees in a vault in memory")
struct TreeRoundTripTests {
  @Test(arguments: TreeSeeds.all)
  func `what is brought back equals what was taken`(_ seed: UInt64) async throws {
    let directory = try TemporaryDirectory("tree")
    let source = directory.file("source")
    try TreeMaker.make(seed: seed, at: source)
    let vault = MemoryVault()
    let builder = SnapshotBuilder(writer: vault, polynomial: somePolynomial, keepsAccessTimes: true)
    let report = try await builder.archive(try Survey([source]))
    #expect(report.problems == [])
    let built = try await builder.finish()
    let tree = SnapshotTree(reader: vault, root: built.root)
    let restored = try await tree.restore(TreePath(source), to: directory.file("target"))
    #expect(restored.failures == [])
    let differences = try TreeComparison.differences(source, directory.file("target"))
    #expect(differences == [], "seed \(seed)")
  }
}
