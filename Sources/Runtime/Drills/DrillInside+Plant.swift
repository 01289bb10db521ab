import Catalog
import Core
import Drills
import DriverKit
import IO
import ObjectStoreOverlay
import Recovery
import Vault

extension DrillInside {
  /// Breaks what the drill was asked to break, in what it sees and nowhere else.
  func plant(
    _ view: inout RepositoryView, _ system: inout ManagedSystem, _ points: [RecoveryPoint],
    _ waiting: CountedWaiting, _ result: inout DrillResult
  ) async throws {
    guard let fault = job.fault else { return }
    switch fault.kind {
    case .flippedByte, .lostObject, .deniedPermission:
      guard let target = job.target, let place = try await content(of: target, points, system) else { return }
      let name = ObjectName(.data, place.pack)
      let short = "\(name.path.prefix(14))…"
      switch fault.kind {
      case .flippedByte:
        let offset = place.offset + place.length / 2
        view.damage[name] = .flipped(offset: offset)
        result.planted = "one bit of \(short) is another, at byte \(offset)"
      case .lostObject:
        view.damage[name] = .lost
        result.planted = "\(short) is gone"
      default:
        view.damage[name] = .denied
        result.planted = "\(short) may not be read"
      }
    case .revokedKey:
      let repository =
        job.target.flatMap { system.catalog.store($0)?.repository } ?? system.catalog.repositories[0].name
      view.passwords[repository] = Secret(Hex.encode(host.randomness.bytes(16)))
      result.planted = "the password of \(repository) opens none of its keys"
    case .missingLog:
      guard let target = job.target, let (span, end) = try await stretch(of: target, system) else { return }
      view.damage[ObjectName(.snapshot, span)] = .lost
      goal.keep(end)
      result.planted = "stretch \(span.hex.prefix(8)) of the log of \(target) is gone"
    case .wrongClock: result.planted = "the clock says \(host.time.now().format(fractionDigits: 0))"
    case .staleSchema: result.planted = "once \(job.target?.text ?? "") serves: \(fault.run?.words.first ?? "nothing")"
    case .slowStore: result.planted = "each read of the repository takes as long as a tape that has to be fetched"
    case .fullDisk:
      guard let small = job.room.places.first(where: { $0.limitBytes != nil }) else { return }
      result.planted = "\(small.path) has \(small.limitBytes ?? 0) bytes"
    }
    system = try self.system(system.loaded, view, waiting)
  }

  /// One blob of a store's content, by the drill's seed; `nil` for a store without any.
  private func content(
    of store: StoreName, _ points: [RecoveryPoint], _ system: ManagedSystem
  ) async throws -> BlobLocation? {
    guard let point = points.first(where: { $0.members.contains(store) }),
      let repository = system.catalog.store(store)?.repository
    else { return nil }
    let (resolved, forwards) = try await PointSelection(system: system).resolved(point)
    guard let part = resolved.stores[store], let id = Digest(hex: part.snapshot) else { return nil }
    let vault = try await system.vault(of: repository)
    let origin = forwards.first { $0.store == store }?.point ?? point.id
    let snapshot = try await vault.loadSnapshot(id, orCopyTagged: "point:\(origin)")
    let tree = SnapshotTree(reader: vault, root: snapshot.tree, pool: host.pool)
    let blobs = Set(try await tree.allNodes(below: TreePath([FileName(store.text)])).flatMap(\.node.content)).sorted()
    guard !blobs.isEmpty else { return nil }
    return vault.location(of: .data, blobs[SeededRandomness(seed: job.seed).below(blobs.count)])
  }

  /// A stretch of a store's log that leads on from a copy, and where the log leads with it.
  private func stretch(of store: StoreName, _ system: ManagedSystem) async throws -> (Digest, LogPosition)? {
    guard let repository = system.catalog.store(store)?.repository else { return nil }
    let archive = LogArchive(vault: try await system.vault(of: repository), store: store, pool: host.pool)
    let ways = try? await Logs(system).ways(of: store)
    guard let chain = ways?.chains.last, chain.spans.count > 1, (try? ways?.to(.newest)) != nil,
      try await archive.list().chains.last?.to == chain.to
    else { return nil }
    // Neither the first, which a copy may lie behind, nor the last, which nobody would miss.
    let middle = chain.spans[chain.spans.count / 2]
    return (middle.snapshot, chain.to)
  }
}
