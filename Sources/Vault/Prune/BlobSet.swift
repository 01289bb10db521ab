import Core
import Synchronization

/// A set of blobs of one numbering: a bit each, however many there are.
final class BlobSet: Sendable {
  private let bits: Mutex<[[UInt64]]>
  let numbering: FrozenNumbering

  init(_ numbering: FrozenNumbering) {
    self.numbering = numbering
    bits = Mutex(BlobKind.allCases.map { [UInt64](repeating: 0, count: numbering.count($0) / 64 + 1) })
  }

  /// Adds a blob, by its first copy.
  ///
  /// - Returns: Its number, and whether it was not in the set before; `nil` for a blob that has no number.
  func insert(_ kind: BlobKind, _ id: BlobID) -> (number: Int, isNew: Bool)? {
    guard let number = numbering.number(kind, id) else { return nil }
    return (number, insert(kind, number: number))
  }

  /// - Returns: Whether it was not in the set before.
  @discardableResult
  func insert(_ kind: BlobKind, number: Int) -> Bool {
    let mask = UInt64(1) << UInt64(number & 63)
    return bits.withLock { bits in
      let word = bits[Int(kind.rawValue)][number >> 6]
      bits[Int(kind.rawValue)][number >> 6] = word | mask
      return word & mask == 0
    }
  }

  func contains(_ kind: BlobKind, _ id: BlobID) -> Bool {
    numbering.number(kind, id).map { contains(kind, number: $0) } ?? false
  }

  func contains(_ kind: BlobKind, number: Int) -> Bool {
    bits.withLock { $0[Int(kind.rawValue)][number >> 6] & (1 << UInt64(number & 63)) != 0 }
  }
}
