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
      let root = snapshot.snapshot.tree
      guard let (number, isNew) = used.insert(.tree, root) else { throw .blobMissing(.tree, root) }
      var level = isNew ? [number] : []
      while !level.isEmpty {
        level = Self.inOrder(level, used.numbering)
        for start in stride(from: 0, to: level.count, by: Self.treesAtOnce) {
          let ids = level[start..<min(start + Self.treesAtOnce, level.count)].map { used.numbering.id(.tree, $0) }
          try await loadMany(.tree, ids, parallel: settings.downloads) { (id, json) throws(VaultError) in
            let references: TreeReferences
            do throws(JSONFault) { references = try TreeReferences(json: json) } catch {
              throw .treeDamaged(id, error.reason)
            }
            for blob in references.content where used.insert(.data, blob) == nil { throw .blobMissing(.data, blob) }
            var below: [Int] = []
            for tree in references.subtrees {
              guard let (number, isNew) = used.insert(.tree, tree) else { throw .blobMissing(.tree, tree) }
              if isNew { below.append(number) }
            }
            walk.add(below)
          }
          progress(walk.done)
        }
        level = walk.takeBelow()
      }
    }
    return Set(snapshots.map(\.id))
  }

  /// What reading directories takes beside their text stays small, however many a level has.
  private static let treesAtOnce = 4096

  /// In the order in which they lie: neighbours are read together.
  private static func inOrder(_ trees: [Int], _ numbering: FrozenNumbering) -> [Int] {
    var places = trees.map { (numbering.position(.tree, $0), $0) }
    places.sort { $0.0 < $1.0 }
    return places.map(\.1)
  }
}

/// Trees that a level of the walk leads to, by number.
private final class TreeMarks: Sendable {
  private let state = Mutex((below: [Int](), done: 0))

  var done: Int { state.withLock { $0.done } }

  /// Adds what one tree leads to.
  func add(_ below: [Int]) {
    state.withLock { state in
      state.below += below
      state.done += 1
    }
  }

  func takeBelow() -> [Int] {
    state.withLock { state in
      defer { state.below = [] }
      return state.below
    }
  }
}
