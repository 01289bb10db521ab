import Core
import IO

/// What a file's content became.
struct StoredContent: Sendable {
  var ids: [BlobID] = []
  var size: Int64 = 0
  var added: Int64 = 0
}

/// Takes contents into a vault: reads and cuts on threads that may block, saves several blobs at a time.
struct ContentStore: Sendable {
  let writer: any BlobWriter
  let chunker: RabinChunker
  let pool: BlockingPool
  /// Bounds the blobs in memory, over all files together.
  let gate: Gate
  /// Blobs of one file that may be under way at once.
  let parallel: Int

  init(writer: any BlobWriter, chunker: RabinChunker, pool: BlockingPool, parallel: Int) {
    self.writer = writer
    self.chunker = chunker
    self.pool = pool
    self.parallel = max(1, parallel)
    gate = Gate(limit: self.parallel * 2)
  }

  /// - Parameter progress: Told the bytes of every blob once it is stored.
  func store(
    _ open: @escaping OpenSource, cutting: Cutting, sizeHint: Int64,
    progress: @escaping @Sendable (Int) -> Void = { _ in }
  ) async throws(TreeError) -> StoredContent {
    let chunker = chunker
    let cutter: ContentCutter
    var waiting: [UInt8]?
    do {
      (cutter, waiting) = try await pool.run {
        let cutter = ContentCutter(try open(), cutting, chunker, sizeHint: sizeHint)
        return (cutter, try cutter.next())
      }
    } catch { throw TreeError(error) }
    guard let first = waiting else { return StoredContent() }
    if cutter.isFinished {
      let saved = try await save(first)
      progress(first.count)
      return StoredContent(ids: [saved.id], size: cutter.size, added: Int64(saved.added))
    }
    do {
      return try await withThrowingTaskGroup(of: (Int, BlobID, Int).self) { group in
        var ids: [BlobID?] = []
        var added: Int64 = 0
        var underWay = 0
        while let chunk = waiting {
          try Task.checkCancellation()
          if underWay == parallel, let (index, id, bytes) = try await group.next() {
            ids[index] = id
            added += Int64(bytes)
            underWay -= 1
          }
          let index = ids.count
          ids.append(nil)
          underWay += 1
          group.addTask {
            let saved = try await save(chunk)
            progress(chunk.count)
            return (index, saved.id, saved.added)
          }
          waiting = try await pool.run { try cutter.next() }
        }
        for try await (index, id, bytes) in group {
          ids[index] = id
          added += Int64(bytes)
        }
        return StoredContent(ids: ids.compactMap { $0 }, size: cutter.size, added: added)
      }
    } catch { throw TreeError(error) }
  }

  func save(_ bytes: [UInt8]) async throws(TreeError) -> (id: BlobID, added: Int) {
    do throws(VaultError) {
      return try await gate.through { () throws(VaultError) in try await writer.save(.data, bytes) }
    } catch { throw TreeError(error) }
  }
}
