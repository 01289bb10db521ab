import Core
import Synchronization
import Vault

/// Objects in memory, for simulations and tests; stricter than a real store.
///
/// Content must match its name, every call gives way to other tasks before it takes effect, and after ``crash()``
/// nothing of this store can be reached: what was durable is in ``contents``.
package final class MemoryObjectStore: ObjectStore {
  private struct State {
    var objects: [ObjectName: [UInt8]]
    var isPrepared: Bool
    var hasCrashed = false
    var capacityBytes = Int.max
  }

  private let state: Mutex<State>
  private let checksNames: Bool
  package let location: String
  package let listsAtOnce: Bool

  /// - Parameters:
  ///   - contents: What an earlier store held.
  ///   - checksNames: Refuses content whose SHA-256 isn't its name; `false` for tests of damage.
  ///   - listsAtOnce: It always does; `false` keeps that from everybody.
  package init(
    contents: [ObjectName: [UInt8]] = [:], checksNames: Bool = true, location: String = "memory:",
    listsAtOnce: Bool = false
  ) {
    state = Mutex(State(objects: contents, isPrepared: !contents.isEmpty))
    (self.checksNames, self.location, self.listsAtOnce) = (checksNames, location, listsAtOnce)
  }

  /// A copy of every object.
  package var contents: [ObjectName: [UInt8]] { state.withLock { $0.objects } }

  /// Changes an object behind everyone's back, as a failing disk would; `nil` makes it vanish.
  package func tamper(_ name: ObjectName, _ change: (inout [UInt8]?) -> Void) {
    state.withLock { change(&$0.objects[name]) }
  }

  /// The machine goes down: this and every later call fails, and writes under way have not happened.
  package func crash() { state.withLock { $0.hasCrashed = true } }

  /// How many bytes the store takes before it is full.
  package func limit(toBytes capacity: Int) { state.withLock { $0.capacityBytes = capacity } }

  package func prepare() async throws(StoreError) {
    try await step { (state) throws(StoreError) in state.isPrepared = true }
  }

  package func put(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    if checksNames, let id = name.id, Digest.of(bytes) != id {
      throw .corrupt(name, "the content to be put has another hash")
    }
    try await step { (state) throws(StoreError) in
      guard state.isPrepared else { throw .location("\(location) is not prepared") }
      if let there = state.objects[name] {
        guard there == bytes else { throw .exists(name) }
        return
      }
      guard state.objects.values.reduce(bytes.count, { $0 + $1.count }) <= state.capacityBytes else {
        throw .full("\(state.capacityBytes) bytes are all there are")
      }
      state.objects[name] = bytes
    }
  }

  package func get(_ name: ObjectName) async throws(StoreError) -> [UInt8] {
    try await step { (state) throws(StoreError) in
      guard let bytes = state.objects[name] else { throw .notFound(name) }
      return bytes
    }
  }

  package func get(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    try await step { (state) throws(StoreError) in
      guard let bytes = state.objects[name] else { throw .notFound(name) }
      guard range.lowerBound >= 0, range.upperBound <= bytes.count else { throw .pastEnd(name, sizeBytes: bytes.count) }
      return Array(bytes[range])
    }
  }

  package func list(_ kind: ObjectKind) async throws(StoreError) -> [ObjectInfo] {
    try await step { (state) throws(StoreError) in
      state.objects.filter { $0.key.kind == kind }.map { ObjectInfo($0.key, sizeBytes: $0.value.count) }
        .sorted { $0.name < $1.name }
    }
  }

  package func size(of name: ObjectName) async throws(StoreError) -> Int? {
    try await step { (state) throws(StoreError) in state.objects[name]?.count }
  }

  package func delete(_ name: ObjectName) async throws(StoreError) {
    try await step { (state) throws(StoreError) in
      guard state.objects.removeValue(forKey: name) != nil else { throw .notFound(name) }
    }
  }

  private func step<T: Sendable>(_ body: (inout State) throws(StoreError) -> T) async throws(StoreError) -> T {
    await Task.yield()
    let result: Result<T, StoreError> = state.withLock { state in
      if state.hasCrashed { return .failure(.unavailable("\(location) has crashed")) }
      do throws(StoreError) { return .success(try body(&state)) } catch { return .failure(error) }
    }
    return try result.get()
  }
}
