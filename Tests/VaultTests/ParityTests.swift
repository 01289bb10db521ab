import Core
import IO
import ObjectStoreFaulty
import ObjectStoreLocal
import ObjectStoreMemory
import ObjectStoreParity
import TestSupport
import Testing

@testable import Vault

@Suite("Parity")
struct ParityTests {
  private static let files = sampleFiles(seed: 1)
  private static let more = sampleFiles(seed: 2)

  private func settings(_ sources: [any RecoverySource] = []) -> VaultSettings {
    var settings = VaultSettings.quick(packBytes: 40_000, time: ImpatientTime())
    settings.sources = sources
    return settings
  }

  /// A repository with two backups, written with parity.
  private func repository(percent: Int) async throws -> (MemoryObjectStore, MemoryObjectStore) {
    let (base, place) = (MemoryObjectStore(), MemoryObjectStore())
    let share = try #require(ParityShare(percent: percent))
    let store = ParityObjectStore(base, try await ParityStore.create(place, share))
    let repository = try await Repository.create(store: store, password: password, settings: settings())
    _ = try await repository.backUp(Self.files)
    _ = try await repository.backUp(Self.more, time: Timestamp(seconds: 1_796_000_000))
    await store.finish()
    #expect(store.problem == nil)
    return (base, place)
  }

  private func repair(
    _ base: any ObjectStore, _ place: any ObjectStore, _ options: FileRepairOptions = FileRepairOptions()
  ) async throws -> [FileRepair] {
    let parity = try #require(try await ParityStore.open(place))
    let repository = try await Repository.open(
      store: ParityObjectStore(base, parity), password: password, settings: settings([parity]), loadingIndex: false)
    return try await repository.withLock(exclusive: true, loadingIndex: false) {
      try await repository.repairFiles(options)
    }
  }

  // MARK: The code itself

  @Test(arguments: 1...40 as ClosedRange<UInt64>)
  func `any damage of no more pieces than there is parity for is mended, any more is not`(seed: UInt64) throws {
    let chance = SeededRandomness(seed: seed)
    let size = 1 + chance.below(seed < 20 ? 600_000 : 9000)
    let bytes = chance.bytes(size)
    let name = ObjectName(.data, Digest.of(bytes))
    let share = try #require(ParityShare(percent: 1 + chance.below(100)))
    let (data, parity, shardBytes) = share.geometry(of: .data, sizeBytes: size)
    #expect(data + parity <= 255 && data * shardBytes >= size && (data - 1) * shardBytes < size)
    #expect(parity * 100 >= data * share.percent)
    var file = ParityFile.encode(name, bytes, share)
    #expect(ParityFile.encode(name, bytes, share) == file, "the same every time")
    // One end's header, and some parity; as much data as is left.
    let hurtParity = chance.below(parity)
    let header = try #require(ParityFile(file))
    let start = (file.count - 12 - parity * shardBytes) / 2
    for index in 0..<hurtParity { file[start + index * shardBytes + chance.below(shardBytes)] ^= 1 }
    if chance.chance(0.5) { file[chance.below(start)] ^= 4 } else { file[file.count - 1 - chance.below(start)] ^= 4 }
    let read = try #require(ParityFile(file))
    #expect(read.name == name && header.sizeBytes == size)
    let order = (0..<data).sorted { _, _ in chance.chance(0.5) }
    var damaged = bytes
    let bound = min(data, parity - hurtParity)
    for shard in order.prefix(bound) {
      let end = min((shard + 1) * shardBytes, size)
      damaged[shard * shardBytes + chance.below(end - shard * shardBytes)] ^= 1 << UInt8(chance.below(8))
    }
    let isMended = read.recover(damaged, file) == bytes
    #expect(isMended)
    if bound < data {
      let shard = order[bound]
      damaged[shard * shardBytes] ^= 1
      let isRefused = read.recover(damaged, file) == nil
      #expect(isRefused, "beyond the bound")
    }
    // Cut off, within the bound.
    let cut = Array(bytes.prefix((data - bound) * shardBytes))
    if bound > 0 {
      let isWhole = read.recover(cut, file) == bytes
      #expect(isWhole, "truncated")
    }
  }

  @Test(arguments: 1...200 as ClosedRange<UInt64>)
  func `no hostile parity file brings anything wrong, or the program down`(seed: UInt64) throws {
    let chance = SeededRandomness(seed: seed)
    let bytes = chance.bytes(20_000)
    let name = ObjectName(.data, Digest.of(bytes))
    var file = ParityFile.encode(name, bytes, .usual)
    switch chance.below(3) {
    case 0: file = Array(file.prefix(chance.below(file.count)))
    case 1: for _ in 0..<(1 + chance.below(30)) { file[chance.below(file.count)] = UInt8(chance.below(256)) }
    default:
      // A header whose own hash is right, and that lies.
      file[8 + chance.below(16)] = UInt8(chance.below(256))
      let end = 64 + (Int(file[10]) + Int(file[11])) * 16
      if end + 32 <= file.count { file.replaceSubrange(end..<end + 32, with: Digest.of(file[..<end]).bytes) }
    }
    guard let header = ParityFile(file) else { return }
    var damaged = bytes
    damaged[100] ^= 1
    if let result = header.recover(damaged, file) {
      let isRight = Digest.of(result) == header.id
      #expect(isRight)
    }
  }

  // MARK: A repository

  @Test(arguments: FileDamage.allCases, [1, 2, 3, 4] as [UInt64])
  func `every kind of file comes back from parity of all of it`(_ damage: FileDamage, seed: UInt64) async throws {
    let (base, place) = try await repository(percent: 100)
    let whole = base.contents
    let chance = SeededRandomness(seed: seed)
    for kind in ParityStore.kinds {
      let names = whole.keys.filter { $0.kind == kind }.sorted()
      let other = whole.keys.filter { $0.kind == .snapshot }.sorted()[1]
      damage.apply(to: names[chance.below(names.count)], or: other, in: base, chance)
    }
    var options = FileRepairOptions()
    options.restoresRemoved = true
    let hurt = base.contents != whole
    #expect(hurt)
    let repairs = try await repair(base, place, options)
    #expect(repairs.allSatisfy { if case .restored = $0.outcome { true } else { false } }, "\(repairs)")
    let isSame = base.contents == whole
    #expect(isSame)
    #expect(try await repair(base, place, options).isEmpty, "nothing is left to do")
  }

  @Test(arguments: 1...6 as ClosedRange<UInt64>)
  func `damage within the bound is mended wholly, and restic agrees`(seed: UInt64) async throws {
    let (base, place) = try await repository(percent: 20)
    let whole = base.contents
    let chance = SeededRandomness(seed: seed)
    for (name, bytes) in whole where name.kind == .data {
      let (data, parity, shardBytes) = ParityShare(percent: 20)!.geometry(of: .data, sizeBytes: bytes.count)
      base.tamper(name) { content in
        if chance.chance(0.5) {
          for _ in 0..<parity { content?[chance.below(bytes.count)] ^= 0x10 }
        } else {
          content = Array(bytes.prefix((data - parity) * shardBytes))
        }
      }
    }
    let repairs = try await repair(base, place)
    #expect(repairs.count >= whole.keys.count { $0.kind == .data } / 2)
    let isSame = base.contents == whole
    #expect(isSame, "\(repairs.filter { $0.outcome == .lost })")

    let directory = try TemporaryDirectory("parity")
    let path = directory.file("repository")
    let local = LocalObjectStore(path)
    try await local.prepare()
    for (name, bytes) in base.contents where name.kind != .lock {
      try Files.createDirectory(Files.parent(of: "\(path)/\(name.path)"))
      try Files.replace("\(path)/\(name.path)", with: bytes)
    }
    try await Restic(repository: path).run("check", "--read-data")
  }

  @Test func `beyond the bound it says so, and mends the rest`() async throws {
    let (base, place) = try await repository(percent: 10)
    let whole = base.contents
    let packs = whole.keys.filter { $0.kind == .data }.sorted { whole[$0]!.count > whole[$1]!.count }
    base.tamper(packs[0]) { $0 = Array(repeating: 0, count: $0?.count ?? 0) }
    base.tamper(packs[1]) { $0?[10] ^= 1 }
    let repairs = try await repair(base, place)
    #expect(repairs.count == 2)
    #expect(repairs.first { $0.name == packs[0] }?.outcome == .lost)
    let isMended = base.contents[packs[1]] == whole[packs[1]]
    #expect(isMended)
  }

  @Test(arguments: [1, 2, 3] as [UInt64])
  func `files whose places were exchanged go back, wherever it is interrupted`(seed: UInt64) async throws {
    let (base, place) = try await repository(percent: 1)
    let whole = base.contents
    let chance = SeededRandomness(seed: seed)
    let packs = whole.keys.filter { $0.kind == .data }.sorted()
    let first = chance.below(packs.count)
    let (a, b) = (packs[first], packs[(first + 1) % packs.count])
    base.tamper(a) { $0 = whole[b] }
    base.tamper(b) { $0 = whole[a] }
    let (damaged, parity) = (base.contents, place.contents)
    for number in 1... {
      let hurt = MemoryObjectStore(contents: damaged, checksNames: false)
      let side = MemoryObjectStore(contents: parity)
      let faulty = FaultyObjectStore(hurt, .at(number, .crashBefore), counting: [.put, .delete])
      _ = try? await repair(faulty, side)
      let survivor = MemoryObjectStore(contents: hurt.contents.filter { $0.key.kind != .lock }, checksNames: false)
      let repairs = try await repair(survivor, side)
      let isSame = survivor.contents == whole
      #expect(isSame, "write \(number): \(repairs)")
      guard faulty.hasCrashed else { break }
    }
  }

  @Test(arguments: [Fault.crashBefore, .crashAfter])
  func `a repair that ends anywhere can be repeated, on a store that can't replace in one step`(_ fault: Fault)
    async throws
  {
    let (base, place) = try await repository(percent: 10)
    let whole = base.contents
    for name in whole.keys.filter({ $0.kind == .data }) { base.tamper(name) { $0?[10] ^= 1 } }
    let damaged = base.contents
    for number in 1... {
      let hurt = MemoryObjectStore(contents: damaged)
      let side = MemoryObjectStore(contents: place.contents)
      let faulty = FaultyObjectStore(hurt, .at(number, fault), counting: [.put, .delete])
      _ = try? await repair(faulty, side)
      let survivor = MemoryObjectStore(contents: hurt.contents.filter { $0.key.kind != .lock })
      _ = try await repair(survivor, side)
      let isSame = survivor.contents == whole
      #expect(isSame, "write \(number)")
      guard faulty.hasCrashed else { break }
    }
  }

  @Test func `parity is kept in step with what is written and removed`() async throws {
    let (base, place) = try await repository(percent: 10)
    let parity = try #require(try await ParityStore.open(place))
    let store = ParityObjectStore(base, parity)
    let repository = try await Repository.open(store: store, password: password, settings: settings())
    try await repository.withLock(exclusive: true) {
      try await repository.forget(try await repository.snapshots()[0].id)
      var options = PruneOptions()
      options.maxUnused = .bytes(0)
      _ = try await repository.prune(options)
    }
    await store.finish()
    let fresh = try #require(try await ParityStore.open(place))
    let report = try await fresh.check(base, readsData: true)
    #expect(report.missing.isEmpty && report.damaged.isEmpty && report.stale.isEmpty, "\(report)")
    #expect(report.covered == base.contents.count)

    // Somebody else wrote and removed; parity is damaged, and its table gone.
    let other = try await Repository.open(store: base, password: password, settings: settings())
    _ = try await other.backUp(Self.files)
    let table = try await place.list(.index)
    for info in table { place.tamper(info.name) { $0?[5] ^= 1 } }
    let victim = try await place.list(.data)[0].name
    let middle = (place.contents[victim]?.count ?? 0) / 2
    place.tamper(victim) { $0?[middle] ^= 1 }
    let late = try #require(try await ParityStore.open(place))
    let found = try await late.check(base, readsData: true)
    #expect(found.missing.count > 2 && found.damaged.count == 1, "\(found)")
    let made = try await late.complete(base, readsData: true, removesStale: true)
    #expect(made.made == found.missing.count + 1 && made.damaged.isEmpty)
    let after = try await #require(try await ParityStore.open(place)).check(base, readsData: true)
    #expect(after.missing.isEmpty && after.damaged.isEmpty && after.stale.isEmpty, "\(after)")

    try await late.drop()
    #expect(place.contents.isEmpty)
    #expect(try await ParityStore.open(place) == nil)
  }

  @Test func `parity of what is damaged is not made`() async throws {
    let (base, place) = try await repository(percent: 10)
    try await #require(try await ParityStore.open(place)).drop()
    let pack = try await base.list(.data)[0].name
    base.tamper(pack) { $0?[10] ^= 1 }
    let parity = try await ParityStore.create(place, .usual)
    let made = try await parity.complete(base, readsData: false, removesStale: false)
    #expect(made.damaged == [pack] && made.made == base.contents.count - 1)
  }

  @Test(arguments: 1...30)
  func `parity that can't be written takes nothing from a backup`(number: Int) async throws {
    let (base, place) = try await repository(percent: 10)
    let faulty = FaultyObjectStore(place, .at(number, .crashBefore))
    guard let parity = try? await ParityStore.open(faulty) else { return }
    let store = ParityObjectStore(base, parity)
    let repository = try await Repository.open(store: store, password: password, settings: settings())
    _ = try await repository.backUp(Self.more + sampleFiles(seed: 3))
    await store.finish()
    #expect((store.problem != nil) == faulty.hasCrashed)
    #expect(try await repository.check(readData: true).isSound)
    // What was left open is found again.
    let next = try #require(try await ParityStore.open(place))
    _ = try await next.complete(base, readsData: false, removesStale: false)
    let after = try await #require(try await ParityStore.open(place)).check(base, readsData: true)
    #expect(after.missing.isEmpty && after.damaged.isEmpty, "\(after)")
  }
}
