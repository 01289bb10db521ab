import Core
import IO
import Synchronization
import Vault

/// Compares what stands in a directory with a snapshot, byte for byte.
struct RestoreComparison: Sendable {
  let tree: SnapshotTree
  let target: String
  let selection: RestoreSelection
  let pool: BlockingPool

  /// What differs, in order of path; content is compared by the hash of each blob, so the repository isn't read again.
  func differences(progress: @escaping @Sendable (_ doneBytes: Int64) -> Void) async throws -> [String] {
    var wanted: [(path: TreePath, node: TreeNode)] = []
    var excluded: TreePath?
    for (path, node) in try await tree.allNodes() {
      if let excluded, path.components.starts(with: excluded.components) { continue }
      guard selection.isWanted(path, isDirectory: node.metadata.kind.isDirectory) else {
        if node.metadata.kind.isDirectory { excluded = path }
        continue
      }
      wanted.append((path, node))
    }
    var result: [String] = []
    var done: Int64 = 0
    var next = 0
    while next < wanted.count {
      try Task.checkCancellation()
      var batch: [(path: TreePath, node: TreeNode)] = []
      var bytes: Int64 = 0
      while next < wanted.count, batch.count < 64, bytes < 64 << 20 {
        bytes += wanted[next].node.metadata.size
        batch.append(wanted[next])
        next += 1
      }
      let entries = batch
      result += await pool.run { entries.compactMap { difference($0.path, $0.node) } }
      done += bytes
      progress(done)
    }
    return result
  }

  /// - Returns: `nil` if the entry is as it should be.
  private func difference(_ path: TreePath, _ node: TreeNode) -> String? {
    guard let name = path.last else { return nil }
    do {
      let directory = try DirectoryReader.at(TreePath(target).appending(path.parent))
      let found = try directory.metadata(of: name)
      let expected = node.metadata
      guard found.kind == expected.kind else {
        return "/\(path): is a \(found.kind.nodeType), not a \(expected.kind.nodeType)"
      }
      guard found.permissions & 0o777 == expected.permissions & 0o777 else { return "/\(path): its mode differs" }
      guard expected.kind.isRegular else { return nil }
      guard found.modified == expected.modified else { return "/\(path): its time of modification differs" }
      return try content(of: try directory.open(name).file, node) ? nil : "/\(path): its content differs"
    } catch { return "/\(path): \(AnyFailure(error).report.summary)" }
  }

  private func content(of file: File, _ node: TreeNode) throws -> Bool {
    var offset: Int64 = 0
    for id in node.content {
      guard let length = tree.reader.length(.data, id) else { throw VaultError.blobMissing(.data, id) }
      var bytes = [UInt8](repeating: 0, count: length)
      let count = try bytes.withUnsafeMutableBytes { try file.read(at: offset, into: $0) }
      guard count == length, bytes.withUnsafeBytes({ Digest.of($0) }) == id else { return false }
      offset += Int64(length)
    }
    return try Int64(file.status().st_size) == offset
  }
}
