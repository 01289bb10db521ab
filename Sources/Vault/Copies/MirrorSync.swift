import Core
import IO
import Synchronization

/// In what a mirror differs from the repository it is a copy of.
package struct MirrorDifference: Sendable {
  /// What the repository has and the mirror lacks, or has in another size.
  package var missing: [ObjectInfo] = []
  /// What only the mirror has.
  package var extra: [ObjectInfo] = []

  package var isInStep: Bool { missing.isEmpty }
  package var missingBytes: Int { missing.reduce(0) { $0 + $1.sizeBytes } }
  package func count(_ kind: ObjectKind) -> Int { missing.count { $0.name.kind == kind } }
}

/// What a synchronisation did.
package struct MirrorSyncReport: Sendable {
  package var copied = 0
  package var copiedBytes = 0
  package var removed = 0
  /// What only the mirror has, if it wasn't to be removed.
  package var extra = 0
  /// What is damaged in the repository itself, and was not copied.
  package var damaged: [ObjectName] = []

  package var isComplete: Bool { damaged.isEmpty }
}

/// Makes a mirror the same as the repository, byte for byte.
///
/// The mirror is a repository at every moment: packs come before the indexes that list them, those before the snapshots
/// that need them; what goes, goes in the other order, and last. What has arrived is not sent again.
package struct MirrorSync: Sendable {
  let source: any ObjectStore
  let mirror: any ObjectStore
  let parallel: Int
  let pool: BlockingPool

  package init(
    from source: any ObjectStore, to mirror: any ObjectStore, parallel: Int = 4, pool: BlockingPool = .shared
  ) {
    (self.source, self.mirror, self.parallel, self.pool) = (source, mirror, parallel, pool)
  }

  private static let order: [ObjectKind] = [.key, .config, .data, .index, .snapshot]

  /// Compares names and sizes.
  ///
  /// - Throws: ``VaultError/otherRepository(_:)`` if the mirror is a copy of something else.
  package func compare() async throws(VaultError) -> MirrorDifference {
    guard let here = try await config(of: source) else { throw .notARepository(source.location) }
    let there = try await config(of: mirror)
    if let there, there != here { throw .otherRepository(mirror.location) }
    var result = MirrorDifference()
    // Backwards: whatever something listed here needs was there before it, and is listed after it.
    for kind in Self.order.reversed() {
      let wanted = try await list(kind, of: source)
      let present = there == nil && kind == .config ? [] : try await listIfPresent(kind)
      let sizes = Dictionary(present.map { ($0.name, $0.sizeBytes) }) { $1 }
      let names = Set(wanted.map(\.name))
      result.missing = wanted.filter { sizes[$0.name] != $0.sizeBytes } + result.missing
      result.extra += present.filter { !names.contains($0.name) }
    }
    return result
  }

  /// Copies what is missing.
  ///
  /// - Parameters:
  ///   - removesExtra: Also removes what only the mirror has. Say so only under an exclusive lock of the mirror.
  /// - Throws: What keeps it from working. What is damaged in the source is reported; then neither indexes nor snapshots
  ///   follow, and nothing is removed.
  package func run(
    removesExtra: Bool = false,
    progress: @escaping @Sendable (_ done: Int, _ total: Int, _ bytes: Int) -> Void = { _, _, _ in }
  ) async throws(VaultError) -> MirrorSyncReport {
    let difference = try await compare()
    if !difference.missing.isEmpty {
      try await access(mirror) { mirror throws(StoreError) in try await mirror.prepare() }
    }
    let report = Mutex(MirrorSyncReport())
    let total = difference.missing.count
    for kind in Self.order {
      try await inParallel(difference.missing.filter { $0.name.kind == kind }, limit: parallel) {
        (object) throws(VaultError) in
        let bytes = try await copy(object)
        let (done, sum) = report.withLock { report in
          if let bytes {
            report.copied += 1
            report.copiedBytes += bytes
          } else {
            report.damaged.append(object.name)
          }
          return (report.copied, report.copiedBytes)
        }
        progress(done, total, sum)
      }
      if report.withLock({ !$0.isComplete }) { return report.withLock { $0 } }
    }
    guard removesExtra else {
      report.withLock { $0.extra = difference.extra.count }
      return report.withLock { $0 }
    }
    for kind in Self.order.reversed() where kind != .config {
      try await inParallel(difference.extra.filter { $0.name.kind == kind }, limit: parallel) {
        (object) throws(VaultError) in
        do throws(StoreError) { try await mirror.delete(object.name) } catch {
          guard case .notFound = error else { throw VaultError(error) }
        }
        report.withLock { $0.removed += 1 }
      }
    }
    return report.withLock { $0 }
  }

  // MARK: Pieces

  /// - Returns: How many bytes it has, or `nil` if it is damaged where it comes from.
  private func copy(_ object: ObjectInfo) async throws(VaultError) -> Int? {
    let bytes: [UInt8]
    do throws(StoreError) { bytes = try await source.get(object.name) } catch {
      switch error {
      case .corrupt, .pastEnd: return nil
      default: throw VaultError(error)
      }
    }
    if let id = object.name.id {
      let hash = await pool.run { bytes.withUnsafeBytes { PairedDigest.of($0) } }
      if hash != id { return nil }
    }
    try await access(mirror) { mirror throws(StoreError) in
      do throws(StoreError) { try await mirror.put(object.name, bytes) } catch {
        // Something else lies there under that name: it is damaged.
        guard case .exists = error else { throw error }
        try await mirror.replace(object.name, bytes)
      }
    }
    return bytes.count
  }

  private func config(of store: any ObjectStore) async throws(VaultError) -> [UInt8]? {
    do throws(StoreError) { return try await store.get(.config) } catch {
      switch error {
      case .notFound, .location: return nil
      default: throw VaultError(error)
      }
    }
  }

  private func list(_ kind: ObjectKind, of store: any ObjectStore) async throws(VaultError) -> [ObjectInfo] {
    try await access(store) { store throws(StoreError) in
      guard kind == .config else { return try await store.list(kind) }
      return try await store.size(of: .config).map { [ObjectInfo(.config, sizeBytes: $0)] } ?? []
    }
  }

  /// What a place that is not made yet holds is nothing.
  private func listIfPresent(_ kind: ObjectKind) async throws(VaultError) -> [ObjectInfo] {
    do throws(VaultError) { return try await list(kind, of: mirror) } catch {
      switch error {
      case .store(.location), .store(.notFound): return []
      default: throw error
      }
    }
  }

  private func access<T>(
    _ store: any ObjectStore, _ body: (any ObjectStore) async throws(StoreError) -> T
  ) async throws(VaultError) -> T {
    try await Repository.access(store, body)
  }
}

extension Repository {
  /// The same repository at another place: a mirror, opened with the key this one was opened with.
  package func copy(at store: any ObjectStore) -> Repository { Repository(self, at: store) }

  /// Makes a mirror the same; see ``MirrorSync``. Call it inside
  /// ``withLock(exclusive:wait:loadingIndex:_:)``; the mirror is locked here.
  package func synchronize(
    _ mirror: any ObjectStore, removesExtra: Bool = false,
    progress: @escaping @Sendable (_ done: Int, _ total: Int, _ bytes: Int) -> Void = { _, _, _ in }
  ) async throws -> MirrorSyncReport {
    let sync = MirrorSync(from: store, to: mirror, parallel: settings.uploads, pool: settings.pool)
    let isNew = try await !Self.access(mirror) { mirror throws(StoreError) in
      do throws(StoreError) { return try await mirror.contains(.config) } catch {
        guard case .location = error else { throw error }
        return false
      }
    }
    // Whatever holds a lock there reads it, or works on it; nobody can yet in a place that is no repository.
    if isNew { return try await sync.run(progress: progress) }
    _ = try await sync.compare()
    return try await copy(at: mirror).withLock(exclusive: removesExtra, loadingIndex: false) {
      try await sync.run(removesExtra: removesExtra, progress: progress)
    }
  }
}
