import Core
import Foundation
import IO
import ObjectStoreContract
import ObjectStoreFaulty
import ObjectStoreLocal
import ObjectStoreMemory
import TestSupport
import Testing
import Vault

@Suite("Object stores")
struct ObjectStoreTests {
  @Test(arguments: ObjectStorePromise.allCases)
  func `a directory keeps the contract`(_ promise: ObjectStorePromise) async throws {
    let directory = try TemporaryDirectory("store")
    try await promise.check(LocalObjectStore(directory.file("repository")))
  }

  @Test(arguments: ObjectStorePromise.allCases)
  func `memory keeps the contract`(_ promise: ObjectStorePromise) async throws {
    try await promise.check(MemoryObjectStore())
  }

  @Test(arguments: ObjectStorePromise.allCases)
  func `a faulty store without faults keeps the contract`(_ promise: ObjectStorePromise) async throws {
    try await promise.check(FaultyObjectStore(MemoryObjectStore()))
  }

  /// The shared memory of a Linux machine is a tmpfs; what the kernel tells below /proc is on no file system that is known.
  @Test func `a listing has everything at once where nobody but this machine writes, and nowhere else`() async throws {
    let place = "/dev/shm/salvor-listing-\(UUID().uuidString)"
    let store = LocalObjectStore(place)
    #expect(await !store.listsAtOnce, "it is not there")
    try await store.prepare()
    #expect(await store.listsAtOnce)
    #expect(await FaultyObjectStore(store).listsAtOnce, "a decorator passes it on")
    #expect(!Files.isLocal("/proc"))
    try Files.removeTree(place)
  }

  @Test func `a directory ignores leftovers and foreign files, and never follows the wrong shard`() async throws {
    let directory = try TemporaryDirectory("store")
    let store = LocalObjectStore(directory.path)
    try await store.prepare()
    let id = Digest.of("x")
    for path in ["data/\(id.hex.prefix(2))/.tmp-1-1", "index/.tmp-1-2", "index/README", "data/00/\(id.hex)", "data/zz"]
    {
      try Files.replace(directory.file(path), with: [1])
    }
    #expect(try await store.list(.data).isEmpty)
    #expect(try await store.list(.index).isEmpty)
  }

  @Test func `what a killed process of the same number left is in nobody's way`() async throws {
    let directory = try TemporaryDirectory("store")
    let store = LocalObjectStore(directory.path)
    try await store.prepare()
    // In a container, every life of a program may have the same number.
    for number in 0..<2000 { try Files.replace(directory.file("index/.tmp-\(getpid())-\(number)"), with: [1]) }
    try await store.put(ObjectName(.index, Digest.of("x")), [1])
    #expect(try await store.list(.index).count == 1)
  }

  @Test func `a directory's files can't be written to`() async throws {
    let directory = try TemporaryDirectory("store")
    let store = LocalObjectStore(directory.path)
    try await store.prepare()
    try await store.put(.config, [1])
    #expect(try File(directory.file("config"), 0).status().st_mode & 0o777 == 0o400)
    #expect(try Files.names(in: directory.path).allSatisfy { !$0.lossyText.hasPrefix(".tmp") })
  }

  @Test func `a directory that isn't there is an error, never created by a write`() async throws {
    let directory = try TemporaryDirectory("store")
    let store = LocalObjectStore(directory.file("unmounted"))
    await #expect(throws: StoreError.self) { try await store.put(.config, [1]) }
    await #expect(throws: StoreError.self) { _ = try await store.list(.data) }
    #expect(!Files.exists(directory.file("unmounted")))
  }

  @Test func `a location must be absolute`() throws {
    #expect(throws: StoreError.self) { _ = try LocalObjectStoreFactory().open("relative/path") }
    #expect(try LocalObjectStoreFactory().open("/srv/x").location == "local:/srv/x")
  }

  @Test func `faults strike at their call, before or after its effect`() async throws {
    let id = Digest.of([1])
    for (fault, kept) in [
      (Fault.crashBefore, false), (.crashAfter, true), (.failure(.full("x")), false), (.lostAnswer(.full("x")), true),
    ] {
      let memory = MemoryObjectStore()
      let store = FaultyObjectStore(memory, .at(2, fault))
      try await store.prepare()
      await #expect(throws: StoreError.self) { try await store.put(ObjectName(.data, id), [1]) }
      #expect(memory.contents.isEmpty == !kept)
    }
    let memory = MemoryObjectStore(checksNames: false)
    let store = FaultyObjectStore(memory, .at(2, .tornPut(bytes: 1)))
    try await store.prepare()
    await #expect(throws: StoreError.self) { try await store.put(ObjectName(.data, id), [1, 2, 3]) }
    #expect(memory.contents.values.map(\.count) == [1])
    await #expect(throws: StoreError.self) { try await store.prepare() }
  }
}
