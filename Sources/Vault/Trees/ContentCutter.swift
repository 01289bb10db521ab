import Core
import IO

/// Reads a source and cuts it into the blobs it is stored as. Calls block; one caller at a time.
final class ContentCutter: @unchecked Sendable {
  // Handed from one thread of the pool to the next, never shared.
  private let source: any ByteSource
  private let cutting: Cutting
  private let chunker: RabinChunker
  private var buffer: [UInt8]
  private var start = 0
  private var end = 0
  private var isAtEnd = false
  private(set) var size: Int64 = 0

  /// - Parameter sizeHint: Bytes expected; one more is asked for, so that a file of that size needs one buffer.
  init(_ source: any ByteSource, _ cutting: Cutting, _ chunker: RabinChunker, sizeHint: Int64) {
    self.source = source
    self.cutting = cutting
    self.chunker = chunker
    let wanted = Int(clamping: max(0, sizeHint)).addingReportingOverflow(1).partialValue
    buffer = [UInt8](repeating: 0, count: min(max(wanted, 4096), Self.bufferBytes))
  }

  /// - Returns: The next blob; `nil` at the end. A file of no bytes has no blobs.
  func next() throws -> [UInt8]? {
    try fill()
    guard end > start else { return nil }
    let length: Int
    switch cutting {
    case .content:
      length = buffer.withUnsafeBytes { chunker.cut(UnsafeRawBufferPointer(rebasing: $0[start..<end])) }
    case .fixed(let bytes): length = min(end - start, Self.clamped(bytes))
    }
    size += Int64(length)
    if start == 0, end == length, isAtEnd {
      // The last blob is the whole buffer: give it away instead of copying it.
      var last: [UInt8] = []
      swap(&last, &buffer)
      last.removeLast(last.count - length)
      (start, end) = (0, 0)
      return last
    }
    defer { start += length }
    return Array(buffer[start..<start + length])
  }

  /// Whether the blob just given was the last.
  var isFinished: Bool { isAtEnd && start == end }

  /// Makes sure that a whole blob, or all that is left, is in the buffer.
  private func fill() throws {
    let needed = if case .fixed(let bytes) = cutting { Self.clamped(bytes) } else { RabinChunker.maximum }
    while !isAtEnd, end - start < needed {
      if end == buffer.count {
        if start > 0 {
          let count = end - start
          let from = start
          buffer.withUnsafeMutableBytes { raw in
            raw.copyMemory(from: UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(raw)[from..<from + count]))
          }
          (start, end) = (0, count)
        }
        if buffer.count < Self.bufferBytes, end > buffer.count / 2 {
          let larger = min(max(buffer.count * 4, 1 << 16), Self.bufferBytes)
          buffer.append(contentsOf: repeatElement(0, count: larger - buffer.count))
        }
      }
      let from = end
      let count = try buffer.withUnsafeMutableBytes {
        try source.read(into: UnsafeMutableRawBufferPointer(rebasing: $0[from...]))
      }
      guard count > 0 else {
        isAtEnd = true
        return
      }
      end += count
    }
  }

  private static func clamped(_ bytes: Int) -> Int { min(max(bytes, 4096), RabinChunker.maximum) }

  private static let bufferBytes = 16 << 20
}
