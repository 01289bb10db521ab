import Core
import IO

/// A tree without what was to be left out.
package struct RewrittenTree: Hashable, Sendable {
  package var root: BlobID
  package var removedFiles = 0
  package var removedDirectories = 0
  package var removedOthers = 0
  /// Bytes of the files that were left out, as a restore would have written them.
  package var removedBytes: Int64 = 0
}

extension Repository {
  /// Writes a tree anew without what `patterns` match; content is not touched, and trees that stay the same stay.
  ///
  /// Everything is decided before the first tree is written; a crash leaves trees that nobody refers to.
  ///
  /// - Parameter isDryRun: Writes nothing; the root is then the one that would be.
  /// - Throws: `VaultError.treeUnfamiliar` for a directory that says things this version would lose.
  package func rewrite(
    tree root: BlobID, excluding patterns: [ExcludePattern], isDryRun: Bool = false
  ) async throws(TreeError) -> RewrittenTree {
    let trees = try await SnapshotTree(reader: self, root: root, pool: settings.pool).allTrees(below: root)
    let run = TreeRewrite(repository: self, trees: trees, patterns: patterns, isDryRun: isDryRun)
    var result = RewrittenTree(root: root)
    var count = 0
    result.root = try await run.filter(root, at: TreePath(), &result, &count)
    return result
  }
}

private struct TreeRewrite {
  let repository: Repository
  let trees: SnapshotTree.LoadedTrees
  let patterns: [ExcludePattern]
  let isDryRun: Bool

  func filter(
    _ id: BlobID, at path: TreePath, _ result: inout RewrittenTree, _ count: inout Int
  ) async throws(TreeError) -> BlobID {
    let nodes = trees.nodes(id)
    var kept: [TreeNode] = []
    for var node in nodes {
      count += 1
      if count > trees.entryLimit { throw .tooManyEntries(limit: trees.entryLimit) }
      let place = path.appending(node.name)
      if patterns.contains(where: { $0.matches(place) }) {
        try leaveOut(node, at: place, &result, &count)
        continue
      }
      if let subtree = node.subtree {
        if place.components.count >= TreeLimits.depth { throw .tooDeep(place) }
        node.subtree = try await filter(subtree, at: place, &result, &count)
      }
      kept.append(node)
    }
    if kept == nodes { return id }
    do throws(VaultError) {
      guard try await repository.load(.tree, id) == TreeEncoder.encode(nodes) else { throw .treeUnfamiliar(id) }
      let json = TreeEncoder.encode(kept)
      return isDryRun ? Digest.of(json) : try await repository.save(.tree, json).id
    } catch { throw .vault(error) }
  }

  /// Counts what goes, with all that is below it.
  private func leaveOut(
    _ node: TreeNode, at path: TreePath, _ result: inout RewrittenTree, _ count: inout Int
  ) throws(TreeError) {
    var pending = [node]
    while let node = pending.popLast() {
      count += 1
      if count > trees.entryLimit { throw .tooManyEntries(limit: trees.entryLimit) }
      switch node.metadata.kind {
      case .regular:
        result.removedFiles += 1
        result.removedBytes &+= node.metadata.size
      case .directory: result.removedDirectories += 1
      default: result.removedOthers += 1
      }
      if let subtree = node.subtree { pending += trees.nodes(subtree) }
    }
  }
}
