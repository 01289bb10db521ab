import Core
import ObjectStoreFaulty
import ObjectStoreMemory
import ObjectStoreMirror
import TestSupport
import Testing

@testable import Vault

@Suite("Mirrors")
struct MirrorTests {
  private static let files = sampleFiles(seed: 1)
  private static let more = sampleFiles(seed: 2)

  private func settings() -> VaultSettings { .quick(packBytes: 40_000, time: ImpatientTime()) }

  private func open(_ store: any ObjectStore) async throws -> Repository {
    try await Repository.open(store: store, password: password, settings: settings())
  }

  /// A repository with a backup.
  private func repository() async throws -> [ObjectName: [UInt8]] {
    let memory = MemoryObjectStore()
    let repository = try await Repository.create(store: memory, password: password, settings: settings())
    _ = try await repository.backUp(Self.files)
    return memory.contents
  }

  private func backUp(_ store: any ObjectStore) async throws {
    let repository = try await open(store)
    _ = try await repository.withLock {
      try await repository.backUp(Self.more, time: Timestamp(seconds: 1_796_000_000))
    }
  }

  /// Removes the first snapshot and what only it needs.
  private func prune(_ store: any ObjectStore) async throws {
    let repository = try await open(store)
    try await repository.withLock(exclusive: true) {
      try await repository.forget(try await repository.snapshots()[0].id)
      var options = PruneOptions()
      options.maxUnused = .bytes(0)
      _ = try await repository.prune(options)
    }
  }

  private func synchronize(
    _ source: any ObjectStore, _ mirror: any ObjectStore, removesExtra: Bool = true
  ) async throws -> MirrorSyncReport {
    let repository = try await open(source)
    return try await repository.withLock(loadingIndex: false) {
      try await repository.synchronize(mirror, removesExtra: removesExtra)
    }
  }

  /// Whether a mirror, if it is a repository, is one without damage.
  private func expectSound(_ memory: MemoryObjectStore, _ comment: String) async throws {
    guard memory.contents[.config] != nil else { return }
    let copy = try await open(MemoryObjectStore(contents: memory.contents))
    let report = try await copy.check(readData: true)
    #expect(report.isSound, "\(comment): \(report.damage.map(\.report))")
  }

  private func same(_ a: MemoryObjectStore, _ b: MemoryObjectStore) -> Bool {
    a.contents.filter { $0.key.kind != .lock } == b.contents.filter { $0.key.kind != .lock }
  }

  @Test func `mirrors that are made with the repository are the same after every command`() async throws {
    let (base, one, two) = (MemoryObjectStore(), MemoryObjectStore(), MemoryObjectStore())
    let store = MirroredObjectStore(base, mirrors: [one, two])
    let repository = try await Repository.create(store: store, password: password, settings: settings())
    _ = try await repository.backUp(Self.files)
    try await backUp(store)
    #expect(same(base, one) && same(base, two))
    try await prune(store)
    #expect(same(base, one) && same(base, two))
    _ = try await repository.addKey(Secret("another"))
    #expect(same(base, one))
    #expect(store.standings.allSatisfy { $0.problem == nil })
    try await open(one).readBack(Self.more)
  }

  @Test(arguments: [
    Fault.failure(.unavailable("away")), .lostAnswer(.unavailable("away")), .crashBefore, .crashAfter,
    .failure(.full("disk")),
  ])
  func `a mirror that fails at any call fails nothing, stays a repository, and catches up`(_ fault: Fault) async throws
  {
    let whole = try await repository()
    for number in 1... {
      let (base, memory) = (MemoryObjectStore(contents: whole), MemoryObjectStore(contents: whole))
      let faulty = FaultyObjectStore(memory, .at(number, fault))
      let store = MirroredObjectStore(base, mirrors: [faulty])
      try await backUp(store)
      try await expectSound(memory, "after the backup, call \(number)")
      try await prune(store)
      try await expectSound(memory, "after the prune, call \(number)")
      try await open(base).readBack(Self.more)
      let wasHit = faulty.calls >= number
      #expect((store.standings[0].problem != nil) == wasHit, "call \(number)")
      if !wasHit { #expect(same(base, memory)) }
      let mended = MemoryObjectStore(contents: memory.contents)
      _ = try await synchronize(base, mended)
      #expect(same(base, mended), "call \(number)")
      if !wasHit { break }
    }
  }

  @Test func `a mirror that missed a backup gets nothing that builds on it`() async throws {
    let whole = try await repository()
    let (base, mirror) = (MemoryObjectStore(contents: whole), MemoryObjectStore(contents: whole))
    try await backUp(base)
    let store = MirroredObjectStore(base, mirrors: [mirror])
    // The same files again: a snapshot that needs nothing but what the mirror lacks.
    try await backUp(store)
    #expect(store.standings[0].problem?.isBehind == true)
    try await expectSound(mirror, "behind")
    #expect(try await mirror.list(.snapshot).count == 1)
    let removing = MirroredObjectStore(base, mirrors: [mirror])
    try await prune(removing)
    try await expectSound(mirror, "after a prune it could not follow")
    let left = try await synchronize(base, mirror, removesExtra: false)
    #expect(left.extra > 0 && left.removed == 0)
    try await expectSound(mirror, "with more than the repository")
    #expect(try await synchronize(base, mirror).removed == left.extra)
    #expect(same(base, mirror))
  }

  @Test(arguments: [Fault.crashBefore, .crashAfter])
  func `a synchronisation that ends anywhere leaves a repository, and goes on from there`(_ fault: Fault) async throws {
    let base = MemoryObjectStore(contents: try await repository())
    try await backUp(base)
    let old = base.contents
    try await prune(base)
    for start in [[:], old] {
      for number in 1... {
        let memory = MemoryObjectStore(contents: start)
        let faulty = FaultyObjectStore(memory, .at(number, fault))
        let report = try? await synchronize(base, faulty)
        try await expectSound(memory, "call \(number)")
        let next = MemoryObjectStore(contents: memory.contents.filter { $0.key.kind != .lock })
        let again = try await synchronize(base, next)
        #expect(same(base, next), "call \(number)")
        if !faulty.hasCrashed {
          #expect(report?.isComplete == true && again.copied == 0, "nothing is sent twice")
          break
        }
      }
    }
  }

  @Test func `another repository is never overwritten, and damage is not copied`() async throws {
    let base = MemoryObjectStore(contents: try await repository())
    let other = MemoryObjectStore(contents: try await repository())
    let before = other.contents
    await #expect(throws: VaultError.otherRepository("memory:")) { _ = try await synchronize(base, other) }
    let isUntouched = other.contents == before
    #expect(isUntouched)

    let pack = try await base.list(.data)[0].name
    base.tamper(pack) { $0?[10] ^= 1 }
    let mirror = MemoryObjectStore()
    let report = try await synchronize(base, mirror)
    #expect(report.damaged == [pack] && !report.isComplete)
    #expect(try await mirror.list(.index).isEmpty, "nothing that would need it")
    base.tamper(pack) { $0?[10] ^= 1 }
    #expect(try await synchronize(base, mirror).isComplete)
    #expect(same(base, mirror))
    // Damaged there, in another size.
    mirror.tamper(pack) { $0?.removeLast() }
    #expect(try await synchronize(base, mirror).copied == 1)
    #expect(same(base, mirror))
  }

  @Test func `what the repository doesn't give now comes from a mirror`() async throws {
    let whole = try await repository()
    let base = FaultyObjectStore(
      MemoryObjectStore(contents: whole),
      FaultPlan { operation, _, call in operation == .get && call % 2 == 0 ? .failure(.unavailable("away")) : nil })
    let store = MirroredObjectStore(base, mirrors: [MemoryObjectStore(contents: whole)])
    try await open(store).readBack(Self.files)
    #expect(base.calls > 4)
    await #expect(throws: (any Error).self) { try await open(base).readBack(Self.files) }
  }
}
