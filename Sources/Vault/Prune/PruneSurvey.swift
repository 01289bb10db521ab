import Core

/// What each pack holds, and how much of it is in use: a line per pack, whatever the number of blobs.
struct PruneSurvey: Sendable {
  private(set) var packs: [PrunePlan.Pack] = []
  private(set) var used = PruneReport.Amount()
  private(set) var unused = PruneReport.Amount()
  private(set) var duplicates = PruneReport.Amount()
  private var numbers: [Digest: Int] = [:]
  /// By number, something that two lists of the same blobs have in common.
  private var listings: [Int] = []
  /// Blobs that snapshots need.
  private let inUse: BlobSet
  /// Copies of them that don't count, for another does.
  private let surplus: BlobSet

  /// - Parameter inUse: By what trees there are.
  init(_ inUse: BlobSet) { (self.inUse, surplus) = (inUse, BlobSet(inUse.numbering)) }

  /// What one pack holds, by one index file.
  struct Finding: Sendable {
    fileprivate var pack: PrunePlan.Pack
    fileprivate var listing: Int
    fileprivate var used = PruneReport.Amount()
    fileprivate var unused = PruneReport.Amount()
  }

  /// Looks every blob up; many threads may do that side by side.
  func look(at pack: IndexedPack) -> Finding {
    var result = Finding(
      pack: PrunePlan.Pack(
        id: pack.id, sizeBytes: pack.blobs.reduce(PackHeader.sizeBytes(pack.blobs)) { $0 + $1.length }),
      listing: pack.blobs.reduce(0) { $0 ^ $1.hashValue })
    for blob in pack.blobs {
      switch blob.kind {
      case .data: result.pack.hasData = true
      case .tree: result.pack.hasTrees = true
      }
      guard inUse.contains(blob.kind, blob.id) else {
        result.unused += blob
        continue
      }
      if blob.uncompressedBytes == 0 { result.pack.hasPlain = true }
      result.used += blob
    }
    (result.pack.usedBlobs, result.pack.usedBytes) = (result.used.blobs, result.used.bytes)
    result.pack.unusedBytes = result.unused.bytes
    return result
  }

  /// - Throws: For a pack that another index lists differently: neither list is all of it.
  mutating func add(_ findings: [Finding]) throws(VaultError) {
    for finding in findings {
      if let number = numbers[finding.pack.id] {
        guard listings[number] == finding.listing else { throw .packListedInParts(finding.pack.id) }
        continue
      }
      numbers[finding.pack.id] = packs.count
      listings.append(finding.listing)
      packs.append(finding.pack)
      used += finding.used
      unused += finding.unused
    }
  }

  /// Compares with the files there are, and decides which copy of a blob counts.
  ///
  /// - Parameter sizes: Of every pack in the store, in bytes.
  mutating func settle(_ sizes: [Digest: Int]) throws(VaultError) {
    for kind in BlobKind.allCases {
      inUse.numbering.forEachDuplicated(kind) { copies in
        if inUse.contains(kind, number: copies.lowerBound) { choose(of: copies, kind, sizes) }
      }
    }
    for pack in packs where pack.usedBlobs > 0 {
      guard let size = sizes[pack.id] else { throw .packMissing(pack.id) }
      guard size >= pack.sizeBytes else {
        throw .packTruncated(pack.id, sizeBytes: size, neededBytes: pack.sizeBytes)
      }
    }
  }

  /// The pack that has most in use is the likeliest to stay.
  private mutating func choose(of copies: Range<Int>, _ kind: BlobKind, _ sizes: [Digest: Int]) {
    let places = copies.map { (number: $0, place: inUse.numbering.place(kind, $0)) }
      .filter { numbers[$0.place.pack] != nil }
    guard let best = places.max(by: { weight($0.place, sizes) < weight($1.place, sizes) }) else { return }
    for (copy, place) in places where copy != best.number {
      surplus.insert(kind, number: copy)
      guard let number = numbers[place.pack] else { continue }
      packs[number].usedBlobs -= 1
      packs[number].usedBytes -= place.blob.length
      packs[number].unusedBytes += place.blob.length
      duplicates += place.blob
      used.blobs -= 1
      used.bytes -= place.blob.length
    }
  }

  private func weight(_ place: BlobIndex.Place, _ sizes: [Digest: Int]) -> (isThere: Int, usedBytes: Int, Digest) {
    (sizes[place.pack] == nil ? 0 : 1, numbers[place.pack].map { packs[$0].usedBytes } ?? 0, place.pack)
  }

  func isKnown(_ pack: Digest) -> Bool { numbers[pack] != nil }

  /// What of a pack has to be written again before it goes.
  func wanted(of pack: IndexedPack) -> [PackedBlob] {
    pack.blobs.filter { blob in
      guard inUse.contains(blob.kind, blob.id) else { return false }
      guard let copy = inUse.numbering.number(BlobIndex.Place(pack: pack.id, blob: blob)) else { return true }
      return !surplus.contains(blob.kind, number: copy)
    }
  }

  func describe(_ plan: PrunePlan, _ sizes: [Digest: Int], _ report: inout PruneReport) {
    (report.used, report.unused, report.duplicates) = (used, unused, duplicates)
    (report.packsRemoved, report.packsRepacked) = (plan.removed.count, plan.repacked.count)
    report.unusedLeftBytes = plan.unusedLeftBytes
    for pack in packs {
      if plan.removed.contains(pack.id) { report.freedBytes += sizes[pack.id] ?? 0 }
      if plan.repacked.contains(pack.id) {
        report.repackedBytes += pack.usedBytes
        report.freedBytes += pack.unusedBytes
      }
    }
  }
}
