import Core
import Synchronization

extension Repository {
  /// Walks every snapshot's directories, and adds every blob they need.
  ///
  /// - Parameter progress: Called with the number of directories read so far.
  /// - Returns: The snapshots there are.
  /// - Throws: If one can't be read: what it needs isn't known then.
  func markUsed(_ used: BlobSet, progress: @escaping @Sendable (Int) -> Void) async throws(VaultError) -> Set<Digest> {
    let snapshots = try await snapshots()
    let walk = TreeMarks()
    for snapshot in snapshots {
      var level = [snapshot.snapshot.tree]
      while !level.isEmpty {
        var fresh: [BlobID] = []
        for id in level {
          guard let isNew = used.insert(.tree, id) else { throw .blobMissing(.tree, id) }
          if isNew { fresh.append(id) }
        }
        try await loadMany(.tree, fresh, parallel: settings.downloads) { (id, json) throws(VaultError) in
          let references: TreeReferences
          do throws(JSONFault) { references = try TreeReferences(json: json) } catch {
            throw .treeDamaged(id, error.reason)
          }
          for blob in references.content where used.insert(.data, blob) == nil { throw .blobMissing(.data, blob) }
          walk.add(references.subtrees, done: 1)
        }
        let (below, done) = walk.take()
        level = below
        progress(done)
      }
    }
    return Set(snapshots.map(\.id))
  }
}

/// Trees that a level of the walk leads to.
private final class TreeMarks: Sendable {
  private let state = Mutex((below: [BlobID](), done: 0))

  func add(_ ids: [BlobID], done: Int) {
    state.withLock { state in
      state.below += ids
      state.done += done
    }
  }

  func take() -> (below: [BlobID], done: Int) {
    state.withLock { state in
      defer { state.below = [] }
      return state
    }
  }
}
