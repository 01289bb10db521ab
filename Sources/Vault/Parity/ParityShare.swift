import Core

/// How much parity a repository's packs have.
package struct ParityShare: Hashable, Sendable {
  /// Parity in percent of the content: 1 to 100. With 100 a pack that is gone altogether comes back.
  package let percent: Int

  package static let usual = ParityShare(percent: 10)!

  package init?(percent: Int) {
    guard (1...100).contains(percent) else { return nil }
    self.percent = percent
  }

  /// `10%`, or `10`.
  package init?(_ text: String) {
    guard let percent = Int(text.hasSuffix("%") ? text.dropLast() : text[...]) else { return nil }
    self.init(percent: percent)
  }

  /// How an object is cut. What is no pack is small, and worth a whole copy.
  func geometry(of kind: ObjectKind, sizeBytes: Int) -> (data: Int, parity: Int, shardBytes: Int) {
    guard kind == .data else { return (1, 1, Self.rounded(max(1, sizeBytes))) }
    let most = min(128, 25_500 / (100 + percent))
    let wanted = min(most, max(1, (sizeBytes + Self.leastBytes - 1) / Self.leastBytes))
    let shardBytes = Self.rounded(max(1, (sizeBytes + wanted - 1) / wanted))
    let data = max(1, (sizeBytes + shardBytes - 1) / shardBytes)
    return (data, max(1, (data * percent + 99) / 100), shardBytes)
  }

  /// A page of memory, a block of most disks.
  private static let leastBytes = 4096
  /// What the library's vectors like.
  private static func rounded(_ bytes: Int) -> Int { (bytes + 63) / 64 * 64 }
}
