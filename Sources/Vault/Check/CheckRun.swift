import Core
import Synchronization

/// One check under way.
final class CheckRun: Sendable {
  struct Index: Sendable {
    var blobs: BlobIndex
    var packs: [Digest: [PackedBlob]] = [:]
  }

  struct Pack: Sendable {
    var id: Digest
    var sizeBytes: Int
    var blobs: [PackedBlob]
  }

  let repository: Repository
  let progress: @Sendable (CheckProgress) -> Void
  let verified: @Sendable (Digest, Bool) async -> Void
  let report = Mutex(CheckReport())
  /// Trees whose packs were read whole.
  let trees = KnownTrees()

  init(
    _ repository: Repository, _ progress: @escaping @Sendable (CheckProgress) -> Void,
    _ verified: @escaping @Sendable (Digest, Bool) async -> Void
  ) {
    (self.repository, self.progress, self.verified) = (repository, progress, verified)
  }

  func add(_ finding: CheckFinding) { report.withLock { $0.findings.append(finding) } }

  func list(_ kind: ObjectKind) async throws(VaultError) -> [ObjectInfo] {
    try await repository.access { store throws(StoreError) in try await store.list(kind) }
  }

  /// In the same order however many tasks found them.
  func finish(readData: Bool, packs: [Pack]) -> CheckReport {
    report.withLock { report in
      report.readData = readData
      report.wholePacks = packs.map { ($0.id, $0.sizeBytes) }
      report.findings.sort { ($0.report.code, $0.report.summary) < ($1.report.code, $1.report.summary) }
      return report
    }
  }

  // MARK: Snapshots and indexes

  func readSnapshots() async throws(VaultError) -> [StoredSnapshot] {
    var result: [StoredSnapshot] = []
    for info in try await list(.snapshot) {
      guard let id = info.name.id else { continue }
      do throws(VaultError) {
        result.append(StoredSnapshot(id: id, snapshot: try await repository.loadSnapshot(id)))
      } catch {
        switch error {
        case .snapshotDamaged: add(CheckFinding(error, snapshot: id))
        case .snapshotNotFound: continue  // Forgotten since it was listed.
        default: throw error
        }
      }
    }
    report.withLock { $0.snapshots = result.count }
    return result
  }

  func readIndexes() async throws(VaultError) -> Index {
    var index = Index(blobs: BlobIndex(seed: 0))
    let files = try await list(.index)
    for (number, info) in files.enumerated() {
      guard let id = info.name.id else { continue }
      progress(CheckProgress(phase: .metadata, done: number, total: files.count))
      do throws(VaultError) {
        let json = try await repository.readFile(.index, id) { VaultError.indexDamaged($0, $1) }
        var packs: [IndexedPack] = []
        do throws(JSONFault) {
          try IndexFile.decode(json) { (pack, blobs) throws(JSONFault) in
            packs.append(IndexedPack(id: pack, blobs: blobs))
          }
        } catch { throw VaultError.indexDamaged(id, error.reason) }
        for pack in packs {
          if index.packs[pack.id] != nil { add(.packListedTwice(pack.id)) }
          index.packs[pack.id, default: []] += pack.blobs
          index.blobs.add(pack: pack.id, pack.blobs[...])
        }
      } catch {
        guard case .indexDamaged = error else { throw error }
        add(CheckFinding(error))
      }
    }
    report.withLock { $0.indexes = files.count }
    return index
  }
}
