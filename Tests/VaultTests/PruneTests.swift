import Core
import ObjectStoreFaulty
import ObjectStoreLocal
import ObjectStoreMemory
import TestSupport
import Testing

@testable import Vault

@Suite("Prune")
struct PruneTests {
  private static let first = sampleFiles(seed: 1)
  private static let second = sampleFiles(seed: 2)
  private static let third = sampleFiles(seed: 3)

  private func settings(packBytes: Int = 40_000) -> VaultSettings {
    .quick(packBytes: packBytes, time: ImpatientTime())
  }

  private func exact() -> PruneOptions {
    var options = PruneOptions()
    options.maxUnused = .bytes(0)
    return options
  }

  /// Three backups, the second of which is forgotten.
  private func prepare(_ store: any ObjectStore) async throws -> [Digest] {
    let repository = try await Repository.create(store: store, password: password, settings: settings())
    let one = try await repository.backUp(Self.first)
    let two = try await repository.backUp(Self.second)
    let three = try await repository.backUp(Self.third)
    try await repository.deleteSnapshot(two)
    return [one, three]
  }

  @Test func `what no snapshot needs goes, and restic finds everything else`() async throws {
    let directory = try TemporaryDirectory("prune")
    let store = LocalObjectStore(directory.file("repository"))
    let kept = try await prepare(store)
    let before = try await store.list(.data).reduce(0) { $0 + $1.sizeBytes }
    let repository = try await Repository.open(store: store, password: password, settings: settings())
    let (plan, report) = try await repository.withLock(exclusive: true) {
      var dry = exact()
      dry.isDryRun = true
      let plan = try await repository.prune(dry)
      return (plan, try await repository.prune(exact()))
    }
    #expect(plan.freedBytes > 60_000 && plan.freedBytes == report.freedBytes, "a dry run says what will be")
    #expect(report.snapshots == 2 && report.unused.blobs > 0 && report.unusedLeftBytes == 0)
    let after = try await store.list(.data).reduce(0) { $0 + $1.sizeBytes }
    #expect(after < before - 60_000)
    try await repository.readBack(Self.first)
    try await repository.readBack(Self.third)
    let check = try await repository.check(readData: true)
    #expect(check.findings.isEmpty, "\(check.findings)")
    let restic = Restic(repository: directory.file("repository"))
    try await restic.run("check", "--read-data")
    for id in kept { #expect(try await restic.run("ls", id.hex).text.contains("/files/d-shared")) }
    let theirs = try await restic.run("prune", "--max-unused", "0", "--dry-run").text
    #expect(theirs.contains("to delete:             0 blobs") || theirs.contains("0 blobs / 0 B"), "\(theirs)")
    // Nothing is left to do.
    let again = try await repository.withLock(exclusive: true) { try await repository.prune(exact()) }
    #expect(again.freedBytes == 0 && again.packsRepacked == 0 && again.indexesWritten == 0)
  }

  @Test func `a session goes on writing after its prune`() async throws {
    let store = MemoryObjectStore()
    _ = try await prepare(store)
    let repository = try await Repository.open(store: store, password: password, settings: settings())
    _ = try await repository.withLock(exclusive: true) { try await repository.prune(exact()) }
    // What was removed is stored anew, not taken for known.
    _ = try await repository.backUp(Self.second)
    let fresh = try await Repository.open(store: store, password: password, settings: settings())
    try await fresh.readBack(Self.second)
    #expect(try await fresh.check(readData: true).findings.isEmpty)
  }

  @Test func `packs that are mostly in use may stay`() async throws {
    let store = MemoryObjectStore()
    _ = try await prepare(store)
    let repository = try await Repository.open(store: store, password: password, settings: settings(packBytes: 1 << 20))
    var options = PruneOptions()
    options.maxUnused = .unlimited
    let loose = try await repository.withLock(exclusive: true) { [options] in try await repository.prune(options) }
    #expect(loose.packsRepacked == 0)
    let strict = try await repository.withLock(exclusive: true) { try await repository.prune(exact()) }
    #expect(strict.packsRepacked > 0 || strict.freedBytes == 0)
    try await repository.readBack(Self.first)
  }

  @Test func `copies of a blob are reduced to one`() async throws {
    let store = MemoryObjectStore()
    let one = try await Repository.create(store: store, password: password, settings: settings())
    let two = try await Repository.open(store: store, password: password, settings: settings())
    // Two machines that don't know of each other store the same.
    _ = try await one.backUp(Self.first)
    _ = try await two.backUp(Self.first)
    let repository = try await Repository.open(store: store, password: password, settings: settings())
    let report = try await repository.withLock(exclusive: true) { try await repository.prune(exact()) }
    #expect(report.duplicates.blobs > 3)
    let again = try await repository.withLock(exclusive: true) { try await repository.prune(exact()) }
    #expect(again.duplicates.blobs == 0)
    try await repository.readBack(Self.first)
    #expect(try await repository.check(readData: true).findings.isEmpty)
  }

  @Test(arguments: [Fault.crashBefore, .crashAfter])
  func `a crash at any operation of a prune loses nothing`(_ fault: Fault) async throws {
    let base = MemoryObjectStore()
    let kept = try await prepare(base)
    var crashes = 0
    for number in 1... {
      let memory = MemoryObjectStore(contents: base.contents)
      let faulty = FaultyObjectStore(memory, .at(number, fault))
      _ = try? await {
        let repository = try await Repository.open(store: faulty, password: password, settings: settings())
        return try await repository.withLock(exclusive: true) { try await repository.prune(exact()) }
      }()
      let survivor = MemoryObjectStore(contents: memory.contents)
      let after = try await Repository.open(store: survivor, password: password, settings: settings())
      let report = try await after.check(readData: true)
      #expect(report.isSound, "call \(number): \(report.damage.map(\.report))")
      #expect(try await Set(after.snapshots().map(\.id)) == Set(kept))
      guard faulty.hasCrashed else { break }
      crashes += 1
      // The next one finishes the work, and leaves as little as one that was never interrupted.
      _ = try await after.unlock(all: true)
      _ = try await after.withLock(exclusive: true) { try await after.prune(exact()) }
      try await after.readBack(Self.first)
      try await after.readBack(Self.third)
      let end = try await after.check(readData: true)
      #expect(end.findings.isEmpty, "call \(number): \(end.findings.map(\.report))")
    }
    #expect(crashes > 15, "a prune has more operations than that")
  }

  @Test(.timeLimit(.minutes(10)))
  func `many writers at once lose nothing to prunes between them`() async throws {
    let store = MemoryObjectStore()
    _ = try await prepare(store)
    let settings = settings()
    let acknowledged = Shared<[Digest: UInt64]>([:])
    let prunes = Shared(0)
    try await withThrowingTaskGroup(of: Void.self) { group in
      for writer in 0..<24 as Range<UInt64> {
        group.addTask {
          // Each is a machine of its own: it knows only what it has read.
          let repository = try await Repository.open(store: store, password: password, settings: settings)
          for round in 0..<2 as Range<UInt64> {
            let seed = 100 + writer * 10 + round
            let id = try await repository.withLock(wait: .seconds(120)) {
              try await repository.backUp(sampleFiles(seed: seed), tags: ["\(seed)"])
            }
            acknowledged.withLock { $0[id] = seed }
          }
        }
      }
      for _ in 0..<2 {
        group.addTask {
          for _ in 0..<3 {
            let repository = try await Repository.open(store: store, password: password, settings: settings)
            _ = try await repository.withLock(exclusive: true, wait: .seconds(120)) {
              try await repository.prune(exact())
            }
            prunes.withLock { $0 += 1 }
          }
        }
      }
      try await group.waitForAll()
    }
    #expect(prunes.value == 6)
    let after = try await Repository.open(store: store, password: password, settings: settings)
    let report = try await after.check(readData: true)
    #expect(report.isSound, "\(report.damage.map(\.report))")
    let there = Set(try await after.snapshots().map(\.id))
    #expect(acknowledged.value.count == 48)
    for (id, seed) in acknowledged.value {
      #expect(there.contains(id))
      try await after.readBack(sampleFiles(seed: seed))
    }
    #expect(try await store.list(.lock).isEmpty)
  }

  @Test func `indexes that share a pack between them keep all of it`() async throws {
    let store = MemoryObjectStore()
    _ = try await prepare(store)
    let writer = try await Repository.open(store: store, password: password, settings: settings())
    // Old programs listed a pack in parts, each in an index of its own.
    var parts: [[IndexedPack]] = [[], []]
    for (pack, blobs) in writer.index.withLock({ $0.blobs.blobsByPack() }) {
      for half in 0..<2 {
        let some = blobs.enumerated().filter { $0.offset % 2 == half }.map(\.element)
        if !some.isEmpty { parts[half].append(IndexedPack(id: pack, blobs: some)) }
      }
    }
    for index in try await store.list(.index) { try await store.delete(index.name) }
    for part in parts { _ = try await writer.writeFile(.index, IndexFile.encode(part)) }
    func prune() async throws {
      let repository = try await Repository.open(store: store, password: password, settings: settings())
      _ = try await repository.withLock(exclusive: true) { try await repository.prune(exact()) }
    }
    await #expect(throws: VaultError.self) { try await prune() }
    let repair = try await Repository.open(store: store, password: password, settings: settings(), loadingIndex: false)
    _ = try await repair.withLock(exclusive: true, loadingIndex: false) { try await repair.repairIndex() }
    try await repair.readBack(Self.first)
    try await repair.readBack(Self.third)
    try await prune()
    let after = try await Repository.open(store: store, password: password, settings: settings())
    try await after.readBack(Self.first)
    try await after.readBack(Self.third)
    #expect(try await after.check(readData: true).isSound)
  }

  @Test func `what can't be read stops a prune before it changes anything`() async throws {
    let base = MemoryObjectStore()
    _ = try await prepare(base)
    func expectUntouched(_ change: (MemoryObjectStore) async throws -> Void, _ code: String) async throws {
      let memory = MemoryObjectStore(contents: base.contents)
      try await change(memory)
      let before = memory.contents
      let repository = try await Repository.open(
        store: memory, password: password, settings: settings(), loadingIndex: false)
      do {
        _ = try await repository.withLock(exclusive: true) { try await repository.prune(exact()) }
        Issue.record("\(code) was expected")
      } catch { #expect(AnyFailure(error).report.code == code, "\(AnyFailure(error).report)") }
      #expect(memory.contents.filter { $0.key.kind != .lock } == before)
    }
    try await expectUntouched(
      { memory in
        let name = try await memory.list(.snapshot)[0].name
        memory.tamper(name) { $0?[20] ^= 1 }
      }, "VAULT-128")
    try await expectUntouched(
      { memory in
        let reader = try await Repository.open(store: memory, password: password, settings: settings())
        let pack = reader.location(of: .data, Digest.of(Self.first[2].pieces[1]))!.pack
        memory.tamper(ObjectName(.data, pack)) { $0 = nil }
      }, "VAULT-123")
    try await expectUntouched(
      { memory in
        for info in try await memory.list(.index).dropFirst() { memory.tamper(info.name) { $0 = nil } }
      }, "VAULT-124")
  }
}
