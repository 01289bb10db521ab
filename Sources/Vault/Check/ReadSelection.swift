import Core

/// Which packs a check reads whole; of the others it reads the header.
///
/// Source: restic, "Checking integrity and consistency", `--read-data-subset`.
package struct ReadSelection: Hashable, Sendable {
  package enum Part: Hashable, Sendable {
    case none, all
    /// Part `number` of `count`: packs whose first byte, divided by `count`, leaves `number - 1`.
    case bucket(number: Int, count: Int)
    /// This share of the packs, above 0 and at most 1.
    case share(Double)
    /// As many packs as have about so many bytes together.
    case bytes(Int)
  }

  package var part: Part
  /// Only packs that were not read whole since then, those that waited longest first.
  package var unverifiedSince: Timestamp?

  package init(_ part: Part, unverifiedSince: Timestamp? = nil) {
    (self.part, self.unverifiedSince) = (part, unverifiedSince)
  }

  package static let none = ReadSelection(.none)
  package static let all = ReadSelection(.all)

  /// A part as restic's option spells it: `2/7`, `2.5%`, `500M`.
  ///
  /// - Returns: `nil` for what is no part, or none at all.
  package static func part(_ text: String) -> Part? {
    let words = text.split(separator: "/", omittingEmptySubsequences: false)
    if words.count == 2 {
      // One byte tells packs apart: more than 256 buckets would stay empty.
      guard let number = UInt(words[0]), let count = UInt(words[1]), (1...256).contains(count), number >= 1,
        number <= count
      else { return nil }
      return .bucket(number: Int(number), count: Int(count))
    }
    if text.last == "%" {
      guard let value = Double(text.dropLast()), value > 0, value <= 100 else { return nil }
      return .share(value / 100)
    }
    let unit: Int
    switch text.last {
    case "k", "K": unit = 1 << 10
    case "m", "M": unit = 1 << 20
    case "g", "G": unit = 1 << 30
    case "t", "T": unit = 1 << 40
    default: unit = 1
    }
    guard let count = Int(unit == 1 ? text[...] : text.dropLast()), count > 0 else { return nil }
    let (bytes, overflow) = count.multipliedReportingOverflow(by: unit)
    return overflow ? nil : .bytes(bytes)
  }

  /// - Parameters:
  ///   - packs: Every pack and its size, ascending by name.
  ///   - verified: When each was last read whole and found right.
  package func choose(
    of packs: [(id: Digest, sizeBytes: Int)], verified: [Digest: Timestamp], randomness: any Randomness
  ) -> Set<Digest> {
    var candidates = packs
    if let limit = unverifiedSince {
      candidates = packs.filter { pack in verified[pack.id].map { $0 < limit } ?? true }
      func age(_ id: Digest) -> Timestamp { verified[id] ?? Timestamp(nanoseconds: .min) }
      candidates.sort { (age($0.id), $0.id) < (age($1.id), $1.id) }
    }
    let isOrdered = unverifiedSince != nil
    switch part {
    case .none: return []
    case .all: return Set(candidates.map(\.id))
    case .bucket(let number, let count):
      return Set(candidates.filter { Int($0.id.leadingWord >> 56) % count == number - 1 }.map(\.id))
    case .share(let share): return first(share, of: candidates, isOrdered, randomness)
    case .bytes(let bytes):
      if isOrdered {
        var left = bytes
        return Set(
          candidates.prefix { pack in
            defer { left -= pack.sizeBytes }
            return left > 0
          }.map(\.id))
      }
      let total = packs.reduce(0) { $0 + $1.sizeBytes }
      return first(total > 0 ? min(1, Double(bytes) / Double(total)) : 1, of: candidates, isOrdered, randomness)
    }
  }

  /// At least one, as in restic.
  private func first(
    _ share: Double, of packs: [(id: Digest, sizeBytes: Int)], _ isOrdered: Bool, _ randomness: any Randomness
  ) -> Set<Digest> {
    let count = min(packs.count, max(1, Int(Double(packs.count) * share)))
    if isOrdered { return Set(packs.prefix(count).map(\.id)) }
    var ids = packs.map(\.id)
    for index in 0..<count { ids.swapAt(index, index + randomness.below(ids.count - index)) }
    return Set(ids.prefix(count))
  }
}
