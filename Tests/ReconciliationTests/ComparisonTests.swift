import Catalog
import Core
import IO
import Reconciliation
import TestSupport
import Testing

private let start = Timestamp("2026-11-21T08:00:00Z")!

private func rule(_ change: (inout ReconciliationRule) -> Void = { _ in }) -> ReconciliationRule {
  var rule = ReconciliationRule(
    name: "rule", left: .init(store: "a", query: "left"), right: .init(store: "b", query: "right"), key: ["id"])
  (rule.left.table, rule.right.table) = ("left", "right")
  change(&rule)
  return rule
}

/// - Parameter limitBytes: Small enough, everything is spilled and merged.
func compared(
  _ rule: ReconciliationRule, left: [Row], right: [Row], columns: [String] = ["id", "value", "at"],
  window: Window? = nil, limitBytes: Int = 64 << 20
) throws -> (RuleReport, [Discrepancy]) {
  let scratch = try TemporaryDirectory("reconciliation")
  let plan = try ComparisonPlan(rule, left: columns, right: columns)
  var comparison = Comparison(plan, window: window, scratch: scratch.file("runs"), limitBytes: limitBytes)
  for row in left { try comparison.add(row, to: .left) }
  for row in right { try comparison.add(row, to: .right) }
  var report = RuleReport(rule.name, left: rule.left.store, right: rule.right.store)
  (report.leftColumns, report.rightColumns) = (columns, columns)
  var found: [Discrepancy] = []
  try comparison.finish(into: &report) { found.append($0) }
  return (report, found)
}

/// Everything looked at with everything, slowly.
private func expected(_ rule: ReconciliationRule, _ left: [Row], _ right: [Row]) -> Set<String> {
  var result: Set<String> = []
  let keys = Set((left + right).compactMap { $0[0] })
  for key in keys {
    let (a, b) = (left.filter { $0[0] == key }, right.filter { $0[0] == key })
    if a.count > 1, !rule.isLink { result.insert("\(key) duplicate left") }
    if b.count > 1 { result.insert("\(key) duplicate right") }
    let wrong = rule.truth == .right ? "left" : "right"
    if b.isEmpty {
      if rule.isLink {
        result.insert("\(key) broken-link \(wrong)")
      } else if rule.truth != .right {
        result.insert("\(key) missing \(wrong)")
      } else if rule.isExact {
        result.insert("\(key) orphan \(wrong)")
      }
    } else if a.isEmpty {
      if rule.truth == .right, !rule.isLink {
        result.insert("\(key) missing \(wrong)")
      } else if rule.isExact {
        result.insert("\(key) orphan \(wrong)")
      }
    } else if a.count == 1, b.count == 1, a[0][1] != b[0][1] {
      result.insert("\(key) changed \(wrong)")
    }
  }
  return result
}

private func shown(_ found: [Discrepancy]) -> [String] {
  found.map { "\($0.key[0]) \($0.kind.rawValue) \($0.place.rawValue)" }
}

@Suite("comparing by key") struct ComparisonTests {
  @Test(arguments: 0..<200 as Range<UInt64>)
  func `random histories agree with sets, spilled or not`(_ seed: UInt64) throws {
    let random = SeededRandomness(seed: seed)
    func rows() -> [Row] {
      (0..<random.below(60)).map { _ in
        ["\(random.below(40))", random.below(5) == 0 ? nil : "\(random.below(3))", nil]
      }
    }
    let rule = rule {
      $0.truth = [.left, .right, .none][Int(random.below(3))]
      ($0.isLink, $0.isExact) = (random.below(2) == 0, random.below(2) == 0)
    }
    let (left, right) = (rows(), rows())
    let (report, found) = try compared(rule, left: left, right: right)
    #expect(Set(shown(found)) == expected(rule, left, right))
    #expect(shown(found).count == Set(shown(found)).count, "each once")
    #expect(report.found == Int64(found.count))
    let (spilledReport, spilled) = try compared(rule, left: left, right: right, limitBytes: 512)
    #expect(spilled.map { $0.identity } == found.map { $0.identity })
    #expect(spilledReport.counts == report.counts)
  }

  @Test func `a window's edges are exact, and what is near them is in flight`() throws {
    let rule = rule { ($0.time, $0.skew) = ("at", .seconds(5)) }
    let window = Window(from: start, to: start + .seconds(100))
    // Seconds from the window's beginning.
    let cases: [(Double, String)] = [
      (-0.001, "outside"), (0, "in flight"), (4.999, "in flight"), (5, "found"), (50, "found"), (94.999, "found"),
      (95, "in flight"), (99.999, "in flight"), (100, "outside"), (3000, "outside"),
    ]
    for (seconds, what) in cases {
      let at = (start + .milliseconds(Int64(seconds * 1000))).description
      let (report, found) = try compared(rule, left: [["1", "x", at]], right: [], window: window)
      #expect(found.count == (what == "found" ? 1 : 0), "\(seconds)")
      #expect(report.inFlight == (what == "in flight" ? 1 : 0), "\(seconds)")
      #expect(report.outside == (what == "outside" ? 1 : 0), "\(seconds)")
    }
    let (report, found) = try compared(rule, left: [["1", "x", nil]], right: [], window: window)
    #expect(found.isEmpty && report.undated == 1, "what says nothing of its time is in no window")
  }

  @Test(arguments: [
    "2026-11-21T08:00:50Z", "2026-11-21 08:00:50+00", "2026-11-21 08:00:50.000", "2026-11-21 10:00:50+02",
    "1795248050", "1795248050000",
  ])
  func `times are read as engines write them`(_ text: String) throws {
    let rule = rule { ($0.time, $0.skew) = ("at", .zero) }
    let second = Timestamp("2026-11-21T08:00:50Z")!
    let (_, found) = try compared(
      rule, left: [["1", "x", text]], right: [], window: Window(from: second, to: second + .milliseconds(1)))
    #expect(found.isEmpty == (text.utf8.count == 0), "\(text)")
    let (report, none) = try compared(
      rule, left: [["1", "x", text]], right: [], window: Window(from: second + .milliseconds(1), to: nil))
    #expect(none.isEmpty && report.outside == 1, "\(text)")
  }

  @Test func `keys are bytes: two spellings of one letter are two keys`() throws {
    let (_, found) = try compared(rule(), left: [["caf\u{E9}", "1", nil]], right: [["cafe\u{301}", "1", nil]])
    #expect(found.count == 2)
    let (_, changed) = try compared(rule(), left: [["k", "\u{E9}", nil]], right: [["k", "e\u{301}", nil]])
    #expect(changed.map { $0.kind } == [.changed])
  }

  @Test func `a NULL is no key, and is counted`() throws {
    let (report, found) = try compared(rule(), left: [[nil, "1", nil], ["1", nil, nil]], right: [["1", nil, nil]])
    #expect(found.isEmpty && report.withoutKey == 1)
  }

  @Test(arguments: 0..<100 as Range<UInt64>)
  func `two histories agree with sets`(_ seed: UInt64) throws {
    let random = SeededRandomness(seed: seed)
    let hasKey = random.below(2) == 0
    let shape = KeyedTable(name: "t", columns: ["id", "value"], key: hasKey ? ["id"] : [], query: "")
    func rows() -> [Row] {
      let all: [Row] = (0..<random.below(40)).map { number in
        [hasKey ? "\(number)" : "\(random.below(6))", random.below(6) == 0 ? nil : "\(random.below(3))"]
      }
      return all.filter { _ in random.below(4) > 0 }
    }
    let (left, right) = (rows(), rows())
    let scratch = try TemporaryDirectory("histories")
    let (table, found) = try HistoryComparison.compare(
      shape, left: left, right: right, scratch: scratch.file("x"), limit: .max)
    var bag: [Row: Int64] = [:]
    for row in left { bag[row, default: 0] += 1 }
    for row in right { bag[row, default: 0] -= 1 }
    let (more, fewer) = (bag.values.filter { $0 > 0 }.reduce(0, +), -bag.values.filter { $0 < 0 }.reduce(0, +))
    if hasKey {
      #expect(table.onlyLeft + table.changed == more && table.onlyRight + table.changed == fewer)
      let both = Set(left.map { $0[0] }).intersection(right.map { $0[0] })
      let changed = Set(found.filter { $0.kind == .changed }.compactMap { $0.key.first })
      #expect(changed.isSubset(of: both.compactMap { $0 }))
    } else {
      #expect(table.onlyLeft == more && table.onlyRight == fewer && table.changed == 0)
    }
  }
}
