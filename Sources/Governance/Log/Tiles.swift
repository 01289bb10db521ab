import Core

/// A file of the log: 256 hashes of one level, or the entries below them.
///
/// Source: C2SP, tlog-tiles.
package struct TileName: Hashable, Sendable, CustomStringConvertible {
  package static let width = 256

  /// Of 256^level leaves is each hash; `nil` for the entries themselves.
  package let level: Int?
  package let index: Int64
  /// 1 to 256; a file of less than 256 is replaced by one of its own, never changed.
  package let width: Int

  package init(level: Int?, index: Int64, width: Int = TileName.width) {
    (self.level, self.index, self.width) = (level, index, width)
  }

  package var isWhole: Bool { width == Self.width }

  /// Such as `tile/0/x001/x234/067.p/12`.
  package var description: String {
    let path = wholePath
    return isWhole ? path : "\(path).p/\(width)"
  }

  /// Where the whole one is, or will be.
  package var wholePath: String {
    var number = index
    var text = digits(number % 1000)
    while number >= 1000 {
      number /= 1000
      text = "x\(digits(number % 1000))/\(text)"
    }
    return "tile/\(level.map { "\($0)" } ?? "entries")/\(text)"
  }

  private func digits(_ number: Int64) -> String {
    let text = String(number)
    return String(repeating: "0", count: 3 - text.count) + text
  }

  /// The one that a tree of `size` has at this place; `nil` if it has none.
  package static func at(_ level: Int?, _ index: Int64, in size: Int64) -> TileName? {
    let count = (size >> Int64(8 * (level ?? 0))) - index * Int64(width)
    return count > 0 ? TileName(level: level, index: index, width: Int(min(Int64(width), count))) : nil
  }

  /// Those that a tree of `size` has and the tree of `old` has not, lowest level first.
  package static func new(from old: Int64, to size: Int64) -> [TileName] {
    var names: [TileName] = []
    for level in [Int?.none] + (0..<8).map(Int?.some) {
      let shift = Int64(8 * (level ?? 0))
      let (before, after) = (old >> shift, size >> shift)
      guard after > before else { continue }
      for index in before / 256...(after - 1) / 256 {
        if let name = at(level, index, in: size) { names.append(name) }
      }
    }
    return names
  }
}

/// Entries as a file has them: each behind its length, two bytes, the high one first.
package enum EntryBundle {
  package static let entryLimitBytes = 65_535

  package static func encode(_ entries: [[UInt8]]) throws(LogError) -> [UInt8] {
    var bytes: [UInt8] = []
    for entry in entries {
      guard entry.count <= entryLimitBytes else { throw .entryTooLong(bytes: entry.count) }
      bytes += [UInt8(entry.count >> 8), UInt8(entry.count & 255)]
      bytes += entry
    }
    return bytes
  }

  /// - Returns: `nil` unless these are exactly `count` entries.
  package static func decode(_ bytes: [UInt8], count: Int) -> [[UInt8]]? {
    var entries: [[UInt8]] = []
    var place = 0
    while place < bytes.count {
      guard entries.count < count, place + 2 <= bytes.count else { return nil }
      let length = Int(bytes[place]) << 8 | Int(bytes[place + 1])
      place += 2
      guard place + length <= bytes.count else { return nil }
      entries.append(Array(bytes[place..<place + length]))
      place += length
    }
    return entries.count == count ? entries : nil
  }
}
