import Core
import IO

/// Reads a source and cuts it into the blobs it is stored as, a batch at a time. Calls block; one caller at a time.
final class ContentCutter: @unchecked Sendable {
  // Handed from one thread of the pool to the next, never shared.
  private let source: any ByteSource
  private let cutting: Cutting
  private let chunker: RabinChunker
  /// The beginning of a blob whose end isn't known yet.
  private var carried: [UInt8] = []
  /// How much of it has been searched for a cut.
  private var searched = 0
  private var isAtEnd = false
  private let expected: Int
  private(set) var size: Int64 = 0

  /// - Parameter sizeHint: Bytes expected; one more is asked for, so that a file of that size is read in one call.
  init(_ source: any ByteSource, _ cutting: Cutting, _ chunker: RabinChunker, sizeHint: Int64) {
    self.source = source
    self.cutting = cutting
    self.chunker = chunker
    expected = max(4096, Int(clamping: max(0, sizeHint)).addingReportingOverflow(1).partialValue)
  }

  /// Fills a batch with the next blobs: one at least, unless nothing is left.
  ///
  /// A file of no bytes has no blobs.
  func next(_ batch: BlobBatch) throws {
    batch.clear()
    var (start, end) = (0, carried.count)
    var wanted = max(end, min(expected, Self.batchBytes))
    batch.reserve(wanted, keeping: 0)
    carried.withUnsafeBytes { batch.buffer.copyMemory(from: $0) }
    while true {
      end = try fill(batch, from: end, to: wanted)
      while start < end, let length = cut(batch, start..<end) {
        batch.append(start..<start + length)
        size += Int64(length)
        start += length
        searched = 0
      }
      if isAtEnd || batch.count > 0 { break }
      // Not one whole blob yet: either it is a large one, or more came than was expected.
      wanted = end + min(max(end, 1 << 20), Self.batchBytes)
    }
    carried.removeAll(keepingCapacity: true)
    carried.append(contentsOf: batch.buffer[start..<end])
  }

  /// Whether the blobs just given were the last.
  var isFinished: Bool { isAtEnd && carried.isEmpty }

  private func fill(_ batch: BlobBatch, from: Int, to wanted: Int) throws -> Int {
    var end = from
    batch.reserve(wanted, keeping: end)
    while !isAtEnd, end < wanted {
      let count = try source.read(into: UnsafeMutableRawBufferPointer(rebasing: batch.buffer[end..<wanted]))
      if count == 0 { isAtEnd = true }
      end += count
    }
    return end
  }

  /// - Returns: `nil` if the blob's end isn't among these bytes.
  private func cut(_ batch: BlobBatch, _ range: Range<Int>) -> Int? {
    let length: Int
    let longest: Int
    switch cutting {
    case .content:
      longest = RabinChunker.maximum
      length = chunker.cut(UnsafeRawBufferPointer(rebasing: batch.buffer[range]), from: searched)
    case .fixed(let bytes):
      longest = min(max(bytes, 4096), RabinChunker.maximum)
      length = min(longest, range.count)
    }
    // A cut right at the end is found again when there is more.
    if length == range.count, length < longest, !isAtEnd {
      searched = length
      return nil
    }
    return length
  }

  /// Enough for the hashes to be computed in pairs, little enough for the caches.
  private static let batchBytes = 4 << 20
}
