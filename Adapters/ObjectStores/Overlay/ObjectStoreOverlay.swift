import Core
import Synchronization
import Vault

/// What is wrong with an object, as an overlay shows it.
package enum PlantedDamage: Sendable, Equatable {
  /// One bit of this byte is another, wherever it is read from.
  case flipped(offset: Int)
  case lost
  case denied
}

/// A store as it is, with everything that is written kept in memory: what is below is never written to.
///
/// So a drill can lock, and damage can be planted, in a repository that others work with.
package final class OverlayObjectStore: ObjectStore {
  private struct State {
    var written: [ObjectName: [UInt8]] = [:]
    var removed: Set<ObjectName> = []
  }

  private let base: any ObjectStore
  private let damage: [ObjectName: PlantedDamage]
  /// Told before each read of content, so that a slow store can be played without waiting.
  private let reading: @Sendable (_ bytes: Int) -> Void
  private let state = Mutex(State())

  package var location: String { base.location }

  package init(
    _ base: any ObjectStore, damage: [ObjectName: PlantedDamage] = [:],
    reading: @escaping @Sendable (_ bytes: Int) -> Void = { _ in }
  ) {
    (self.base, self.damage, self.reading) = (base, damage, reading)
  }

  package func prepare() async throws(StoreError) {}

  package func put(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    if let there = try await find(name) {
      guard there == bytes else { throw .exists(name) }
      return
    }
    // Of several that found nothing, one is the first.
    let first = state.withLock { state in
      if let there = state.written[name] { return there }
      state.written[name] = bytes
      state.removed.remove(name)
      return bytes
    }
    guard first == bytes else { throw .exists(name) }
  }

  package func get(_ name: ObjectName) async throws(StoreError) -> [UInt8] {
    guard let bytes = try await find(name) else { throw .notFound(name) }
    reading(bytes.count)
    return flipped(bytes, of: name, from: 0)
  }

  package func get(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    if let written = state.withLock({ $0.written[name] }) {
      guard range.lowerBound >= 0, range.upperBound <= written.count else {
        throw .pastEnd(name, sizeBytes: written.count)
      }
      return Array(written[range])
    }
    guard try isThere(name) else { throw .notFound(name) }
    let bytes = try await base.get(name, range: range)
    reading(bytes.count)
    return flipped(bytes, of: name, from: range.lowerBound)
  }

  package func list(_ kind: ObjectKind) async throws(StoreError) -> [ObjectInfo] {
    let below = try await base.list(kind)
    return state.withLock { state in
      let kept = below.filter { !state.removed.contains($0.name) && damage[$0.name] != .lost }
      let added = state.written.filter { $0.key.kind == kind }.map { ObjectInfo($0.key, sizeBytes: $0.value.count) }
      return (kept + added).sorted { $0.name < $1.name }
    }
  }

  package func size(of name: ObjectName) async throws(StoreError) -> Int? {
    if let written = state.withLock({ $0.written[name] }) { return written.count }
    return try isThere(name) ? try await base.size(of: name) : nil
  }

  package func delete(_ name: ObjectName) async throws(StoreError) {
    if state.withLock({ $0.written.removeValue(forKey: name) }) != nil { return }
    guard try isThere(name), try await base.size(of: name) != nil else { throw .notFound(name) }
    _ = state.withLock { $0.removed.insert(name) }
  }

  /// The bytes as they are, undamaged.
  private func find(_ name: ObjectName) async throws(StoreError) -> [UInt8]? {
    if let written = state.withLock({ $0.written[name] }) { return written }
    guard try isThere(name) else { return nil }
    do throws(StoreError) { return try await base.get(name) } catch {
      if case .notFound = error { return nil }
      throw error
    }
  }

  private func isThere(_ name: ObjectName) throws(StoreError) -> Bool {
    switch damage[name] {
    case .lost: return false
    case .denied: throw .permission(name.path)
    case .flipped, nil: return !state.withLock { $0.removed.contains(name) }
    }
  }

  private func flipped(_ bytes: [UInt8], of name: ObjectName, from start: Int) -> [UInt8] {
    guard case .flipped(let offset) = damage[name], bytes.indices.contains(offset - start) else { return bytes }
    var bytes = bytes
    bytes[offset - start] ^= 0x40
    return bytes
  }
}
