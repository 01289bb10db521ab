import CShim
import Core
import Synchronization

/// Bytes in memory of whole pages, which stay where they are and are used over and over: what a pack is built in, and what
/// packs are read into.
///
/// Fresh memory costs a fault for every page, and only what begins at a page can be written past the page cache.
///
/// Filled by one thread at a time. What lies below ``count`` doesn't change, and may be read meanwhile.
package final class PageBuffer: @unchecked Sendable {
  // Handed from one thread to the next; readers are told of bytes only once they are there.
  private let base: UnsafeMutableRawPointer
  package let capacity: Int
  package private(set) var count = 0

  /// - Parameter capacity: Rounded up to whole pages. Pages that are never written cost nothing.
  package init(capacity: Int) {
    self.capacity = (max(1, capacity) + Self.pageBytes - 1) & ~(Self.pageBytes - 1)
    guard let base = salvor_allocate_pages(self.capacity) else { fatalError("no memory for \(capacity) bytes") }
    self.base = base
  }

  deinit { salvor_free_pages(base, capacity) }

  package static let pageBytes = 4096

  package var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base, count: count) }

  package subscript(range: Range<Int>) -> UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: bytes[range]) }

  /// What has not been filled yet.
  package var free: UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(start: base + count, count: capacity - count)
  }

  /// The whole memory, whatever is in it.
  package var memory: UnsafeMutableRawBufferPointer { UnsafeMutableRawBufferPointer(start: base, count: capacity) }

  /// The first `more` of the free bytes have been filled.
  package func extend(by more: Int) {
    precondition(more >= 0 && count + more <= capacity, "a page buffer keeps its size")
    count += more
  }

  package func append(_ more: UnsafeRawBufferPointer) {
    precondition(more.count <= capacity - count, "a page buffer keeps its size")
    free.copyMemory(from: more)
    count += more.count
  }

  package func append(_ more: [UInt8]) { more.withUnsafeBytes { append($0) } }

  package func clear() { count = 0 }
}

/// Page buffers that are not in use.
final class PagePool: Sendable {
  private let idle = Mutex<[PageBuffer]>([])
  private let limit: Int

  /// - Parameter limit: How many are kept.
  init(limit: Int) { self.limit = limit }

  /// Lends an empty buffer with room for `bytes` for the length of a call.
  func with<T>(_ bytes: Int, _ body: (PageBuffer) async throws(VaultError) -> T) async throws(VaultError) -> T {
    let usual = idle.withLock { $0.popLast() }
    let pages = usual.flatMap { $0.capacity >= bytes ? $0 : nil } ?? PageBuffer(capacity: max(bytes, Self.usualBytes))
    pages.clear()
    defer {
      if pages.capacity <= 2 * Self.usualBytes { idle.withLock { if $0.count < limit { $0.append(pages) } } }
    }
    return try await body(pages)
  }

  /// A pack as large as they usually get.
  private static let usualBytes = 20 << 20
}
