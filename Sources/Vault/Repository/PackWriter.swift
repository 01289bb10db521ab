import Core
import Synchronization

/// A blob's name within a repository: data and trees have names of their own.
struct BlobKey: Hashable, Sendable {
  var kind: BlobKind
  var id: BlobID
}

/// A pack under construction: one thread fills it at a time, and others may read what is listed in it already.
final class PackBuffer: @unchecked Sendable {
  // Handed from one thread to the next; what its writer's lock guards is said there.
  let kind: BlobKind
  let pages: PageBuffer
  private(set) var blobs: [PackedBlob] = []
  /// Counts up as packs are closed. Guarded by the writer's lock.
  var sequence: UInt64 = 0
  /// The pack's name, once the header is in.
  var id: Digest?
  /// The hash of the pack's first bytes, and of how many.
  private var digest = PairedDigest()
  private(set) var hashedBytes = 0

  /// - Parameters:
  ///   - spare: Memory to use again, if it is large enough.
  ///   - room: For the blobs, in bytes.
  init(_ kind: BlobKind, reusing spare: PageBuffer? = nil, room: Int) {
    self.kind = kind
    let capacity = room + Self.headerBytes
    if let spare, spare.capacity >= capacity {
      spare.clear()
      pages = spare
    } else {
      pages = PageBuffer(capacity: capacity)
    }
  }

  /// The longest header, sealed, with its trailer.
  private static let headerBytes =
    PackHeader.entryLimit * PackHeader.compressedEntryBytes + Cipher.overheadBytes + PackHeader.trailerBytes

  /// Room for the target and one more blob of a file.
  static func room(targetBytes: Int) -> Int { targetBytes + RabinChunker.maximum + Cipher.overheadBytes }

  /// Where the next blob is to be sealed.
  var space: UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(rebasing: pages.free[..<max(0, pages.free.count - Self.headerBytes)])
  }

  /// Lists a blob that was sealed into the front of ``space``.
  func take(_ id: BlobID, _ sealed: SealedSize) -> PackedBlob {
    let packed = PackedBlob(
      kind: kind, id: id, offset: pages.count, length: sealed.bytes, uncompressedBytes: sealed.uncompressedBytes)
    pages.extend(by: sealed.bytes)
    blobs.append(packed)
    return packed
  }

  func isFull(_ targetBytes: Int) -> Bool {
    pages.count >= targetBytes || blobs.count >= PackHeader.entryLimit
  }

  // MARK: Hashing

  /// What has not been hashed yet.
  var unhashedBytes: Int { pages.count - hashedBytes }

  /// Hashes `other`, and beside it as much of the pack, for little more than the price of one.
  func hash(beside other: UnsafeRawBufferPointer) -> Digest {
    var own = PairedDigest()
    let count = min(unhashedBytes, other.count)
    PairedDigest.add(other, to: &own, pages[hashedBytes..<hashedBytes + count], to: &digest)
    hashedBytes += count
    return own.finish()
  }

  /// Hashes what has not been hashed yet.
  func hashRest() {
    digest.add(pages[hashedBytes..<pages.count])
    hashedBytes = pages.count
  }

  /// The hash of all of it, which is used up.
  func finishHash() -> Digest {
    hashRest()
    return digest.finish()
  }
}

/// What has been taken in and isn't durable yet: blobs being sealed, open packs, packs on their way, packs without
/// an index. Decides; uploads nothing.
final class PackWriter: Sendable {
  enum Reservation {
    /// Stored, or on its way.
    case known
    /// The caller is to seal it, and then to call ``add(_:to:)`` or ``abandon(_:)``.
    case mine
    /// Someone else is sealing it right now; wait with ``settled(_:)`` and ask again.
    case busy
  }

  private struct State {
    var sealing: [BlobKey: [CheckedContinuation<Void, Never>]] = [:]
    /// In a pack that isn't durable yet.
    var unstored: [BlobKey: (pack: PackBuffer, blob: PackedBlob)] = [:]
    /// Neither full nor in anybody's hands, by kind. Two at least come to be, and batches go to any at random, so that
    /// a pack's size tells nothing of what is in it.
    var open: [[PackBuffer]] = [[], []]
    /// Being filled.
    var lent: [ObjectIdentifier: PackBuffer] = [:]
    /// Being filled, and to be closed when they come back.
    var closing: Set<ObjectIdentifier> = []
    /// Closed, and not on their way: new, or after a failure.
    var waiting: [PackBuffer] = []
    var travelling: Set<UInt64> = []
    var sequence: UInt64 = 0
    var onArrival: [CheckedContinuation<Void, Never>] = []
    var unindexed: [IndexedPack] = []
    var unindexedBlobs = 0
    /// Monotonic nanoseconds.
    var unindexedSince: Int64 = 0
    /// Memory of packs that have left, for the next ones.
    var spare: [PageBuffer] = []
  }

  private let state = Mutex(State())

  // MARK: Blobs

  /// - Parameter isStored: Asked under the lock; a blob leaves `unstored` only after it can be found there.
  func reserve(_ key: BlobKey, isStored: () -> Bool) -> Reservation {
    state.withLock { state in
      if state.unstored[key] != nil { return .known }
      if state.sealing[key] != nil { return .busy }
      if isStored() { return .known }
      state.sealing[key] = []
      return .mine
    }
  }

  func settled(_ key: BlobKey) async {
    await withCheckedContinuation { continuation in
      let gone = state.withLock { state in
        guard state.sealing[key] != nil else { return true }
        state.sealing[key]?.append(continuation)
        return false
      }
      if gone { continuation.resume() }
    }
  }

  func abandon(_ key: BlobKey) { state.withLock { $0.sealing.removeValue(forKey: key) }?.forEach { $0.resume() } }

  /// Lends a pack out for one thread to fill, until ``giveBack(_:targetBytes:)``.
  ///
  /// - Parameters:
  ///   - room: What must fit at least, in bytes.
  ///   - isAlone: Whether an empty one is wanted.
  ///   - chance: At random.
  func lend(
    _ kind: BlobKind, targetBytes: Int, room: Int, isAlone: Bool, chance: UInt64
  ) -> PackBuffer {
    state.withLock { state in
      let slot = Int(kind.rawValue)
      let inUse = state.lent.values.count { $0.kind == kind }
      let choice = Int(chance % UInt64(max(2 - inUse, state.open[slot].count, 1)))
      let pack =
        !isAlone && choice < state.open[slot].count && state.open[slot][choice].space.count >= room
        ? state.open[slot].remove(at: choice)
        : PackBuffer(
          // Packs of trees fill slowly: memory that was full once would be held for nothing.
          kind, reusing: kind == .data ? state.spare.popLast() : nil,
          room: max(room, PackBuffer.room(targetBytes: targetBytes)))
      state.lent[ObjectIdentifier(pack)] = pack
      return pack
    }
  }

  /// - Returns: Whether the pack is closed now.
  func giveBack(_ pack: PackBuffer, targetBytes: Int) -> Bool {
    let (waiters, closed) = state.withLock { state -> ([CheckedContinuation<Void, Never>], Bool) in
      let name = ObjectIdentifier(pack)
      state.lent.removeValue(forKey: name)
      if state.closing.remove(name) != nil {
        // It has its number, and somebody waits for it.
        state.travelling.remove(pack.sequence)
        // All that was to go into it may have been known already: a pack of nothing is none.
        if pack.blobs.isEmpty { keep(pack.pages, &state) } else { state.waiting.append(pack) }
        defer { state.onArrival = [] }
        return (state.onArrival, !pack.blobs.isEmpty)
      }
      if pack.blobs.isEmpty {
        keep(pack.pages, &state)
        return ([], false)
      }
      guard pack.isFull(targetBytes) else {
        state.open[Int(pack.kind.rawValue)].append(pack)
        return ([], false)
      }
      Self.close(pack, &state)
      return ([], true)
    }
    waiters.forEach { $0.resume() }
    return closed
  }

  /// A blob has been sealed into a pack that is lent out.
  func add(_ blob: PackedBlob, to pack: PackBuffer) {
    let key = BlobKey(kind: blob.kind, id: blob.id)
    let waiters = state.withLock { state in
      state.unstored[key] = (pack, blob)
      return state.sealing.removeValue(forKey: key) ?? []
    }
    waiters.forEach { $0.resume() }
  }

  private static func close(_ pack: PackBuffer, _ state: inout State) {
    state.sequence += 1
    pack.sequence = state.sequence
    state.waiting.append(pack)
  }

  /// The blob's sealed bytes, if its pack isn't durable yet.
  func unstored(_ key: BlobKey) -> (sealed: [UInt8], blob: PackedBlob)? {
    state.withLock { state in
      state.unstored[key].map { (Array($0.pack.pages[$0.blob.range]), $0.blob) }
    }
  }

  func unstoredBytes(_ key: BlobKey) -> Int? { state.withLock { $0.unstored[key]?.blob.plaintextBytes } }

  // MARK: Packs

  /// Closes every open pack.
  ///
  /// - Returns: The newest closed pack's number: what was saved until now is in packs up to it.
  func closeAll() -> UInt64 {
    state.withLock { state in
      for kind in state.open.indices {
        for pack in state.open[kind] { Self.close(pack, &state) }
        state.open[kind] = []
      }
      // What somebody saved may lie in a pack that somebody else is filling.
      for (name, pack) in state.lent where state.closing.insert(name).inserted {
        state.sequence += 1
        pack.sequence = state.sequence
        state.travelling.insert(pack.sequence)
      }
      return state.sequence
    }
  }

  /// A closed pack to be sent; the caller then calls ``arrived(_:at:)`` or ``failed(_:)``.
  func next(upTo mark: UInt64 = .max) -> PackBuffer? {
    state.withLock { state in
      guard let index = state.waiting.firstIndex(where: { $0.sequence <= mark }) else { return nil }
      let pack = state.waiting.remove(at: index)
      state.travelling.insert(pack.sequence)
      return pack
    }
  }

  /// The pack is durable, and its blobs can be found in the index in memory.
  func arrived(_ pack: PackBuffer, _ id: Digest, at now: Int64) {
    leave(pack) { state in
      for blob in pack.blobs { state.unstored.removeValue(forKey: BlobKey(kind: blob.kind, id: blob.id)) }
      if state.unindexed.isEmpty { state.unindexedSince = now }
      state.unindexed.append(IndexedPack(id: id, blobs: pack.blobs))
      state.unindexedBlobs += pack.blobs.count
      // Nobody reads it any more: from now on the index says where its blobs are.
      keep(pack.pages, &state)
    }
  }

  /// Memory that is larger than usual isn't worth keeping, nor is what only a pile of packs needed that wait to be sent.
  private func keep(_ pages: PageBuffer, _ state: inout State) {
    let inUse = state.open.reduce(state.lent.count) { $0 + $1.count } + state.waiting.count + state.travelling.count
    if inUse + state.spare.count < Self.usualPacks, pages.capacity <= 64 << 20 { state.spare.append(pages) }
  }

  /// Two that are filled, and one on its way.
  private static let usualPacks = 3

  /// Gives memory back that only more packs would use.
  func dropSpare() { state.withLock { $0.spare = [] } }

  /// The pack stays, and whoever comes next tries again: a blob once taken in isn't lost.
  func failed(_ pack: PackBuffer) { leave(pack) { $0.waiting.insert(pack, at: 0) } }

  private func leave(_ pack: PackBuffer, _ change: (inout State) -> Void) {
    let waiters = state.withLock { state in
      state.travelling.remove(pack.sequence)
      change(&state)
      defer { state.onArrival = [] }
      return state.onArrival
    }
    waiters.forEach { $0.resume() }
  }

  /// Whether a pack up to `mark` is being filled, or sent.
  func isOnItsWay(upTo mark: UInt64) -> Bool { state.withLock { $0.travelling.contains { $0 <= mark } } }

  /// Waits until a pack arrives or fails.
  ///
  /// - Returns: `false`, at once, if none up to `mark` is on its way.
  func someoneArrived(upTo mark: UInt64) async -> Bool {
    guard isOnItsWay(upTo: mark) else { return false }
    await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
      let waits = state.withLock { state in
        guard state.travelling.contains(where: { $0 <= mark }) else { return false }
        state.onArrival.append(continuation)
        return true
      }
      if !waits { continuation.resume() }
    }
    return true
  }

  // MARK: Indexes

  func isIndexDue(at now: Int64, blobs: Int, interval: Duration) -> Bool {
    state.withLock { state in
      !state.unindexed.isEmpty
        && (state.unindexedBlobs >= blobs || now - state.unindexedSince >= interval.wholeNanoseconds)
    }
  }

  /// Durable, and in no index yet.
  var unindexedPacks: [IndexedPack] { state.withLock { $0.unindexed } }

  /// Packs that no index lists, up to about `blobs` blobs; the caller writes the index or calls ``giveBack(_:at:)``.
  func takeUnindexed(blobs limit: Int) -> [IndexedPack] {
    state.withLock { state in
      var (count, blobs) = (0, 0)
      while count < state.unindexed.count, blobs < limit {
        blobs += state.unindexed[count].blobs.count
        count += 1
      }
      let taken = Array(state.unindexed.prefix(count))
      state.unindexed.removeFirst(count)
      state.unindexedBlobs -= blobs
      return taken
    }
  }

  func giveBack(_ packs: [IndexedPack], at now: Int64) {
    state.withLock { state in
      if state.unindexed.isEmpty { state.unindexedSince = now }
      state.unindexed.insert(contentsOf: packs, at: 0)
      state.unindexedBlobs += packs.reduce(0) { $0 + $1.blobs.count }
    }
  }
}
