import Core
import ObjectStoreMemory
import Testing

@testable import Vault

/// Changes valid input in ways that find off-by-ones: bits, cuts, repeats, insertions, numbers grown out of bounds.
func mutated(_ bytes: [UInt8], _ chance: some Randomness) -> [UInt8] {
  var result = bytes
  for _ in 0...chance.below(3) {
    guard !result.isEmpty else { return chance.bytes(chance.below(20)) }
    let at = chance.below(result.count)
    switch chance.below(8) {
    case 0: result[at] ^= 1 << UInt8(chance.below(8))
    case 1: result[at] = UInt8(truncatingIfNeeded: chance.next())
    case 2: result.removeSubrange(at..<min(result.count, at + 1 + chance.below(40)))
    case 3: result.removeLast(result.count - at)
    case 4: result.insert(contentsOf: chance.bytes(chance.below(10)), at: at)
    case 5: result.insert(contentsOf: result[at..<min(result.count, at + chance.below(100))], at: at)
    case 6:
      let digits = Array(
        ["99999999999999999999", "-1", "4294967295", "9007199254740993", "1e999", "null", "{}", "[]", "\"\""][
          chance.below(9)
        ].utf8)
      if let digit = result[at...].firstIndex(where: { (48...57).contains($0) }) {
        result.replaceSubrange(digit...digit, with: digits)
      }
    default: for index in at..<min(result.count, at + 4) { result[index] = 0xff }
    }
  }
  return result
}

@Suite("Hostile input")
struct FuzzTests {
  private static let rounds = 3000
  private static let id = Digest.of("id")

  private static let packs = (0..<4).map { pack in
    IndexedPack(
      id: Digest.of("pack \(pack)"),
      blobs: (0..<5).map { number in
        PackedBlob(
          kind: number == 0 ? .tree : .data, id: Digest.of("\(pack) \(number)"), offset: number * 100, length: 100,
          uncompressedBytes: number % 2 * 77)
      })
  }

  private static func key() throws -> KeyFile {
    let owner = Owner(hostname: "h", username: "u", processID: 1, isAlive: { _ in true })
    return try KeyFile.wrap(
      MasterKey(from: SeededRandomness(seed: 1)), password: password, parameters: ScryptParameters(n: 2, r: 1, p: 1),
      owner: owner, now: Timestamp(seconds: 1), randomness: SeededRandomness(seed: 2))
  }

  /// Every parser of the vault, with a valid input.
  static let parsers: [(name: String, input: [UInt8], parse: @Sendable ([UInt8]) throws -> Void)] = {
    let config = RepositoryConfig(version: 2, id: id, chunkerPolynomial: 0x3DA3_358B_4DC1_73)
    let snapshot = Snapshot(
      time: Timestamp(seconds: 5), tree: id, paths: ["/a", "/b"], hostname: "host", userID: 7, parent: id, tags: ["x"],
      other: ["summary": ["files": .integer(3)]])
    let lock = LockFile(
      time: Timestamp(seconds: 9), isExclusive: true, hostname: "h", username: "u", processID: 3, userID: 1, groupID: 1)
    let tree = HandTree.json([("f", 3, [id, id]), ("g", 0, [])], directories: [("d", id)])
    return [
      (
        "pack header", PackHeader.encode(packs[0].blobs),
        { bytes in
          if case .success(let blobs) = PackHeader.decode(bytes) {
            for blob in blobs { _ = blob.range }
          }
        }
      ),
      (
        "index", IndexFile.encode(packs),
        { bytes in
          var index = BlobIndex(seed: 1)
          try IndexFile.decode(bytes) { (pack, blobs) throws(JSONFault) in index.add(pack: pack, blobs[...]) }
          _ = index.blobsByPack()
        }
      ),
      ("config", config.json(), { _ = try RepositoryConfig(json: $0) }),
      ("snapshot", snapshot.json(), { _ = try Snapshot(json: $0, id: id).json() }),
      ("lock", lock.json(), { _ = try LockFile(json: $0, id: id) }),
      (
        "key", (try? key().json()) ?? [],
        { bytes in
          let file = try KeyFile(json: bytes, id: id)
          // Deriving with parameters a fuzzer chose takes long; that they are bounded is tested elsewhere.
          if file.parameters.n <= 64, file.parameters.r <= 8, file.parameters.p <= 8 {
            _ = try file.unwrap(password, id: id)
          }
        }
      ),
      ("tree", tree, { _ = try TreeReferences(json: $0) }),
      ("master key", MasterKey(from: SeededRandomness(seed: 3)).json(), { _ = try MasterKey(json: $0) }),
    ]
  }()

  @Test(arguments: parsers.indices)
  func `a changed file is a typed error or a value, never a trap`(_ index: Int) throws {
    let parser = Self.parsers[index]
    try parser.parse(parser.input)
    let chance = SeededRandomness(seed: UInt64(index))
    var refused = 0
    for _ in 0..<Self.rounds {
      let input = mutated(parser.input, chance)
      do { try parser.parse(input) } catch {
        #expect(error is JSONFault || error is VaultError, "\(parser.name): \(error)")
        refused += 1
      }
    }
    if parser.name != "pack header" { #expect(refused > Self.rounds / 3, "\(parser.name)") }
  }

  @Test func `zstd that was changed is refused, and bombs are bounded`() throws {
    let zstd = try Zstd(.auto)
    let plain = Array(String(repeating: "compress me ", count: 1000).utf8)
    let packed = try #require(plain.withUnsafeBytes { zstd.compress($0, prefix: []) })
    #expect(packed.withUnsafeBytes { zstd.decompress($0, limit: 12_000) } == plain)
    #expect(packed.withUnsafeBytes { zstd.decompress($0, limit: 11_999) } == nil)
    func decompress(_ frame: [UInt8], size: Int) -> [UInt8]? {
      var result = [UInt8](repeating: 0, count: size)
      let isWhole = frame.withUnsafeBytes { raw in result.withUnsafeMutableBytes { zstd.decompress(raw, into: $0) } }
      return isWhole ? result : nil
    }
    #expect(decompress(packed, size: 12_000) == plain)
    #expect(decompress(packed, size: 12_001) == nil)
    #expect(decompress(packed, size: 11_999) == nil)
    #expect(packed.withUnsafeBytes { zstd.couldHold(12_000, $0) && !zstd.couldHold(12_001, $0) })
    for size in [128 << 10, 256 << 10, 1 << 20] {
      let block = SeededRandomness(seed: 1).bytes(size)
      let frame = try #require(block.withUnsafeBytes { zstd.compress($0, prefix: []) })
      #expect(frame.withUnsafeBytes { zstd.decompress($0, limit: size) } == block, "\(size)")
    }
    let chance = SeededRandomness(seed: 1)
    for _ in 0..<Self.rounds {
      let input = mutated(packed, chance)
      _ = input.withUnsafeBytes { zstd.decompress($0, limit: 1 << 20) }
      _ = decompress(input, size: plain.count)
    }
  }

  @Test func `a repository with any one object changed is never called sound, and never a trap`() async throws {
    let base = MemoryObjectStore(checksNames: false)
    let repository = try await Repository.create(store: base, password: password, settings: .quick())
    _ = try await repository.backUp(sampleFiles())
    let contents = base.contents
    let chance = SeededRandomness(seed: 11)
    let names = contents.keys.sorted()
    for round in 0..<200 {
      let name = names[round % names.count]
      let store = MemoryObjectStore(contents: contents, checksNames: false)
      store.tamper(name) { bytes in bytes = bytes.map { mutated($0, chance) } }
      guard store.contents[name] != contents[name] else { continue }
      do throws(VaultError) {
        let opened = try await Repository.open(
          store: store, password: password, settings: .quick(), loadingIndex: false)
        let report = try await opened.check(readData: true)
        #expect(!report.isSound, "\(name)")
      } catch {
        #expect(["VAULT-126", "VAULT-127"].contains(error.report.code), "\(name): \(error)")
      }
    }
  }
}
