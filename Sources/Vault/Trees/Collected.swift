import Synchronization

/// A dictionary that several tasks fill.
final class Collected<Key: Hashable & Sendable, Value: Sendable>: Sendable {
  private let values = Mutex<[Key: Value]>([:])

  func insert(_ key: Key, _ value: Value) { values.withLock { $0[key] = value } }

  func contains(_ key: Key) -> Bool { values.withLock { $0[key] != nil } }

  subscript(key: Key) -> Value? { values.withLock { $0[key] } }

  var all: [Key: Value] { values.withLock { $0 } }
}
