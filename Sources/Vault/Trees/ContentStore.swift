import Core
import IO
import Synchronization

/// What a file's content became.
struct StoredContent: Sendable {
  var ids: [BlobID] = []
  var size: Int64 = 0
  var added: Int64 = 0
}

/// Takes contents into a vault: reads and cuts on threads that may block, saves several batches at a time.
struct ContentStore: Sendable {
  let writer: any BlobWriter
  let chunker: RabinChunker
  let pool: BlockingPool
  /// Bounds the batches in memory, over all files together.
  let gate: Gate
  /// Batches that may be under way at once.
  let parallel: Int
  private let batches: BatchPool

  init(writer: any BlobWriter, chunker: RabinChunker, pool: BlockingPool, parallel: Int) {
    self.writer = writer
    self.chunker = chunker
    self.pool = pool
    self.parallel = max(1, parallel)
    gate = Gate(limit: self.parallel)
    batches = BatchPool(limit: self.parallel)
  }

  /// - Parameter progress: Told how many bytes more are stored.
  func store(
    _ open: @escaping OpenSource, cutting: Cutting, sizeHint: Int64,
    progress: @escaping @Sendable (Int) -> Void = { _ in }
  ) async throws(TreeError) -> StoredContent {
    let file = FileUnderWay(chunker, progress)
    if try await step(file, first: (open, cutting, sizeHint)) {
      do {
        try await withThrowingTaskGroup(of: Void.self) { group in
          // Some of them have no batch: they are sending what is full.
          for _ in 0..<2 * parallel { group.addTask { while try await step(file) {} } }
          try await group.waitForAll()
        }
      } catch { throw TreeError(error) }
    }
    return file.content
  }

  /// Reads, cuts and saves one batch.
  ///
  /// - Returns: Whether there is more.
  private func step(
    _ file: FileUnderWay, first: (open: OpenSource, cutting: Cutting, sizeHint: Int64)? = nil
  ) async throws(TreeError) -> Bool {
    do {
      let hasMore = try await withBatch { batch in
        // One at a time reads on; the others save what was read before.
        let number = try await file.turn.pass {
          try Task.checkCancellation()
          return try await pool.run {
            if let first { try file.begin(first.open, first.cutting, first.sizeHint) }
            return try file.read(batch)
          }
        }
        guard let number else { return false }
        file.take(try await writer.take(.data, batch), as: number, batch)
        return file.hasMore
      }
      // The batch is another's by now.
      try await writer.sendFull()
      return hasMore
    } catch { throw TreeError(error) }
  }

  /// Runs `body` with a batch of its own, when it is this task's turn to have one.
  ///
  /// `body` must not ask for another: with every batch taken by someone who waits for one, nobody would go on.
  func withBatch<T>(_ body: (BlobBatch) async throws -> T) async throws -> T {
    try await gate.pass {
      let batch = batches.take()
      defer { batches.give(batch) }
      return try await body(batch)
    }
  }
}

/// A file that several tasks read, cut and save together.
private final class FileUnderWay: @unchecked Sendable {
  /// Held by whoever reads.
  let turn = Gate(limit: 1)
  // Guarded by `turn`.
  private var cutter: ContentCutter?
  private let chunker: RabinChunker
  private let progress: @Sendable (Int) -> Void
  private let state = Mutex(State())

  private struct State {
    /// The blobs of each batch, in the order in which they were read.
    var parts: [[BlobID]] = []
    var size: Int64 = 0
    var added: Int64 = 0
    var isRead = false
  }

  init(_ chunker: RabinChunker, _ progress: @escaping @Sendable (Int) -> Void) {
    (self.chunker, self.progress) = (chunker, progress)
  }

  func begin(_ open: OpenSource, _ cutting: Cutting, _ sizeHint: Int64) throws {
    cutter = ContentCutter(try open(), cutting, chunker, sizeHint: sizeHint)
  }

  /// - Returns: The batch's number; `nil` if nothing was left.
  func read(_ batch: BlobBatch) throws -> Int? {
    guard let cutter, hasMore else { return nil }
    try cutter.next(batch)
    return state.withLock { state in
      state.isRead = cutter.isFinished
      state.size = cutter.size
      guard batch.count > 0 else { return nil }
      state.parts.append([])
      return state.parts.count - 1
    }
  }

  var hasMore: Bool { state.withLock { !$0.isRead } }

  func take(_ saved: [SavedBlob], as number: Int, _ batch: BlobBatch) {
    state.withLock { state in
      state.parts[number] = saved.map(\.id)
      for blob in saved { state.added += Int64(blob.added) }
    }
    progress(batch.ranges.reduce(0) { $0 + $1.count })
  }

  var content: StoredContent {
    state.withLock { StoredContent(ids: Array($0.parts.joined()), size: $0.size, added: $0.added) }
  }
}
