import Core

/// Which packs stay, go, or are written again. Decides; touches nothing.
struct PrunePlan: Sendable {
  struct Pack: Sendable {
    var id: Digest
    var sizeBytes: Int
    var usedBytes = 0
    var usedBlobs = 0
    var unusedBytes = 0
    var hasData = false
    var hasTrees = false
    var hasPlain = false
  }

  /// Written again without what nobody uses, then removed.
  private(set) var repacked: Set<Digest> = []
  /// Hold nothing in use.
  private(set) var removed: Set<Digest> = []
  private(set) var unusedLeftBytes = 0

  /// - Parameter pinned: Packs that can't go, whatever they hold.
  init(_ packs: [Pack], _ options: PruneOptions, version: Int, targetBytes: Int, pinned: Set<Digest> = []) {
    var candidates: [(pack: Pack, isWanted: Bool)] = []
    var used = 0
    for pack in packs {
      used += pack.usedBytes
      if pinned.contains(pack.id) { continue }
      if pack.usedBlobs == 0 {
        removed.insert(pack.id)
        continue
      }
      // A pack of both kinds was written by a restic that is long gone; it keeps trees from being cached.
      let isMixed = pack.hasData && pack.hasTrees && version > 1
      let isPlain = options.repackUncompressed && version > 1 && pack.hasPlain
      let isSmall = options.repackSmall && pack.sizeBytes < targetBytes / 4
      if pack.unusedBytes > 0 || isMixed || isPlain || isSmall {
        candidates.append((pack, isMixed || isPlain || isSmall))
      }
    }
    unusedLeftBytes = candidates.reduce(0) { $0 + $1.pack.unusedBytes }
    let limit = options.maxUnused.bytes(used: used)
    // What gains most for what it costs comes first; trees before data, for they are few and read often.
    candidates.sort { a, b in
      if a.isWanted != b.isWanted { return a.isWanted }
      if a.pack.hasTrees != b.pack.hasTrees { return a.pack.hasTrees }
      let (gainA, gainB) = (a.pack.unusedBytes * b.pack.usedBytes, b.pack.unusedBytes * a.pack.usedBytes)
      return gainA != gainB ? gainA > gainB : a.pack.id < b.pack.id
    }
    var work = 0
    for (pack, isWanted) in candidates {
      guard isWanted || unusedLeftBytes > limit else { break }
      guard work + pack.usedBytes <= options.maxRepackBytes else { continue }
      work += pack.usedBytes
      unusedLeftBytes -= pack.unusedBytes
      repacked.insert(pack.id)
    }
    // A single small pack would only be copied.
    if repacked.count == 1, let only = packs.first(where: { repacked.contains($0.id) }), only.unusedBytes == 0,
      options.repackSmall, !(only.hasData && only.hasTrees), !(options.repackUncompressed && only.hasPlain)
    {
      repacked = []
    }
  }

  func isGoing(_ pack: Digest) -> Bool { repacked.contains(pack) || removed.contains(pack) }
}
