import Core
import IO

/// A snapshot's tree below a path, for the next snapshot to take over what did not change.
package actor EarlierSnapshot: EarlierTree {
  private let tree: SnapshotTree
  private let prefix: TreePath
  /// The directories that were looked into last: files come directory by directory, a few at a time.
  private var directories: [(path: TreePath, nodes: [FileName: TreeNode])] = []
  private static let keptDirectories = 4

  package init(_ tree: SnapshotTree, below prefix: TreePath = TreePath()) { (self.tree, self.prefix) = (tree, prefix) }

  package func file(_ path: TreePath, cutEvery bytes: Int) async throws(AnyFailure) -> EarlierFile? {
    do throws(TreeError) {
      guard let name = path.last, let node = try await nodes(of: path.parent)[name], node.metadata.kind.isRegular,
        bytes > 0
      else { return nil }
      var size: Int64 = 0
      for (index, id) in node.content.enumerated() {
        guard let length = tree.reader.length(.data, id),
          length == bytes || (index == node.content.count - 1 && length < bytes)
        else { return nil }
        size += Int64(length)
      }
      return size == node.metadata.size ? EarlierFile(size: size, parts: node.content) : nil
    } catch {
      switch error {
      case .noSuchEntry, .notDirectory: return nil
      default: throw AnyFailure(error)
      }
    }
  }

  /// How many packs are read side by side.
  private static let width = 2

  package nonisolated func read(
    _ parts: [Digest], each: @escaping @Sendable (Digest, [UInt8]) async throws(AnyFailure) -> Void
  ) async throws(AnyFailure) {
    do throws(VaultError) {
      try await tree.reader.loadMany(.data, parts, parallel: Self.width) { (id, bytes) throws(VaultError) -> Void in
        do throws(AnyFailure) { try await each(id, bytes) } catch { throw .outside(error) }
      }
    } catch { throw AnyFailure(error) }
  }

  private func nodes(of directory: TreePath) async throws(TreeError) -> [FileName: TreeNode] {
    if let found = directories.first(where: { $0.path == directory }) { return found.nodes }
    let subtree = try await tree.tree(at: prefix.appending(directory))
    let list = try await tree.nodes(of: subtree)
    let nodes = Dictionary(list.map { ($0.name, $0) }) { first, _ in first }
    if directories.count >= Self.keptDirectories { directories.removeFirst() }
    directories.append((directory, nodes))
    return nodes
  }

  // MARK: TreeSource

  package func entries(below root: TreePath) async throws(AnyFailure) -> [TreeEntry] {
    try await tree.entries(below: prefix.appending(root))
  }

  package func contents(of path: TreePath, limitBytes: Int) async throws(AnyFailure) -> [UInt8] {
    try await tree.contents(of: prefix.appending(path), limitBytes: limitBytes)
  }

  package func materialise(
    _ root: TreePath, at directory: String, first: [String],
    progress: @escaping @Sendable (_ doneBytes: Int64) -> Void
  ) async throws(AnyFailure) {
    try await tree.materialise(prefix.appending(root), at: directory, first: first, progress: progress)
  }
}
