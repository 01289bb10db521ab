import Core
import Synchronization
import Vault

/// A store of which other calls learn late what one call did: new objects are neither listed nor found for a while, and
/// removed ones are still listed.
///
/// Time is counted in calls; how long each change takes to be seen, chance decides.
package final class LaggingObjectStore: ObjectStore {
  private struct State {
    var calls = 0
    /// From which call on an object is listed, and found.
    var listed: [ObjectName: Int] = [:]
    var found: [ObjectName: Int] = [:]
    /// Until which call an object that has gone is listed.
    var ghosts: [ObjectInfo: Int] = [:]
  }

  private let base: any ObjectStore
  private let (listing, reading): (Int, Int)
  private let kinds: Set<ObjectKind>
  private let chance: SeededRandomness
  private let state = Mutex(State())
  package var location: String { base.location }

  /// - Parameters:
  ///   - listing: By how many calls a listing is behind, at most.
  ///   - reading: By how many calls a read is behind, at most.
  ///   - kinds: Of which objects.
  package init(
    _ base: any ObjectStore, listing: Int, reading: Int, kinds: Set<ObjectKind> = Set(ObjectKind.allCases), seed: UInt64
  ) {
    (self.base, self.listing, self.reading, self.kinds) = (base, listing, reading, kinds)
    chance = SeededRandomness(seed: seed)
  }

  /// Everything is seen from now on.
  package func catchUp() { state.withLock { ($0.listed, $0.found, $0.ghosts) = ([:], [:], [:]) } }

  package func prepare() async throws(StoreError) { try await base.prepare() }

  package func put(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    try await base.put(name, bytes)
    guard kinds.contains(name.kind) else { return }
    state.withLock { state in
      state.calls += 1
      state.listed[name] = state.calls + chance.below(listing + 1)
      state.found[name] = state.calls + chance.below(reading + 1)
    }
  }

  package func get(_ name: ObjectName) async throws(StoreError) -> [UInt8] {
    guard isFound(name) else { throw .notFound(name) }
    return try await base.get(name)
  }

  package func get(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    guard isFound(name) else { throw .notFound(name) }
    return try await base.get(name, range: range)
  }

  package func size(of name: ObjectName) async throws(StoreError) -> Int? {
    guard isFound(name) else { return nil }
    return try await base.size(of: name)
  }

  package func list(_ kind: ObjectKind) async throws(StoreError) -> [ObjectInfo] {
    let there = try await base.list(kind)
    return state.withLock { state in
      state.calls += 1
      let now = state.calls
      let ghosts = state.ghosts.filter { $0.key.name.kind == kind && $0.value > now }.map(\.key)
      return (there.filter { (state.listed[$0.name] ?? 0) <= now } + ghosts).sorted { $0.name < $1.name }
    }
  }

  package func delete(_ name: ObjectName) async throws(StoreError) {
    let size = try await base.size(of: name)
    try await base.delete(name)
    guard let size, kinds.contains(name.kind) else { return }
    state.withLock { state in
      state.calls += 1
      if listing > 0 { state.ghosts[ObjectInfo(name, sizeBytes: size)] = state.calls + chance.below(listing + 1) }
    }
  }

  private func isFound(_ name: ObjectName) -> Bool {
    state.withLock { state in
      state.calls += 1
      return (state.found[name] ?? 0) <= state.calls
    }
  }
}
