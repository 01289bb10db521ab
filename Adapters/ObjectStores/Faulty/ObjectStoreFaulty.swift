import Core
import Synchronization
import Vault

/// What a store can be asked to do; what faults are aimed at.
package enum StoreOperation: Hashable, Sendable, CaseIterable {
  case prepare, put, get, list, size, delete
}

/// What goes wrong.
package enum Fault: Sendable {
  /// The call fails and has no effect; the next one is fine.
  case failure(StoreError)
  /// The call fails though it took effect: a lost answer.
  case lostAnswer(StoreError)
  /// The process ends before the call has an effect; every later call fails.
  case crashBefore
  /// The process ends after the call took effect.
  case crashAfter
  /// A store that doesn't keep its promise: a put leaves only the first bytes under the object's name, then a crash.
  case tornPut(bytes: Int)
  /// A get gives damaged bytes: one bit is another.
  case bitFlip
  /// A get gives that many bytes less than it should.
  case truncated(bytes: Int)
  /// A get gives as many bytes of something else.
  case otherBytes
  /// A put or a delete says that it is done, and did nothing.
  case lie
  /// The call takes this much longer.
  case delay(Duration)
}

/// Decides for every call whether and how it goes wrong; a function of the call's number, so a failure can be replayed.
package struct FaultPlan: Sendable {
  /// - Parameters: The operation, its object's kind, and the call's number, from 1.
  package let decide: @Sendable (StoreOperation, ObjectKind?, Int) -> Fault?

  package init(_ decide: @escaping @Sendable (StoreOperation, ObjectKind?, Int) -> Fault?) { self.decide = decide }

  package static let none = FaultPlan { _, _, _ in nil }

  /// One fault, at the `number`-th call of the operations named.
  package static func at(_ number: Int, _ fault: Fault) -> FaultPlan {
    FaultPlan { _, _, call in call == number ? fault : nil }
  }

  /// Each call fails with this probability; the same calls for the same seed.
  package static func random(
    seed: UInt64, probability: Double, operations: Set<StoreOperation> = Set(StoreOperation.allCases),
    _ fault: @escaping @Sendable (any Randomness) -> Fault
  ) -> FaultPlan {
    FaultPlan { operation, _, call in
      let randomness = SeededRandomness(seed: seed &+ UInt64(call) &* 0x9e37_79b9_7f4a_7c15)
      guard operations.contains(operation), randomness.chance(probability) else { return nil }
      return fault(randomness)
    }
  }
}

/// A store that fails on purpose, around one that doesn't.
package final class FaultyObjectStore: ObjectStore {
  private struct State {
    var calls = 0
    var hasCrashed = false
    var log: [(StoreOperation, ObjectName?)] = []
  }

  private let base: any ObjectStore
  private let plan: FaultPlan
  private let counted: Set<StoreOperation>
  private let time: any Timekeeper
  private let state = Mutex(State())

  package var location: String { base.location }

  /// - Parameter counting: Calls of other operations get no number and no fault, but fail after a crash.
  package init(
    _ base: any ObjectStore, _ plan: FaultPlan = .none, counting: Set<StoreOperation> = Set(StoreOperation.allCases),
    time: any Timekeeper = SystemTime()
  ) {
    (self.base, self.plan, counted, self.time) = (base, plan, counting, time)
  }

  /// Calls so far.
  package var calls: Int { state.withLock { $0.calls } }
  package var hasCrashed: Bool { state.withLock { $0.hasCrashed } }
  /// What was called, in order; the names of objects where there is one.
  package var log: [(StoreOperation, ObjectName?)] { state.withLock { $0.log } }

  package func prepare() async throws(StoreError) {
    try await call(.prepare, nil) { () throws(StoreError) in try await base.prepare() }
  }

  package func put(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    try await call(
      .put, name, torn: { (count) throws(StoreError) in try await self.base.put(name, Array(bytes.prefix(count))) }
    ) { () throws(StoreError) in try await base.put(name, bytes) }
  }

  package func get(_ name: ObjectName) async throws(StoreError) -> [UInt8] {
    try await call(.get, name, changed: Self.change) { () throws(StoreError) in try await base.get(name) }
  }

  package func get(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    try await call(.get, name, changed: Self.change) { () throws(StoreError) in try await base.get(name, range: range) }
  }

  package func list(_ kind: ObjectKind) async throws(StoreError) -> [ObjectInfo] {
    try await call(.list, nil, kind: kind) { () throws(StoreError) in try await base.list(kind) }
  }

  package func size(of name: ObjectName) async throws(StoreError) -> Int? {
    try await call(.size, name) { () throws(StoreError) in try await base.size(of: name) }
  }

  package func delete(_ name: ObjectName) async throws(StoreError) {
    try await call(.delete, name) { () throws(StoreError) in try await base.delete(name) }
  }

  package var listsAtOnce: Bool { get async { await base.listsAtOnce } }

  package var locksObjects: Bool { base.locksObjects }

  package func lock(on name: ObjectName) async throws(StoreError) -> ObjectLock? {
    try await base.lock(on: name)
  }

  package func setLock(_ change: ObjectLockChange, on name: ObjectName) async throws(StoreError) {
    try await base.setLock(change, on: name)
  }

  private static func change(_ bytes: [UInt8], _ fault: Fault) -> [UInt8] {
    var bytes = bytes
    switch fault {
    case .bitFlip: if !bytes.isEmpty { bytes[bytes.count / 2] ^= 1 }
    case .truncated(let count): bytes.removeLast(min(count, bytes.count))
    case .otherBytes: bytes = SeededRandomness(seed: UInt64(bytes.count)).bytes(bytes.count)
    default: break
    }
    return bytes
  }

  private func call<T>(
    _ operation: StoreOperation, _ name: ObjectName?, kind: ObjectKind? = nil,
    torn: ((Int) async throws(StoreError) -> Void)? = nil, changed: ((T, Fault) -> T)? = nil,
    _ body: () async throws(StoreError) -> T
  ) async throws(StoreError) -> T {
    let crashed = StoreError.unavailable("the process has ended")
    let number: Int? = state.withLock { state in
      if state.hasCrashed { return nil }
      guard counted.contains(operation) else { return 0 }
      state.calls += 1
      state.log.append((operation, name))
      return state.calls
    }
    guard let number else { throw crashed }
    let fault = number > 0 ? plan.decide(operation, kind ?? name?.kind, number) : nil
    switch fault {
    case nil: return try await body()
    case .failure(let error): throw error
    case .lostAnswer(let error):
      _ = try await body()
      throw error
    case .crashBefore:
      crash()
      throw crashed
    case .crashAfter:
      defer { crash() }
      _ = try await body()
      throw crashed
    case .tornPut(let bytes):
      defer { crash() }
      try await torn?(bytes)
      throw crashed
    case .bitFlip, .truncated, .otherBytes:
      let result = try await body()
      return changed?(result, fault ?? .bitFlip) ?? result
    case .lie:
      guard operation == .put || operation == .delete, let nothing = () as? T else { return try await body() }
      return nothing
    case .delay(let duration):
      do { try await time.sleep(for: duration) } catch { throw .cancelled }
      return try await body()
    }
  }

  private func crash() { state.withLock { $0.hasCrashed = true } }
}
