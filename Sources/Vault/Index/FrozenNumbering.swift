import Core

/// The blobs of an index at one moment, each copy by a number: from 0 for each kind, without gaps, copies of a blob side by
/// side. What is known about all of them then fits into bitmaps.
///
/// Blobs that the index learns of later are not in it. As long as a numbering is used, the index leaves its sorted part as
/// it is, which both share, and keeps what is new aside.
struct FrozenNumbering: Sendable {
  /// Ends with the last copy of the numbering.
  final class Hold: Sendable {}

  private struct Table {
    var buckets: [EntryBuffer]
    /// The number of each bucket's first entry; at the end, of one more.
    var starts: [Int]

    init(_ buckets: [EntryBuffer]) {
      self.buckets = buckets
      starts = buckets.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1.count) }
    }
  }

  private let tables: [Table]
  private let packs: [Digest]
  private let hold: Hold

  init(_ buckets: [[EntryBuffer]], _ packs: [Digest], _ hold: Hold) {
    (tables, self.packs, self.hold) = (buckets.map { Table($0) }, packs, hold)
  }

  /// As many numbers are given.
  func count(_ kind: BlobKind) -> Int { self[kind].starts[BlobTable.bucketCount] }

  /// The number of a blob's first copy.
  func number(_ kind: BlobKind, _ id: BlobID) -> Int? {
    let name = BlobName(id)
    let bucket = name.byte(0)
    return self[kind].buckets[bucket].withEntries { entries in
      let index = entries.lowerBound(of: name, sharing: BlobTable.sharedBits)
      return index < entries.count && entries[index].name == name ? self[kind].starts[bucket] + index : nil
    }
  }

  /// The number of this very copy.
  func number(_ place: BlobIndex.Place) -> Int? {
    let (kind, id) = (place.blob.kind, place.blob.id)
    guard let first = number(kind, id) else { return nil }
    for number in first..<count(kind) {
      let entry = entry(kind, number)
      guard entry.id == id else { return nil }
      if packs[Int(entry.pack)] == place.pack, entry.blob(kind) == place.blob { return number }
    }
    return nil
  }

  func id(_ kind: BlobKind, _ number: Int) -> BlobID { entry(kind, number).id }

  func place(_ kind: BlobKind, _ number: Int) -> BlobIndex.Place {
    let entry = entry(kind, number)
    return BlobIndex.Place(pack: packs[Int(entry.pack)], blob: entry.blob(kind))
  }

  /// Grows with the pack, and within a pack with the offset: the order in which to read.
  func position(_ kind: BlobKind, _ number: Int) -> UInt64 { entry(kind, number).position }

  /// Calls `body` for every blob that lies in several places, with the numbers of all of them.
  func forEachDuplicated(_ kind: BlobKind, _ body: (Range<Int>) -> Void) {
    for (bucket, entries) in self[kind].buckets.enumerated() {
      let base = self[kind].starts[bucket]
      entries.withEntries { entries in
        var start = 0
        for index in entries.indices.dropFirst() where entries[index].name != entries[start].name {
          if index - start > 1 { body(base + start..<base + index) }
          start = index
        }
        if entries.count - start > 1 { body(base + start..<base + entries.count) }
      }
    }
  }

  private subscript(kind: BlobKind) -> Table { tables[Int(kind.rawValue)] }

  private func entry(_ kind: BlobKind, _ number: Int) -> BlobEntry {
    let table = self[kind]
    precondition(number >= 0 && number < count(kind), "no such number")
    var (low, high) = (0, BlobTable.bucketCount)
    while high - low > 1 {
      let middle = (low + high) >> 1
      if table.starts[middle] <= number { low = middle } else { high = middle }
    }
    return table.buckets[low][number - table.starts[low]]
  }
}
