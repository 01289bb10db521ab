import Core
import ObjectStoreFaulty
import ObjectStoreLocal
import ObjectStoreMemory
import TestSupport
import Testing

@testable import Vault

@Suite("Copy and repair")
struct CopyTests {
  private static let files = sampleFiles(seed: 1)
  private static let more = sampleFiles(seed: 2)

  private func settings() -> VaultSettings { .quick(packBytes: 40_000, time: ImpatientTime()) }

  private func source() async throws -> (Repository, [StoredSnapshot]) {
    let source = try await Repository.create(store: MemoryObjectStore(), password: password, settings: settings())
    _ = try await source.backUp(Self.files, tags: ["a"])
    _ = try await source.backUp(Self.more, time: Timestamp(seconds: 1_796_000_000))
    return (source, try await source.snapshots())
  }

  @Test func `a copy is whole, keeps where it came from, and is made once`() async throws {
    let (source, snapshots) = try await source()
    let directory = try TemporaryDirectory("copy")
    let path = directory.file("repository")
    let target = try await Repository.create(
      store: LocalObjectStore(path), password: Secret("another one"), settings: settings())
    for stored in snapshots {
      let report = try await target.copy(stored, from: source, known: try await target.snapshots())
      #expect(!report.wasKnown && report.blobs > 3 && report.addedBytes > 10_000)
      let copy = try await target.loadSnapshot(report.snapshot)
      #expect(copy.original == stored.id && copy.tree == stored.snapshot.tree && copy.time == stored.snapshot.time)
      let again = try await target.copy(stored, from: source, known: try await target.snapshots())
      #expect(again.wasKnown && again.snapshot == report.snapshot)
    }
    #expect(try await target.snapshots().count == 2)
    try await target.readBack(Self.files)
    try await target.readBack(Self.more)
    var restic = Restic(repository: path)
    restic.password = "another one"
    try await restic.run("check", "--read-data")
  }

  @Test(arguments: [Fault.crashBefore, .crashAfter])
  func `a copy that crashes leaves nothing half, and can be repeated`(_ fault: Fault) async throws {
    let (source, snapshots) = try await source()
    let base = MemoryObjectStore()
    _ = try await Repository.create(store: base, password: password, settings: settings())
    for number in 1... {
      let memory = MemoryObjectStore(contents: base.contents)
      let faulty = FaultyObjectStore(memory, .at(number, fault))
      _ = try? await {
        let target = try await Repository.open(store: faulty, password: password, settings: settings())
        return try await target.withLock {
          try await target.copy(snapshots[0], from: source, known: try await target.snapshots())
        }
      }()
      let after = try await Repository.open(
        store: MemoryObjectStore(contents: memory.contents), password: password, settings: settings())
      #expect(try await after.check(readData: true).isSound, "call \(number)")
      guard faulty.hasCrashed else { break }
      _ = try await after.copy(snapshots[0], from: source, known: try await after.snapshots())
      #expect(try await after.snapshots().count == 1, "call \(number)")
      try await after.readBack(Self.files)
      #expect(try await after.check(readData: true).isSound)
    }
  }

  @Test func `what is damaged in the source is not copied`() async throws {
    let memory = MemoryObjectStore()
    let source = try await Repository.create(store: memory, password: password, settings: settings())
    _ = try await source.backUp(Self.files)
    let piece = Self.files[2].pieces[1]
    let place = try #require(source.location(of: .data, Digest.of(piece)))
    memory.tamper(ObjectName(.data, place.pack)) { $0?[place.offset + 40] ^= 1 }
    let target = try await Repository.create(store: MemoryObjectStore(), password: password, settings: settings())
    let stored = try await source.snapshots()[0]
    do throws(VaultError) {
      _ = try await target.copy(stored, from: source, known: [])
      Issue.record("it was damaged")
    } catch { #expect(error.report.code == "VAULT-121") }
    #expect(try await target.snapshots().isEmpty)
  }

  // MARK: Indexes

  private func damaged(_ change: (MemoryObjectStore) async throws -> Void) async throws -> MemoryObjectStore {
    let memory = MemoryObjectStore()
    let repository = try await Repository.create(store: memory, password: password, settings: settings())
    _ = try await repository.backUp(Self.files)
    _ = try await repository.backUp(Self.more)
    try await change(memory)
    return memory
  }

  private func repair(_ memory: MemoryObjectStore, readsAllPacks: Bool = false) async throws -> IndexRepairReport {
    let repository = try await Repository.open(
      store: memory, password: password, settings: settings(), loadingIndex: false)
    return try await repository.withLock(exclusive: true, loadingIndex: false) {
      try await repository.repairIndex(readsAllPacks: readsAllPacks)
    }
  }

  private func expectWhole(_ memory: MemoryObjectStore) async throws {
    let repository = try await Repository.open(store: memory, password: password, settings: settings())
    let check = try await repository.check(readData: true)
    #expect(check.findings.isEmpty, "\(check.findings.map(\.report))")
    try await repository.readBack(Self.files)
    try await repository.readBack(Self.more)
  }

  @Test func `lost and damaged indexes are made anew from the packs`() async throws {
    let lost = try await damaged { memory in
      for info in try await memory.list(.index) { memory.tamper(info.name) { $0 = nil } }
    }
    let report = try await repair(lost)
    #expect(report.packsRead == report.packs && report.indexesWritten > 0)
    try await expectWhole(lost)

    let broken = try await damaged { memory in
      memory.tamper(try await memory.list(.index)[0].name) { $0?[30] ^= 1 }
    }
    #expect(try await repair(broken).indexesDamaged == 1)
    try await expectWhole(broken)

    let sound = try await damaged { _ in }
    #expect(try await !repair(sound).isChanged, "what is right stays")
    #expect(try await repair(sound, readsAllPacks: true).packsRead > 0)
    try await expectWhole(sound)
  }

  @Test func `a pack that is damaged or gone is told, and the others are found`() async throws {
    let memory = try await damaged { memory in
      let packs = try await memory.list(.data)
      memory.tamper(packs[0].name) { $0 = nil }
      memory.tamper(packs[1].name) { $0?.removeLast(10) }
    }
    let report = try await repair(memory)
    #expect(report.packsMissing == 1 && report.unreadable.count == 1, "\(report)")
    let repository = try await Repository.open(store: memory, password: password, settings: settings())
    let readable = try await memory.list(.data).count - 1
    #expect(repository.index.withLock { $0.blobs.packIDs.count } == readable)
  }

  @Test(arguments: [Fault.crashBefore, .crashAfter])
  func `a repair that crashes can be repeated`(_ fault: Fault) async throws {
    let base = try await damaged { memory in
      memory.tamper(try await memory.list(.index)[0].name) { $0?[30] ^= 1 }
    }
    for number in 1... {
      let memory = MemoryObjectStore(contents: base.contents)
      let faulty = FaultyObjectStore(memory, .at(number, fault))
      _ = try? await {
        let repository = try await Repository.open(
          store: faulty, password: password, settings: settings(), loadingIndex: false)
        return try await repository.withLock(exclusive: true, loadingIndex: false) {
          try await repository.repairIndex()
        }
      }()
      let survivor = MemoryObjectStore(contents: memory.contents.filter { $0.key.kind != .lock })
      _ = try await repair(survivor)
      let repository = try await Repository.open(store: survivor, password: password, settings: settings())
      #expect(try await repository.check(readData: true).isSound, "call \(number)")
      try await repository.readBack(Self.files)
      guard faulty.hasCrashed else { break }
    }
  }
}
