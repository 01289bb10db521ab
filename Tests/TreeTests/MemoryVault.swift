import Core
import Synchronization
import Vault

/// Blobs in memory; keeps count of what it is asked.
final class MemoryVault: BlobWriter, BlobReader {
  private struct Key: Hashable {
    var kind: BlobKind
    var id: BlobID
  }

  private let blobs = Mutex<[Key: [UInt8]]>([:])
  private let saves = Mutex(0)

  var saveCount: Int { saves.withLock { $0 } }
  var blobCount: Int { blobs.withLock { $0.count } }

  func save(_ kind: BlobKind, _ bytes: [UInt8]) async throws(VaultError) -> (id: BlobID, added: Int) {
    if bytes.isEmpty { throw .blobSize(0) }
    let id = BlobID.of(bytes)
    saves.withLock { $0 += 1 }
    let isNew = blobs.withLock { $0.updateValue(bytes, forKey: Key(kind: kind, id: id)) == nil }
    return (id, isNew ? bytes.count : 0)
  }

  func put(_ kind: BlobKind, _ id: BlobID, _ bytes: [UInt8]) { blobs.withLock { $0[Key(kind: kind, id: id)] = bytes } }

  func remove(_ kind: BlobKind, _ id: BlobID) { blobs.withLock { $0[Key(kind: kind, id: id)] = nil } }

  func load(_ kind: BlobKind, _ id: BlobID) async throws(VaultError) -> [UInt8] {
    guard let bytes = blobs.withLock({ $0[Key(kind: kind, id: id)] }) else { throw .blobMissing(kind, id) }
    return bytes
  }

  func contains(_ kind: BlobKind, _ id: BlobID) -> Bool { blobs.withLock { $0[Key(kind: kind, id: id)] != nil } }

  func length(_ kind: BlobKind, _ id: BlobID) -> Int? { blobs.withLock { $0[Key(kind: kind, id: id)]?.count } }

  func loadMany(
    _ kind: BlobKind, _ ids: [BlobID], parallel: Int,
    _ each: @escaping @Sendable (BlobID, [UInt8]) async throws(VaultError) -> Void
  ) async throws(VaultError) {
    let ids = Array(Set(ids)).sorted()
    do {
      try await withThrowingTaskGroup(of: Void.self) { group in
        for lane in 0..<max(1, parallel) {
          group.addTask {
            for index in stride(from: lane, to: ids.count, by: max(1, parallel)) {
              try await each(ids[index], try await self.load(kind, ids[index]))
            }
          }
        }
        try await group.waitForAll()
      }
    } catch { throw error as? VaultError ?? .outside(AnyFailure(error)) }
  }
}
