import Core

/// Hashes and proofs over a list that only grows.
///
/// Pure. Source: RFC 6962, section 2.1, and RFC 9162, section 2.1, which hash alike. A proof lists hashes from the leaf's
/// sibling upwards.
package enum MerkleTree {
  /// The root of no leaves.
  package static let empty = Digest.of([UInt8]())
  /// More hashes than any proof in a tree of 2⁶³ leaves has.
  package static let proofLimit = 63

  package static func leaf(_ entry: [UInt8]) -> Digest {
    var hash = RunningDigest()
    hash.update([0])
    hash.update(entry)
    return hash.finish()
  }

  package static func node(_ left: Digest, _ right: Digest) -> Digest {
    var hash = RunningDigest()
    hash.update([1])
    hash.update(left.bytes)
    hash.update(right.bytes)
    return hash.finish()
  }

  /// Gives the hash over 2^`level` leaves from `index` · 2^`level` on.
  package typealias Subtrees = (_ level: Int, _ index: Int64) throws(LogError) -> Digest

  // MARK: Making

  /// The root of the first `size` leaves. O(log *size*) calls.
  package static func root(of size: Int64, _ subtrees: Subtrees) throws(LogError) -> Digest {
    size == 0 ? empty : try hash(0..<size, subtrees)
  }

  /// Shows that leaf `index` is among the first `size`.
  package static func inclusion(
    of index: Int64, in size: Int64, _ subtrees: Subtrees
  ) throws(LogError) -> [Digest] {
    guard index >= 0, index < size else { throw .outOfRange(index, size: size) }
    return try path(index, 0..<size, subtrees)
  }

  /// Shows that the first `old` leaves are the same in both trees. Empty for nothing, and for the same size.
  package static func consistency(
    from old: Int64, to size: Int64, _ subtrees: Subtrees
  ) throws(LogError) -> [Digest] {
    guard old >= 0, old <= size else { throw .outOfRange(old, size: size) }
    guard old > 0, old < size else { return [] }
    return try subproof(old, 0..<size, isWhole: true, subtrees)
  }

  private static func hash(_ range: Range<Int64>, _ subtrees: Subtrees) throws(LogError) -> Digest {
    let count = range.upperBound - range.lowerBound
    if count & (count - 1) == 0 {
      let level = count.trailingZeroBitCount
      return try subtrees(level, range.lowerBound >> Int64(level))
    }
    let middle = range.lowerBound + split(count)
    return node(
      try hash(range.lowerBound..<middle, subtrees), try hash(middle..<range.upperBound, subtrees))
  }

  private static func path(
    _ index: Int64, _ range: Range<Int64>, _ subtrees: Subtrees
  ) throws(LogError) -> [Digest] {
    let count = range.upperBound - range.lowerBound
    guard count > 1 else { return [] }
    let middle = range.lowerBound + split(count)
    let (left, right) = (range.lowerBound..<middle, middle..<range.upperBound)
    return index < middle
      ? try path(index, left, subtrees) + [try hash(right, subtrees)]
      : try path(index, right, subtrees) + [try hash(left, subtrees)]
  }

  private static func subproof(
    _ old: Int64, _ range: Range<Int64>, isWhole: Bool, _ subtrees: Subtrees
  ) throws(LogError) -> [Digest] {
    if old == range.upperBound { return isWhole ? [] : [try hash(range, subtrees)] }
    let middle = range.lowerBound + split(range.upperBound - range.lowerBound)
    let (left, right) = (range.lowerBound..<middle, middle..<range.upperBound)
    return old <= middle
      ? try subproof(old, left, isWhole: isWhole, subtrees) + [try hash(right, subtrees)]
      : try subproof(old, right, isWhole: false, subtrees) + [try hash(left, subtrees)]
  }

  /// The largest power of two below `count`, which is at least 2.
  private static func split(_ count: Int64) -> Int64 { 1 << Int64(63 - (count - 1).leadingZeroBitCount) }

  // MARK: Checking

  /// The root that a proof leads to; `nil` if it can't be one. Source: RFC 9162, section 2.1.3.2.
  package static func root(
    from leaf: Digest, at index: Int64, in size: Int64, _ proof: [Digest]
  ) -> Digest? {
    guard index >= 0, index < size, proof.count <= proofLimit else { return nil }
    var (position, last) = (index, size - 1)
    var result = leaf
    for sibling in proof {
      guard last > 0 else { return nil }
      if position & 1 == 1 || position == last {
        result = node(sibling, result)
        while position & 1 == 0, position > 0 {
          position >>= 1
          last >>= 1
        }
      } else {
        result = node(result, sibling)
      }
      position >>= 1
      last >>= 1
    }
    return last == 0 ? result : nil
  }

  /// Whether the tree of `size` begins with the one of `old` leaves. Source: RFC 9162, section 2.1.4.2.
  package static func isConsistent(
    from old: Int64, _ oldRoot: Digest, to size: Int64, _ root: Digest, _ proof: [Digest]
  ) -> Bool {
    guard old >= 0, old <= size, proof.count <= proofLimit else { return false }
    if old == 0 { return proof.isEmpty && oldRoot == empty && (size > 0 || root == empty) }
    if old == size { return proof.isEmpty && oldRoot == root }
    // The old tree is whole, and its own root is the first hash.
    var path = old & (old - 1) == 0 ? [oldRoot] + proof : proof
    guard !path.isEmpty else { return false }
    let first = path.removeFirst()
    var (position, last) = (old - 1, size - 1)
    while position & 1 == 1 {
      position >>= 1
      last >>= 1
    }
    var (left, right) = (first, first)
    for sibling in path {
      guard last > 0 else { return false }
      if position & 1 == 1 || position == last {
        left = node(sibling, left)
        right = node(sibling, right)
        while position & 1 == 0, position > 0 {
          position >>= 1
          last >>= 1
        }
      } else {
        right = node(right, sibling)
      }
      position >>= 1
      last >>= 1
    }
    return last == 0 && left == oldRoot && right == root
  }
}
