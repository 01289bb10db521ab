import Core

/// A hash table's slots, for things that lie elsewhere and have numbers: 6 to 12 bytes for each.
struct ProbeTable: Sendable {
  /// A number plus one; 0 is free. A power of two, at most two thirds full.
  private var slots = [UInt32](repeating: 0, count: 64)
  private(set) var count = 0
  private let seed: UInt64

  /// - Parameter seed: Keeps chosen digests from sharing a slot.
  init(seed: UInt64) { self.seed = seed }

  var bytes: Int { slots.capacity * MemoryLayout<UInt32>.stride }

  /// The first number for which `isIt` says so, of those that were added under `digest`, and of some others.
  @inline(__always)
  func first(_ digest: Digest, where isIt: (Int) -> Bool) -> Int? {
    let mask = slots.count - 1
    var slot = slot(digest) & mask
    while slots[slot] != 0 {
      let number = Int(slots[slot]) - 1
      if isIt(number) { return number }
      slot = (slot + 1) & mask
    }
    return nil
  }

  /// Adds the next number.
  ///
  /// - Parameter digest: The digest of each number so far, this one included.
  mutating func add(_ digest: (Int) -> Digest) {
    count += 1
    guard count * 3 > slots.count * 2 else { return place(count - 1, digest(count - 1)) }
    slots = [UInt32](repeating: 0, count: slots.count * 2)
    for number in 0..<count { place(number, digest(number)) }
  }

  private mutating func place(_ number: Int, _ digest: Digest) {
    let mask = slots.count - 1
    var slot = slot(digest) & mask
    while slots[slot] != 0 { slot = (slot + 1) & mask }
    slots[slot] = UInt32(number + 1)
  }

  @inline(__always)
  private func slot(_ digest: Digest) -> Int {
    Int(truncatingIfNeeded: ((digest.leadingWord ^ seed) &* 0x9e37_79b9_7f4a_7c15) >> 24)
  }
}

/// Digests in order of arrival, each once, and the number of each.
struct DigestNumbers: Sendable {
  private(set) var digests: [Digest] = []
  private var table: ProbeTable

  init(seed: UInt64) { table = ProbeTable(seed: seed) }

  var bytes: Int { digests.capacity * MemoryLayout<Digest>.stride + table.bytes }

  func number(_ digest: Digest) -> UInt32? { table.first(digest) { digests[$0] == digest }.map { UInt32($0) } }

  /// - Returns: The number it has had, or has now.
  mutating func add(_ digest: Digest) -> UInt32 {
    if let known = number(digest) { return known }
    digests.append(digest)
    table.add { digests[$0] }
    return UInt32(digests.count - 1)
  }
}
