import Core
import TestSupport
import Testing

@testable import Vault

@Suite("The index in memory") struct BlobIndexTests {
  /// What an index should know, as plainly as it can be said.
  private struct Model {
    struct Key: Hashable {
      var kind: BlobKind
      var id: BlobID
    }

    var places: [Key: Set<BlobIndex.Place>] = [:]

    mutating func add(_ pack: IndexedPack) {
      for blob in pack.blobs {
        places[Key(kind: blob.kind, id: blob.id), default: []].insert(BlobIndex.Place(pack: pack.id, blob: blob))
      }
    }

    func check(_ index: BlobIndex) {
      for kind in BlobKind.allCases {
        let ids = places.keys.filter { $0.kind == kind }.map(\.id)
        #expect(index.count(kind) == ids.count)
        #expect(index.ids(kind).sorted() == ids.sorted())
      }
      var wrong = 0
      for (key, expected) in places {
        let first = index.place(key.kind, key.id)
        let found = [first].compactMap(\.self) + index.otherPlaces(key.kind, key.id)
        if Set(found) != expected || found.count != expected.count || !index.contains(key.kind, key.id) { wrong += 1 }
      }
      #expect(wrong == 0)
      var byPack: [Digest: Set<PackedBlob>] = [:]
      for place in places.values.joined() { byPack[place.pack, default: []].insert(place.blob) }
      #expect(index.blobsByPack().mapValues { Set($0) } == byPack)
    }

    func check(_ numbering: FrozenNumbering) {
      for kind in BlobKind.allCases {
        let known = places.filter { $0.key.kind == kind }
        #expect(numbering.count(kind) == known.reduce(0) { $0 + $1.value.count }, "every copy has a number")
        var seen: Set<BlobIndex.Place> = []
        for number in 0..<numbering.count(kind) { seen.insert(numbering.place(kind, number)) }
        #expect(seen == Set(known.values.joined()), "no number is given twice")
        var wrong = 0
        for (key, copies) in known {
          guard let first = numbering.number(kind, key.id) else {
            wrong += 1
            continue
          }
          for copy in copies {
            guard let number = numbering.number(copy), (first..<first + copies.count).contains(number),
              numbering.place(kind, number) == copy
            else {
              wrong += 1
              continue
            }
          }
        }
        #expect(wrong == 0)
        var duplicated: Set<BlobID> = []
        numbering.forEachDuplicated(kind) { duplicated.insert(numbering.id(kind, $0.lowerBound)) }
        #expect(duplicated == Set(known.filter { $0.value.count > 1 }.keys.map(\.id)))
      }
    }
  }

  /// Packs of blobs out of a number of names that isn't large: the same one comes again and again.
  private func packs(_ count: Int, _ random: SeededRandomness, _ name: (Int) -> BlobID) -> [IndexedPack] {
    (0..<count).map { _ in
      let blobs = (0..<1 + random.below(20)).map { _ in
        PackedBlob(
          kind: random.below(4) == 0 ? .tree : .data, id: name(random.below(1500)), offset: 40 * random.below(3),
          length: 40, uncompressedBytes: random.below(2) * 100)
      }
      return IndexedPack(id: Digest.of("pack \(random.below(60))"), blobs: blobs)
    }
  }

  private func load(_ files: [[IndexedPack]], seed: UInt64) throws -> IndexLoad {
    let load = IndexLoad(seed: seed)
    for (number, packs) in files.enumerated() {
      try load.add(IndexFile.encode(packs), of: Digest.of("\(number)"))
    }
    load.settle(threads: 2)
    return load
  }

  @Test(arguments: 0..<12 as Range<UInt64>) func `it knows what a dictionary would`(_ seed: UInt64) throws {
    let random = SeededRandomness(seed: seed)
    // Every other time, names as someone would choose them who means harm.
    func name(_ number: Int) -> BlobID {
      seed.isMultiple(of: 2) ? Digest.of("\(number)") : crafted(shift: [0, 20, 40, 58][Int(seed / 2) % 4], number)
    }
    var index = BlobIndex(seed: seed, recentLimit: 1 + random.below(400))
    var model = Model()
    for round in 0..<40 {
      if random.below(3) == 0 {
        let files = (0..<random.below(3)).map { _ in packs(random.below(30), random, name) }
        files.joined().forEach { model.add($0) }
        index.take(try load(files, seed: seed))
      } else {
        for pack in packs(random.below(40), random, name) {
          index.add(pack: pack.id, pack.blobs[...])
          model.add(pack)
        }
      }
      if round % 8 == 7 { model.check(index) }
      if round % 10 == 9 {
        let numbering = index.freeze()
        model.check(numbering)
        let before = model
        for pack in packs(100, random, name) {
          index.add(pack: pack.id, pack.blobs[...])
          model.add(pack)
        }
        before.check(numbering)
        model.check(index)
      }
    }
    #expect(index.place(.data, Digest.of("absent")) == nil && index.freeze().number(.tree, Digest.of("absent")) == nil)
  }

  /// A name most of whose bits are chosen: only where it is shifted to do they differ.
  private func crafted(shift: Int, _ number: Int) -> BlobID {
    var bytes = [UInt8](repeating: 0xa7, count: 32)
    let word = 0xa7a7_a7a7_a7a7_a7a7 ^ UInt64(number) << UInt64(shift)
    for index in 0..<8 {
      bytes[shift == 58 ? 24 + index : index] = UInt8(truncatingIfNeeded: word >> UInt64(56 - 8 * index))
    }
    return bytes.withUnsafeBytes { Digest($0) }
  }

  @Test func `a blob takes at most 50 bytes, however it came`() throws {
    #expect(MemoryLayout<BlobEntry>.stride == 48)
    let random = SeededRandomness(seed: 3)
    let all = (0..<4000).map { number in
      IndexedPack(
        id: Digest.of("pack \(number)"),
        blobs: (0..<50).map { position in
          PackedBlob(
            kind: position == 0 ? .tree : .data, id: Digest(bytes: random.bytes(32))!, offset: position * 100,
            length: 100, uncompressedBytes: 0)
        })
    }
    let files = stride(from: 0, to: all.count, by: 1000).map { Array(all[$0..<$0 + 1000]) }
    var loaded = BlobIndex(seed: 1)
    loaded.take(try load(files, seed: 1))
    var added = BlobIndex(seed: 1)
    for pack in all { added.add(pack: pack.id, pack.blobs[...]) }
    #expect(added.memory.blobBytes <= 70 * 200_000, "with what waits to be merged")
    _ = added.freeze()
    for index in [loaded, added] {
      #expect(index.count(.data) + index.count(.tree) == 200_000)
      #expect(index.memory.blobBytes <= 50 * 200_000, "\(index.memory)")
      #expect(index.memory.packBytes <= 80 * 4000, "\(index.memory)")
    }
    // What it learns again costs nothing.
    let before = loaded.memory
    loaded.take(try load(files, seed: 1))
    #expect(loaded.memory == before && loaded.count(.tree) == 4000)
  }

  @Test func `names that someone chose are found as well`() throws {
    let random = SeededRandomness(seed: 4)
    // All alike up to the last bytes; and so spread that a guess is always far off.
    let alike = (0..<100_000).map { crafted(shift: 58, $0) }
    let skewed = (0..<100_000).map { number in
      var bytes = [0xa7] + [UInt8](repeating: 0, count: 31)
      bytes[1 + number % 7] = UInt8(1 + number / 7 % 255)
      for (index, byte) in random.bytes(20).enumerated() { bytes[12 + index] = byte }
      return bytes.withUnsafeBytes { Digest($0) }
    }
    for ids in [alike, skewed] {
      let blobs = ids.map { PackedBlob(kind: .data, id: $0, offset: 0, length: 40, uncompressedBytes: 0) }
      var index = BlobIndex(seed: 5)
      index.take(try load([[IndexedPack(id: Digest.of("pack"), blobs: blobs)]], seed: 5))
      #expect(index.count(.data) == Set(ids).count)
      #expect(ids.count { !index.contains(.data, $0) } == 0)
      #expect(index.memory.blobBytes <= 50 * 100_000)
    }
  }

  @Test func `one name a hundred thousand times is one blob`() throws {
    let id = Digest.of("popular")
    let packs = (0..<1000).map { pack in
      IndexedPack(
        id: Digest.of("\(pack)"),
        blobs: (0..<100).map { PackedBlob(kind: .data, id: id, offset: $0, length: 40, uncompressedBytes: 0) })
    }
    var index = BlobIndex(seed: 5)
    index.take(try load([packs], seed: 5))
    #expect(index.count(.data) == 1 && index.otherPlaces(.data, id).count == 99_999)
    #expect(index.ids(.data) == [id])
  }

  @Test func `64 digits are a name, whatever else stands there is not`() {
    func read(_ text: [UInt8]) -> Digest? { text.withUnsafeBytes { JSONText.digest($0) } }
    let random = SeededRandomness(seed: 9)
    for _ in 0..<1000 {
      let digest = Digest.of(random.bytes(8))
      #expect(read(Array(digest.hex.utf8)) == digest)
    }
    var wrong = 0
    for position in 0..<64 {
      for byte in UInt8.min...UInt8.max {
        var text = [UInt8](repeating: UInt8(ascii: "7"), count: 64)
        text[position] = byte
        if read(text) != Digest(hex: String(decoding: text, as: UTF8.self)) { wrong += 1 }
      }
    }
    #expect(wrong == 0)
  }

  @Test func `a damaged index file leaves nothing behind, the others count`() throws {
    let blob = PackedBlob(kind: .data, id: Digest.of("b"), offset: 0, length: 40, uncompressedBytes: 0)
    let load = IndexLoad(seed: 1)
    var json = IndexFile.encode([IndexedPack(id: Digest.of("p"), blobs: [blob])])
    try load.add(json, of: Digest.of("good"))
    json.removeLast(3)
    #expect(throws: JSONFault.self) { try load.add(json, of: Digest.of("bad")) }
    load.settle(threads: 1)
    var index = BlobIndex(seed: 1)
    index.take(load)
    #expect(load.files == [Digest.of("good")] && index.count(.data) == 1)
  }

  @Test func `of two copies in use, one counts and is written again`() throws {
    func blob(_ name: String, _ offset: Int) -> PackedBlob {
      PackedBlob(kind: .data, id: Digest.of(name), offset: offset, length: 40, uncompressedBytes: 0)
    }
    let packs = [
      IndexedPack(id: Digest.of("p"), blobs: [blob("x", 0), blob("y", 40)]),
      IndexedPack(id: Digest.of("q"), blobs: [blob("x", 0), blob("z", 40), blob("unused", 80)]),
    ]
    var index = BlobIndex(seed: 1)
    for pack in packs { index.add(pack: pack.id, pack.blobs[...]) }
    let used = BlobSet(index.freeze())
    for name in ["x", "y", "z"] { #expect(used.insert(.data, Digest.of(name))?.isNew == true) }
    #expect(used.insert(.data, Digest.of("x"))?.isNew == false && used.insert(.data, Digest.of("absent")) == nil)
    var survey = PruneSurvey(used)
    try survey.add(packs.map { survey.look(at: $0) })
    try survey.settle([packs[0].id: 1000, packs[1].id: 1000])
    #expect(survey.used.blobs == 3 && survey.duplicates.blobs == 1 && survey.unused.blobs == 1)
    let wanted = packs.flatMap { survey.wanted(of: $0) }
    #expect(Set(wanted.map(\.id)).count == 3 && wanted.count == 3)
    // The same list once more is nothing new; another one is refused.
    try survey.add([survey.look(at: packs[0])])
    let other = survey.look(at: IndexedPack(id: packs[0].id, blobs: [blob("y", 40)]))
    #expect(throws: VaultError.self) { try survey.add([other]) }
  }

  @Test func `while a numbering is used, the index keeps its sorted part; afterwards it goes on`() {
    var index = BlobIndex(seed: 1, recentLimit: 10)
    func add(_ range: Range<Int>) {
      index.add(
        pack: Digest.of("\(range)"),
        range.map { PackedBlob(kind: .data, id: Digest.of("\($0)"), offset: 0, length: 40, uncompressedBytes: 0) }[...])
    }
    add(0..<1000)
    var numbering: FrozenNumbering? = index.freeze()
    let settled = index.memory.blobBytes
    add(1000..<1100)
    #expect(index.memory.blobBytes > settled + 100 * 48, "what is new waits in its table")
    #expect(numbering?.count(.data) == 1000 && numbering?.number(.data, Digest.of("1050")) == nil)
    numbering = nil
    add(1100..<1101)
    #expect(index.memory.blobBytes < 50 * 1101 + 50_000 && index.count(.data) == 1101)
  }
}
