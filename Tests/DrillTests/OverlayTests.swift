import Core
import ObjectStoreContract
import ObjectStoreMemory
import ObjectStoreOverlay
import Testing
import Vault

@Suite("A store that is never written to")
struct OverlayTests {
  @Test(arguments: ObjectStorePromise.allCases)
  func `keeps the contract, and leaves what is below alone`(_ promise: ObjectStorePromise) async throws {
    let below = MemoryObjectStore()
    try await below.prepare()
    let bytes = Array("what was there before".utf8)
    let name = ObjectName(.data, Digest.of(bytes))
    // But where the contract counts what is there.
    let counting: Set<ObjectStorePromise> = [
      .listsAreByKindSortedAndSized, .parallelPutsOfMany, .cancelledPutsLeaveAllOrNothing, .absentObjectsAreNotFound,
    ]
    if !counting.contains(promise) { try await below.put(name, bytes) }
    let before = below.contents
    try await promise.check(OverlayObjectStore(below))
    #expect(below.contents == before)
  }

  @Test func `what was planted is seen, and nothing else`() async throws {
    let below = MemoryObjectStore()
    try await below.prepare()
    var names: [ObjectName] = []
    for number in 0..<4 {
      let bytes = [UInt8](repeating: UInt8(number), count: 1000)
      names.append(ObjectName(.data, Digest.of(bytes)))
      try await below.put(names[number], bytes)
    }
    let store = OverlayObjectStore(
      below, damage: [names[0]: .flipped(offset: 500), names[1]: .lost, names[2]: .denied])
    let flipped = try await store.get(names[0])
    #expect(flipped.count { $0 != 0 } == 1 && flipped[500] == 0x40)
    #expect(try await store.get(names[0], range: 500..<501) == [0x40])
    #expect(try await store.get(names[0], range: 501..<600) == [UInt8](repeating: 0, count: 99))
    await #expect(throws: StoreError.notFound(names[1])) { try await store.get(names[1], range: 0..<1) }
    #expect(try await store.size(of: names[1]) == nil)
    #expect(try await store.list(.data).count == 3)
    await #expect(throws: StoreError.permission(names[2].path)) { try await store.get(names[2]) }
    #expect(try await store.get(names[3]) == [UInt8](repeating: 3, count: 1000))
  }
}
