import Core

extension BackupPolicy.Schedule {
  /// Parses `every 15m`, or the five fields of cron with numbers, `*`, lists, ranges and `/` steps.
  package init?(_ text: some StringProtocol) {
    let words = String(text).split(whereSeparator: { $0 == " " || $0 == "\t" })
    if words.count == 2, words[0] == "every" {
      guard let period = Duration(text: words[1]), period >= .seconds(1) else { return nil }
      self = .every(period)
      return
    }
    guard words.count == 5, zip(words, cronRanges).allSatisfy({ isCronField($0, in: $1) }) else { return nil }
    self = .cron(words.joined(separator: " "))
  }
}

private let cronRanges: [ClosedRange<Int>] = [0...59, 0...23, 1...31, 1...12, 0...7]

private func isCronField(_ field: Substring, in range: ClosedRange<Int>) -> Bool {
  field.split(separator: ",", omittingEmptySubsequences: false).allSatisfy { item in
    let halves = item.split(separator: "/", omittingEmptySubsequences: false)
    guard (1...2).contains(halves.count) else { return false }
    if halves.count == 2 { guard let step = Int(halves[1]), step > 0, step <= range.upperBound else { return false } }
    if halves[0] == "*" { return true }
    let ends = halves[0].split(separator: "-", omittingEmptySubsequences: false).map { Int($0) }
    guard (1...2).contains(ends.count), ends.allSatisfy({ $0.map(range.contains) ?? false }) else { return false }
    guard ends.count == 2, let low = ends[0], let high = ends[1] else { return true }
    return low <= high
  }
}
