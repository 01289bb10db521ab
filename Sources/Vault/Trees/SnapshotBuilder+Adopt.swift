import Core
import IO

extension SnapshotBuilder {
  /// Adds a regular file that consists of blobs the vault has already, one after the other; no byte is read or written.
  ///
  /// - Parameter reader: Knows the blobs and their lengths; one that it doesn't know is refused.
  package func adopt(
    _ path: TreePath, _ metadata: FileMetadata, content: [BlobID], from reader: any BlobReader
  ) throws(TreeError) {
    var node = TreeNode(name: path.last ?? "", metadata: metadata, content: content)
    node.metadata.kind = .regular
    node.metadata.size = 0
    for id in content {
      guard let length = reader.length(.data, id) else { throw .blobMissing(id, path) }
      node.metadata.size += Int64(length)
    }
    try put(node, at: path, added: 0)
  }
}
