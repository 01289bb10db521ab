import Core

/// The blobs of one kind: sorted buckets by the first byte of the name, and a small hash table of what came since.
struct BlobTable: Sendable {
  static let bucketCount = 256
  /// As many leading bits do all names of a bucket have in common.
  static let sharedBits = 8

  private(set) var buckets = [EntryBuffer](repeating: EntryBuffer(), count: bucketCount)
  /// In order of arrival.
  private var recent = EntryBuffer()
  private var recentTable: ProbeTable
  /// Different blobs.
  private(set) var count = 0
  private let seed: UInt64

  init(seed: UInt64) { (self.seed, recentTable) = (seed, ProbeTable(seed: seed)) }

  var recentCount: Int { recent.count }

  /// Memory, by what there is room for.
  var bytes: Int {
    buckets.reduce(0) { $0 + $1.capacity * MemoryLayout<BlobEntry>.stride + MemoryLayout<EntryBuffer>.stride }
      + recent.capacity * MemoryLayout<BlobEntry>.stride + recentTable.bytes
  }

  // MARK: Looking up

  func first(_ id: BlobID) -> BlobEntry? {
    let sorted = buckets[id.byte(0)].withEntries { entries -> BlobEntry? in
      let index = entries.lowerBound(of: id, sharing: Self.sharedBits)
      return index < entries.count && entries[index].id == id ? entries[index] : nil
    }
    if let sorted { return sorted }
    if recent.isEmpty { return nil }
    return recentTable.first(id) { recent[$0].id == id }.map { recent[$0] }
  }

  /// Every copy, the one that ``first(_:)`` names at the front.
  func copies(_ id: BlobID) -> [BlobEntry] {
    var result = buckets[id.byte(0)].withEntries { entries in
      let start = entries.lowerBound(of: id, sharing: Self.sharedBits)
      return Array(entries[start...].prefix { $0.id == id })
    }
    _ = recentTable.first(id) { number in
      if recent[number].id == id { result.append(recent[number]) }
      return false
    }
    return result
  }

  /// Those between two names, each once, ascending.
  func ids(in range: ClosedRange<BlobID>) -> [BlobID] {
    var result: Set<BlobID> = []
    for bucket in range.lowerBound.byte(0)...range.upperBound.byte(0) {
      buckets[bucket].withEntries { entries in
        let start = bucket == range.lowerBound.byte(0)
          ? entries.lowerBound(of: range.lowerBound, sharing: Self.sharedBits) : 0
        for entry in entries[start...] {
          guard range.contains(entry.id) else { break }
          result.insert(entry.id)
        }
      }
    }
    recent.withEntries { entries in for entry in entries where range.contains(entry.id) { result.insert(entry.id) } }
    return result.sorted()
  }

  /// Sorted by name, with what came since at the end.
  func forEach(_ body: (BlobEntry) -> Void) {
    for bucket in buckets { bucket.withEntries { $0.forEach(body) } }
    recent.withEntries { $0.forEach(body) }
  }

  // MARK: Adding

  /// What is known already is left as it is.
  mutating func add(_ entry: BlobEntry) {
    let (isThere, hasName) = buckets[entry.id.byte(0)].withEntries { entries -> (Bool, Bool) in
      let start = entries.lowerBound(of: entry.id, sharing: Self.sharedBits)
      let copies = entries[start...].prefix { $0.id == entry.id }
      return (copies.contains(entry), !copies.isEmpty)
    }
    if isThere || recentTable.first(entry.id, where: { recent[$0] == entry }) != nil { return }
    if !hasName, recentTable.first(entry.id, where: { recent[$0].id == entry.id }) == nil { count += 1 }
    recent.append(entry)
    recentTable.add { recent[$0].id }
  }

  /// Brings what came since into the buckets.
  mutating func settle() {
    guard !recent.isEmpty else { return }
    var sorted = recent
    (recent, recentTable) = (EntryBuffer(), ProbeTable(seed: seed))
    sorted.withMutableEntries { $0.sortEntries() }
    sorted.withEntries { entries in
      var start = 0
      while start < entries.count {
        let byte = entries[start].id.byte(0)
        let end = entries[start...].firstIndex { $0.id.byte(0) != byte } ?? entries.count
        buckets[byte].merge(UnsafeBufferPointer(rebasing: entries[start..<end]))
        start = end
      }
    }
  }

  /// Takes over a bucket that was gathered elsewhere.
  ///
  /// - Parameters:
  ///   - entries: Sorted, none twice.
  ///   - names: How many different names they have.
  mutating func take(_ entries: consuming EntryBuffer, names: Int, bucket: Int) {
    settle()
    guard !buckets[bucket].isEmpty else {
      buckets[bucket] = entries
      count += names
      return
    }
    var fresh = entries
    let (kept, new) = buckets[bucket].withEntries { known in
      fresh.withMutableEntries { fresh in
        var (kept, new, last) = (0, 0, BlobID?.none)
        for entry in fresh {
          let start = known.lowerBound(of: entry.id, sharing: Self.sharedBits)
          let copies = known[start...].prefix { $0.id == entry.id }
          if copies.isEmpty, last != entry.id { new += 1 }
          last = entry.id
          guard !copies.contains(entry) else { continue }
          fresh[kept] = entry
          kept += 1
        }
        return (kept, new)
      }
    }
    fresh.keepFirst(kept)
    fresh.withEntries { buckets[bucket].merge($0) }
    count += new
  }
}
