/// Counts of durations, in buckets that are narrow where durations are short: at most 1 % off at any length.
///
/// Each power of two is divided into 128 buckets of one width; below 256 every value has its own. Takes 60 KB at most and
/// O(1) per value, and two of them add up to that of all values.
package struct Histogram: Sendable, Equatable {
  private static let bits = 7
  private static let divisions = 1 << bits

  private var counts: [Int64] = []
  package private(set) var count: Int64 = 0
  package private(set) var least: Int64 = .max
  package private(set) var greatest: Int64 = 0
  private var sum: Double = 0

  package init() {}

  package var mean: Double { count == 0 ? 0 : sum / Double(count) }

  package mutating func add(_ value: Int64, times: Int64 = 1) {
    guard times > 0 else { return }
    let value = max(0, value)
    let bucket = Self.bucket(of: value)
    if bucket >= counts.count { counts.append(contentsOf: repeatElement(0, count: bucket + 1 - counts.count)) }
    counts[bucket] += times
    count += times
    least = min(least, value)
    greatest = max(greatest, value)
    sum += Double(value) * Double(times)
  }

  package mutating func add(_ other: Histogram) {
    if other.counts.count > counts.count {
      counts.append(contentsOf: repeatElement(0, count: other.counts.count - counts.count))
    }
    for (bucket, times) in other.counts.enumerated() { counts[bucket] += times }
    count += other.count
    least = min(least, other.least)
    greatest = max(greatest, other.greatest)
    sum += other.sum
  }

  /// The smallest value that at least this share of all are at or below, to within 1 %; `nil` of nothing.
  package func value(at quantile: Double) -> Int64? {
    guard count > 0 else { return nil }
    if quantile >= 1 { return greatest }
    let rank = max(1, Int64((quantile * Double(count)).rounded(.up)))
    var seen: Int64 = 0
    for (bucket, times) in counts.enumerated() where times > 0 {
      seen += times
      if seen >= rank { return min(greatest, max(least, Self.middle(of: bucket))) }
    }
    return greatest
  }

  private static func bucket(of value: Int64) -> Int {
    if value < 2 * divisions { return Int(value) }
    let shift = 63 - value.leadingZeroBitCount - bits
    return shift * divisions + Int(value >> shift)
  }

  private static func middle(of bucket: Int) -> Int64 {
    if bucket < 2 * divisions { return Int64(bucket) }
    let shift = bucket / divisions - 1
    let first = Int64(bucket - shift * divisions) << shift
    return first + (Int64(1) << (shift - 1))
  }
}
