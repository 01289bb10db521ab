import Core
import IO
import ObjectStoreMemory
import Testing
import Vault

@Suite("Writing")
struct WritingTests {
  @Test func `many writers of the same blobs store each once`() async throws {
    let memory = MemoryObjectStore()
    let repository = try await Repository.create(store: memory, password: password, settings: .quick())
    let blobs = (0..<200).map { SeededRandomness(seed: $0).bytes(100 + Int($0) * 37) }
    let stored = Shared(0)
    try await withThrowingTaskGroup(of: Void.self) { group in
      for writer in 0..<8 {
        group.addTask {
          for index in blobs.indices {
            let blob = blobs[(index + writer * 3) % blobs.count]
            let (id, added) = try await repository.save(.data, blob)
            #expect(repository.contains(.data, id) && repository.length(.data, id) == blob.count)
            // What was just saved can be read, wherever it is on its way.
            if index % 17 == 0 { #expect(try await repository.load(.data, id) == blob) }
            if added > 0 { stored.withLock { $0 += 1 } }
          }
          try await repository.flush()
        }
      }
      try await group.waitForAll()
    }
    #expect(stored.withLock { $0 } == blobs.count)
    let again = try await Repository.open(store: memory, password: password, settings: .quick())
    #expect(again.blobCount(.data) == blobs.count)
    for blob in blobs { #expect(try await again.load(.data, Digest.of(blob)) == blob) }
    let report = try await again.check(readData: true)
    #expect(report.findings == [] && report.blobs == blobs.count)
  }

  @Test func `backups side by side through one repository are each whole when acknowledged`() async throws {
    let memory = MemoryObjectStore()
    let repository = try await Repository.create(store: memory, password: password, settings: .quick())
    try await withThrowingTaskGroup(of: Void.self) { group in
      for seed in 0..<6 {
        group.addTask {
          // Neighbours share half their content.
          let files = sampleFiles(seed: UInt64(seed / 2))
          let id = try await repository.backUp(files, time: Timestamp(seconds: 1_795_000_000 + Int64(seed)))
          // At this very moment a stranger must find all of it.
          let stranger = try await Repository.open(
            store: MemoryObjectStore(contents: memory.contents), password: password, settings: .quick())
          #expect(try await stranger.findSnapshot(id.hex).id == id)
          try await stranger.readBack(files)
          #expect(try await stranger.check(readData: false).isSound)
        }
      }
      try await group.waitForAll()
    }
    #expect(try await repository.snapshots().count == 6)
  }

  @Test func `packs keep to their size, and data and trees apart`() async throws {
    let memory = MemoryObjectStore()
    let repository = try await Repository.create(
      store: memory, password: password, settings: .quick(packBytes: 100_000, seed: 9))
    for number in 0..<60 {
      _ = try await repository.save(.data, SeededRandomness(seed: UInt64(number)).bytes(10_000))
      _ = try await repository.save(.tree, HandTree.json([("f\(number)", 0, [])]))
    }
    // Larger than a pack: one of its own.
    _ = try await repository.save(.data, SeededRandomness(seed: 1000).bytes(300_000))
    try await repository.flush()
    let sizes = try await memory.list(.data).map(\.sizeBytes).sorted()
    #expect(sizes.last.map { (300_000..<301_000).contains($0) } == true)
    #expect(sizes.dropLast().allSatisfy { $0 < 115_000 })
    #expect(sizes.filter { $0 >= 100_000 }.count >= 5)
    #expect(try await repository.check(readData: true).findings == [])
  }

  @Test func `an index is written in between, by number of blobs and by age`() async throws {
    let (memory, time) = (MemoryObjectStore(), SimulatedTime())
    var settings = VaultSettings.quick(packBytes: 20_000, time: time)
    settings.indexBlobs = 10
    let repository = try await Repository.create(store: memory, password: password, settings: settings)
    for number in 0..<40 { _ = try await repository.save(.data, SeededRandomness(seed: UInt64(number)).bytes(4000)) }
    #expect(try await memory.list(.index).count >= 2, "by number")

    settings.indexBlobs = 50_000
    let patient = try await Repository.open(store: memory, password: password, settings: settings)
    try await patient.flush()
    let before = try await memory.list(.index).count
    for number in 100..<112 { _ = try await patient.save(.data, SeededRandomness(seed: UInt64(number)).bytes(4000)) }
    #expect(try await memory.list(.index).count == before)
    time.elapse(.seconds(601))
    for number in 200..<212 { _ = try await patient.save(.data, SeededRandomness(seed: UInt64(number)).bytes(4000)) }
    #expect(try await memory.list(.index).count > before, "by age")
  }

  @Test func `an index that vanished is forgotten, one that came is learned`() async throws {
    let memory = MemoryObjectStore()
    let one = try await Repository.create(store: memory, password: password, settings: .quick())
    let two = try await Repository.open(store: memory, password: password, settings: .quick())
    let id = try await one.save(.data, [1, 2, 3]).id
    try await one.flush()
    #expect(!two.contains(.data, id))
    try await two.refreshIndex()
    #expect(try await two.load(.data, id) == [1, 2, 3])
    for index in try await memory.list(.index) { try await memory.delete(index.name) }
    // What this session stored itself, and hasn't indexed yet, it keeps.
    let own = try await two.save(.data, SeededRandomness(seed: 3).bytes(100_000)).id
    try await two.refreshIndex()
    #expect(!two.contains(.data, id))
    #expect(try await two.load(.data, own).count == 100_000)
    try await two.flush()
    let report = try await two.check(readData: true)
    #expect(report.isSound && report.findings.map(\.report.code) == ["VAULT-141"])
  }

  @Test func `what compresses is stored small, what doesn't as it is`() async throws {
    let repository = try await Repository.create(store: MemoryObjectStore(), password: password, settings: .quick())
    let zeros = [UInt8](repeating: 0, count: 512 << 10)
    let (id, added) = try await repository.save(.data, zeros)
    #expect(id.hex.hasPrefix("07854d2f") && added < 200)
    #expect(try await repository.save(.data, SeededRandomness(seed: 1).bytes(10_000)).added == 10_032)
  }

  @Test func `a cancelled writer leaves a repository that works`() async throws {
    let memory = MemoryObjectStore()
    let repository = try await Repository.create(store: memory, password: password, settings: .quick(packBytes: 10_000))
    await withTaskGroup(of: Void.self) { group in
      for writer in 0..<4 {
        group.addTask {
          for number in 0..<200 {
            guard
              (try? await repository.save(.data, SeededRandomness(seed: UInt64(writer * 1000 + number)).bytes(3000)))
                != nil
            else { return }
          }
        }
      }
      for _ in 0..<50 { await Task.yield() }
      group.cancelAll()
    }
    try await repository.flush()
    #expect(try await repository.check(readData: true).findings == [])
  }
}
