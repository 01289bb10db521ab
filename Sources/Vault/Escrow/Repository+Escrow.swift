import Core

/// An escrowed password as a listing shows it; nothing secret.
package struct EscrowInfo: Hashable, Sendable {
  package let id: Digest
  package let recipient: Digest
  package let label: String
  package let created: String
  /// The key file the password opens.
  package let key: Digest
}

/// What is found below `salvor/escrow/`.
package struct EscrowListing: Sendable {
  package var files: [EscrowInfo] = []
  package var damaged: [VaultError] = []
}

extension Repository {
  /// Seals the password this session was opened with to `recipient`, beside the repository.
  ///
  /// - Parameter password: Proved first: one that opens nothing would be found out when it is needed.
  package func addEscrow(
    _ password: Secret, to recipient: EscrowPublicKey, label: String
  ) async throws(VaultError) -> Digest {
    let (_, key) = try await Self.tryKeys(store, password: password, hint: keyID, settings: settings)
    let (repository, now) = (config.id, settings.time.now())
    let json = try await settings.pool.run { () throws(VaultError) in
      try EscrowFile.seal(
        password, to: recipient, repository: repository, key: key, label: label, created: now
      ).json()
    }
    let id = Digest.of(json)
    do throws(StoreError) { try await store.put(ObjectName(.escrow, id), json) } catch {
      if case .cancelled = error { throw .cancelled }
      throw .escrowNotKept(error.report.summary)
    }
    return id
  }

  /// Everything that is kept, without any key.
  package static func escrows(in store: any ObjectStore) async throws(VaultError) -> EscrowListing {
    var listing = EscrowListing()
    for (id, result) in try await escrowFiles(in: store) {
      switch result {
      case .success(let file):
        listing.files.append(
          EscrowInfo(id: id, recipient: file.recipient, label: file.label, created: file.created, key: file.key))
      case .failure(let error): listing.damaged.append(error)
      }
    }
    return listing
  }

  package static func removeEscrow(_ id: Digest, from store: any ObjectStore) async throws(VaultError) {
    try await access(store) { store throws(StoreError) in try await store.delete(ObjectName(.escrow, id)) }
  }

  /// The password, and the key file it opens; the newest of several.
  package static func openEscrow(
    in store: any ObjectStore, with key: EscrowPrivateKey, settings: VaultSettings
  ) async throws(VaultError) -> (password: Secret, key: Digest) {
    var found: [(file: EscrowFile, password: Secret)] = []
    for (_, result) in try await escrowFiles(in: store) {
      guard case .success(let file) = result else { continue }
      let password = await settings.pool.run { file.open(with: key) }
      if let password { found.append((file, password)) }
    }
    let keys = Set(
      try await access(store) { store throws(StoreError) in try await store.list(.key) }.compactMap(\.name.id))
    found.sort { $0.file.created < $1.file.created }
    guard let newest = found.last(where: { keys.contains($0.file.key) }) ?? found.last else {
      throw .noEscrow(key.publicKey.id)
    }
    return (newest.password, newest.file.key)
  }

  /// A damaged file keeps nobody from the others.
  private static func escrowFiles(
    in store: any ObjectStore
  ) async throws(VaultError) -> [(Digest, Result<EscrowFile, VaultError>)] {
    var result: [(Digest, Result<EscrowFile, VaultError>)] = []
    // Nobody has more recipients; whoever can write to the store must not keep its owner busy.
    for info in try await access(store, { store throws(StoreError) in try await store.list(.escrow) }).prefix(1000) {
      guard let id = info.name.id else { continue }
      guard info.sizeBytes <= EscrowFile.limitBytes else {
        result.append((id, .failure(.escrowDamaged(id, "it has \(info.sizeBytes) bytes"))))
        continue
      }
      let bytes: [UInt8]
      do throws(StoreError) { bytes = try await store.get(info.name) } catch {
        if case .notFound = error { continue }
        throw VaultError(error)
      }
      do throws(VaultError) { result.append((id, .success(try EscrowFile(json: bytes, id: id)))) } catch {
        result.append((id, .failure(error)))
      }
    }
    return result
  }
}
