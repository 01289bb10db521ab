import Core
import IO
import Synchronization

/// What index files say, gathered by many threads, sorted once, and handed to an index as a whole.
final class IndexLoad: Sendable {
  /// One bucket of one kind.
  final class Part: Sendable {
    private struct State {
      var entries = EntryBuffer()
      var names = 0
    }

    private let state = Mutex(State())

    func append(_ entries: UnsafeBufferPointer<BlobEntry>) { state.withLock { $0.entries.append(entries) } }

    /// Sorts, and drops what index files say twice.
    func settle() {
      state.withLock { state in
        let (count, names) = state.entries.withMutableEntries { entries in
          entries.sortEntries(from: 1)
          return entries.uniqueEntries()
        }
        state.entries.keepFirst(count)
        state.entries.trim()
        state.names = names
      }
    }

    /// - Returns: The entries, which are no longer here, and how many names they have.
    func take() -> (EntryBuffer, names: Int) {
      state.withLock { state in
        defer { state = State() }
        return (state.entries, state.names)
      }
    }
  }

  /// By kind and bucket.
  private let parts = BlobKind.allCases.map { _ in (0..<BlobTable.bucketCount).map { _ in Part() } }
  private let packs: Mutex<DigestNumbers>
  private let taken = Mutex<Set<Digest>>([])

  init(seed: UInt64) { packs = Mutex(DigestNumbers(seed: seed)) }

  /// The index files that were added.
  var files: Set<Digest> { taken.withLock { $0 } }

  /// Adds an index file; one that isn't whole leaves nothing behind. Keeps a processor busy.
  func add(_ json: [UInt8], of file: Digest) throws(JSONFault) {
    var listed: [Digest] = []
    // Seldom less than this many digits for a blob.
    var found = BlobKind.allCases.map { kind in kind == .data ? EntryBuffer(capacity: json.count / 160) : EntryBuffer()
    }
    try IndexFile.decode(json) { (pack, blobs) throws(JSONFault) in
      for blob in blobs {
        found[Int(blob.kind.rawValue)].append(BlobEntry(blob, pack: UInt32(listed.count)))
      }
      listed.append(pack)
    }
    let numbers = packs.withLock { packs in listed.map { packs.add($0) } }
    for kind in found.indices {
      found[kind].withMutableEntries { entries in
        for index in entries.indices { entries[index].pack = numbers[Int(entries[index].pack)] }
        entries.distribute(by: 0) { parts[kind][$0[0].name.byte(0)].append(UnsafeBufferPointer($0)) }
      }
    }
    taken.withLock { _ = $0.insert(file) }
  }

  /// Sorts, on as many threads. Blocks.
  func settle(threads: Int) {
    let next = Atomic(0)
    BlockingPool.sideBySide(threads) {
      while true {
        let number = next.add(1, ordering: .relaxed).oldValue
        guard number < BlobKind.allCases.count * BlobTable.bucketCount else { return }
        parts[number / BlobTable.bucketCount][number % BlobTable.bucketCount].settle()
      }
    }
  }

  func finish() -> (parts: [[Part]], packs: DigestNumbers) { (parts, packs.withLock { $0 }) }
}
