import Core
import Synchronization

/// What a copy of a snapshot took.
package struct CopyReport: Hashable, Sendable {
  /// Its name in the repository it was copied to.
  package var snapshot: Digest
  /// It was there already.
  package var wasKnown = false
  package var blobs = 0
  /// Bytes stored for it.
  package var addedBytes = 0
}

extension Repository {
  /// Brings a snapshot of another repository here, with everything it needs; what is here already isn't read again.
  ///
  /// Both repositories want a lock. Every blob is verified on the way. Pieces are shared with what was backed up here only
  /// if both repositories cut files alike: see `chunkerPolynomial` of ``create(store:password:version:chunkerPolynomial:settings:)``.
  /// A copy that is interrupted can be repeated: what has arrived is not sent twice.
  ///
  /// - Parameters:
  ///   - known: Snapshots that are here; one that is the same is not copied again.
  ///   - progress: Called with the number of blobs copied so far.
  package func copy(
    _ stored: StoredSnapshot, from source: Repository, known: [StoredSnapshot],
    progress: @escaping @Sendable (_ blobs: Int) -> Void = { _ in }
  ) async throws(VaultError) -> CopyReport {
    var copied = stored.snapshot
    copied.parent = nil
    copied.original = stored.snapshot.original ?? stored.id
    if let same = known.first(where: { copied.isCopy(of: $0) }) {
      return CopyReport(snapshot: same.id, wasKnown: true)
    }
    let tally = CopyTally(progress)
    var seen: Set<BlobID> = []
    var level = [stored.snapshot.tree]
    while !level.isEmpty {
      let fresh = level.filter { seen.insert($0).inserted }
      // Trees that are here are followed all the same: an earlier copy may have ended between them and what they name.
      try await source.loadMany(.tree, fresh, parallel: source.settings.downloads) {
        [self] (id, json) throws(VaultError) in
        let references: TreeReferences
        do throws(JSONFault) { references = try TreeReferences(json: json) } catch {
          throw .treeDamaged(id, error.reason)
        }
        if !contains(.tree, id) { tally.add(try await save(.tree, json).added) }
        tally.found(references, missing: references.content.filter { !contains(.data, $0) })
      }
      let (below, missing) = tally.takeFound()
      try await source.loadMany(.data, missing, parallel: source.settings.downloads) {
        [self] (_, bytes) throws(VaultError) in
        tally.add(try await save(.data, bytes).added)
      }
      level = below
    }
    // Everything is durable and listed before the snapshot says that it is here.
    let id = try await save(copied)
    let (blobs, bytes) = tally.total
    return CopyReport(snapshot: id, blobs: blobs, addedBytes: bytes)
  }
}

extension Snapshot {
  /// Whether `other` is the same backup, under whatever name.
  fileprivate func isCopy(of other: StoredSnapshot) -> Bool {
    (other.snapshot.original ?? other.id) == original && other.snapshot.tree == tree
      && other.snapshot.time == time && other.snapshot.hostname == hostname && other.snapshot.paths == paths
      && other.snapshot.tags == tags
  }
}

/// What parallel tasks of a copy came across.
private final class CopyTally: Sendable {
  private struct State {
    var below: [BlobID] = []
    var missing: [BlobID] = []
    var (blobs, bytes) = (0, 0)
  }

  private let state = Mutex(State())
  private let progress: @Sendable (Int) -> Void

  init(_ progress: @escaping @Sendable (Int) -> Void) { self.progress = progress }

  func add(_ bytes: Int) {
    let blobs = state.withLock { state in
      state.blobs += 1
      state.bytes += bytes
      return state.blobs
    }
    progress(blobs)
  }

  func found(_ references: TreeReferences, missing: [BlobID]) {
    state.withLock { state in
      state.below += references.subtrees
      state.missing += missing
    }
  }

  func takeFound() -> (below: [BlobID], missing: [BlobID]) {
    state.withLock { state in
      defer { (state.below, state.missing) = ([], []) }
      return (state.below, state.missing)
    }
  }

  var total: (blobs: Int, bytes: Int) { state.withLock { ($0.blobs, $0.bytes) } }
}
