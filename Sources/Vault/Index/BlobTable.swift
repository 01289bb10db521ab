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
    let name = BlobName(id)
    let sorted = buckets[name.byte(0)].withEntries { entries -> BlobEntry? in
      let index = entries.lowerBound(of: name, sharing: Self.sharedBits)
      return index < entries.count && entries[index].name == name ? entries[index] : nil
    }
    if let sorted { return sorted }
    if recent.isEmpty { return nil }
    return recentTable.first(id) { recent[$0].name == name }.map { recent[$0] }
  }

  /// Every copy, the one that ``first(_:)`` names at the front.
  func copies(_ id: BlobID) -> [BlobEntry] {
    let name = BlobName(id)
    var result = buckets[name.byte(0)].withEntries { Array($0.copies(of: name, sharing: Self.sharedBits)) }
    _ = recentTable.first(id) { number in
      if recent[number].name == name { result.append(recent[number]) }
      return false
    }
    return result
  }

  /// Those between two names, each once, ascending.
  func ids(in range: ClosedRange<BlobID>) -> [BlobID] {
    var result: Set<BlobID> = []
    let (first, last) = (BlobName(range.lowerBound), BlobName(range.upperBound))
    for bucket in first.byte(0)...last.byte(0) {
      buckets[bucket].withEntries { entries in
        let start = bucket == first.byte(0) ? entries.lowerBound(of: first, sharing: Self.sharedBits) : 0
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
    let (isThere, hasName) = buckets[entry.name.byte(0)].withEntries { entries -> (Bool, Bool) in
      let copies = entries.copies(of: entry.name, sharing: Self.sharedBits)
      return (copies.contains { $0 == entry }, !copies.isEmpty)
    }
    let id = entry.id
    if isThere || recentTable.first(id, where: { recent[$0] == entry }) != nil { return }
    if !hasName, recentTable.first(id, where: { recent[$0].name == entry.name }) == nil { count += 1 }
    recent.append(entry)
    recentTable.add { recent[$0].id }
  }

  /// Brings what came since into the buckets.
  mutating func settle() {
    guard !recent.isEmpty else { return }
    var arrived = recent
    (recent, recentTable) = (EntryBuffer(), ProbeTable(seed: seed))
    arrived.withMutableEntries { entries in
      entries.distribute(by: 0) { part in
        part.sortEntries(from: 1)
        buckets[part[0].name.byte(0)].merge(UnsafeBufferPointer(part))
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
        var (kept, new, last) = (0, 0, BlobName?.none)
        for entry in fresh {
          let copies = known.copies(of: entry.name, sharing: Self.sharedBits)
          if copies.isEmpty, last != entry.name { new += 1 }
          last = entry.name
          guard !copies.contains(where: { $0 == entry }) else { continue }
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
