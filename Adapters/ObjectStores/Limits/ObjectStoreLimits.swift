import Core
import Synchronization
import Vault

/// What a store may be asked for at a time.
package struct StoreLimits: Sendable, Equatable {
  /// Calls under way at the same time; the others wait in order of arrival.
  package var connections: Int?
  package var uploadBytesPerSecond: Int?
  package var downloadBytesPerSecond: Int?

  package init(connections: Int? = nil, uploadBytesPerSecond: Int? = nil, downloadBytesPerSecond: Int? = nil) {
    self.connections = connections
    self.uploadBytesPerSecond = uploadBytesPerSecond
    self.downloadBytesPerSecond = downloadBytesPerSecond
  }

  package var isUnlimited: Bool { self == StoreLimits() }
}

/// Keeps a store's use of a network within limits.
///
/// Bandwidth is a mean over whole objects: an upload waits before it begins until all earlier ones would be through at the
/// rate asked for, a download waits after it has come. Listings and sizes cost nothing.
package struct LimitedObjectStore: ObjectStore {
  private let base: any ObjectStore
  private let connections: ConnectionLimit?
  private let up: Rate?
  private let down: Rate?

  package var location: String { base.location }

  package init(_ base: any ObjectStore, _ limits: StoreLimits, time: any Timekeeper) {
    self.base = base
    connections = limits.connections.map { ConnectionLimit($0) }
    up = limits.uploadBytesPerSecond.map { Rate(bytesPerSecond: $0, time) }
    down = limits.downloadBytesPerSecond.map { Rate(bytesPerSecond: $0, time) }
  }

  package func prepare() async throws(StoreError) {
    try await limited { () throws(StoreError) in try await base.prepare() }
  }

  package func put(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    try await limited { () throws(StoreError) in
      try await up?.take(bytes.count)
      try await base.put(name, bytes)
    }
  }

  package func get(_ name: ObjectName) async throws(StoreError) -> [UInt8] {
    try await limited { () throws(StoreError) in
      let bytes = try await base.get(name)
      try await down?.settle(bytes.count)
      return bytes
    }
  }

  package func get(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    try await limited { () throws(StoreError) in
      let bytes = try await base.get(name, range: range)
      try await down?.settle(bytes.count)
      return bytes
    }
  }

  package func list(_ kind: ObjectKind) async throws(StoreError) -> [ObjectInfo] {
    try await limited { () throws(StoreError) in try await base.list(kind) }
  }

  package func size(of name: ObjectName) async throws(StoreError) -> Int? {
    try await limited { () throws(StoreError) in try await base.size(of: name) }
  }

  package func delete(_ name: ObjectName) async throws(StoreError) {
    try await limited { () throws(StoreError) in try await base.delete(name) }
  }

  package var listsAtOnce: Bool { get async { await base.listsAtOnce } }

  package var locksObjects: Bool { base.locksObjects }

  package func lock(on name: ObjectName) async throws(StoreError) -> ObjectLock? {
    try await limited { () throws(StoreError) in try await base.lock(on: name) }
  }

  package func setLock(_ change: ObjectLockChange, on name: ObjectName) async throws(StoreError) {
    try await limited { () throws(StoreError) in try await base.setLock(change, on: name) }
  }

  private func limited<T>(_ body: () async throws(StoreError) -> T) async throws(StoreError) -> T {
    guard let connections else { return try await body() }
    guard await connections.enter() else { throw .cancelled }
    defer { connections.leave() }
    return try await body()
  }
}

/// Bytes per second, handed out in order of arrival.
private final class Rate: Sendable {
  private let bytesPerSecond: Int
  private let time: any Timekeeper
  /// When, in nanoseconds of the clock that never steps, all that was taken is through.
  private let busyUntil = Mutex(Int64(0))

  init(bytesPerSecond: Int, _ time: any Timekeeper) {
    (self.bytesPerSecond, self.time) = (max(1, bytesPerSecond), time)
  }

  /// Waits until everything taken before is through.
  func take(_ count: Int) async throws(StoreError) { try await wait(until: book(count).start) }

  /// Waits until this, too, is through.
  func settle(_ count: Int) async throws(StoreError) { try await wait(until: book(count).end) }

  private func book(_ count: Int) -> (start: Int64, end: Int64) {
    let now = time.monotonicNanoseconds()
    let cost = Int64(Double(count) / Double(bytesPerSecond) * 1e9)
    return busyUntil.withLock { busyUntil in
      let start = max(now, busyUntil)
      busyUntil = start + cost
      return (start, busyUntil)
    }
  }

  private func wait(until instant: Int64) async throws(StoreError) {
    let remaining = instant - time.monotonicNanoseconds()
    guard remaining > 0 else { return }
    do { try await time.sleep(for: .nanoseconds(remaining)) } catch { throw .cancelled }
  }
}

/// Lets a fixed number through at a time, in order of arrival.
private final class ConnectionLimit: Sendable {
  private struct State {
    var free: Int
    var arrivals: UInt64 = 0
    var waiters: [(number: UInt64, continuation: CheckedContinuation<Bool, Never>)] = []
  }

  private let state: Mutex<State>

  init(_ limit: Int) { state = Mutex(State(free: max(1, limit))) }

  /// - Returns: `false` if the task was cancelled while it waited.
  func enter() async -> Bool {
    let number = state.withLock { state in
      state.arrivals += 1
      return state.arrivals
    }
    return await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        let answer: Bool? = state.withLock { state in
          // Cancelled before it is among the waiters: the handler finds nobody, so look here.
          if Task.isCancelled { return false }
          if state.free > 0 {
            state.free -= 1
            return true
          }
          state.waiters.append((number, continuation))
          return nil
        }
        if let answer { continuation.resume(returning: answer) }
      }
    } onCancel: {
      let waiter = state.withLock { state -> CheckedContinuation<Bool, Never>? in
        guard let index = state.waiters.firstIndex(where: { $0.number == number }) else { return nil }
        return state.waiters.remove(at: index).continuation
      }
      waiter?.resume(returning: false)
    }
  }

  func leave() {
    let next = state.withLock { state -> CheckedContinuation<Bool, Never>? in
      guard state.waiters.isEmpty else { return state.waiters.removeFirst().continuation }
      state.free += 1
      return nil
    }
    next?.resume(returning: true)
  }
}
