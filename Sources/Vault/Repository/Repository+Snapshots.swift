import Core

extension Repository {
  /// Records a snapshot, after making everything it may refer to durable. It is read back: nothing else would miss it.
  package func save(_ snapshot: Snapshot) async throws(VaultError) -> Digest {
    guard contains(.tree, snapshot.tree) else { throw .blobMissing(.tree, snapshot.tree) }
    try await flush()
    return try await writeConfirmed(.snapshot, snapshot.json())
  }

  package func loadSnapshot(_ id: Digest) async throws(VaultError) -> Snapshot {
    do throws(VaultError) {
      let json = try await readFile(.snapshot, id) { VaultError.snapshotDamaged($0, $1) }
      return try Snapshot(json: json, id: id)
    } catch {
      if case .store(.notFound) = error { throw .snapshotNotFound(id.hex) }
      throw error
    }
  }

  /// A snapshot by its id or, in a repository it was copied to, the copy that has `tag`: what a recovery point names.
  package func loadSnapshot(_ id: Digest, orCopyTagged tag: String) async throws(VaultError) -> Snapshot {
    do throws(VaultError) { return try await loadSnapshot(id) } catch {
      guard case .snapshotNotFound = error else { throw error }
      let copy = try await snapshots().last { $0.snapshot.original == id && $0.snapshot.tags.contains(tag) }
      guard let copy else { throw error }
      return copy.snapshot
    }
  }

  /// Every snapshot, ascending by time; one that can't be read makes this fail, unless it was forgotten meanwhile.
  package func snapshots() async throws(VaultError) -> [StoredSnapshot] {
    var result: [StoredSnapshot] = []
    for info in try await access({ store throws(StoreError) in try await store.list(.snapshot) }) {
      guard let id = info.name.id else { continue }
      do throws(VaultError) { result.append(StoredSnapshot(id: id, snapshot: try await loadSnapshot(id))) } catch {
        guard case .snapshotNotFound = error else { throw error }
        let listed = try await access { store throws(StoreError) in try await store.list(.snapshot) }
        if listed.contains(where: { $0.name.id == id }) { throw error }
      }
    }
    return result.sorted { ($0.snapshot.time, $0.id) < ($1.snapshot.time, $1.id) }
  }

  /// Finds a snapshot by the first digits of its id, or the newest as `latest`.
  package func findSnapshot(_ name: String) async throws(VaultError) -> StoredSnapshot {
    if name == "latest" {
      guard let newest = try await snapshots().last else { throw .snapshotNotFound(name) }
      return newest
    }
    let listed = try await access { store throws(StoreError) in try await store.list(.snapshot) }.compactMap(\.name.id)
    let matches = name.isEmpty ? [] : listed.filter { $0.hex.hasPrefix(name.lowercased()) }
    guard let id = matches.first else { throw .snapshotNotFound(name) }
    guard matches.count == 1 else { throw .snapshotAmbiguous(name, matches: matches.count) }
    return StoredSnapshot(id: id, snapshot: try await loadSnapshot(id))
  }

  /// Forgets a snapshot; its data stays until the repository is pruned.
  package func deleteSnapshot(_ id: Digest) async throws(VaultError) {
    do throws(StoreError) { try await store.delete(ObjectName(.snapshot, id)) } catch {
      if case .notFound = error { throw .snapshotNotFound(id.hex) }
      throw VaultError(error)
    }
  }
}

extension Repository {
  /// Removes a snapshot; that somebody else has just done so is no error.
  package func forget(_ id: Digest) async throws(VaultError) {
    do throws(VaultError) { try await deleteSnapshot(id) } catch {
      guard case .snapshotNotFound = error else { throw error }
    }
  }
}

extension Repository {
  /// Replaces a snapshot by a changed one, the new one durable before the old one goes; `original` keeps the first name.
  ///
  /// - Returns: The new name.
  package func replace(
    _ stored: StoredSnapshot, _ change: (inout Snapshot) -> Void
  ) async throws(VaultError) -> Digest {
    var changed = stored.snapshot
    change(&changed)
    changed.original = stored.snapshot.original ?? stored.id
    let id = try await save(changed)
    try await forget(stored.id)
    return id
  }
}
