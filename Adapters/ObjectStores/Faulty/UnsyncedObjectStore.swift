import Core
import Synchronization
import Vault

/// A disk whose cache a loss of power empties.
///
/// What a call changes is seen at once, and durable some steps later, always before the call returns. When the power
/// goes, each change still in the cache has happened or not, whatever its order; chance decides. Every call gives way
/// to other tasks at each step, so that calls are under way side by side.
package final class UnsyncedObjectStore: ObjectStore {
  private enum Change {
    case put(ObjectName, [UInt8])
    case delete(ObjectName)
  }

  private struct State {
    var durable: [ObjectName: [UInt8]]
    var visible: [ObjectName: [UInt8]]
    var cache: [(number: Int, change: Change)] = []
    var changes = 0
    var steps = 0
    var isDark = false
  }

  private let state: Mutex<State>
  private let step: Int
  private let tears: Bool
  private let chance: SeededRandomness
  package let location = "unsynced:"

  /// - Parameters:
  ///   - contents: What the disk holds, durably.
  ///   - step: The power goes at this step, from 1.
  ///   - tears: A write in the cache may also leave its first bytes under the object's name, as no store should.
  package init(contents: [ObjectName: [UInt8]], losingPowerAt step: Int, seed: UInt64, tears: Bool = false) {
    state = Mutex(State(durable: contents, visible: contents))
    (self.step, self.tears) = (step, tears)
    chance = SeededRandomness(seed: seed &+ UInt64(step) &* 0x9e37_79b9_7f4a_7c15)
  }

  package var hasLostPower: Bool { state.withLock { $0.isDark } }

  /// What is there when the power comes back.
  package var survivors: [ObjectName: [UInt8]] { state.withLock { $0.durable } }

  /// What is there after everything in the cache has been written.
  package var everything: [ObjectName: [UInt8]] { state.withLock { $0.visible } }

  package func prepare() async throws(StoreError) {}

  package func put(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    if let id = name.id, Digest.of(bytes) != id { throw .corrupt(name, "the content to be put has another hash") }
    // Data on its way to a temporary file, which nobody sees.
    try await pass()
    let isKnown = try await pass { (state) throws(StoreError) in
      guard let there = state.visible[name] else { return false }
      guard there == bytes else { throw .exists(name) }
      return true
    }
    if isKnown { return try await settle() }
    try await make(.put(name, bytes))
  }

  package func delete(_ name: ObjectName) async throws(StoreError) {
    try await pass { (state) throws(StoreError) in
      guard state.visible[name] != nil else { throw .notFound(name) }
    }
    try await make(.delete(name))
  }

  package func get(_ name: ObjectName) async throws(StoreError) -> [UInt8] {
    try await pass { (state) throws(StoreError) in
      guard let bytes = state.visible[name] else { throw .notFound(name) }
      return bytes
    }
  }

  package func get(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    let bytes = try await get(name)
    guard range.lowerBound >= 0, range.upperBound <= bytes.count else { throw .pastEnd(name, sizeBytes: bytes.count) }
    return Array(bytes[range])
  }

  package func list(_ kind: ObjectKind) async throws(StoreError) -> [ObjectInfo] {
    try await pass { (state) throws(StoreError) in
      state.visible.filter { $0.key.kind == kind }.map { ObjectInfo($0.key, sizeBytes: $0.value.count) }
        .sorted { $0.name < $1.name }
    }
  }

  package func size(of name: ObjectName) async throws(StoreError) -> Int? {
    try await pass { (state) throws(StoreError) in state.visible[name]?.count }
  }

  // MARK: The cache

  private func make(_ change: Change) async throws(StoreError) {
    let number = try await pass { (state) throws(StoreError) in
      state.changes += 1
      state.cache.append((state.changes, change))
      Self.apply(change, &state.visible)
      return state.changes
    }
    for _ in 0..<chance.below(3) { try await pass() }
    try await pass { (state) throws(StoreError) in
      guard let index = state.cache.firstIndex(where: { $0.number == number }) else { return }
      Self.apply(state.cache.remove(at: index).change, &state.durable)
    }
  }

  /// Another's change may still be in the cache; what says that an object is there must make it so.
  private func settle() async throws(StoreError) {
    try await pass { (state) throws(StoreError) in
      for entry in state.cache { Self.apply(entry.change, &state.durable) }
      state.cache = []
    }
  }

  private static func apply(_ change: Change, _ objects: inout [ObjectName: [UInt8]]) {
    switch change {
    case .put(let name, let bytes): objects[name] = bytes
    case .delete(let name): objects[name] = nil
    }
  }

  private func pass() async throws(StoreError) { try await pass { (_) throws(StoreError) in } }

  private func pass<T: Sendable>(_ body: (inout State) throws(StoreError) -> T) async throws(StoreError) -> T {
    await Task.yield()
    let result: Result<T, StoreError> = state.withLock { state in
      state.steps += 1
      if state.steps == step { losePower(&state) }
      if state.isDark { return .failure(.unavailable("the power is gone")) }
      do throws(StoreError) { return .success(try body(&state)) } catch { return .failure(error) }
    }
    return try result.get()
  }

  private func losePower(_ state: inout State) {
    state.isDark = true
    for entry in state.cache {
      switch chance.below(tears ? 3 : 2) {
      case 0: break
      case 1: Self.apply(entry.change, &state.durable)
      default:
        if case .put(let name, let bytes) = entry.change {
          state.durable[name] = Array(bytes.prefix(chance.below(bytes.count)))
        }
      }
    }
    state.cache = []
  }
}
