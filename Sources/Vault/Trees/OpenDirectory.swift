import Core
import IO
import Synchronization

/// A directory between the moment the walk comes to it and the moment its tree is saved.
final class OpenDirectory: Sendable {
  /// What the parent snapshot has in its place.
  enum Earlier: Sendable {
    /// Its nodes, ascending by name; none if there is nothing of use.
    case nodes([TreeNode])
    /// The same: everything in it is as in this tree, but for directories that may turn out otherwise.
    case same([UInt8])
  }

  let path: TreePath
  /// `nil` for the stand-in above a target, which is no part of the tree by itself.
  let metadata: FileMetadata?
  let parent: OpenDirectory?
  let earlier: Earlier
  /// The tree that `earlier` is.
  let earlierTree: BlobID?

  private struct State {
    /// Entries under way, and one for the walk itself.
    var pending = 1
    var nodes: [TreeNode] = []
    /// What the earlier tree has, and what couldn't be read now.
    var lost: Set<FileName> = []
  }

  private let state = Mutex(State())
  private let opened = Mutex<DirectoryReader?>(nil)

  init(
    path: TreePath, metadata: FileMetadata?, parent: OpenDirectory?, earlier: Earlier, earlierTree: BlobID? = nil
  ) {
    (self.path, self.metadata, self.parent) = (path, metadata, parent)
    (self.earlier, self.earlierTree) = (earlier, earlierTree)
  }

  /// The root of the whole tree, which has no node of its own.
  var isRoot: Bool { path.components.isEmpty && metadata != nil }

  // MARK: Reading

  /// Opens it, if need be by way of those above; closed when nothing is under way in it any more. Blocks.
  ///
  /// - Throws: `ESTALE` if another directory has taken its place since it was listed.
  func reader() throws(SystemFailure) -> DirectoryReader {
    try opened.withLock { (opened) throws(SystemFailure) in
      if let opened { return opened }
      let reader: DirectoryReader
      if let parent, let name = path.last {
        reader = try parent.reader().directory(name)
      } else {
        reader = try DirectoryReader.at(path)
      }
      if let metadata {
        let status = try reader.status()
        guard UInt64(status.st_ino) == metadata.inode, UInt64(status.st_dev) == metadata.device else {
          throw SystemFailure("open", path: reader.shownPath, number: ESTALE)
        }
      }
      opened = reader
      return reader
    }
  }

  // MARK: Entries

  func expect(_ count: Int) { state.withLock { $0.pending += count } }

  /// - Returns: Whether nothing is pending any more; true once.
  func settle() -> Bool {
    state.withLock { state in
      state.pending -= 1
      return state.pending == 0
    }
  }

  /// Takes an entry that is done; of a directory that is the same otherwise, one that isn't.
  func add(_ node: TreeNode) { state.withLock { $0.nodes.append(node) } }

  func add(_ nodes: some Sequence<TreeNode>) { state.withLock { $0.nodes += nodes } }

  /// Leaves out an entry that can't be read.
  func lose(_ name: FileName) { state.withLock { _ = $0.lost.insert(name) } }

  /// Whether its tree is the earlier one, once everything has settled.
  var isUnchanged: Bool {
    if case .same = earlier { state.withLock { $0.nodes.isEmpty && $0.lost.isEmpty } } else { false }
  }

  /// Its nodes, ascending by name.
  func takeNodes() throws(TreeError) -> [TreeNode] {
    var (nodes, others) = state.withLock { state in
      var nodes: [TreeNode] = []
      swap(&nodes, &state.nodes)
      return (nodes, state.lost)
    }
    if case .same(let tree) = earlier {
      others.formUnion(nodes.map(\.name))
      nodes += try TreeParser.parse(tree).filter { !others.contains($0.name) }
    }
    nodes.sort { $0.name < $1.name }
    return nodes
  }

  func earlierNode(_ name: FileName) -> TreeNode? {
    guard case .nodes(let nodes) = earlier else { return nil }
    var (low, high) = (0, nodes.count)
    while low < high {
      let middle = (low + high) / 2
      if nodes[middle].name < name { low = middle + 1 } else { high = middle }
    }
    return low < nodes.count && nodes[low].name == name ? nodes[low] : nil
  }
}

#if canImport(Glibc)
  import Glibc
#endif
