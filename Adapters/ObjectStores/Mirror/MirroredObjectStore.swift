import Core
import Synchronization
import Vault

/// Why a mirror got nothing more in a session.
package struct MirrorProblem: Sendable, Equatable {
  package let reason: String
  /// It works, and missed something in earlier sessions: it can catch up at once.
  package var isBehind = false
}

/// Writes every object to a store and to its mirrors, and removes it from all of them; reads from the store.
///
/// A mirror is a repository at every moment. So what a mirror missed keeps it from getting what builds on that: after
/// a failure it gets nothing more in this session, and an index or a snapshot goes only to a mirror that has every index
/// the store has. What a mirror is behind by is found by comparing, not kept in a note that could be wrong. A failing mirror
/// fails nothing else: see ``standings``. Locks are the store's alone.
package final class MirroredObjectStore: ObjectStore {
  package let base: any ObjectStore
  private let mirrors: [any ObjectStore]
  /// Why a mirror gets nothing more; `nil` while it does.
  private let problems: Mutex<[MirrorProblem?]>

  package var location: String { base.location }

  package init(_ base: any ObjectStore, mirrors: [any ObjectStore]) {
    (self.base, self.mirrors) = (base, mirrors)
    problems = Mutex(mirrors.map { _ in nil })
  }

  /// Each mirror, and why it is behind, if this session knows.
  package var standings: [(mirror: any ObjectStore, problem: MirrorProblem?)] {
    zip(mirrors, problems.withLock { $0 }).map { ($0, $1) }
  }

  // MARK: Writing

  package func prepare() async throws(StoreError) {
    try await base.prepare()
    await mirroring { mirror throws(StoreError) in try await mirror.prepare() }
  }

  package func put(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    switch name.kind {
    // An escrow is of one place; each copy may have its own.
    case .lock, .escrow: try await base.put(name, bytes)
    case .data:
      // Nothing refers to a pack yet: it may arrive in any order.
      let failure = await withTaskGroup(of: StoreError?.self) { [base] group in
        group.addTask {
          do throws(StoreError) { try await base.put(name, bytes) } catch { return error }
          return nil
        }
        group.addTask {
          await self.mirroring { mirror throws(StoreError) in try await mirror.put(name, bytes) }
          return nil
        }
        var first: StoreError?
        for await failure in group { first = first ?? failure }
        return first
      }
      if let failure { throw failure }
    case .index, .snapshot:
      try await base.put(name, bytes)
      await mirroring { [base] mirror throws(StoreError) in
        try await Self.expectIndexes(of: base, except: name, in: mirror)
        try await mirror.put(name, bytes)
      }
    case .config, .key:
      try await base.put(name, bytes)
      await mirroring { mirror throws(StoreError) in try await mirror.put(name, bytes) }
    }
  }

  /// Mends one copy; the others are looked after by whoever mends.
  package func replace(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    try await base.replace(name, bytes)
  }

  package func delete(_ name: ObjectName) async throws(StoreError) {
    try await base.delete(name)
    if name.kind == .lock || name.kind == .escrow { return }
    await mirroring { [base] mirror throws(StoreError) in
      if name.kind == .data || name.kind == .index {
        try await Self.expectIndexes(of: base, except: name, in: mirror)
        try await Self.expectNoOtherSnapshots(than: base, in: mirror)
      }
      do throws(StoreError) { try await mirror.delete(name) } catch {
        guard case .notFound = error else { throw error }
      }
    }
  }

  // What a bucket locks is that bucket's alone.

  package var locksObjects: Bool { base.locksObjects }

  package func lock(on name: ObjectName) async throws(StoreError) -> ObjectLock? { try await base.lock(on: name) }

  package func setLock(_ change: ObjectLockChange, on name: ObjectName) async throws(StoreError) {
    try await base.setLock(change, on: name)
  }

  /// Does the same to every mirror that is still in step, side by side; one that fails is out of step from then on.
  private func mirroring(_ body: @escaping @Sendable (any ObjectStore) async throws(StoreError) -> Void) async {
    await withTaskGroup(of: Void.self) { group in
      for (index, mirror) in mirrors.enumerated() where problems.withLock({ $0[index] }) == nil {
        group.addTask {
          do throws(StoreError) { try await body(mirror) } catch {
            var problem = MirrorProblem(reason: error.report.summary)
            if case .location = error { problem.isBehind = true }
            let noted = problem
            self.problems.withLock { $0[index] = $0[index] ?? noted }
          }
        }
      }
    }
  }

  /// - Throws: If the mirror lacks an index, and so perhaps packs, that the store has.
  private static func expectIndexes(
    of base: any ObjectStore, except name: ObjectName, in mirror: any ObjectStore
  ) async throws(StoreError) {
    guard try await mirror.contains(.config) else { throw .location("\(mirror.location) is no copy yet") }
    let there = Set(try await mirror.list(.index).map(\.name))
    let missing = try await base.list(.index).map(\.name).filter { $0 != name && !there.contains($0) }
    guard missing.isEmpty else {
      throw .location("\(mirror.location) lacks \(missing.count) of the repository's indexes")
    }
  }

  /// - Throws: If the mirror has snapshots that the store has not, which may need what is removed.
  private static func expectNoOtherSnapshots(
    than base: any ObjectStore, in mirror: any ObjectStore
  ) async throws(StoreError) {
    let here = Set(try await base.list(.snapshot).map(\.name))
    guard try await mirror.list(.snapshot).allSatisfy({ here.contains($0.name) }) else {
      throw .location("\(mirror.location) has snapshots that the repository has not")
    }
  }

  // MARK: Reading

  package func get(_ name: ObjectName) async throws(StoreError) -> [UInt8] {
    try await reading { store throws(StoreError) in try await store.get(name) }
  }

  package func get(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    try await reading { store throws(StoreError) in try await store.get(name, range: range) }
  }

  package func getMetadata(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    try await reading { store throws(StoreError) in try await store.getMetadata(name, range: range) }
  }

  package func list(_ kind: ObjectKind) async throws(StoreError) -> [ObjectInfo] { try await base.list(kind) }

  package func size(of name: ObjectName) async throws(StoreError) -> Int? { try await base.size(of: name) }

  /// From a mirror if the store doesn't answer. What is damaged or missing is the vault's to notice, and to mend.
  private func reading(
    _ body: (any ObjectStore) async throws(StoreError) -> [UInt8]
  ) async throws(StoreError) -> [UInt8] {
    do throws(StoreError) { return try await body(base) } catch {
      guard case .unavailable = error else { throw error }
      for mirror in mirrors {
        if let bytes = try? await body(mirror) { return bytes }
      }
      throw error
    }
  }
}
