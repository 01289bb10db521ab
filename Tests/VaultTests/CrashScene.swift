import Core
import Foundation
import IO
import ObjectStoreFaulty
import ObjectStoreMemory
import Synchronization
import TestSupport

@testable import Vault

/// How long the proofs of this suite run, and where their chance begins: `SALVOR_CRASHES` (rounds, 1) and `SALVOR_SEED`.
struct CrashOptions {
  private static func number(_ name: String) -> UInt64? {
    ProcessInfo.processInfo.environment[name].flatMap { UInt64($0) }
  }
  static let seed = number("SALVOR_SEED") ?? 1
  static let rounds = number("SALVOR_CRASHES") ?? 1
}

/// Threads that simulations compute on: few, and not those that other tests wait for.
let simulationPool = BlockingPool(threads: 2)

/// What is done to a repository while it crashes.
enum CrashAct: String, CaseIterable, Sendable {
  case backup, forget, tag, prune, copy, repairIndex, password
}

/// What a repository owes: what was acknowledged and has not been given up since.
final class Ledger: Sendable {
  private let state = Mutex((snapshots: [Digest: Digest](), contents: Set<Digest>(), isPasswordChanged: false))

  /// Snapshots that must be listed, with a picture of what each holds.
  var snapshots: [Digest: Digest] { state.withLock { $0.snapshots } }
  /// Pictures that some snapshot must hold, whatever its name is by now.
  var contents: Set<Digest> { state.withLock { $0.contents } }
  var isPasswordChanged: Bool { state.withLock { $0.isPasswordChanged } }

  func acknowledge(_ snapshot: Digest, _ picture: Digest) {
    state.withLock {
      $0.snapshots[snapshot] = picture
      $0.contents.insert(picture)
    }
  }
  func giveUp(_ snapshot: Digest) {
    state.withLock { if let picture = $0.snapshots.removeValue(forKey: snapshot) { $0.contents.remove(picture) } }
  }
  func giveUp(content picture: Digest) {
    state.withLock { state in
      state.snapshots = state.snapshots.filter { $0.value != picture }
      state.contents.remove(picture)
    }
  }
  func rename(_ snapshot: Digest) { state.withLock { _ = $0.snapshots.removeValue(forKey: snapshot) } }
  func changedPassword() { state.withLock { $0.isPasswordChanged = true } }

  init(_ snapshots: [Digest: Digest]) {
    for (id, picture) in snapshots { acknowledge(id, picture) }
  }

  /// The same debts, for what is only tried out.
  var copy: Ledger {
    let copy = Ledger([:])
    let (snapshots, contents, changed) = state.withLock { $0 }
    copy.state.withLock { $0 = (snapshots, contents, changed) }
    return copy
  }
}

extension Repository {
  /// One digest of everything a tree brings back: names, metadata, bytes.
  func picture(_ root: BlobID) async throws -> Digest {
    var text = ""
    for (path, node) in try await SnapshotTree(reader: self, root: root, pool: settings.pool).allNodes() {
      var bytes: [UInt8] = []
      for id in node.content { bytes += try await load(.data, id) }
      text += "\(path) \(node.metadata) \(Digest.of(bytes))\n"
    }
    return Digest.of(text)
  }
}

/// A repository as it was before an act.
struct CrashScene: Sendable {
  static let newPassword = Secret("battery staple")

  let act: CrashAct
  private(set) var contents: [ObjectName: [UInt8]] = [:]
  private(set) var snapshots: [Digest: Digest] = [:]
  /// What a copy copies.
  private var source: [ObjectName: [UInt8]] = [:]
  /// What the backup and the copy bring, as it must come back.
  private var incoming = Digest.of("")

  /// - Parameter life: Which life of the program it is; each has its own process and its own chance.
  static func settings(_ seed: UInt64, life: Int, _ time: SimulatedTime) -> VaultSettings {
    var settings = VaultSettings.quick(packBytes: 40_000, seed: seed &* 1000 &+ UInt64(life), time: time)
    settings.pool = .inline
    settings.processors = 2
    // Several index files to every backup.
    settings.indexBlobs = 3
    // No system has so large numbers of processes: every earlier life is dead.
    let number = 5_000_000 + life
    settings.owner = Owner(
      hostname: Owner.current.hostname, username: "test", processID: number, isAlive: { $0 == number })
    return settings
  }

  private init(_ act: CrashAct) { self.act = act }

  static func make(_ act: CrashAct) throws -> CrashScene {
    let time = SimulatedTime()
    return try SeededExecutor(seed: 1).run(on: time) {
      var scene = CrashScene(act)
      let store = MemoryObjectStore()
      let repository = try await Repository.create(
        store: store, password: password, settings: Self.settings(1, life: 1, time))
      for seed in 1...4 as ClosedRange<UInt64> {
        var files = sampleFiles(seed: seed)
        if act == .prune, seed == 2 {
          // Packs of what goes hold something that stays.
          for file in sampleFiles(seed: 3) { files.append(SampleFile(name: "z-\(file.name)", pieces: file.pieces)) }
        }
        let id = try await repository.backUp(
          files, tags: ["\(seed)"], time: Timestamp(seconds: 1_795_000_000 + Int64(seed)))
        let tree = try await repository.loadSnapshot(id).tree
        if act == .prune, seed == 2 {
          try await repository.deleteSnapshot(id)
        } else {
          scene.snapshots[id] = try await repository.picture(tree)
        }
      }
      if act == .repairIndex {
        let indexes = try await store.list(.index)
        try await store.delete(indexes[0].name)
        let gone = PackedBlob(kind: .data, id: Digest.of("b"), offset: 0, length: 100, uncompressedBytes: 0)
        _ = try await repository.writeFile(.index, IndexFile.encode([IndexedPack(id: Digest.of("p"), blobs: [gone])]))
      }
      let elsewhere = MemoryObjectStore()
      let other = try await Repository.create(
        store: elsewhere, password: password, settings: Self.settings(1, life: 2, time))
      let id = try await other.backUp(sampleFiles(seed: 9), tags: ["new"], time: Timestamp(seconds: 1_795_000_009))
      scene.incoming = try await other.picture(try await other.loadSnapshot(id).tree)
      (scene.contents, scene.source) = (store.contents, elsewhere.contents)
      return scene
    }
  }

  /// Carries the act out on `store`, and tells `ledger` of what is acknowledged.
  func carryOut(_ store: any ObjectStore, _ ledger: Ledger, _ settings: VaultSettings) async throws {
    let repository = try await Repository.open(
      store: store, password: password, settings: settings, loadingIndex: act != .repairIndex)
    switch act {
    case .backup:
      let id = try await repository.withLock {
        try await repository.backUp(sampleFiles(seed: 9), tags: ["new"], time: Timestamp(seconds: 1_795_000_009))
      }
      ledger.acknowledge(id, incoming)
    case .forget:
      try await repository.withLock(exclusive: true) {
        for stored in try await repository.snapshots().filter({ ["1", "3"].contains($0.snapshot.tags[0]) }) {
          // Under whatever name: it may have got a new one in a life that ended before it said so.
          ledger.giveUp(stored.id)
          ledger.giveUp(content: try await repository.picture(stored.snapshot.tree))
          try await repository.forget(stored.id)
        }
      }
    case .tag:
      try await repository.withLock {
        for stored in try await repository.snapshots() where stored.snapshot.original == nil {
          let picture = ledger.snapshots[stored.id]
          ledger.rename(stored.id)
          let id = try await repository.replace(stored) { $0.tags.append("more") }
          if let picture { ledger.acknowledge(id, picture) }
        }
      }
    case .prune:
      try await repository.withLock(exclusive: true) {
        var options = PruneOptions()
        options.maxUnused = .bytes(0)
        _ = try await repository.prune(options)
      }
    case .copy:
      let from = try await Repository.open(
        store: MemoryObjectStore(contents: source), password: password, settings: settings)
      let report = try await repository.withLock {
        try await repository.copy(
          try await from.snapshots()[0], from: from, known: try await repository.snapshots())
      }
      ledger.acknowledge(report.snapshot, incoming)
    case .repairIndex:
      _ = try await repository.withLock(exclusive: true, loadingIndex: false) { try await repository.repairIndex() }
    case .password:
      _ = try await repository.changePassword(to: Self.newPassword)
      ledger.changedPassword()
    }
  }

  /// Looks at what a crash left as the next life of the program would.
  ///
  /// - Parameters:
  ///   - isTorn: The store broke its own promise, so there may be damage; it must be named, and mendable.
  ///   - mayLoseIncoming: What was just acknowledged may not come back, if that is said.
  /// - Returns: What is wrong.
  func problems(
    _ survivors: [ObjectName: [UInt8]], _ ledger: Ledger, isTorn: Bool, mayLoseIncoming: Bool = false,
    _ settings: VaultSettings
  ) async throws -> [String] {
    var problems: [String] = []
    let store = MemoryObjectStore(contents: survivors, checksNames: false)
    let secret = ledger.isPasswordChanged ? Self.newPassword : password
    let repository: Repository
    do {
      repository = try await Repository.open(store: store, password: secret, settings: settings, loadingIndex: false)
    } catch {
      guard act == .password, !ledger.isPasswordChanged else { throw error }
      repository = try await Repository.open(
        store: store, password: Self.newPassword, settings: settings, loadingIndex: false)
    }
    do { _ = try await repository.unlock() } catch {
      guard isTorn, error.report.code == "VAULT-129" else { throw error }
      _ = try await repository.unlock(all: true)
    }
    if try await !store.list(.lock).isEmpty { problems.append("unlock left a lock of a dead process") }
    if act == .repairIndex { try await carryOut(store, ledger, settings) }
    var report = try await repository.check(readData: true)
    if isTorn, !report.isSound {
      let codes = Set(report.damage.map(\.report.code))
      if !codes.isSubset(of: Self.damageCodes) {
        problems.append("damage without a name: \(report.damage.map(\.report))")
      }
      if mayLoseIncoming { ledger.giveUp(content: incoming) }
      for info in try await store.list(.snapshot) {
        guard let id = info.name.id, Digest.of(store.contents[info.name] ?? []) != id else { continue }
        try await repository.deleteSnapshot(id)
      }
      _ = try await repository.withLock(exclusive: true, loadingIndex: false) { try await repository.repairIndex() }
      if mayLoseIncoming {
        // What can't be had is given up, and taken anew.
        for stored in try await repository.snapshots() where ledger.snapshots[stored.id] == nil {
          try await repository.deleteSnapshot(stored.id)
        }
      }
      report = try await repository.check(readData: true)
    }
    if !report.isSound { problems.append("damaged: \(report.damage.map(\.report))") }
    try await repository.refreshIndex()
    problems += try await debts(repository, ledger)
    // Whoever comes next can do it again, over what is left.
    if act != .password {
      let ledger = ledger.copy
      try await carryOut(store, ledger, settings)
      let again = try await Repository.open(store: store, password: secret, settings: settings)
      let after = try await again.check(readData: true)
      if !after.isSound { problems.append("damaged after the next run: \(after.damage.map(\.report))") }
      problems += try await debts(again, ledger).map { "after the next run: \($0)" }
    }
    return problems
  }

  private static let damageCodes: Set<String> = [
    "VAULT-121", "VAULT-122", "VAULT-123", "VAULT-124", "VAULT-125", "VAULT-128",
  ]

  private func debts(_ repository: Repository, _ ledger: Ledger) async throws -> [String] {
    var problems: [String] = []
    var there: [Digest: Digest] = [:]
    for stored in try await repository.snapshots() {
      there[stored.id] = try await repository.picture(stored.snapshot.tree)
    }
    for (id, picture) in ledger.snapshots where there[id] != picture {
      problems.append("snapshot \(id.short) \(there[id] == nil ? "has gone" : "has other content")")
    }
    for picture in ledger.contents where !there.values.contains(picture) { problems.append("content has gone") }
    return problems
  }
}

/// Writes what a store holds where restic can read it.
func writeRepository(_ contents: [ObjectName: [UInt8]], to path: String) throws {
  for kind in ObjectKind.allCases where kind != .config { try Files.createDirectory("\(path)/\(kind.rawValue)") }
  for (name, bytes) in contents {
    let file = "\(path)/\(name.path)"
    try Files.createDirectory(Files.parent(of: file))
    try Files.replace(file, with: bytes)
  }
}
