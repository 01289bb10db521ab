import Core

/// Where every blob lies, in memory: flat arrays and an open-addressing table per kind, no object per blob.
///
/// 48 bytes per blob and 4 to 8 for the table. A blob that lies in several packs is known by its first place; the
/// others are kept aside for when that is damaged.
struct BlobIndex {
  struct Place: Hashable, Sendable {
    var pack: Digest
    var blob: PackedBlob
  }

  private struct Entry {
    var id: BlobID
    var pack: UInt32
    var offset: UInt32
    var length: UInt32
    var uncompressed: UInt32
  }

  private struct Table {
    var entries: [Entry] = []
    /// Index into `entries` plus one; 0 is free. A power of two, at most two thirds full.
    var slots = [UInt32](repeating: 0, count: 64)

    func find(_ id: BlobID, seed: UInt64) -> Int? {
      let mask = slots.count - 1
      var slot = Table.slot(id, seed) & mask
      while slots[slot] != 0 {
        let index = Int(slots[slot]) - 1
        if entries[index].id == id { return index }
        slot = (slot + 1) & mask
      }
      return nil
    }

    mutating func insert(_ entry: Entry, seed: UInt64) {
      entries.append(entry)
      if entries.count * 3 > slots.count * 2 { grow(seed: seed) } else { place(entries.count - 1, seed: seed) }
    }

    private mutating func grow(seed: UInt64) {
      slots = [UInt32](repeating: 0, count: slots.count * 2)
      for index in entries.indices { place(index, seed: seed) }
    }

    private mutating func place(_ index: Int, seed: UInt64) {
      let mask = slots.count - 1
      var slot = Table.slot(entries[index].id, seed) & mask
      while slots[slot] != 0 { slot = (slot + 1) & mask }
      slots[slot] = UInt32(index + 1)
    }

    /// The seed keeps chosen ids from sharing a slot.
    private static func slot(_ id: BlobID, _ seed: UInt64) -> Int {
      Int(truncatingIfNeeded: ((id.leadingWord ^ seed) &* 0x9e37_79b9_7f4a_7c15) >> 24)
    }
  }

  private var tables = [Table(), Table()]
  private var packs: [Digest] = []
  private var packNumbers: [Digest: UInt32] = [:]
  private var duplicates: [BlobID: [Place]] = [:]
  private let seed: UInt64

  init(seed: UInt64) { self.seed = seed }

  var packIDs: [Digest] { packs }

  func ids(_ kind: BlobKind) -> [BlobID] { tables[Int(kind.rawValue)].entries.map(\.id) }

  func count(_ kind: BlobKind) -> Int { tables[Int(kind.rawValue)].entries.count }

  func contains(_ kind: BlobKind, _ id: BlobID) -> Bool { tables[Int(kind.rawValue)].find(id, seed: seed) != nil }

  /// A blob's number among those of its kind, from 0 and without gaps; stays the same as blobs are added.
  func number(_ kind: BlobKind, _ id: BlobID) -> Int? { tables[Int(kind.rawValue)].find(id, seed: seed) }

  func contains(pack: Digest) -> Bool { packNumbers[pack] != nil }

  func place(_ kind: BlobKind, _ id: BlobID) -> Place? {
    let table = tables[Int(kind.rawValue)]
    return table.find(id, seed: seed).map { place(kind, table.entries[$0]) }
  }

  /// Other copies of a blob, if there are any.
  func otherPlaces(_ kind: BlobKind, _ id: BlobID) -> [Place] { (duplicates[id] ?? []).filter { $0.blob.kind == kind } }

  /// Blobs that lie in more than one place.
  var duplicated: Set<BlobKey> {
    Set(duplicates.values.joined().map { BlobKey(kind: $0.blob.kind, id: $0.blob.id) })
  }

  /// Two indexes may list the same pack; what is known already is left as it is.
  mutating func add(pack: Digest, _ blobs: ArraySlice<PackedBlob>) {
    let number = packNumbers[pack] ?? UInt32(packs.count)
    if number == packs.count {
      packs.append(pack)
      packNumbers[pack] = number
    }
    for blob in blobs {
      let kind = Int(blob.kind.rawValue)
      if let known = tables[kind].find(blob.id, seed: seed) {
        let place = Place(pack: pack, blob: blob)
        guard self.place(blob.kind, tables[kind].entries[known]) != place else { continue }
        if duplicates[blob.id]?.contains(place) != true { duplicates[blob.id, default: []].append(place) }
      } else {
        tables[kind].insert(
          Entry(
            id: blob.id, pack: number, offset: UInt32(truncatingIfNeeded: blob.offset),
            length: UInt32(truncatingIfNeeded: blob.length),
            uncompressed: UInt32(truncatingIfNeeded: blob.uncompressedBytes)), seed: seed)
      }
    }
  }

  /// Every blob by pack, in order of offset; duplicates included. For checks.
  func blobsByPack() -> [Digest: [PackedBlob]] {
    var result: [Digest: [PackedBlob]] = [:]
    for kind in BlobKind.allCases {
      for entry in tables[Int(kind.rawValue)].entries {
        let place = place(kind, entry)
        result[place.pack, default: []].append(place.blob)
      }
    }
    for place in duplicates.values.joined() { result[place.pack, default: []].append(place.blob) }
    return result.mapValues { $0.sorted { $0.offset < $1.offset } }
  }

  private func place(_ kind: BlobKind, _ entry: Entry) -> Place {
    Place(
      pack: packs[Int(entry.pack)],
      blob: PackedBlob(
        kind: kind, id: entry.id, offset: Int(entry.offset), length: Int(entry.length),
        uncompressedBytes: Int(entry.uncompressed)))
  }
}
