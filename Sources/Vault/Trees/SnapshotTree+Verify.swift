import Core
import IO
import Synchronization

extension SnapshotTree {
  /// Reads every blob this tree consists of, and checks each against its name.
  ///
  /// - Parameter progress: Told how many bytes of content have been read.
  /// - Throws: The first thing found wrong.
  package func verify(progress: @escaping @Sendable (_ doneBytes: Int64) -> Void = { _ in }) async throws {
    var wanted: Set<BlobID> = []
    for (path, node) in try await allNodes() where node.metadata.kind == .regular {
      var size: Int64 = 0
      for id in node.content {
        guard let length = reader.length(.data, id) else { throw VaultError.blobMissing(.data, id) }
        size += Int64(length)
        wanted.insert(id)
      }
      guard size == node.metadata.size else {
        throw TreeError.malformed(why: "the blobs of '\(path)' do not add up to its size", offset: 0)
      }
    }
    let done = Mutex<Int64>(0)
    try await reader.lendMany(.data, wanted.sorted(), parallel: 3, pool: pool) {
      (_, bytes) throws(VaultError) -> Void in
      let total = done.withLock { done in
        done += Int64(bytes.count)
        return done
      }
      progress(total)
    }
  }
}
