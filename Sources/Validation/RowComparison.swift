import Core
import DriverKit

/// A row of an answer; equal if every field is.
typealias Row = [String?]

/// As examples show it: fields joined by ` | `.
func shown(_ row: Row) -> String { row.map { $0 ?? "NULL" }.joined(separator: " | ") }

/// Counts rows exactly and keeps the smallest few of them, so that the same data gives the same examples.
struct Sample {
  private(set) var count: Int64 = 0
  private(set) var examples: [String] = []
  let limit: Int

  init(limit: Int) { self.limit = limit }

  mutating func add(_ row: Row, times: Int64 = 1) {
    count += times
    guard limit > 0 else { return }
    let text = shown(row)
    if examples.count == limit, let last = examples.last, text >= last { return }
    let place = examples.firstIndex { text < $0 } ?? examples.endIndex
    examples.insert(text, at: place)
    if examples.count > limit { examples.removeLast() }
  }
}

/// Sets and bags of rows. O(*n*) time and memory in the rows given, beside the rows themselves.
enum RowComparison {
  /// Rows in `from` that are not in `to`, each distinct row once.
  ///
  /// A row with a NULL refers to nothing and is passed over, as a foreign key does (SQL's `MATCH SIMPLE`).
  static func missing(_ from: [Row], in to: [Row], examples: Int) -> Sample {
    var sample = Sample(limit: examples)
    var known = Set(to)
    for row in from where !row.contains(nil) {
      // A row that was counted is known from then on.
      if known.insert(row).inserted { sample.add(row) }
    }
    return sample
  }

  /// Rows that one side has more often than the other.
  static func differences(_ left: [Row], _ right: [Row], examples: Int) -> (onlyLeft: Sample, onlyRight: Sample) {
    var balance: [Row: Int64] = [:]
    for row in left { balance[row, default: 0] += 1 }
    for row in right { balance[row, default: 0] -= 1 }
    var (onlyLeft, onlyRight) = (Sample(limit: examples), Sample(limit: examples))
    for (row, count) in balance {
      if count > 0 { onlyLeft.add(row, times: count) }
      if count < 0 { onlyRight.add(row, times: -count) }
    }
    return (onlyLeft, onlyRight)
  }

  /// - Throws: ``CheckError/columns(left:right:)`` if rows of both sides can never be equal.
  static func requireLike(_ left: QueryResult, _ right: QueryResult) throws(CheckError) {
    // An engine may know no columns where there are no rows.
    guard let a = left.rows.first?.count, let b = right.rows.first?.count else { return }
    guard a == b else { throw .columns(left: a, right: b) }
  }
}
