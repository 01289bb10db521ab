import Core
import ObjectStoreFaulty
import ObjectStoreLocal
import ObjectStoreMemory
import TestSupport
import Testing

@testable import Vault

/// Short waits are over at once; long ones last until they are cancelled.
struct ImpatientTime: Timekeeper {
  private let base = SystemTime()
  func now() -> Timestamp { base.now() }
  func monotonicNanoseconds() -> Int64 { base.monotonicNanoseconds() }
  func sleep(for duration: Duration) async throws {
    if duration > .seconds(60) { try await Task.sleep(for: duration) } else { await Task.yield() }
  }
}

@Suite("Crashes")
struct CrashTests {
  private static let first = sampleFiles(seed: 1)
  private static let second = sampleFiles(seed: 2)

  private func settings() -> VaultSettings { .quick(packBytes: 40_000, time: ImpatientTime()) }

  /// Backs up `second` over a store that fails by `plan`.
  ///
  /// - Returns: The snapshot, if it was acknowledged.
  private func attempt(_ store: FaultyObjectStore) async -> Digest? {
    do {
      let repository = try await Repository.open(store: store, password: password, settings: settings())
      return try await repository.withLock { try await repository.backUp(Self.second) }
    } catch { return nil }
  }

  @Test(arguments: [Fault.crashBefore, .crashAfter])
  func `a crash at any operation of a backup loses nothing that was acknowledged`(_ fault: Fault) async throws {
    let base = MemoryObjectStore()
    let repository = try await Repository.create(store: base, password: password, settings: settings())
    let acknowledged = try await repository.backUp(Self.first)
    var (number, crashes) = (0, 0)
    while true {
      number += 1
      let memory = MemoryObjectStore(contents: base.contents)
      let faulty = FaultyObjectStore(memory, .at(number, fault))
      let snapshot = await attempt(faulty)
      // What survives is looked at by a process that knows nothing.
      let survivor = MemoryObjectStore(contents: memory.contents)
      let after = try await Repository.open(store: survivor, password: password, settings: settings())
      let report = try await after.check(readData: true)
      #expect(report.isSound, "call \(number): \(report.damage.map(\.report))")
      let snapshots = try await after.snapshots().map(\.id)
      #expect(snapshots.contains(acknowledged))
      try await after.readBack(Self.first)
      if let snapshot {
        #expect(snapshots.contains(snapshot))
        try await after.readBack(Self.second)
      }
      guard faulty.hasCrashed else {
        #expect(snapshot != nil, "without a crash it succeeds")
        break
      }
      crashes += 1
      // The next run succeeds over what the crash left.
      let next = try await after.withLock { try await after.backUp(Self.second) }
      try await after.readBack(Self.second)
      #expect(try await after.check(readData: true).isSound)
      #expect(try await after.snapshots().map(\.id).contains(next))
    }
    #expect(crashes > 15, "a backup has more operations than that")
  }

  @Test(arguments: [Fault.crashBefore, .crashAfter])
  func `restic agrees on what a crash leaves`(_ fault: Fault) async throws {
    for number in [14, 17, 20, 23] {
      let directory = try TemporaryDirectory("crash")
      let path = directory.file("repository")
      let repository = try await Repository.create(
        store: LocalObjectStore(path), password: password, settings: settings())
      let acknowledged = try await repository.backUp(Self.first)
      let faulty = FaultyObjectStore(LocalObjectStore(path), .at(number, fault))
      _ = await attempt(faulty)
      let restic = Restic(repository: path)
      try await restic.run("unlock", "--remove-all")
      try await restic.run("check", "--read-data")
      #expect(try await restic.run("ls", acknowledged.hex).text.contains("/files/d-shared"))
    }
  }

  @Test(arguments: [Fault.crashBefore, .crashAfter])
  func `a creation can be repeated after a crash at any operation`(_ fault: Fault) async throws {
    for number in 1... {
      let memory = MemoryObjectStore()
      let faulty = FaultyObjectStore(memory, .at(number, fault))
      let created = try? await Repository.create(store: faulty, password: password, settings: settings())
      if !faulty.hasCrashed { break }
      #expect(created == nil)
      do throws(VaultError) {
        _ = try await Repository.create(store: memory, password: password, settings: settings())
      } catch {
        #expect(error == .repositoryExists("memory:"), "the config was already durable")
      }
      _ = try await Repository.open(store: memory, password: password, settings: settings())
      #expect(try await memory.list(.key).count == 1)
      #expect(number < 20)
    }
  }

  @Test func `keys are never removed where data says that there was a repository`() async throws {
    let memory = MemoryObjectStore()
    let repository = try await Repository.create(store: memory, password: password, settings: settings())
    _ = try await repository.backUp(Self.first)
    memory.tamper(.config) { $0 = nil }
    let before = memory.contents
    await #expect(throws: VaultError.self) {
      _ = try await Repository.create(store: memory, password: password, settings: settings())
    }
    #expect(memory.contents == before)
  }

  @Test(arguments: [1, 2, 3] as [UInt64])
  func `a store that fails now and then delays a backup, and takes nothing from it`(seed: UInt64) async throws {
    let memory = MemoryObjectStore()
    _ = try await Repository.create(store: memory, password: password, settings: settings())
    let faulty = FaultyObjectStore(
      memory,
      .random(seed: seed, probability: 0.3, operations: [.put]) {
        $0.chance(0.5) ? .failure(.unavailable("flaky")) : .lostAnswer(.unavailable("flaky"))
      })
    let repository = try await Repository.open(store: faulty, password: password, settings: settings())
    var (snapshot, attempts): (Digest?, Int) = (nil, 0)
    while snapshot == nil {
      attempts += 1
      try #require(attempts < 100)
      snapshot = try? await repository.backUp(Self.second)
    }
    #expect(attempts > 1, "it did fail")
    let after = try await Repository.open(store: memory, password: password, settings: settings())
    try await after.readBack(Self.second)
    let report = try await after.check(readData: true)
    #expect(report.isSound)
    // Blobs that were taken in before a failure are not stored twice.
    #expect(report.findings.isEmpty, "\(report.findings.map(\.report))")
  }

  @Test func `a full store is an error that says so, and nothing is half written`() async throws {
    let memory = MemoryObjectStore()
    let repository = try await Repository.create(store: memory, password: password, settings: settings())
    memory.limit(toBytes: 60_000)
    do {
      _ = try await repository.backUp(Self.second)
      Issue.record("60 kB can't hold it")
    } catch let error as VaultError { #expect(error.report.code == "STORE-105") }
    memory.limit(toBytes: .max)
    _ = try await repository.backUp(Self.second)
    #expect(try await repository.check(readData: true).findings == [])
  }

  @Test func `memory that changes under a pack is noticed before upload`() async throws {
    let memory = MemoryObjectStore()
    let repository = try await Repository.create(store: memory, password: password, settings: settings())
    _ = try await repository.save(.data, SeededRandomness(seed: 5).bytes(9000))
    _ = repository.writer.closeAll()
    let pack = try #require(repository.writer.next())
    pack.pages.memory[4000] ^= 1
    repository.writer.failed(pack)
    let bytes = pack.pages.count
    for _ in 0..<2 {
      defer { #expect(pack.pages.count == bytes, "it stays as it is") }
      do throws(VaultError) {
        try await repository.flush()
        Issue.record("a damaged pack must not leave")
      } catch { #expect(error.report.code == "VAULT-131") }
    }
    #expect(memory.contents.keys.allSatisfy { $0.kind == .config || $0.kind == .key })
  }

  @Test func `what a store gives back wrong is never handed out`() async throws {
    let memory = MemoryObjectStore()
    let repository = try await Repository.create(store: memory, password: password, settings: settings())
    let id = try await repository.save(.data, SeededRandomness(seed: 5).bytes(9000)).id
    try await repository.flush()
    let flipping = FaultyObjectStore(
      memory, FaultPlan { operation, kind, _ in operation == .get && kind == .data ? .bitFlip : nil })
    let reader = try await Repository.open(store: flipping, password: password, settings: settings())
    do throws(VaultError) {
      _ = try await reader.load(.data, id)
      Issue.record("it was damaged")
    } catch { #expect(error.report.code == "VAULT-121") }
  }
}

extension Fault: CustomTestStringConvertible {
  package var testDescription: String { "\(self)" }
}
