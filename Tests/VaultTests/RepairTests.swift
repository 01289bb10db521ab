import Core
import IO
import ObjectStoreFaulty
import ObjectStoreLocal
import ObjectStoreMemory
import TestSupport
import Testing

@testable import Vault

/// What happens to one file of a store.
enum FileDamage: String, CaseIterable, Sendable, CustomTestStringConvertible {
  case bitFlip, truncated, empty, missing, swapped, extended

  var testDescription: String { rawValue }

  /// - Parameter other: Whose content comes in its place if files are swapped.
  func apply(to name: ObjectName, or other: ObjectName, in memory: MemoryObjectStore, _ chance: SeededRandomness) {
    let swapped = memory.contents[other]
    let size = memory.contents[name]?.count ?? 1
    memory.tamper(name) { bytes in
      switch self {
      case .bitFlip: bytes?[chance.below(size)] ^= 1 << UInt8(chance.below(8))
      case .truncated: bytes?.removeLast(1 + chance.below(size - 1))
      case .empty: bytes = []
      case .missing: bytes = nil
      case .swapped: bytes = swapped
      case .extended: bytes?.append(contentsOf: chance.bytes(1 + chance.below(100)))
      }
    }
  }
}

extension SeededRandomness {
  /// From 0 to below `limit`.
  func below(_ limit: Int) -> Int { Int(next() % UInt64(max(1, limit))) }
}

@Suite("Repair of packs and snapshots")
struct RepairTests {
  private static let files = sampleFiles(seed: 1)
  private static let more = sampleFiles(seed: 2)

  private func settings(_ sources: [any RecoverySource] = []) -> VaultSettings {
    var settings = VaultSettings.quick(packBytes: 40_000, time: ImpatientTime())
    settings.sources = sources
    return settings
  }

  private func repository() async throws -> [ObjectName: [UInt8]] {
    let memory = MemoryObjectStore()
    let repository = try await Repository.create(store: memory, password: password, settings: settings())
    _ = try await repository.backUp(Self.files)
    _ = try await repository.backUp(Self.more, time: Timestamp(seconds: 1_796_000_000))
    return memory.contents
  }

  private func repair(
    _ store: any ObjectStore, _ sources: [any RecoverySource] = [], _ options: PackRepairOptions = PackRepairOptions()
  ) async throws -> PackRepairReport {
    let repository = try await Repository.open(store: store, password: password, settings: settings(sources))
    return try await repository.withLock(exclusive: true) { try await repository.repairPacks(options) }
  }

  private func check(_ memory: MemoryObjectStore) async throws -> CheckReport {
    try await Repository.open(
      store: MemoryObjectStore(contents: memory.contents, checksNames: false), password: password,
      settings: settings(), loadingIndex: false
    ).check(readData: true)
  }

  private func packs(_ contents: [ObjectName: [UInt8]]) -> [ObjectName] {
    contents.keys.filter { $0.kind == .data }.sorted()
  }

  @Test(arguments: FileDamage.allCases, [1, 2, 3] as [UInt64])
  func `packs come back byte for byte from a mirror`(_ damage: FileDamage, seed: UInt64) async throws {
    let whole = try await repository()
    let chance = SeededRandomness(seed: seed)
    let memory = MemoryObjectStore(contents: whole)
    let names = packs(whole)
    let hurt = Set((0..<3).map { _ in names[chance.below(names.count)] })
    for name in hurt {
      damage.apply(to: name, or: names[(names.firstIndex(of: name)! + 1) % names.count], in: memory, chance)
    }
    #expect(try await !check(memory).isSound, "damaged before")
    let mirror = CopySource(MemoryObjectStore(contents: whole, location: "memory:mirror"))
    var dry = PackRepairOptions()
    dry.isDryRun = true
    let damaged = memory.contents
    #expect(try await repair(memory, [mirror], dry).repairs.count == hurt.count)
    let isUntouched = memory.contents == damaged
    #expect(isUntouched, "a dry run changes nothing")

    let report = try await repair(memory, [mirror])
    #expect(report.packs == names.count)
    #expect(Set(report.repairs.map { ObjectName(.data, $0.pack) }) == hurt)
    #expect(report.repairs.allSatisfy { $0.outcome == .restored(from: "memory:mirror") })
    let isSame = memory.contents == whole
    #expect(isSame, "byte for byte")
  }

  @Test func `a mirror that is damaged too gives nothing that is wrong`() async throws {
    let whole = try await repository()
    let name = packs(whole)[0]
    let (memory, second, third) = (
      MemoryObjectStore(contents: whole), MemoryObjectStore(contents: whole), MemoryObjectStore(contents: whole)
    )
    for store in [memory, second] { store.tamper(name) { $0?[20] ^= 1 } }
    let failing = FaultyObjectStore(third, FaultPlan { _, _, _ in .failure(.unavailable("away")) })
    let alone = try await repair(
      MemoryObjectStore(contents: memory.contents), [CopySource(second), CopySource(failing)])
    #expect(alone.repairs.map(\.outcome) == [.salvaged])
    let report = try await repair(memory, [CopySource(second), CopySource(failing), CopySource(third)])
    let isSame = memory.contents == whole
    #expect(report.lost == 0 && isSame)
  }

  @Test(arguments: [Fault.crashBefore, .crashAfter])
  func `a repair from a mirror that crashes can be repeated`(_ fault: Fault) async throws {
    let whole = try await repository()
    let name = packs(whole)[1]
    for number in 1... {
      let memory = MemoryObjectStore(contents: whole)
      memory.tamper(name) { $0?[20] ^= 1 }
      let faulty = FaultyObjectStore(memory, .at(number, fault))
      let mirror = CopySource(MemoryObjectStore(contents: whole))
      _ = try? await repair(faulty, [mirror])
      let survivor = MemoryObjectStore(contents: memory.contents.filter { $0.key.kind != .lock })
      _ = try await repair(survivor, [mirror])
      let isSame = survivor.contents == whole
      #expect(isSame, "call \(number)")
      guard faulty.hasCrashed else { break }
    }
  }

  /// Damages one blob of `more`, and says which it is.
  private func hurtBlob(_ memory: MemoryObjectStore) async throws -> (pack: Digest, piece: [UInt8]) {
    let repository = try await Repository.open(store: memory, password: password, settings: settings())
    let piece = Self.more[2].pieces[1]
    let place = try #require(repository.location(of: .data, Digest.of(piece)))
    memory.tamper(ObjectName(.data, place.pack)) { $0?[place.offset + 40] ^= 1 }
    return (place.pack, piece)
  }

  @Test func `blobs come back from another repository, and the damaged file is kept`() async throws {
    let memory = MemoryObjectStore(contents: try await repository())
    let other = try await Repository.create(
      store: MemoryObjectStore(), password: Secret("other"), settings: settings())
    _ = try await other.backUp(Self.more)
    let (pack, _) = try await hurtBlob(memory)
    let damaged = memory.contents[ObjectName(.data, pack)]
    let kept = Shared<[Digest: [UInt8]]>([:])
    var options = PackRepairOptions()
    options.others = [other]
    options.keep = { id, bytes in kept.withLock { $0[id] = bytes } }
    let report = try await repair(memory, [], options)
    #expect(report.lost == 0 && report.repairs.first?.fetched == 1 && report.repairs.count == 1)
    #expect(kept.value == [pack: damaged ?? []])
    let result = try await check(memory)
    #expect(result.findings.isEmpty, "\(result.findings.map(\.report))")
    try await Repository.open(store: memory, password: password, settings: settings()).readBack(Self.more)
  }

  @Test(arguments: [Fault.crashBefore, .crashAfter])
  func `a salvage that crashes loses nothing that was whole`(_ fault: Fault) async throws {
    let base = MemoryObjectStore(contents: try await repository())
    let (_, lost) = try await hurtBlob(base)
    let left = Self.more.map { file in
      SampleFile(name: file.name, pieces: file.pieces.filter { $0 != lost })
    }
    for number in 1... {
      let memory = MemoryObjectStore(contents: base.contents)
      let faulty = FaultyObjectStore(memory, .at(number, fault))
      _ = try? await repair(faulty)
      let survivor = MemoryObjectStore(contents: memory.contents.filter { $0.key.kind != .lock }, checksNames: false)
      let after = try await Repository.open(store: survivor, password: password, settings: settings())
      try await after.readBack(left)
      _ = try await repair(survivor)
      let again = try await Repository.open(store: survivor, password: password, settings: settings())
      try await again.readBack(left)
      #expect(try await check(survivor).damage.allSatisfy { $0.report.code == "VAULT-124" }, "call \(number)")
      guard faulty.hasCrashed else { break }
    }
  }

  @Test func `what is left of snapshots is saved, and restic agrees`() async throws {
    let directory = try TemporaryDirectory("repair")
    let path = directory.file("repository")
    let memory = MemoryObjectStore(contents: try await repository())
    _ = try await hurtBlob(memory)
    let store = LocalObjectStore(path)
    try await store.prepare()
    for (name, bytes) in memory.contents {
      try Files.createDirectory(Files.parent(of: "\(path)/\(name.path)"))
      try Files.replace("\(path)/\(name.path)", with: bytes)
    }
    let restic = Restic(repository: path)
    #expect(await restic.attempt(["check", "--read-data"]).status != 0)
    #expect(try await repair(store).lost == 1)

    let repository = try await Repository.open(store: store, password: password, settings: settings())
    let before = try await repository.snapshots()
    var options = SnapshotRepairOptions()
    options.isDryRun = true
    let dry = try await repository.repairSnapshots(before, options)
    #expect(dry.map(\.outcome) == [.repaired(nil)] && dry[0].stored.id == before[1].id)
    #expect(dry[0].losses.map(\.path) == ["files/c-noise"])
    #expect(try await repository.snapshots() == before)

    options.isDryRun = false
    options.mayChange = { _ in false }
    #expect(try await repository.repairSnapshots(before, options).map(\.outcome) == [.left])
    options.mayChange = { _ in true }
    options.forgets = true
    _ = try await repository.repairSnapshots(before, options)
    let after = try await repository.snapshots()
    #expect(after.count == 2 && after[0] == before[0])
    #expect(after[1].snapshot.tags == ["repaired"] && after[1].snapshot.original == before[1].id)
    try await restic.run("check", "--read-data")
    try await restic.run("restore", after[1].id.hex, "--target", directory.file("out"))
    let noise = try Files.read(directory.file("out/files/c-noise"))
    #expect(noise == Self.more[2].pieces[0] + Self.more[2].pieces[2], "the pieces that are left")
    #expect(try Files.read(directory.file("out/files/b-text")) == Self.more[1].pieces[0])
    let rest = try await repository.repairSnapshots(after, SnapshotRepairOptions())
    #expect(rest.isEmpty, "nothing is left to repair")
  }

  @Test func `a directory that is lost is left empty, and a root that is lost can't be saved`() async throws {
    let whole = try await repository()
    let repository = try await Repository.open(
      store: MemoryObjectStore(contents: whole), password: password, settings: settings())
    let newest = try await repository.snapshots()[1]
    let tree = SnapshotTree(reader: repository, root: newest.snapshot.tree)
    for (lost, isRoot) in [(try await tree.tree(at: "files"), false), (newest.snapshot.tree, true)] {
      let memory = MemoryObjectStore(contents: whole)
      let place = try #require(repository.location(of: .tree, lost))
      memory.tamper(ObjectName(.data, place.pack)) { $0?[place.offset + 20] ^= 1 }
      #expect(try await repair(memory).lost == 1)
      let mended = try await Repository.open(store: memory, password: password, settings: settings())
      let repairs = try await mended.repairSnapshots([newest], SnapshotRepairOptions())
      guard !isRoot else {
        #expect(repairs.map(\.outcome) == [.hopeless])
        continue
      }
      guard case .repaired(let id?) = repairs.first?.outcome else {
        Issue.record("\(repairs)")
        continue
      }
      let saved = try await mended.loadSnapshot(id)
      let nodes = try await SnapshotTree(reader: mended, root: saved.tree).allNodes()
      #expect(nodes.map(\.path) == ["files"])
    }
  }

  @Test(arguments: FileDamage.allCases)
  func `what is read damaged comes from the copy, and is mended where it lies`(_ damage: FileDamage) async throws {
    let whole = try await repository()
    for kind in [ObjectKind.data, .index, .snapshot, .key, .config] {
      // What isn't listed isn't missed.
      if damage == .missing, ![.data, .config].contains(kind) { continue }
      // What lies behind a pack is not read.
      if damage == .extended, kind == .data { continue }
      var memory = MemoryObjectStore(contents: whole, checksNames: false)
      let names = whole.keys.filter { $0.kind == kind }.sorted()
      let other = whole.keys.filter { $0.kind == .snapshot && $0 != names[0] }.sorted()[0]
      // A pack's header is not read, so damage may go unseen there.
      var seed: UInt64 = 4
      while true {
        damage.apply(to: names[0], or: other, in: memory, SeededRandomness(seed: seed))
        if (try? await readAll(memory, [])) == nil { break }
        seed += 1
        try #require(seed < 20, "\(kind): without a copy it fails")
        memory = MemoryObjectStore(contents: whole, checksNames: false)
      }
      let mended = try await readAll(memory, [CopySource(MemoryObjectStore(contents: whole))])
      let isSame = memory.contents == whole
      #expect(isSame, "\(kind)")
      if kind == .data { #expect(mended.map(\.name) == [names[0]]) }

      let readOnly = MemoryObjectStore(contents: whole, checksNames: false)
      damage.apply(to: names[0], or: other, in: readOnly, SeededRandomness(seed: seed))
      let refusing = FaultyObjectStore(
        readOnly,
        FaultPlan { operation, _, _ in [.put, .delete].contains(operation) ? .failure(.readOnly("disk")) : nil })
      _ = try await readAll(refusing, [CopySource(MemoryObjectStore(contents: whole))])
    }
  }

  private func readAll(_ store: any ObjectStore, _ sources: [any RecoverySource]) async throws -> [MendedObject] {
    let repository = try await Repository.open(store: store, password: password, settings: settings(sources))
    #expect(try await repository.snapshots().count == 2)
    try await repository.readBack(Self.files)
    try await repository.readBack(Self.more)
    for snapshot in try await repository.snapshots() {
      _ = try await SnapshotTree(reader: repository, root: snapshot.snapshot.tree).allNodes()
    }
    return repository.mended
  }
}
