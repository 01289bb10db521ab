import Core
import IO
import Synchronization

/// A directory between the moment the walk enters it and the moment its tree is saved.
final class OpenDirectory: Sendable {
  let reader: DirectoryReader
  let path: TreePath
  /// `nil` for the stand-in above a target, which is no part of the tree by itself.
  let metadata: FileMetadata?
  let parent: OpenDirectory?
  let device: UInt64
  /// The same directory in the parent snapshot.
  let parentTree: BlobID?
  /// Ascending by name.
  let parentNodes: [TreeNode]

  private struct State {
    /// Entries under way, and one for the walk itself.
    var pending = 1
    var nodes: [TreeNode] = []
  }

  private let state = Mutex(State())

  init(
    _ reader: DirectoryReader, path: TreePath, metadata: FileMetadata?, parent: OpenDirectory?,
    parentTree: BlobID? = nil, parentNodes: [TreeNode], device: UInt64
  ) {
    self.reader = reader
    self.path = path
    self.metadata = metadata
    self.parent = parent
    (self.parentTree, self.parentNodes) = (parentTree, parentNodes)
    self.device = device
  }

  /// The root of the whole tree, which has no node of its own.
  var isRoot: Bool { path.components.isEmpty && metadata != nil }

  func expect() { state.withLock { $0.pending += 1 } }

  /// - Returns: Whether nothing is pending any more; true once.
  func settle() -> Bool {
    state.withLock { state in
      state.pending -= 1
      return state.pending == 0
    }
  }

  func add(_ node: TreeNode) { state.withLock { $0.nodes.append(node) } }

  func takeNodes() -> [TreeNode] {
    state.withLock { state in
      var nodes: [TreeNode] = []
      swap(&nodes, &state.nodes)
      nodes.sort { $0.name < $1.name }
      return nodes
    }
  }

  func parentNode(_ name: FileName) -> TreeNode? {
    var (low, high) = (0, parentNodes.count)
    while low < high {
      let middle = (low + high) / 2
      if parentNodes[middle].name < name { low = middle + 1 } else { high = middle }
    }
    return low < parentNodes.count && parentNodes[low].name == name ? parentNodes[low] : nil
  }
}
