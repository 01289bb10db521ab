import Synchronization

/// Plaintexts of blobs, side by side in one buffer that is used over and over.
///
/// Filled by one thread, then only read.
package final class BlobBatch: @unchecked Sendable {
  // Handed from one thread to the next, never shared while it is filled.
  private var memory = UnsafeMutableRawBufferPointer(start: nil, count: 0)
  /// Where each blob lies.
  package private(set) var ranges: [Range<Int>] = []

  package init() {}

  deinit { memory.deallocate() }

  package var count: Int { ranges.count }

  package subscript(index: Int) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(memory)[ranges[index]])
  }

  package func bytes(_ index: Int) -> Int { ranges[index].count }

  // MARK: Filling

  package func clear() { ranges.removeAll(keepingCapacity: true) }

  /// Makes room for `bytes`; the first `kept` of them stay as they are.
  package func reserve(_ bytes: Int, keeping kept: Int) {
    guard memory.count < bytes else { return }
    let larger = UnsafeMutableRawBufferPointer.allocate(
      byteCount: max(bytes, min(2 * memory.count, bytes + 1 << 20)), alignment: 4096)
    larger.copyMemory(from: UnsafeRawBufferPointer(rebasing: memory[..<min(kept, memory.count)]))
    memory.deallocate()
    memory = larger
  }

  /// The whole buffer, blobs and what is behind them.
  package var buffer: UnsafeMutableRawBufferPointer { memory }

  package func append(_ range: Range<Int>) {
    precondition(range.upperBound <= memory.count, "a blob lies in the buffer")
    ranges.append(range)
  }

  /// A copy of `bytes` as one more blob; for few and small ones.
  package func append(copying bytes: UnsafeRawBufferPointer) {
    let start = ranges.last?.upperBound ?? 0
    reserve(start + bytes.count, keeping: start)
    UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + bytes.count]).copyMemory(from: bytes)
    ranges.append(start..<start + bytes.count)
  }

  fileprivate var capacity: Int { memory.count }
}

/// Batches that are not in use.
final class BatchPool: Sendable {
  private let idle = Mutex<[BlobBatch]>([])
  private let limit: Int

  init(limit: Int) { self.limit = limit }

  func take() -> BlobBatch { idle.withLock { $0.popLast() } ?? BlobBatch() }

  func give(_ batch: BlobBatch) {
    batch.clear()
    if batch.capacity > 6 << 20 { return }
    idle.withLock { if $0.count < limit { $0.append(batch) } }
  }
}
