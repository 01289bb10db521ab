import Core

/// Where every blob lies, in memory: flat, no object per blob.
///
/// 48 bytes per blob, and seldom more than one in thirty of them unused. A blob that lies in several packs is known by one
/// of its places; the others lie beside it, for when that is damaged.
struct BlobIndex: Sendable {
  struct Place: Hashable, Sendable {
    var pack: Digest
    var blob: PackedBlob
  }

  /// What it takes, in bytes, by what there is room for.
  struct Memory: Hashable, Sendable {
    var blobBytes: Int
    var packBytes: Int
  }

  private var tables: [BlobTable]
  private var packs: DigestNumbers
  private let recentLimit: Int
  /// There as long as somebody uses a numbering of these blobs.
  private weak var hold: FrozenNumbering.Hold?

  /// - Parameter recentLimit: As many new blobs may wait in a table of their own before all buckets are gone through.
  init(seed: UInt64, recentLimit: Int = 65_536) {
    self.recentLimit = recentLimit
    tables = BlobKind.allCases.map { _ in BlobTable(seed: seed) }
    packs = DigestNumbers(seed: seed)
  }

  var packIDs: [Digest] { packs.digests }

  var memory: Memory { Memory(blobBytes: tables.reduce(0) { $0 + $1.bytes }, packBytes: packs.bytes) }

  // MARK: Looking up

  /// Each once, in no order.
  func ids(_ kind: BlobKind) -> [BlobID] {
    var result: [BlobID] = []
    result.reserveCapacity(count(kind))
    var last: BlobName?
    tables[Int(kind.rawValue)].forEach { entry in
      if last != entry.name { result.append(entry.id) }
      last = entry.name
    }
    // Only what came since may be elsewhere too.
    if result.count > count(kind) { return Array(Set(result)) }
    return result
  }

  /// Those between two names, both included.
  func ids(_ kind: BlobKind, in range: ClosedRange<BlobID>) -> [BlobID] { tables[Int(kind.rawValue)].ids(in: range) }

  /// How many different ones there are.
  func count(_ kind: BlobKind) -> Int { tables[Int(kind.rawValue)].count }

  /// All of them, and the bytes they take, further copies not counted.
  func stored() -> (count: Int, bytes: Int) {
    var (count, bytes) = (0, 0)
    for table in tables {
      var last: BlobName?
      table.forEach { entry in
        defer { last = entry.name }
        guard entry.name != last, table.first(entry.id) == entry else { return }
        (count, bytes) = (count + 1, bytes + Int(entry.length))
      }
    }
    return (count, bytes)
  }

  func contains(_ kind: BlobKind, _ id: BlobID) -> Bool { tables[Int(kind.rawValue)].first(id) != nil }

  func contains(pack: Digest) -> Bool { packs.number(pack) != nil }

  func place(_ kind: BlobKind, _ id: BlobID) -> Place? { tables[Int(kind.rawValue)].first(id).map { place(kind, $0) } }

  /// Other copies of a blob, if there are any.
  func otherPlaces(_ kind: BlobKind, _ id: BlobID) -> [Place] {
    tables[Int(kind.rawValue)].copies(id).dropFirst().map { place(kind, $0) }
  }

  /// What these packs hold, each in order of offset; every pack's if `wanted` is `nil`.
  func blobsByPack(_ wanted: Set<Digest>? = nil) -> [Digest: [PackedBlob]] {
    let numbers = wanted.map { Set($0.compactMap { packs.number($0) }) }
    var result: [UInt32: [PackedBlob]] = [:]
    for kind in BlobKind.allCases {
      tables[Int(kind.rawValue)].forEach { entry in
        if numbers?.contains(entry.pack) ?? true { result[entry.pack, default: []].append(entry.blob(kind)) }
      }
    }
    return Dictionary(
      uniqueKeysWithValues: result.map { (packs.digests[Int($0)], $1.sorted { $0.offset < $1.offset }) })
  }

  private func place(_ kind: BlobKind, _ entry: BlobEntry) -> Place {
    Place(pack: packs.digests[Int(entry.pack)], blob: entry.blob(kind))
  }

  // MARK: Adding

  /// Two indexes may list the same pack; what is known already is left as it is.
  mutating func add(pack: Digest, _ blobs: ArraySlice<PackedBlob>) {
    let number = packs.add(pack)
    for blob in blobs {
      let kind = Int(blob.kind.rawValue)
      tables[kind].add(BlobEntry(blob, pack: number))
      // Whoever holds a numbering holds the buckets: to change them would be to have them twice.
      if tables[kind].recentCount >= recentLimit, hold == nil { tables[kind].settle() }
    }
  }

  /// Takes over what index files say, and leaves nothing behind.
  mutating func take(_ load: IndexLoad) {
    let loaded = load.finish()
    // Most often there is nothing yet, and numbers stay as they are.
    let numbers = packs.digests.isEmpty ? nil : loaded.packs.digests.map { packs.add($0) }
    if numbers == nil { packs = loaded.packs }
    for (kind, parts) in loaded.parts.enumerated() {
      for (bucket, part) in parts.enumerated() {
        var (entries, names) = part.take()
        if let numbers, !entries.isEmpty {
          entries.withMutableEntries { entries in
            for index in entries.indices { entries[index].pack = numbers[Int(entries[index].pack)] }
            // Copies of a blob lie in order of their packs' numbers.
            entries.sortEntries(from: 1)
          }
        }
        if !entries.isEmpty { tables[kind].take(entries, names: names, bucket: bucket) }
      }
    }
  }

  /// Gives every copy of every blob a number, from 0 and without gaps, that stays as long as the numbering is used.
  mutating func freeze() -> FrozenNumbering {
    for kind in tables.indices { tables[kind].settle() }
    let hold = hold ?? FrozenNumbering.Hold()
    self.hold = hold
    return FrozenNumbering(tables.map(\.buckets), packs.digests, hold)
  }
}
