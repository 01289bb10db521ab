import Core
import IO
import ObjectStoreMemory
import Synchronization
import Testing

@testable import Vault

@Suite("Snapshots as a file system")
struct SnapshotFileSystemTests {
  /// A clock that a test turns.
  private final class TurnedTime: Timekeeper {
    private let seconds = Mutex<Int64>(0)
    func turn(by count: Int64) { seconds.withLock { $0 += count } }
    func now() -> Timestamp { Timestamp(seconds: 1_800_000_000 + seconds.withLock { $0 }) }
    func monotonicNanoseconds() -> Int64 { seconds.withLock { $0 } * 1_000_000_000 }
    func sleep(for duration: Duration) async throws { try Task.checkCancellation() }
  }

  private func names(_ files: SnapshotFileSystem, _ path: FileName...) async throws -> [String] {
    var number: UInt64 = 1
    for name in path { number = try await files.lookUp(name, in: number).number }
    return try await files.entries(of: number).map(\.name.lossyText)
  }

  @Test func `what comes and goes shows within a minute, not sooner`() async throws {
    let (time, store) = (TurnedTime(), MemoryObjectStore())
    let settings = VaultSettings.quick(time: time)
    let repository = try await Repository.create(store: store, password: password, settings: settings)
    let first = try await repository.backUp(sampleFiles(), tags: ["a/b", ".."])
    let reader = try await Repository.open(store: store, password: password, settings: settings)
    let files = SnapshotFileSystem(reader, tell: { _ in })
    try await files.prepare()
    #expect(try await names(files) == ["hosts", "ids", "snapshots", "tags"])
    #expect(try await names(files, "ids") == [first.short])
    #expect(try await names(files, "tags") == ["__", "a_b"], "a name stays one")
    // The same second twice, and content that no index knew of when it was mounted.
    let second = try await repository.backUp(sampleFiles(seed: 5))
    time.turn(by: 59)
    #expect(try await names(files, "ids") == [first.short])
    time.turn(by: 2)
    #expect(Set(try await names(files, "ids")) == [first.short, second.short])
    let times = try await names(files, "snapshots")
    #expect(times.count == 3 && times.contains { $0.hasSuffix("-1") } && times.contains("latest"))
    let ids = try await files.lookUp("ids", in: 1).number
    let top = try await files.lookUp(FileName(second.short), in: ids).number
    let directory = try await files.lookUp("files", in: top).number
    let file = try await files.lookUp("c-noise", in: directory)
    let content = try await files.open(file.number)
    let whole = sampleFiles(seed: 5)[2].pieces.flatMap(\.self)
    #expect(try await files.read(content, offset: 0, count: 1 << 20) == whole)
    #expect(try await files.read(content, offset: 29_990, count: 20) == Array(whole[29_990..<30_010]))
    #expect(try await files.read(content, offset: 80_000, count: 20) == Array(whole[80_000...]))
    for offset: Int64 in [80_001, .max, -1] {
      #expect(try await files.read(content, offset: offset, count: 10).isEmpty)
    }
    try await repository.deleteSnapshot(first)
    time.turn(by: 61)
    #expect(try await names(files, "ids") == [second.short])
  }

  @Test func `numbers stay after they are forgotten, and what nobody was told of is unknown`() async throws {
    let store = MemoryObjectStore()
    let repository = try await Repository.create(store: store, password: password, settings: .quick())
    _ = try await repository.backUp(sampleFiles())
    let files = SnapshotFileSystem(repository, tell: { _ in })
    let one = try await files.lookUp("ids", in: 1)
    #expect(try await files.lookUp("ids", in: 1).number == one.number)
    await files.forget(one.number, count: 1)
    #expect(try await files.attributes(of: one.number).number == one.number, "told of twice")
    await files.forget(one.number, count: 1)
    await #expect(throws: MountFault.noEntry) { _ = try await files.attributes(of: one.number) }
    #expect(try await files.lookUp("ids", in: 1).number == one.number)
    await #expect(throws: MountFault.noEntry) { _ = try await files.lookUp("nothing", in: 1) }
    await #expect(throws: MountFault.noEntry) { _ = try await files.entries(of: 12345) }
    await #expect(throws: MountFault.isDirectory) { _ = try await files.open(one.number) }
  }

  @Test func `who asks for what is being read waits for it, and the cache keeps its limit`() async throws {
    let reads = Mutex<[BlobID: Int]>([:])
    let cache = ReadCache<Int>(limitBytes: 1000) { (id) throws(VaultError) in
      reads.withLock { $0[id, default: 0] += 1 }
      await Task.yield()
      return (reads.withLock { $0[id]! }, 100)
    }
    let ids = (0..<30).map { Digest.of("blob \($0)") }
    try await withThrowingTaskGroup(of: Void.self) { group in
      for _ in 0..<50 { group.addTask { _ = try await cache.load(ids[0]) } }
      try await group.waitForAll()
    }
    #expect(reads.withLock { $0[ids[0]] } == 1)
    for id in ids { _ = try await cache.load(id) }
    for id in ids.suffix(3) { _ = try await cache.load(id) }
    #expect(reads.withLock { reads in ids.suffix(3).allSatisfy { reads[$0] == 1 } }, "kept")
    _ = try await cache.load(ids[1])
    #expect(reads.withLock { $0[ids[1]] } == 2, "gone in the meantime")
  }
}
