import Core

extension Repository {
  /// The config of this repository as version 2, sealed; what ``ObjectStore/replace(_:_:)`` is given.
  ///
  /// Version 2 differs in what may be written from then on, not in what is there: nothing else has to change.
  ///
  /// Source: restic, design document, "Changes", repository version 2.
  package func upgradedConfig() throws(VaultError) -> [UInt8] {
    guard config.version == 1 else { throw .setting("the repository has version \(config.version) already") }
    let upgraded = RepositoryConfig(version: 2, id: config.id, chunkerPolynomial: config.chunkerPolynomial)
    return try codecs.with { (codec) throws(VaultError) in
      let sealed = try codec.sealPlain(upgraded.json())
      guard (try? codec.open(sealed)) == upgraded.json() else { throw .writeVerification("config") }
      return sealed
    }
  }

  /// Puts `sealed` where a config is missing, if it is one that the repository's own keys open.
  ///
  /// For a repository whose config was taken away by an upgrade that did not end.
  ///
  /// - Throws: ``VaultError/repositoryExists(_:)`` if there is one.
  package static func restoreConfig(
    _ sealed: [UInt8], in store: any ObjectStore, password: Secret, settings: VaultSettings
  ) async throws(VaultError) {
    let isThere = try await access(store) { store throws(StoreError) in try await store.contains(.config) }
    guard !isThere else { throw .repositoryExists(store.location) }
    let (master, _) = try await tryKeys(store, password: password, hint: nil, settings: settings)
    let codec = try Codec(key: master, version: 1, level: settings.compression, randomness: settings.randomness)
    let json: [UInt8]
    do throws(CodecFault) { json = try codec.open(sealed) } catch { throw .configDamaged(error.reason) }
    _ = try RepositoryConfig(json: json)
    try await access(store) { store throws(StoreError) in try await store.put(.config, sealed) }
  }
}
