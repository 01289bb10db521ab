import Core

/// Another way to a repository's objects: a second copy of it, or parity.
package protocol RecoverySource: Sendable {
  /// For people; without secrets.
  var location: String { get }

  /// An object as it should be; what comes is verified by the caller.
  ///
  /// - Parameter damaged: What lies in the repository under that name; `nil` if nothing does.
  /// - Returns: `nil` if this source has no way to it.
  func recover(_ name: ObjectName, damaged: [UInt8]?) async throws(StoreError) -> [UInt8]?

  /// Objects of a kind that this source may have.
  func names(_ kind: ObjectKind) async throws(StoreError) -> [ObjectName]

  /// Keeps good content that is about to be moved to its place, if this source has it nowhere else.
  func hold(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError)
}

extension RecoverySource {
  package func hold(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {}
}

/// A store that holds the same objects.
package struct CopySource: RecoverySource {
  package let store: any ObjectStore
  package var location: String { store.location }

  package init(_ store: any ObjectStore) { self.store = store }

  package func recover(_ name: ObjectName, damaged: [UInt8]?) async throws(StoreError) -> [UInt8]? {
    do throws(StoreError) { return try await store.get(name) } catch {
      if case .notFound = error { return nil }
      throw error
    }
  }

  package func names(_ kind: ObjectKind) async throws(StoreError) -> [ObjectName] {
    try await store.list(kind).map(\.name)
  }
}

/// An object that was brought back.
package struct RecoveredObject: Sendable {
  package let name: ObjectName
  package let bytes: [UInt8]
  /// Where it came from.
  package let location: String
}

extension [any RecoverySource] {
  /// The first source's content that is what the name says. A source that fails is passed over.
  ///
  /// - Parameter isGood: Judges content whose name says nothing of it: the config's.
  func recover(
    _ name: ObjectName, damaged: [UInt8]?, isGood: @Sendable ([UInt8]) async -> Bool
  ) async throws(StoreError) -> RecoveredObject? {
    for source in self {
      do throws(StoreError) {
        guard let bytes = try await source.recover(name, damaged: damaged), await isGood(bytes) else { continue }
        return RecoveredObject(name: name, bytes: bytes, location: source.location)
      } catch {
        if case .cancelled = error { throw error }
      }
    }
    return nil
  }
}
