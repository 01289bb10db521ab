import Core
import IO
import Synchronization

/// A key as a listing shows it; nothing secret.
package struct KeyInfo: Hashable, Sendable {
  package let id: Digest
  package let created: String
  package let username: String
  package let hostname: String
  package let scrypt: ScryptParameters
  /// The one this session was opened with.
  package let isCurrent: Bool
}

extension Repository {
  /// Every key that can be read, ascending by name.
  package func keys() async throws(VaultError) -> [KeyInfo] {
    let current = keyID
    var result: [KeyInfo] = []
    for info in try await access({ store throws(StoreError) in try await store.list(.key) }) {
      guard let id = info.name.id else { continue }
      let file = try await Self.readKey(store, id, settings)
      result.append(
        KeyInfo(
          id: id, created: file.created, username: file.username, hostname: file.hostname, scrypt: file.parameters,
          isCurrent: id == current))
    }
    return result
  }

  /// What every key file wraps, as JSON: whoever has it can read and forge everything, whatever becomes of passwords.
  package func revealMasterKey() -> [UInt8] { master.json() }

  /// Adds a password; the ones there are stay valid.
  package func addKey(_ password: Secret) async throws(VaultError) -> Digest {
    try await Self.writeKey(master, password: password, store: store, settings: settings)
  }

  /// Takes a key's access away.
  ///
  /// - Throws: ``VaultError/keyInUse(_:)`` for the key of this session, so the last one can't go.
  package func removeKey(_ id: Digest) async throws(VaultError) {
    guard id != keyID else { throw .keyInUse(id) }
    do throws(StoreError) { try await store.delete(ObjectName(.key, id)) } catch {
      if case .notFound = error { throw .noSuchKey(id.hex) }
      throw VaultError(error)
    }
  }

  /// Replaces this session's password: adds the new key, then removes the old. A crash between leaves both.
  package func changePassword(to password: Secret) async throws(VaultError) -> Digest {
    let old = keyID
    let new = try await addKey(password)
    openedWith.withLock { $0 = new }
    try await removeKey(old)
    return new
  }

  static func writeKey(
    _ master: MasterKey, password: Secret, store: any ObjectStore, settings: VaultSettings
  ) async throws(VaultError) -> Digest {
    let json = try await settings.pool.run { () throws(VaultError) in
      let file = try KeyFile.wrap(
        master, password: password, parameters: settings.scrypt, owner: settings.owner, now: settings.time.now(),
        randomness: settings.randomness)
      return file.json()
    }
    let id = Digest.of(json)
    try await access(store) { store throws(StoreError) in try await store.put(ObjectName(.key, id), json) }
    // Another key may go because this one is there.
    try await confirm(ObjectName(.key, id), json, in: store, settings.time)
    return id
  }

  private static func readKey(
    _ store: any ObjectStore, _ id: Digest, _ settings: VaultSettings
  ) async throws(VaultError) -> KeyFile {
    var json = try await access(store) { store throws(StoreError) in try await store.get(ObjectName(.key, id)) }
    if Digest.of(json) != id, let good = try await mendKey(store, id, damaged: json, settings) { json = good }
    guard json.count <= BlobLimits.smallFileBytes else { throw .keyDamaged(id, "it has \(json.count) bytes") }
    guard Digest.of(json) == id else { throw .keyDamaged(id, "its content has another hash") }
    return try KeyFile(json: json, id: id)
  }

  /// Tries the password on each key, the hinted one first. A damaged key is passed over while others may still open.
  static func tryKeys(
    _ store: any ObjectStore, password: Secret, hint: Digest?, settings: VaultSettings
  ) async throws(VaultError) -> (MasterKey, Digest) {
    var ids = try await access(store) { store throws(StoreError) in try await store.list(.key) }.compactMap(\.name.id)
    if ids.isEmpty { ids = try await mendLostKeys(store, settings) }
    if let hint, let position = ids.firstIndex(of: hint) { ids.swapAt(0, position) }
    var (tried, damage): (Int, VaultError?) = (0, nil)
    for id in ids {
      do throws(VaultError) {
        let file = try await readKey(store, id, settings)
        let master = try await settings.pool.run { () throws(VaultError) in try file.unwrap(password, id: id) }
        tried += 1
        if let master { return (master, id) }
      } catch {
        guard case .keyDamaged = error else { throw error }
        damage = error
      }
    }
    if tried == 0, let damage { throw damage }
    throw .wrongPassword(keysTried: tried)
  }
}
