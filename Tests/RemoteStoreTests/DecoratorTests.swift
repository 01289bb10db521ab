import Core
import IO
import ObjectStoreCache
import ObjectStoreContract
import ObjectStoreFaulty
import ObjectStoreLimits
import ObjectStoreMemory
import ObjectStoreRetry
import Synchronization
import TestSupport
import Testing
import Vault

/// Time that passes at once, and remembers how much was slept.
private final class HastyTime: Timekeeper {
  private let slept = Mutex<[Duration]>([])
  var pauses: [Duration] { slept.withLock { $0 } }
  var total: Duration { pauses.reduce(.zero, +) }

  func now() -> Timestamp { Timestamp(seconds: 1_800_000_000) }
  func monotonicNanoseconds() -> Int64 { total.wholeNanoseconds }
  func sleep(for duration: Duration) async throws {
    try Task.checkCancellation()
    slept.withLock { $0.append(duration) }
  }
}

private let bytes = Array("content".utf8)
private let name = ObjectName(.data, Digest.of("content"))

@Suite("Retry")
struct RetryTests {
  private func store(_ base: any ObjectStore, _ time: HastyTime, attempts: Int = 5) -> RetryObjectStore {
    RetryObjectStore(
      base, RetrySchedule(attempts: attempts, first: .seconds(1), longest: .seconds(3)), time: time,
      randomness: SeededRandomness(seed: 1))
  }

  /// Whether an object was there can't be told once an earlier try may have deleted it.
  @Test(arguments: ObjectStorePromise.allCases.filter { $0 != .absentObjectsAreNotFound })
  func `keeps the contract while a quarter of all calls or answers are lost`(_ promise: ObjectStorePromise) async throws
  {
    let time = HastyTime()
    for lost in [Fault.failure(.unavailable("lost")), .lostAnswer(.unavailable("lost"))] {
      let faulty = FaultyObjectStore(MemoryObjectStore(), .random(seed: 7, probability: 0.25) { _ in lost })
      try await promise.check(store(faulty, time, attempts: 30))
    }
  }

  @Test func `pauses double up to a limit, with jitter, and end`() async throws {
    let time = HastyTime()
    let faulty = FaultyObjectStore(MemoryObjectStore(), FaultPlan { _, _, _ in .failure(.unavailable("down")) })
    await #expect(throws: StoreError.unavailable("down")) { try await store(faulty, time).put(name, bytes) }
    #expect(faulty.calls == 5)
    for (pause, longest) in zip(time.pauses, [1.0, 2, 3, 3]) {
      #expect(pause >= .seconds(longest / 2) && pause <= .seconds(longest))
    }
    #expect(time.pauses.count == 4)
    #expect(Set(time.pauses).count == 4, "two pauses of one limit differ")
  }

  @Test func `what can't help is not tried again`() async throws {
    let time = HastyTime()
    for error in [StoreError.notFound(name), .permission("x"), .full("x"), .location("x"), .cancelled] {
      let faulty = FaultyObjectStore(MemoryObjectStore(), FaultPlan { _, _, _ in .failure(error) })
      await #expect(throws: error) { _ = try await store(faulty, time).get(name) }
      #expect(faulty.calls == 1)
    }
    #expect(time.pauses.isEmpty)
  }

  @Test func `a delete whose answer was lost is done`() async throws {
    let memory = MemoryObjectStore()
    try await memory.prepare()
    try await memory.put(name, bytes)
    try await store(FaultyObjectStore(memory, .at(1, .lostAnswer(.unavailable("lost")))), HastyTime()).delete(name)
    #expect(memory.contents.isEmpty)
    await #expect(throws: StoreError.notFound(name)) { try await store(memory, HastyTime()).delete(name) }
  }

  @Test func `bytes damaged on the way are read again, bytes damaged at rest are given as they lie`() async throws {
    let memory = MemoryObjectStore(checksNames: false)
    try await memory.prepare()
    try await memory.put(name, bytes)
    #expect(try await store(FaultyObjectStore(memory, .at(1, .bitFlip)), HastyTime()).get(name) == bytes)
    memory.tamper(name) { $0 = Array("contend".utf8) }
    #expect(try await store(memory, HastyTime()).get(name) == Array("contend".utf8))
  }
}

@Suite("Limits")
struct LimitTests {
  @Test func `bandwidth is a mean over what was sent and received`() async throws {
    let time = HastyTime()
    let store = LimitedObjectStore(
      MemoryObjectStore(), StoreLimits(uploadBytesPerSecond: 1000, downloadBytesPerSecond: 500), time: time)
    try await store.prepare()
    for number in 0..<5 {
      let bytes = [UInt8](repeating: UInt8(number), count: 2000)
      try await store.put(ObjectName(.data, Digest.of(bytes)), bytes)
    }
    // Each waits for those before it: four times two seconds.
    #expect(time.total == .seconds(8))
    let bytes = [UInt8](repeating: 0, count: 2000)
    _ = try await store.get(ObjectName(.data, Digest.of(bytes)))
    #expect(time.total == .seconds(12))
    _ = try await store.get(ObjectName(.data, Digest.of(bytes)), range: 0..<500)
    #expect(time.total == .seconds(13))
  }

  /// Counts how many calls are under way.
  private final class CountingStore: ObjectStore {
    let state = Mutex((now: 0, most: 0))
    var location: String { "counting:" }
    private func call() async {
      state.withLock { state in
        state.now += 1
        state.most = max(state.most, state.now)
      }
      for _ in 0..<50 { await Task.yield() }
      state.withLock { $0.now -= 1 }
    }
    func prepare() async throws(StoreError) { await call() }
    func put(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) { await call() }
    func get(_ name: ObjectName) async throws(StoreError) -> [UInt8] {
      await call()
      return []
    }
    func get(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
      await call()
      return []
    }
    func list(_ kind: ObjectKind) async throws(StoreError) -> [ObjectInfo] {
      await call()
      return []
    }
    func size(of name: ObjectName) async throws(StoreError) -> Int? {
      await call()
      return nil
    }
    func delete(_ name: ObjectName) async throws(StoreError) { await call() }
  }

  @Test func `no more calls than allowed are under way, and cancelled waiters leave`() async throws {
    let base = CountingStore()
    let store = LimitedObjectStore(base, StoreLimits(connections: 3), time: SystemTime())
    await withTaskGroup(of: Void.self) { group in
      for _ in 0..<40 { group.addTask { _ = try? await store.size(of: name) } }
    }
    #expect(base.state.withLock { $0.most } == 3)
    await withTaskGroup(of: Void.self) { group in
      for _ in 0..<40 { group.addTask { _ = try? await store.size(of: name) } }
      group.cancelAll()
    }
    #expect(base.state.withLock { $0.now } == 0)
    _ = try await store.size(of: name)
  }
}

@Suite("Cache")
struct CacheTests {
  private func counted(_ faulty: FaultyObjectStore, _ operation: StoreOperation) -> Int {
    faulty.log.filter { $0.0 == operation }.count
  }

  @Test(arguments: ObjectStorePromise.allCases)
  func `keeps the contract`(_ promise: ObjectStorePromise) async throws {
    let directory = try TemporaryDirectory("cache")
    try await promise.check(CachedObjectStore(MemoryObjectStore(), directory: directory.path, pool: .shared))
  }

  @Test func `indexes and directories are read once, content every time`() async throws {
    let directory = try TemporaryDirectory("cache")
    let memory = MemoryObjectStore()
    try await memory.prepare()
    let index = ObjectName(.index, Digest.of("content"))
    try await memory.put(index, bytes)
    try await memory.put(name, bytes)
    // A process of its own each time.
    for round in 1...3 {
      let faulty = FaultyObjectStore(memory)
      let store = CachedObjectStore(faulty, directory: directory.path, pool: .shared)
      #expect(try await store.get(index) == bytes)
      #expect(try await store.getMetadata(name, range: 2..<5) == Array(bytes[2..<5]))
      #expect(try await store.get(name, range: 0..<1) == [bytes[0]])
      #expect(counted(faulty, .get) == (round == 1 ? 3 : 1))
    }
  }

  @Test func `a snapshot is seen in the store before it counts, whatever the cache has`() async throws {
    let directory = try TemporaryDirectory("cache")
    let faulty = FaultyObjectStore(
      MemoryObjectStore(), FaultPlan { operation, kind, _ in operation == .put && kind == .snapshot ? .lie : nil })
    let store = CachedObjectStore(faulty, directory: directory.path, pool: .shared)
    var settings = VaultSettings()
    settings.scrypt = ScryptParameters(n: 16, r: 1, p: 1)
    settings.time = HastyTime()
    let repository = try await Repository.create(store: store, password: Secret("p"), settings: settings)
    let tree = try await repository.save(.tree, Array(#"{"nodes":[]}"#.utf8))
    let snapshot = Snapshot(time: Timestamp(seconds: 1), tree: tree.id, paths: ["/"], hostname: "h", tags: [])
    await #expect(throws: VaultError.self) { _ = try await repository.save(snapshot) }
  }

  @Test func `many readers of one pack fetch it once`() async throws {
    let directory = try TemporaryDirectory("cache")
    let memory = MemoryObjectStore()
    try await memory.prepare()
    try await memory.put(name, bytes)
    let faulty = FaultyObjectStore(memory)
    let store = CachedObjectStore(faulty, directory: directory.path, pool: .shared)
    try await withThrowingTaskGroup(of: Void.self) { group in
      for number in 0..<7 {
        group.addTask {
          let read = try await store.getMetadata(name, range: number..<number + 1)
          #expect(read == [bytes[number]])
        }
      }
      try await group.waitForAll()
    }
    #expect(counted(faulty, .get) == 1)
  }

  @Test func `a damaged, unreadable or full cache is as good as none`() async throws {
    let directory = try TemporaryDirectory("cache")
    let memory = MemoryObjectStore()
    try await memory.prepare()
    let index = ObjectName(.index, Digest.of("content"))
    try await memory.put(index, bytes)
    let store = CachedObjectStore(memory, directory: directory.path, pool: .shared)
    _ = try await store.get(index)
    let own = try #require(try Files.names(in: directory.path).first).lossyText
    let file = directory.file("\(own)/index/\(Digest.of("content"))")
    #expect(try Files.read(file) == bytes)
    try Files.replace(file, with: Array("contend".utf8))
    #expect(try await store.get(index) == bytes)
    #expect(try Files.read(file) == bytes, "mended")
    let nowhere = CachedObjectStore(memory, directory: "/proc/nothing/here", pool: .shared)
    #expect(try await nowhere.get(index) == bytes)
    #expect(try await nowhere.list(.index).count == 1)
  }

  @Test func `what is gone from the store goes from the cache at the next listing`() async throws {
    let directory = try TemporaryDirectory("cache")
    let memory = MemoryObjectStore()
    try await memory.prepare()
    let index = ObjectName(.index, Digest.of("content"))
    let store = CachedObjectStore(memory, directory: directory.path, pool: .shared)
    try await store.put(index, bytes)
    try await memory.delete(index)
    #expect(try await store.get(index) == bytes, "written through")
    #expect(try await store.list(.index).isEmpty)
    await #expect(throws: StoreError.notFound(index)) { _ = try await store.get(index) }
  }
}
