import Core

/// Which snapshots of a group are kept.
///
/// The rules are restic's, so that a policy can be taken over as it is: snapshots are looked at from the newest to the
/// oldest, every rule decides by itself, and whoever any rule keeps is kept. A counting rule keeps the newest snapshot of
/// each hour, day, ISO week, month or year, by the clock of the machine that made it; as long as it has not used up its
/// number, it keeps the oldest snapshot of all as well.
///
/// Stricter than restic in one thing: snapshots dated after the present neither count nor go. Whoever can write one
/// could else push real ones out.
///
/// Source: restic, internal/data/snapshot_policy.go.
package struct RetentionPolicy: Hashable, Sendable {
  package enum Count: Hashable, Sendable {
    case number(Int)
    case unlimited
  }

  package enum Period: String, CaseIterable, Sendable {
    case hourly, daily, weekly, monthly, yearly
  }

  package var last: Count = .number(0)
  package var counts: [Period: Count] = [:]
  /// Everything newer than that, seen from the newest snapshot.
  package var within: CalendarDuration?
  package var withinPeriods: [Period: CalendarDuration] = [:]
  /// Snapshots that have all tags of one of the lists; an empty list stands for having none.
  package var tags: [[String]] = []

  package init() {}

  /// Says nothing, and would keep nothing.
  package var isEmpty: Bool { self == RetentionPolicy() }

  /// What becomes of one snapshot.
  package struct Verdict: Hashable, Sendable {
    package let stored: StoredSnapshot
    /// Why it is kept; empty if it is not.
    package var reasons: [String]
    package var isKept: Bool { !reasons.isEmpty }

    package init(stored: StoredSnapshot, reasons: [String]) { (self.stored, self.reasons) = (stored, reasons) }
  }

  private struct Rule {
    var reason: String
    var left: Count
    var oldest: Timestamp?
    var mark: (Snapshot, Int) -> Int64
    var lastMark: Int64 = -1

    var isUsedUp: Bool { left == .number(0) }

    mutating func keeps(_ snapshot: Snapshot, number: Int, isLast: Bool) -> String? {
      if isUsedUp { return nil }
      if let oldest, snapshot.time <= oldest { return nil }
      let value = mark(snapshot, number)
      guard value != lastMark || isLast else { return nil }
      defer { lastMark = value }
      if case .number(let count) = left { left = .number(count - 1) }
      return value == lastMark ? "oldest \(reason)" : reason
    }
  }

  /// Decides on the snapshots of one group.
  ///
  /// - Parameter now: What is dated later is kept, and does not count.
  /// - Returns: One verdict for each, the newest first.
  package func verdicts(on snapshots: [StoredSnapshot], now: Timestamp) -> [Verdict] {
    let sorted = snapshots.sorted { ($1.snapshot.time, $1.id) < ($0.snapshot.time, $0.id) }
    let future = sorted.prefix { $0.snapshot.time > now }
    let present = sorted.dropFirst(future.count)
    var rules = rules(newest: present.first?.snapshot)
    return future.map { Verdict(stored: $0, reasons: ["dated in the future"]) }
      + present.enumerated().map { number, stored in
        var reasons: [String] = []
        for list in tags where list.isEmpty ? stored.snapshot.tags.isEmpty : stored.snapshot.has(tags: list) {
          reasons.append(list.isEmpty ? "has no tags" : "has tags [\(list.joined(separator: ", "))]")
        }
        for index in rules.indices {
          if let reason = rules[index].keeps(stored.snapshot, number: number, isLast: number == present.count - 1) {
            reasons.append(reason)
          }
        }
        return Verdict(stored: stored, reasons: reasons)
      }
  }

  private func rules(newest: Snapshot?) -> [Rule] {
    var rules: [Rule] = []
    if let within, let newest {
      // Every snapshot is a mark of its own, and none is the oldest of many.
      rules.append(
        Rule(reason: "within \(within)", left: .unlimited, oldest: within.before(newest), mark: { Int64($1) }))
    }
    rules.append(Rule(reason: "last snapshot", left: last, mark: { Int64($1) }))
    for period in Period.allCases {
      rules.append(
        Rule(
          reason: "\(period.rawValue) snapshot", left: counts[period] ?? .number(0), mark: { s, _ in period.mark(s) }
        ))
    }
    for period in Period.allCases {
      guard let span = withinPeriods[period], let newest else { continue }
      rules.append(
        Rule(
          reason: "\(period.rawValue) within \(span)", left: .unlimited, oldest: span.before(newest),
          mark: { s, _ in period.mark(s) }))
    }
    return rules
  }
}

extension RetentionPolicy.Period {
  /// A number that two snapshots share if they lie in the same hour, day, week, month or year.
  fileprivate func mark(_ snapshot: Snapshot) -> Int64 {
    let (date, hour) = snapshot.time.civil(utcOffsetSeconds: snapshot.utcOffsetSeconds)
    switch self {
    case .hourly: return ((date.year * 100 + date.month) * 100 + date.day) * 100 + hour
    case .daily: return (date.year * 100 + date.month) * 100 + date.day
    case .weekly: return date.week.year * 100 + date.week.number
    case .monthly: return date.year * 100 + date.month
    case .yearly: return date.year
    }
  }
}

extension Snapshot {
  package func has(tags wanted: [String]) -> Bool { wanted.allSatisfy { tags.contains($0) } }
}

/// Years, months, days and hours, as in `1y5m7d2h`.
package struct CalendarDuration: Hashable, Sendable, CustomStringConvertible {
  package var years: Int64 = 0
  package var months: Int64 = 0
  package var days: Int64 = 0
  package var hours: Int64 = 0

  package init() {}

  /// - Returns: `nil` for what is no such duration, or is none at all.
  package init?(_ text: some StringProtocol) {
    var number = ""
    for character in text {
      if character.isASCII, character.isNumber {
        number.append(character)
        continue
      }
      guard number.count <= 6, let value = Int64(number) else { return nil }
      number = ""
      switch character {
      case "y": years += value
      case "m": months += value
      case "d": days += value
      case "h": hours += value
      default: return nil
      }
    }
    guard number.isEmpty, self != CalendarDuration() else { return nil }
  }

  package var description: String {
    [(years, "y"), (months, "m"), (days, "d"), (hours, "h")].filter { $0.0 != 0 }.map { "\($0.0)\($0.1)" }.joined()
  }

  /// That long before a snapshot, by the calendar of the machine that made it.
  func before(_ snapshot: Snapshot) -> Timestamp {
    let offset = snapshot.utcOffsetSeconds
    let local = snapshot.time.nanoseconds + offset * 1_000_000_000
    let day: Int64 = 86_400_000_000_000
    let date = snapshot.time.civil(utcOffsetSeconds: offset).date
    let timeOfDay = local - date.days * day
    let before = date.before(years: years, months: months, days: days).days
    let (scaled, overflow) = before.multipliedReportingOverflow(by: day)
    if overflow { return Timestamp(nanoseconds: .min) }
    return Timestamp(nanoseconds: scaled &+ timeOfDay &- (offset + hours * 3600) * 1_000_000_000)
  }
}
