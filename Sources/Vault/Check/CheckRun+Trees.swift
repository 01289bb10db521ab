import Core
import IO
import Synchronization

extension CheckRun {
  /// Follows every snapshot's tree to its leaves; each tree is read once, however many snapshots share it.
  func walkTrees(of snapshots: [StoredSnapshot], _ index: Index) async throws(VaultError) {
    let walk = TreeWalk()
    for snapshot in snapshots {
      // By levels: a level's trees lie close together in their packs.
      var level = [snapshot.snapshot.tree]
      while !level.isEmpty {
        let fresh = walk.unseen(level)
        try await readLevel(fresh, of: snapshot.id, index, walk)
        level = walk.takeBelow()
        let count = report.withLock { report in
          report.trees += fresh.count
          return report.trees
        }
        progress(CheckProgress(phase: .trees, done: count, total: index.blobs.count(.tree)))
      }
    }
  }

  private func readLevel(
    _ trees: [BlobID], of snapshot: Digest, _ index: Index, _ walk: TreeWalk
  ) async throws(VaultError) {
    var places: [BlobIndex.Place] = []
    for id in trees {
      if let place = index.blobs.place(.tree, id) {
        places.append(place)
      } else {
        add(CheckFinding(.blobMissing(.tree, id), snapshot: snapshot))
      }
    }
    let downloads = repository.settings.downloads
    try await repository.readMany(places, parallel: downloads) { [self] (place, result) throws(VaultError) in
      let json: [UInt8]
      switch result {
      case .success(let bytes): json = bytes
      case .failure(let error):
        // A damaged copy is damage even if there is a second: the walk goes on with that one.
        add(CheckFinding(error, snapshot: snapshot))
        guard let other = try await secondCopy(of: place.blob, index) else { return }
        json = other
      }
      do throws(JSONFault) {
        let references = try TreeReferences(json: json)
        for id in references.content where !index.blobs.contains(.data, id) && walk.isNew(missing: id) {
          add(CheckFinding(.blobMissing(.data, id), snapshot: snapshot))
        }
        walk.add(below: references.subtrees)
      } catch { add(CheckFinding(.treeDamaged(place.blob.id, error.reason), snapshot: snapshot)) }
    }
  }

  private func secondCopy(of blob: PackedBlob, _ index: Index) async throws(VaultError) -> [UInt8]? {
    for place in index.blobs.otherPlaces(blob.kind, blob.id) {
      do throws(VaultError) { return try await repository.read([place.blob], of: place.pack)[0] } catch {
        guard error.isDamage else { throw error }
      }
    }
    return nil
  }
}

/// What a walk over trees has seen.
private final class TreeWalk: Sendable {
  private struct State {
    var seen: Set<BlobID> = []
    var missing: Set<BlobID> = []
    var below: [BlobID] = []
  }

  private let state = Mutex(State())

  func unseen(_ ids: [BlobID]) -> [BlobID] { state.withLock { state in ids.filter { state.seen.insert($0).inserted } } }

  /// A blob that a thousand files share is reported once.
  func isNew(missing id: BlobID) -> Bool { state.withLock { $0.missing.insert(id).inserted } }

  func add(below ids: [BlobID]) { state.withLock { $0.below += ids } }

  func takeBelow() -> [BlobID] {
    state.withLock { state in
      defer { state.below = [] }
      return state.below
    }
  }
}
