import Core
import DriverKit
import IO
import Vault

/// The recovery points of a repository: recorded, listed, read, verified.
package struct PointCatalog: Sendable {
  /// Tag of the snapshots that are points.
  package static let tag = "salvor-point"

  private let vault: Repository
  private let pool: BlockingPool

  package init(vault: Repository, pool: BlockingPool) { (self.vault, self.pool) = (vault, pool) }

  /// Of points that mark stores and don't copy them.
  package static let loggedTag = "salvor-barrier"

  /// Writes a point down, and its catalog beside it; it exists once this returns.
  func record(_ point: RecoveryPoint, catalogFiles: [TreePath: [UInt8]]) async throws(RecoveryError) {
    let polynomial = vault.config.chunkerPolynomial
    try await vaulted {
      let builder = SnapshotBuilder(writer: vault, polynomial: polynomial, pool: pool)
      var files: [TreePath: [UInt8]] = ["point.json": try CanonicalJSON.encode(point, pretty: true)]
      for (path, bytes) in catalogFiles { files[TreePath("catalog").appending(path)] = bytes }
      for (path, bytes) in files.sorted(by: { $0.key < $1.key }) {
        let metadata = FileMetadata(kind: .regular, permissions: 0o600, size: Int64(bytes.count), modified: point.time)
        _ = try await builder.add(path, metadata, cutting: .content) { MemorySource(bytes) }
      }
      let tree = try await builder.finish()
      try await vault.flush()
      _ = try await vault.save(
        Snapshot(
          // Policies count snapshots of the same paths together, and these are many.
          time: point.time, tree: tree.root, paths: [point.logged == nil ? "/salvor-point" : "/salvor-barrier"],
          hostname: point.host,
          tags: [Self.tag, "group:\(point.group)", "point:\(point.id)"]
            + (point.logged == nil ? [] : [Self.loggedTag]) + (point.name == nil ? [] : ["named"])))
    }
  }

  /// Removes barriers of a group that are many and old; those with a name stay.
  ///
  /// - Returns: How many went.
  package func thinOut(_ group: GroupName, now: Timestamp, keepingAll: Duration) async throws(RecoveryError) -> Int {
    let snapshots = try await vaulted { try await vault.snapshots() }
    let barriers = snapshots.filter {
      let tags = $0.snapshot.tags
      return tags.contains(Self.tag) && tags.contains(Self.loggedTag) && tags.contains("group:\(group)")
        && !tags.contains("named")
    }
    let going = BarrierThinning.going(barriers.map { ($0.id, $0.snapshot.time) }, now: now, all: keepingAll)
    for barrier in barriers where going.contains(barrier.id) {
      // The point first: its copies without it are nobody's, it without them would be broken.
      try await vaulted { try await vault.forget(barrier.id) }
      guard let tag = barrier.snapshot.tags.first(where: { $0.hasPrefix("point:") }) else { continue }
      for copy in snapshots where copy.id != barrier.id && copy.snapshot.tags.contains(tag) {
        try await vaulted { try await vault.forget(copy.id) }
      }
    }
    return going.count
  }

  /// Every point, oldest first; those that can't be read are told apart, never dropped in silence.
  package func list() async throws(RecoveryError) -> (points: [RecoveryPoint], unreadable: [(snapshot: String, Report)])
  {
    let snapshots = try await vaulted { try await vault.snapshots() }
    var points: [RecoveryPoint] = []
    var unreadable: [(String, Report)] = []
    for stored in snapshots where stored.snapshot.tags.contains(Self.tag) {
      do throws(RecoveryError) { points.append(try await read(stored)) } catch {
        if case .vault(let report) = error, !report.isDamage { throw error }
        if case .cancelled = error { throw error }
        unreadable.append((stored.id.hex, error.report))
      }
    }
    return (points.sorted { ($0.time, $0.id) < ($1.time, $1.id) }, unreadable)
  }

  /// - Parameter text: As ``Swift/Array/called(_:)`` takes it.
  package func find(_ text: String) async throws(RecoveryError) -> RecoveryPoint {
    try await list().points.called(text)
  }

  private func read(_ stored: StoredSnapshot) async throws(RecoveryError) -> RecoveryPoint {
    let tree = SnapshotTree(reader: vault, root: stored.snapshot.tree, pool: pool)
    return try await vaulted {
      let bytes = try await tree.contents(of: "point.json", limitBytes: 16 << 20)
      let point = try CanonicalJSON.decode(RecoveryPoint.self, from: bytes)
      guard point.format == RecoveryPoint.format, stored.snapshot.tags.contains("point:\(point.id)") else {
        throw RecoveryError.pointDamaged(point.id.text, why: "its snapshot is tagged as another")
      }
      return point
    }
  }

  /// The catalog a point was taken under, as it was written.
  package func catalogFiles(of point: PointID) async throws(RecoveryError) -> [TreePath: [UInt8]] {
    let snapshots = try await vaulted { try await vault.snapshots() }
    guard
      let stored = snapshots.first(where: {
        $0.snapshot.tags.contains(Self.tag) && $0.snapshot.tags.contains("point:\(point)")
      })
    else { throw .noSuchPoint(point.text) }
    let tree = SnapshotTree(reader: vault, root: stored.snapshot.tree, pool: pool)
    return try await vaulted {
      var files: [TreePath: [UInt8]] = [:]
      for entry in try await tree.entries(below: "catalog") where entry.metadata.kind == .regular {
        files[entry.path] = try await tree.contents(of: TreePath("catalog").appending(entry.path), limitBytes: 64 << 20)
      }
      return files
    }
  }

  /// A store's copy in a point, as its driver wrote it.
  ///
  /// - Parameter origin: The point it was taken for, if that is another.
  package func copy(
    of store: StoreName, in point: RecoveryPoint, from origin: PointID? = nil
  ) async throws(RecoveryError) -> StoreCopy {
    guard let part = point.stores[store] else {
      throw .pointDamaged(point.id.text, why: "it has no copy of \(store)")
    }
    guard let id = Digest(hex: part.snapshot) else {
      throw .pointDamaged(point.id.text, why: "the snapshot of \(store) has no proper id")
    }
    let (vault, pool, tag) = (vault, pool, "point:\(origin ?? point.id)")
    let source = LazySource { () async throws(AnyFailure) in
      do {
        let snapshot = try await vault.loadSnapshot(id, orCopyTagged: tag)
        let tree = SnapshotTree(reader: vault, root: snapshot.tree, pool: pool)
        return PrefixedSource(below: TreePath([FileName(store.text)]), in: tree)
      } catch {
        throw AnyFailure(error)
      }
    }
    return StoreCopy(source: source, capture: part.capture)
  }

  /// Reads and checks every blob a store's copy consists of.
  ///
  /// - Returns: What is wrong, in words; `nil` if every byte is as it was written.
  package func damage(
    of store: StoreName, in point: RecoveryPoint, from origin: PointID? = nil
  ) async throws(RecoveryError) -> String? {
    guard let part = point.stores[store], let id = Digest(hex: part.snapshot) else {
      return "point \(point.id) has no copy of \(store)"
    }
    do {
      let snapshot = try await vault.loadSnapshot(id, orCopyTagged: "point:\(origin ?? point.id)")
      try await SnapshotTree(reader: vault, root: snapshot.tree, pool: pool).verify()
      return nil
    } catch {
      let failure = AnyFailure(error)
      if failure.isCancellation || failure.report.code == "CORE-001" { throw .cancelled }
      // What can't be read for want of an answer is no verdict: taking it for damage would give up a good point.
      guard isDamage(failure.underlying) else { throw .vault(failure.report) }
      return failure.report.summary
    }
  }
}

/// Whether the repository answered, and its answer was not what had been written.
private func isDamage(_ error: any Error) -> Bool {
  switch error {
  case TreeError.vault(let inner): isDamage(inner)
  case VaultError.store(let store):
    switch store {
    case .notFound, .pastEnd, .corrupt: true
    case .exists, .full, .readOnly, .locked, .permission, .unavailable, .location, .cancelled: false
    }
  case VaultError.cancelled, TreeError.cancelled, TreeError.system: false
  default: true
  }
}

extension Report {
  /// As ``isDamage(_:)``, where only the report is left: a store that does not answer has a code of its own.
  fileprivate var isDamage: Bool { !code.hasPrefix("STORE-") && !code.hasPrefix("IO-") }
}

extension [RecoveryPoint] {
  /// - Parameter text: An id, the name of one point, or the beginning of an id that fits no other.
  package func called(_ text: String) throws(RecoveryError) -> RecoveryPoint {
    if let exact = first(where: { $0.id.text == text }) { return exact }
    var matches = filter { $0.name == text }
    if matches.isEmpty { matches = filter { $0.id.text.hasPrefix(text) } }
    guard let match = matches.first else { throw .noSuchPoint(text) }
    guard matches.count == 1 else { throw .ambiguousPoint(text, matches.map(\.id.text)) }
    return match
  }
}
