import Core
import Synchronization

/// A blob's name within a repository: data and trees have names of their own.
struct BlobKey: Hashable, Sendable {
  var kind: BlobKind
  var id: BlobID
}

/// A pack under construction. Guarded by its writer's lock while open; never changed by two tasks once closed.
final class PackBuffer: @unchecked Sendable {
  let kind: BlobKind
  var bytes: [UInt8] = []
  var blobs: [PackedBlob] = []
  /// Counts up as packs are closed.
  var sequence: UInt64 = 0
  /// The pack's name, once the header is in.
  var id: Digest?

  /// - Parameters:
  ///   - spare: Memory to use again.
  ///   - capacity: How many bytes it will hold; reserved at once, so that nothing is copied as it grows.
  init(_ kind: BlobKind, reusing spare: consuming [UInt8] = [], capacity: Int) {
    self.kind = kind
    bytes = spare
    // Pages that are never written cost nothing.
    bytes.reserveCapacity(capacity + capacity / 8)
  }

  func append(_ blob: SealedBlob) -> PackedBlob {
    let packed = PackedBlob(
      kind: kind, id: blob.id, offset: bytes.count, length: blob.sealed.count, uncompressedBytes: blob.uncompressedBytes
    )
    bytes.append(contentsOf: blob.sealed)
    blobs.append(packed)
    return packed
  }
}

/// What has been taken in and isn't durable yet: blobs being sealed, open packs, packs on their way, packs without
/// an index. Decides; uploads nothing.
final class PackWriter: Sendable {
  enum Reservation {
    /// Stored, or on its way.
    case known
    /// The caller is to seal it, and then to call ``add(_:targetBytes:slot:)`` or ``abandon(_:)``.
    case mine
    /// Someone else is sealing it right now; wait with ``settled(_:)`` and ask again.
    case busy
  }

  private struct State {
    var sealing: [BlobKey: [CheckedContinuation<Void, Never>]] = [:]
    /// In a pack that isn't durable yet.
    var unstored: [BlobKey: (pack: PackBuffer, blob: PackedBlob)] = [:]
    /// Two per kind, blobs going to either at random, so that a pack's size tells nothing of what is in it.
    var open: [[PackBuffer?]] = [[nil, nil], [nil, nil]]
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
    var spare: [[UInt8]] = []
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

  /// Puts a sealed blob into an open pack.
  ///
  /// - Parameter slot: 0 or 1, at random.
  /// - Returns: Whether a pack was closed by it.
  func add(_ blob: SealedBlob, targetBytes: Int, slot: Int) -> Bool {
    let key = BlobKey(kind: blob.kind, id: blob.id)
    let (waiters, closed) = state.withLock { state in
      let kind = Int(blob.kind.rawValue)
      // What fills a pack by itself gets one.
      let alone = blob.sealed.count >= targetBytes
      let pack =
        (alone ? nil : state.open[kind][slot])
        ?? PackBuffer(
          blob.kind, reusing: alone ? [] : state.spare.popLast() ?? [], capacity: alone ? 0 : targetBytes)
      state.unstored[key] = (pack, pack.append(blob))
      let full = pack.bytes.count >= targetBytes || pack.blobs.count >= PackHeader.entryLimit
      if !alone { state.open[kind][slot] = full ? nil : pack }
      if full { Self.close(pack, &state) }
      return (state.sealing.removeValue(forKey: key) ?? [], full)
    }
    waiters.forEach { $0.resume() }
    return closed
  }

  private static func close(_ pack: PackBuffer, _ state: inout State) {
    state.sequence += 1
    pack.sequence = state.sequence
    state.waiting.append(pack)
  }

  /// The blob's sealed bytes, if its pack isn't durable yet.
  func unstored(_ key: BlobKey) -> (sealed: [UInt8], blob: PackedBlob)? {
    state.withLock { state in
      state.unstored[key].map { (Array($0.pack.bytes[$0.blob.range]), $0.blob) }
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
        for slot in state.open[kind].indices {
          guard let pack = state.open[kind][slot] else { continue }
          state.open[kind][slot] = nil
          Self.close(pack, &state)
        }
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
      var memory: [UInt8] = []
      swap(&memory, &pack.bytes)
      if state.spare.count < Self.spareLimit {
        memory.removeAll(keepingCapacity: true)
        state.spare.append(memory)
      }
    }
  }

  private static let spareLimit = 2

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

  /// Waits until a pack arrives or fails.
  ///
  /// - Returns: `false`, at once, if none up to `mark` is on its way.
  func someoneArrived(upTo mark: UInt64) async -> Bool {
    guard state.withLock({ $0.travelling.contains { $0 <= mark } }) else { return false }
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
