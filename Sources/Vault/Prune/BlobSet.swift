import Core
import Synchronization

/// A set of blobs of one index: a bit each, however many there are.
final class BlobSet: Sendable {
  private let bits: Mutex<[[UInt64]]>
  private let index: BlobIndex

  init(_ index: BlobIndex) {
    self.index = index
    bits = Mutex(BlobKind.allCases.map { [UInt64](repeating: 0, count: index.count($0) / 64 + 1) })
  }

  /// - Returns: Whether it was not in the set before; `nil` for a blob the index doesn't know.
  func insert(_ kind: BlobKind, _ id: BlobID) -> Bool? {
    guard let number = index.number(kind, id) else { return nil }
    let mask = UInt64(1) << UInt64(number & 63)
    return bits.withLock { bits in
      let word = bits[Int(kind.rawValue)][number >> 6]
      bits[Int(kind.rawValue)][number >> 6] = word | mask
      return word & mask == 0
    }
  }

  func contains(_ kind: BlobKind, _ id: BlobID) -> Bool {
    guard let number = index.number(kind, id) else { return false }
    return bits.withLock { $0[Int(kind.rawValue)][number >> 6] & (1 << UInt64(number & 63)) != 0 }
  }

  func count(_ kind: BlobKind) -> Int {
    bits.withLock { $0[Int(kind.rawValue)].reduce(0) { $0 + $1.nonzeroBitCount } }
  }
}
