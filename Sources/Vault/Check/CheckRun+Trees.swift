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
        var unread: [BlobID] = []
        for id in fresh {
          if let known = trees[id] { follow(known, in: id, of: snapshot.id, walk) } else { unread.append(id) }
        }
        if !unread.isEmpty { try await readLevel(unread, of: snapshot.id, index, walk) }
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
      follow(KnownTrees.read(json, index), in: place.blob.id, of: snapshot, walk)
    }
  }

  private func follow(
    _ tree: Result<KnownTrees.Tree, JSONFault>, in id: BlobID, of snapshot: Digest, _ walk: TreeWalk
  ) {
    switch tree {
    case .success(let tree):
      for id in tree.missing where walk.isNew(missing: id) {
        add(CheckFinding(.blobMissing(.data, id), snapshot: snapshot))
      }
      walk.add(below: tree.subtrees)
    case .failure(let fault): add(CheckFinding(.treeDamaged(id, fault.reason), snapshot: snapshot))
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

/// What is known of trees that were read with their packs.
final class KnownTrees: Sendable {
  struct Tree: Sendable {
    var subtrees: [BlobID] = []
    /// Contents that no index lists.
    var missing: [BlobID] = []
  }

  private let known = Mutex<[BlobID: Result<Tree, JSONFault>]>([:])

  subscript(id: BlobID) -> Result<Tree, JSONFault>? { known.withLock { $0[id] } }

  func note(_ id: BlobID, _ json: [UInt8], _ index: CheckRun.Index) {
    let tree = Self.read(json, index)
    known.withLock { $0[id] = tree }
  }

  static func read(_ json: [UInt8], _ index: CheckRun.Index) -> Result<Tree, JSONFault> {
    do throws(JSONFault) {
      let references = try TreeReferences(json: json)
      return .success(
        Tree(
          subtrees: references.subtrees, missing: references.content.filter { !index.blobs.contains(.data, $0) }))
    } catch { return .failure(error) }
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
