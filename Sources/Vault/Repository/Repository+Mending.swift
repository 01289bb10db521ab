import Core
import IO
import Synchronization

/// What this session found damaged or missing, and brought back.
final class Mending: Sendable {
  /// One object at a time: many readers come across the same damage at once.
  let gate = Gate(limit: 1)
  let done = Mutex<[ObjectName: MendedObject]>([:])
}

/// An object that was damaged or missing.
package struct MendedObject: Hashable, Sendable {
  package let name: ObjectName
  /// Where good content came from.
  package let source: String
  /// Why it could not be put back, if it couldn't: it was used all the same.
  package var failure: String?
}

extension Repository {
  /// What was brought back while this session read, ascending by name.
  package var mended: [MendedObject] { mending.done.withLock { $0.values.sorted { $0.name < $1.name } } }

  /// Brings a damaged or missing object back from the settings' sources, and puts it in its place.
  ///
  /// The content is verified against the name first. If the store can't be written to, the content is given all the same.
  ///
  /// - Returns: The good content, or `nil` if no source has it.
  func mend(_ name: ObjectName) async throws(VaultError) -> [UInt8]? {
    guard let id = name.id, name.kind != .lock, !settings.sources.isEmpty else { return nil }
    return try await mending.gate.through { () throws(VaultError) in
      let pool = settings.pool
      let isGood: @Sendable ([UInt8]) async -> Bool = { bytes in
        await pool.run { bytes.withUnsafeBytes { PairedDigest.of($0) } == id }
      }
      let here = try await presentBytes(name)
      // Somebody who was earlier has brought it back.
      if let here, await isGood(here) { return here }
      if settings.mendsInPlace { try await confirmation.wait() }
      let found = try await access { _ throws(StoreError) in
        try await settings.sources.recover(name, damaged: here, isGood: isGood)
      }
      guard let found else { return nil }
      var result = MendedObject(name: name, source: found.location)
      do throws(StoreError) {
        if settings.mendsInPlace { try await store.replace(name, found.bytes) }
      } catch {
        if case .cancelled = error { throw .cancelled }
        result.failure = error.report.summary
      }
      let noted = result
      mending.done.withLock { $0[name] = noted }
      settings.onMended(noted)
      return found.bytes
    }
  }

  /// What lies under a name, if it can be read at all.
  func presentBytes(_ name: ObjectName) async throws(VaultError) -> [UInt8]? {
    do throws(StoreError) { return try await store.get(name) } catch {
      switch error {
      case .notFound, .corrupt, .pastEnd: return nil
      default: throw VaultError(error)
      }
    }
  }
}

extension Repository {
  /// Brings the config back. Its name says nothing of its content: good is what the master key opens, and a config.
  ///
  /// - Returns: `nil` if no source has it.
  static func mendConfig(
    _ store: any ObjectStore, _ master: MasterKey, damaged: [UInt8]?, _ settings: VaultSettings
  ) async throws(VaultError) -> RepositoryConfig? {
    let open: @Sendable ([UInt8]) -> RepositoryConfig? = { bytes in
      let codec = try? Codec(key: master, version: 1, level: settings.compression, randomness: settings.randomness)
      return codec.flatMap { try? RepositoryConfig(sealed: bytes, $0) }
    }
    let found = try await access(store) { _ throws(StoreError) in
      try await settings.sources.recover(.config, damaged: damaged) { open($0) != nil }
    }
    guard let found else { return nil }
    // What can't be written to can still be read.
    if settings.mendsInPlace { try? await store.replace(.config, found.bytes) }
    return open(found.bytes)
  }

  /// Brings a key file back that is damaged.
  static func mendKey(
    _ store: any ObjectStore, _ id: Digest, damaged: [UInt8], _ settings: VaultSettings
  ) async throws(VaultError) -> [UInt8]? {
    let name = ObjectName(.key, id)
    let found = try await access(store) { _ throws(StoreError) in
      try await settings.sources.recover(name, damaged: damaged) { Digest.of($0) == id }
    }
    guard let found else { return nil }
    if settings.mendsInPlace { try? await store.replace(name, found.bytes) }
    return found.bytes
  }

  /// Brings every key file back, if not one is left.
  static func mendLostKeys(_ store: any ObjectStore, _ settings: VaultSettings) async throws(VaultError) -> [Digest] {
    var result: [Digest] = []
    for source in settings.sources {
      guard let names = try? await source.names(.key) else { continue }
      for id in names.compactMap(\.id) where !result.contains(id) {
        if try await mendKey(store, id, damaged: [], settings) != nil { result.append(id) }
      }
    }
    return result
  }
}
