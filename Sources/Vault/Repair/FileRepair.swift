import Core
import IO
import Synchronization

/// A file of a repository that was damaged or missing, and what became of it.
package struct FileRepair: Hashable, Sendable {
  package enum Outcome: Hashable, Sendable {
    case restored(from: String)
    /// No source has it whole.
    case lost
    /// Only a source has it: it may have been removed on purpose.
    case onlyThere
  }

  package let name: ObjectName
  package let wasMissing: Bool
  package var outcome: Outcome
}

package struct FileRepairOptions: Sendable {
  /// Also brings back snapshots and keys that only a source has.
  package var restoresRemoved = false
  package var isDryRun = false
  package var progress: @Sendable (_ done: Int, _ total: Int) -> Void = { _, _ in }

  package init() {}
}

extension Repository {
  /// Reads every file of the repository, and brings back from the settings' sources what isn't what its name says, or is
  /// missing.
  ///
  /// A pack is missing if an index names it; an index, if it names packs that no other does. A snapshot or a key that is gone may
  /// have been removed on purpose, so it is only reported unless the options say otherwise. Files whose places were
  /// exchanged are put back. Call it inside ``withLock(exclusive:wait:loadingIndex:_:)``, exclusive, without loading
  /// the index. Opening the repository has seen to its config, and to the key.
  ///
  /// - Returns: What was not in order, in the order of kinds: keys, indexes, snapshots, packs.
  package func repairFiles(_ options: FileRepairOptions) async throws(VaultError) -> [FileRepair] {
    try await FileRepairRun(repository: self, options: options).run()
  }
}

private struct FileRepairRun {
  let repository: Repository
  let options: FileRepairOptions

  func run() async throws(VaultError) -> [FileRepair] {
    var result: [FileRepair] = []
    for kind in [ObjectKind.key, .index, .snapshot, .data] {
      // What packs there should be, indexes say: those were mended before.
      if kind == .data, !result.contains(where: { $0.name.kind == .index && $0.outcome == .lost }) {
        if !options.isDryRun || result.allSatisfy({ $0.name.kind != .index }) { try await repository.refreshIndex() }
      }
      result += try await repair(kind)
    }
    return result
  }

  private func repair(_ kind: ObjectKind) async throws(VaultError) -> [FileRepair] {
    let listed = try await repository.access { store throws(StoreError) in try await store.list(kind) }.map(\.name)
    let damaged = try await damaged(listed)
    var result: [FileRepair] = []
    // Exchanged files first: each lies whole under another's name.
    let held = Dictionary(damaged.compactMap { name, hash in hash.map { (ObjectName(kind, $0), name) } }) { $1 }
    for (name, _) in damaged.sorted(by: { $0.key < $1.key }) {
      result.append(FileRepair(name: name, wasMissing: false, outcome: try await restore(name, heldBy: held[name])))
    }
    let missing = try await missing(kind, Set(listed))
    for (name, isWanted) in missing {
      var repair = FileRepair(name: name, wasMissing: true, outcome: .onlyThere)
      if isWanted { repair.outcome = try await restore(name, heldBy: held[name]) }
      result.append(repair)
    }
    return result
  }

  /// What isn't what its name says, and the hash of what lies there; `nil` for what can't be read.
  private func damaged(_ names: [ObjectName]) async throws(VaultError) -> [ObjectName: Digest?] {
    let found = Mutex<[ObjectName: Digest?]>([:])
    let tally = Tally()
    try await inParallel(names, limit: repository.settings.downloads) { (name) throws(VaultError) in
      let bytes = try await repository.presentBytes(name)
      let hash: Digest? =
        try await bytes == nil
        ? nil
        : repository.computing { () throws(VaultError) in
          (bytes ?? []).withUnsafeBytes { PairedDigest.of($0) }
        }
      if hash != name.id { found.withLock { $0[name] = .some(hash) } }
      options.progress(tally.next(), names.count)
    }
    return found.withLock { $0 }
  }

  /// What should be there and isn't, and whether it is to be brought back.
  private func missing(
    _ kind: ObjectKind, _ listed: Set<ObjectName>
  ) async throws(VaultError) -> [(ObjectName, Bool)] {
    if kind == .data {
      return repository.packIDs.map { ObjectName(.data, $0) }.filter { !listed.contains($0) }.sorted().map {
        ($0, true)
      }
    }
    var offered: Set<ObjectName> = []
    for source in repository.settings.sources {
      do throws(StoreError) { offered.formUnion(try await source.names(kind)) } catch {
        if case .cancelled = error { throw .cancelled }
      }
    }
    var result: [(ObjectName, Bool)] = []
    for name in offered.subtracting(listed).sorted() {
      if kind == .index {
        if try await isNeeded(index: name) { result.append((name, true)) }
      } else {
        result.append((name, options.restoresRemoved))
      }
    }
    return result
  }

  /// Whether an index names packs that are there and that no index names.
  private func isNeeded(index name: ObjectName) async throws(VaultError) -> Bool {
    guard let id = name.id, let found = try await recover(name, damaged: nil) else { return false }
    guard
      let json = try? repository.codecs.with({ (codec) throws(CodecFault) in try codec.decodeFile(found.bytes) })
    else { return false }
    var packs: Set<Digest> = []
    do throws(JSONFault) {
      try IndexFile.decode(json) { (pack, _) throws(JSONFault) in packs.insert(pack) }
    } catch { throw .indexDamaged(id, error.reason) }
    let present = try await repository.access { store throws(StoreError) in try await store.list(.data) }
    packs.formIntersection(present.compactMap(\.name.id))
    if packs.isEmpty { return false }
    do throws(VaultError) { try await repository.refreshIndex() } catch {
      // What an index says that is lost for good, nobody knows.
      guard case .indexDamaged = error else { throw error }
    }
    return !packs.isSubset(of: repository.packIDs)
  }

  private func recover(_ name: ObjectName, damaged: [UInt8]?) async throws(VaultError) -> RecoveredObject? {
    try await repository.access { _ throws(StoreError) in
      try await repository.settings.sources.recover(name, damaged: damaged) { [pool = repository.settings.pool] bytes in
        await pool.run { bytes.withUnsafeBytes { PairedDigest.of($0) } == name.id }
      }
    }
  }

  /// - Parameter other: The name under which the content lies, if places were exchanged.
  private func restore(_ name: ObjectName, heldBy other: ObjectName?) async throws(VaultError) -> FileRepair.Outcome {
    var damaged = try await repository.presentBytes(name)
    if let other, let misplaced = try await repository.presentBytes(other),
      await repository.settings.pool.run({ misplaced.withUnsafeBytes { PairedDigest.of($0) } == name.id })
    {
      // What lies here may be the other's content, and nowhere else: it goes last.
      if !options.isDryRun {
        try await exchange(name, misplaced, with: other, damaged)
      }
      return .restored(from: other.path)
    }
    // The exchange of another pair has put it right.
    if let bytes = damaged,
      await repository.settings.pool.run({ bytes.withUnsafeBytes { PairedDigest.of($0) } == name.id })
    {
      return .restored(from: repository.store.location)
    }
    guard let found = try await recover(name, damaged: damaged) else { return .lost }
    damaged = nil
    if !options.isDryRun {
      try await repository.access { store throws(StoreError) in try await store.replace(name, found.bytes) }
    }
    return .restored(from: found.location)
  }

  /// Puts `bytes` where they belong. If what lay there belongs where they were found, it goes there.
  private func exchange(
    _ name: ObjectName, _ bytes: [UInt8], with other: ObjectName, _ displaced: [UInt8]?
  ) async throws(VaultError) {
    var back: [UInt8]?
    if let displaced,
      await repository.settings.pool.run({ displaced.withUnsafeBytes { PairedDigest.of($0) } == other.id })
    {
      back = displaced
    }
    let content = back
    try await repository.access { store throws(StoreError) in
      if let content {
        for source in repository.settings.sources { try await source.hold(other, content) }
      }
      try await store.replace(name, bytes)
      if let content { try await store.replace(other, content) }
    }
  }
}
