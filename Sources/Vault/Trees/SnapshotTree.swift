import Core
import IO

/// A snapshot's tree, ready to be listed, read and brought back.
package struct SnapshotTree: TreeSource {
  package let reader: any BlobReader
  package let root: BlobID
  package let pool: BlockingPool

  package init(reader: any BlobReader, root: BlobID, pool: BlockingPool = .shared) {
    (self.reader, self.root, self.pool) = (reader, root, pool)
  }

  // MARK: Nodes

  package func nodes(of tree: BlobID) async throws(TreeError) -> [TreeNode] {
    do throws(VaultError) {
      let bytes = try await reader.load(.tree, tree)
      return try TreeParser.nodes(in: bytes, id: tree)
    } catch { throw .vault(error) }
  }

  /// - Returns: `nil` for the root, which has no node of its own.
  package func node(at path: TreePath) async throws(TreeError) -> TreeNode? {
    var tree = root
    var found: TreeNode?
    for (index, name) in path.components.enumerated() {
      guard let node = try await nodes(of: tree).first(where: { $0.name == name }) else { throw .noSuchEntry(path) }
      found = node
      if let subtree = node.subtree {
        tree = subtree
      } else if index < path.components.count - 1 {
        throw .noSuchEntry(path)
      }
    }
    return found
  }

  /// The tree of a directory.
  package func tree(at path: TreePath) async throws(TreeError) -> BlobID {
    guard let node = try await node(at: path) else { return root }
    guard let subtree = node.subtree else { throw .notDirectory(path) }
    return subtree
  }

  /// Every node below `path`, depth first, parents before children, siblings ascending by name; paths begin below
  /// `path`.
  ///
  /// Trees of one level are loaded together.
  package func allNodes(
    below path: TreePath = TreePath()
  ) async throws(TreeError) -> [(path: TreePath, node: TreeNode)] {
    let trees = try await allTrees(below: try await tree(at: path))
    let limit = trees.entryLimit
    var result: [(path: TreePath, node: TreeNode)] = []
    // An explicit stack: depth comes from outside.
    var stack: [(path: TreePath, nodes: [TreeNode], next: Int)] = [(TreePath(), trees.nodes(trees.root), 0)]
    while let top = stack.indices.last {
      guard stack[top].next < stack[top].nodes.count else {
        stack.removeLast()
        continue
      }
      let node = stack[top].nodes[stack[top].next]
      stack[top].next += 1
      let place = stack[top].path.appending(node.name)
      result.append((place, node))
      if result.count > limit { throw .tooManyEntries(limit: limit) }
      if let subtree = node.subtree {
        if place.components.count >= TreeLimits.depth { throw .tooDeep(place) }
        stack.append((place, trees.nodes(subtree), 0))
      }
    }
    return result
  }

  /// Trees by id, each once, however often it is used.
  struct LoadedTrees: Sendable {
    var root: BlobID
    var byID: [BlobID: [TreeNode]]

    func nodes(_ id: BlobID) -> [TreeNode] { byID[id] ?? [] }

    /// More entries than this are no backup: see ``TreeLimits``.
    var entryLimit: Int { TreeLimits.entries(fromNodes: byID.reduce(0) { $0 + $1.value.count }) }
  }

  func allTrees(below root: BlobID) async throws(TreeError) -> LoadedTrees {
    let loaded = Collected<BlobID, [TreeNode]>()
    var level: Set<BlobID> = [root]
    var depth = 0
    while !level.isEmpty {
      depth += 1
      if depth > TreeLimits.depth + 1 { throw .tooDeep(TreePath()) }
      do throws(VaultError) {
        try await reader.loadMany(.tree, level.sorted(), parallel: 4) { (id, bytes) throws(VaultError) -> Void in
          loaded.insert(id, try TreeParser.nodes(in: bytes, id: id))
        }
      } catch { throw .vault(error) }
      var next: Set<BlobID> = []
      for id in level {
        for node in loaded[id] ?? [] {
          if let subtree = node.subtree, !loaded.contains(subtree) { next.insert(subtree) }
        }
      }
      level = next
    }
    return LoadedTrees(root: root, byID: loaded.all)
  }

  // MARK: TreeSource

  package func entries(below root: TreePath) async throws(AnyFailure) -> [TreeEntry] {
    do throws(TreeError) {
      return try await allNodes(below: root).map { TreeEntry(path: $0.path, metadata: $0.node.metadata) }
    } catch { throw AnyFailure(error) }
  }

  package func contents(of path: TreePath, limitBytes: Int) async throws(AnyFailure) -> [UInt8] {
    do throws(TreeError) {
      guard let node = try await node(at: path), node.metadata.kind.isRegular else { throw TreeError.notRegular(path) }
      var total = 0
      for id in node.content {
        guard let length = reader.length(.data, id) else { throw TreeError.blobMissing(id, path) }
        total += length
        if total > limitBytes { throw TreeError.tooLarge(path, bytes: node.metadata.size, limitBytes: limitBytes) }
      }
      var result: [UInt8] = []
      result.reserveCapacity(total)
      for id in node.content {
        do throws(VaultError) { result += try await reader.load(.data, id) } catch { throw TreeError.vault(error) }
      }
      return result
    } catch { throw AnyFailure(error) }
  }

  package func contents(of path: TreePath, range: Range<Int64>) async throws(AnyFailure) -> [UInt8] {
    do throws(TreeError) {
      guard let node = try await node(at: path), node.metadata.kind.isRegular else { throw TreeError.notRegular(path) }
      var (offset, result) = (Int64(0), [UInt8]())
      for id in node.content {
        guard let length = reader.length(.data, id) else { throw TreeError.blobMissing(id, path) }
        let end = offset + Int64(length)
        defer { offset = end }
        guard end > range.lowerBound else { continue }
        guard offset < range.upperBound else { break }
        let blob: [UInt8]
        do throws(VaultError) { blob = try await reader.load(.data, id) } catch { throw TreeError.vault(error) }
        let (from, to) = (max(range.lowerBound - offset, 0), min(range.upperBound - offset, Int64(blob.count)))
        if from < to { result += blob[Int(from)..<Int(to)] }
      }
      return result
    } catch { throw AnyFailure(error) }
  }

  package func materialise(
    _ root: TreePath, at directory: String, first: [String],
    progress: @escaping @Sendable (_ doneBytes: Int64) -> Void
  ) async throws(AnyFailure) {
    do throws(TreeError) {
      let options = RestoreOptions(first: first.map { ExcludePattern($0) }, progress: progress)
      let report = try await restore(root, to: directory, options)
      if !report.failures.isEmpty { throw TreeError.partlyRestored(report.failures) }
    } catch { throw AnyFailure(error) }
  }
}

extension TreeParser {
  /// The nodes of a stored tree; what is wrong with it is a damage of the vault.
  static func nodes(in bytes: [UInt8], id: BlobID) throws(VaultError) -> [TreeNode] {
    do throws(TreeError) { return try parse(bytes) } catch {
      if case .unsupportedKind = error { throw .outside(AnyFailure(error)) }
      throw .treeDamaged(id, error.report.summary)
    }
  }
}
