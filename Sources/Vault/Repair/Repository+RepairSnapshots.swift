import Core
import IO

/// A snapshot that can't be restored whole, and what became of it.
package struct SnapshotRepair: Sendable {
  package enum Outcome: Hashable, Sendable {
    /// A copy without what is lost; `nil` in a dry run.
    case repaired(Digest?)
    /// Its root can't be read: there is nothing to make a copy of.
    case hopeless
    /// Damaged, and not to be changed.
    case left
  }

  /// Something of a snapshot that is not there any more.
  package struct Loss: Hashable, Sendable {
    package let path: TreePath
    package let what: String
  }

  package let stored: StoredSnapshot
  package var outcome: Outcome
  package var losses: [Loss]
  /// Whether the damaged one is gone, or would be.
  package var isForgotten = false
}

package struct SnapshotRepairOptions: Sendable {
  /// Remove a damaged snapshot when its repaired copy is durable, and one that is hopeless.
  package var forgets = false
  package var isDryRun = false
  /// Snapshots that may be damaged but not changed.
  package var mayChange: @Sendable (StoredSnapshot) -> Bool = { _ in true }
  package var progress: @Sendable (_ done: Int, _ total: Int) -> Void = { _, _ in }

  package init() {}
}

extension Repository {
  /// The tag of a snapshot that has lost something; restic's.
  package static let repairedTag = "repaired"

  /// Makes copies of damaged snapshots without what is lost, so that all the rest can be restored.
  ///
  /// As restic does: a directory that can't be read is left empty, a file has the pieces that are there. What counts as
  /// there is what the indexes list in packs that exist; a damaged pack wants ``repairPacks(_:)`` first. Call it inside
  /// ``withLock(exclusive:wait:loadingIndex:_:)``, exclusive, with the index loaded.
  ///
  /// - Returns: The damaged ones only.
  package func repairSnapshots(
    _ snapshots: [StoredSnapshot], _ options: SnapshotRepairOptions
  ) async throws(VaultError) -> [SnapshotRepair] {
    let listed = try await access { store throws(StoreError) in try await store.list(.data) }
    let run = SnapshotRepairRun(self, packs: Set(listed.compactMap(\.name.id)), isDryRun: options.isDryRun)
    var result: [SnapshotRepair] = []
    for (number, stored) in snapshots.enumerated() {
      options.progress(number, snapshots.count)
      let tree = try await run.rewrite(stored.snapshot.tree, depth: 0)
      if tree.isWhole { continue }
      var repair = SnapshotRepair(stored: stored, outcome: .left, losses: tree.losses)
      if options.mayChange(stored) {
        repair.isForgotten = options.forgets
        if let root = tree.id {
          repair.outcome = .repaired(try await options.isDryRun ? nil : saveRepaired(stored, root))
        } else {
          repair.outcome = .hopeless
        }
        if options.forgets, !options.isDryRun { try await forget(stored.id) }
      }
      result.append(repair)
    }
    return result
  }

  private func saveRepaired(_ stored: StoredSnapshot, _ root: BlobID) async throws(VaultError) -> Digest {
    var repaired = stored.snapshot
    repaired.tree = root
    repaired.original = stored.snapshot.original ?? stored.id
    if !repaired.tags.contains(Self.repairedTag) { repaired.tags.append(Self.repairedTag) }
    return try await save(repaired)
  }
}

/// Rewrites trees; each once, however many snapshots share it.
private final class SnapshotRepairRun {
  struct Tree {
    /// What it becomes; `nil` for one that can't be read.
    var id: BlobID?
    var losses: [SnapshotRepair.Loss] = []
    var isWhole: Bool { id != nil && losses.isEmpty }
  }

  private let repository: Repository
  private let packs: Set<Digest>
  private let isDryRun: Bool
  private var known: [BlobID: Tree] = [:]
  /// More of one tree would only fill the memory.
  private static let lossLimit = 1000

  init(_ repository: Repository, packs: Set<Digest>, isDryRun: Bool) {
    (self.repository, self.packs, self.isDryRun) = (repository, packs, isDryRun)
  }

  func rewrite(_ id: BlobID, depth: Int) async throws(VaultError) -> Tree {
    if let tree = known[id] { return tree }
    let tree = try await rewriteNew(id, depth: depth)
    known[id] = tree
    return tree
  }

  private func rewriteNew(_ id: BlobID, depth: Int) async throws(VaultError) -> Tree {
    let lost = Tree(id: nil, losses: [.init(path: TreePath(), what: "the directory can't be read")])
    guard depth <= TreeLimits.depth else { return lost }
    var nodes: [TreeNode]
    do throws(VaultError) { nodes = try TreeParser.nodes(in: try await repository.load(.tree, id), id: id) } catch {
      switch error {
      case .blobMissing, .treeDamaged: return lost
      // Entries this version knows nothing of are no damage.
      case .outside: return Tree(id: id)
      default:
        guard error.isDamage else { throw error }
        return lost
      }
    }
    var losses: [SnapshotRepair.Loss] = []
    for index in nodes.indices {
      let path = TreePath().appending(nodes[index].name)
      if let subtree = nodes[index].subtree {
        let below = try await rewrite(subtree, depth: depth + 1)
        losses += below.losses.prefix(Self.lossLimit - losses.count)
          .map { .init(path: path.appending($0.path), what: $0.what) }
        if let id = below.id { nodes[index].subtree = id } else { nodes[index].subtree = try await emptyTree() }
      } else if nodes[index].metadata.kind.isRegular, let what = repair(&nodes[index]) {
        if losses.count < Self.lossLimit { losses.append(.init(path: path, what: what)) }
      }
    }
    if losses.isEmpty { return Tree(id: id) }
    return Tree(id: try await save(TreeEncoder.encode(nodes)), losses: losses)
  }

  /// - Returns: What was wrong with the file, if anything was.
  private func repair(_ node: inout TreeNode) -> String? {
    let there = node.content.filter(isThere)
    let missing = node.content.count - there.count
    let bytes = there.reduce(Int64(0)) { $0 + Int64(repository.length(.data, $1) ?? 0) }
    defer { (node.content, node.metadata.size) = (there, bytes) }
    if missing > 0 { return "\(missing) of \(node.content.count) pieces of the file are lost" }
    return bytes == node.metadata.size ? nil : "the file's size was \(node.metadata.size) and is \(bytes)"
  }

  private func isThere(_ id: BlobID) -> Bool {
    repository.index.withLock { state in
      guard let place = state.blobs.place(.data, id) else { return false }
      return packs.contains(place.pack) || state.blobs.otherPlaces(.data, id).contains { packs.contains($0.pack) }
    }
  }

  private func emptyTree() async throws(VaultError) -> BlobID { try await save(TreeEncoder.encode([])) }

  private func save(_ json: [UInt8]) async throws(VaultError) -> BlobID {
    isDryRun ? Digest.of(json) : try await repository.save(.tree, json).id
  }
}
