import Core

extension Repository {
  /// What an object other than a pack says, decrypted and decompressed: JSON.
  ///
  /// - Throws: ``VaultError/setting(_:)`` for a pack, which has no content of its own but blobs.
  package func contents(of name: ObjectName) async throws(VaultError) -> [UInt8] {
    guard let id = name.id else { return config.json() }
    switch name.kind {
    case .index: return try await readFile(.index, id) { VaultError.indexDamaged($0, $1) }
    case .snapshot: return try await readFile(.snapshot, id) { VaultError.snapshotDamaged($0, $1) }
    case .lock: return try await readFile(.lock, id) { VaultError.lockDamaged($0, $1) }
    case .key, .escrow: return try await access { store throws(StoreError) in try await store.get(name) }
    case .config: return config.json()
    case .data: throw .setting("a pack is read blob by blob")
    }
  }
}
