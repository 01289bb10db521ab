import Core
import IO
import ObjectStoreLocal
import ObjectStoreMemory
import Synchronization
import TestSupport
import Testing

@testable import Vault

/// What happens to a repository's files.
enum Damage: String, CaseIterable, Sendable, CustomTestStringConvertible {
  case bitFlipInData, bitFlipInTrees, bitFlipInHeader, truncatedPack, extendedPack, missingPack, emptyPack
  case bitFlipInIndex, missingIndex, bitFlipInSnapshot, bitFlipInConfig, bitFlipInKey

  var testDescription: String { rawValue }

  /// The codes one of which a check, or opening, must give.
  var codes: Set<String> {
    switch self {
    case .bitFlipInData, .bitFlipInTrees, .bitFlipInHeader, .extendedPack: ["VAULT-121"]
    case .truncatedPack, .emptyPack: ["VAULT-122"]
    case .missingPack: ["VAULT-123"]
    case .bitFlipInIndex: ["VAULT-125"]
    case .missingIndex: ["VAULT-124"]
    case .bitFlipInSnapshot: ["VAULT-128"]
    case .bitFlipInConfig: ["VAULT-127"]
    case .bitFlipInKey: ["VAULT-126"]
    }
  }

  func apply(to path: String, _ packs: (data: Digest, tree: Digest), _ store: LocalObjectStore) async throws {
    func change(_ name: ObjectName, _ change: (inout [UInt8]) -> Void) throws {
      var bytes = try Files.read("\(path)/\(name.path)")
      change(&bytes)
      try Files.replace("\(path)/\(name.path)", with: bytes)
    }
    func only(_ kind: ObjectKind) async throws -> ObjectName { try await store.list(kind)[0].name }
    let data = ObjectName(.data, packs.data)
    switch self {
    case .bitFlipInData: try change(data) { $0[$0.count / 3] ^= 4 }
    case .bitFlipInTrees: try change(ObjectName(.data, packs.tree)) { $0[40] ^= 1 }
    case .bitFlipInHeader: try change(data) { $0[$0.count - 30] ^= 1 }
    case .truncatedPack: try change(data) { $0.removeLast(7) }
    case .extendedPack: try change(data) { $0.append(0) }
    case .missingPack: try await store.delete(data)
    case .emptyPack: try change(data) { $0 = [] }
    case .bitFlipInIndex: try change(try await only(.index)) { $0[$0.count / 2] ^= 1 }
    case .missingIndex: try await store.delete(try await only(.index))
    case .bitFlipInSnapshot: try change(try await only(.snapshot)) { $0[20] ^= 1 }
    case .bitFlipInConfig: try change(.config) { $0[20] ^= 1 }
    case .bitFlipInKey: try change(try await only(.key)) { $0[$0.count / 2] ^= 1 }
    }
  }
}

@Suite("Damage")
struct DamageTests {
  @Test(arguments: Damage.allCases)
  func `restic and we give the same verdict, and ours names what is damaged`(_ damage: Damage) async throws {
    let directory = try TemporaryDirectory("damage")
    let path = directory.file("repository")
    let store = LocalObjectStore(path)
    let repository = try await Repository.create(store: store, password: password, settings: .quick(packBytes: 1 << 20))
    _ = try await repository.backUp(sampleFiles())
    #expect(try await repository.check(readData: true).findings == [], "sound before")
    let packs = try kinds(repository)

    try await damage.apply(to: path, packs, store)

    // Reading a pack that is missing or empty, restic tries again for 40 s; it sees as much without reading.
    let isQuick = damage == .missingPack || damage == .emptyPack
    let judged = await Restic(repository: path).attempt(isQuick ? ["check"] : ["check", "--read-data"])
    #expect(judged.status != 0, "restic: \(judged.text)")
    do throws(VaultError) {
      let again = try await Repository.open(store: store, password: password, settings: .quick(), loadingIndex: false)
      let report = try await again.check(readData: true)
      #expect(!report.isSound)
      #expect(report.damage.contains { damage.codes.contains($0.report.code) }, "\(report.findings.map(\.report))")
      #expect(report.damage.allSatisfy { $0.report.remedy != nil })
    } catch {
      #expect(damage.codes.contains(error.report.code), "\(error)")
    }
    // The quick check sees everything but what only reading shows.
    if ![.bitFlipInData, .bitFlipInConfig, .bitFlipInKey].contains(damage) {
      let again = try await Repository.open(store: store, password: password, settings: .quick(), loadingIndex: false)
      #expect(try await !again.check(readData: false).isSound)
    }
  }

  /// The largest pack with data, and one with trees.
  private func kinds(_ repository: Repository) throws -> (data: Digest, tree: Digest) {
    let packs = repository.index.withLock { $0.blobs.blobsByPack() }
    func largest(_ kind: BlobKind) throws -> Digest {
      let ofKind = packs.filter { $0.value[0].kind == kind }
      return try #require(
        ofKind.max { $0.value.reduce(0) { $0 + $1.length } < $1.value.reduce(0) { $0 + $1.length } }?.key)
    }
    return (try largest(.data), try largest(.tree))
  }

  @Test func `a wrong password is a clean error on both sides`() async throws {
    let directory = try TemporaryDirectory("damage")
    let store = LocalObjectStore(directory.file("repository"))
    _ = try await Repository.create(store: store, password: password, settings: .quick())
    await #expect(throws: VaultError.wrongPassword(keysTried: 1)) {
      _ = try await Repository.open(store: store, password: Secret("guess"))
    }
    let judged = await Restic(repository: directory.file("repository"), password: "guess").attempt(["cat", "config"])
    #expect(judged.status != 0 && judged.errors.contains("wrong password"))
    await #expect(throws: VaultError.notARepository("local:\(directory.path)")) {
      _ = try await Repository.open(store: LocalObjectStore(directory.path), password: password)
    }
    await #expect(throws: VaultError.self) {
      _ = try await Repository.create(store: store, password: password, settings: .quick())
    }
  }

  @Test func `a blob that lies in two packs is read from the good one`() async throws {
    let memory = MemoryObjectStore(checksNames: false)
    let one = try await Repository.create(store: memory, password: password, settings: .quick())
    let two = try await Repository.open(store: memory, password: password, settings: .quick())
    let blobs = (0..<5).map { SeededRandomness(seed: $0).bytes(2000) }
    for blob in blobs {
      _ = try await one.save(.data, blob)
      _ = try await two.save(.data, blob)
    }
    try await one.flush()
    try await two.flush()
    let packs = try await memory.list(.data)
    for damaged in packs {
      memory.tamper(damaged.name) { $0?[500] ^= 1 }
      defer { memory.tamper(damaged.name) { $0?[500] ^= 1 } }
      let reader = try await Repository.open(store: memory, password: password, settings: .quick())
      for blob in blobs { #expect(try await reader.load(.data, Digest.of(blob)) == blob) }
      try await reader.loadMany(.data, blobs.map { Digest.of($0) }, parallel: 2) { (id, bytes) throws(VaultError) in
        #expect(Digest.of(bytes) == id)
      }
      #expect(try await !reader.check(readData: true).isSound, "a damaged copy is damage all the same")
    }
  }

  @Test func `what is missing is named`() async throws {
    let memory = MemoryObjectStore()
    let repository = try await Repository.create(store: memory, password: password, settings: .quick())
    let id = Digest.of("nowhere")
    await #expect(throws: VaultError.blobMissing(.data, id)) { _ = try await repository.load(.data, id) }
    await #expect(throws: VaultError.blobMissing(.data, id)) {
      try await repository.loadMany(.data, [id], parallel: 1) { (_, _) throws(VaultError) in }
    }
    await #expect(throws: VaultError.blobMissing(.tree, id)) {
      _ = try await repository.save(Snapshot(time: Timestamp(seconds: 0), tree: id, paths: [], hostname: ""))
    }
    await #expect(throws: VaultError.blobSize(0)) { _ = try await repository.save(.data, []) }
    await #expect(throws: VaultError.snapshotNotFound("latest")) { _ = try await repository.findSnapshot("latest") }
    await #expect(throws: VaultError.snapshotNotFound("00")) { _ = try await repository.findSnapshot("00") }

    // A snapshot whose tree names a blob that was never stored.
    let tree = try await repository.save(.tree, HandTree.json([("f", 1, [id])])).id
    let snapshot = try await repository.save(
      Snapshot(time: Timestamp(seconds: 0), tree: tree, paths: ["/"], hostname: "h"))
    let report = try await repository.check(readData: false)
    #expect(report.findings == [.damage(VaultError.blobMissing(.data, id).report, snapshot: snapshot)])
    try await repository.deleteSnapshot(snapshot)
    #expect(try await repository.check(readData: false).isSound)
    await #expect(throws: VaultError.snapshotNotFound(snapshot.hex)) { try await repository.deleteSnapshot(snapshot) }
  }
}
