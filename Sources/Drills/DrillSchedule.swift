import Catalog
import Core

/// When a drill is due. Pure: chance comes from the drill's name and the moment, so that every process finds the same.
package struct DrillDue: Sendable, Equatable, Codable {
  package var drill: DrillName
  package var last: Timestamp?
  /// `nil`: only when somebody asks.
  package var next: Timestamp?
  package var isDue: Bool

  /// - Parameters:
  ///   - began: When the newest drill of this name began, whatever came of it; one that was interrupted did not begin.
  ///   - since: When counting starts for one that never ran.
  package init(_ drill: Drill, began: Timestamp?, since: Timestamp, now: Timestamp) {
    (self.drill, last) = (drill.name, began)
    guard let schedule = drill.schedule else {
      isDue = false
      return
    }
    let base = schedule.next(after: began ?? since)
    let jitter = drill.jitter.wholeNanoseconds
    let moment = base.map { base -> Timestamp in
      guard jitter > 0 else { return base }
      let seed = Digest.of("\(drill.name) \(base)").hex.prefix(16)
      let draw = SeededRandomness(seed: UInt64(seed, radix: 16) ?? 0).next()
      return base + .nanoseconds(Int64(draw % UInt64(jitter)))
    }
    next = moment
    isDue = moment.map { $0 <= now } ?? false
  }
}

extension BackupPolicy.Schedule {
  /// The first moment after `moment`; `nil` if there is none within five years, such as on 30 February.
  package func next(after moment: Timestamp) -> Timestamp? {
    switch self {
    case .every(let period): return moment + period
    case .cron(let text):
      let fields = text.split(separator: " ").map { CronField(String($0)) }
      guard fields.count == 5 else { return nil }
      var minute = moment.nanoseconds.flooredMinutes + 1
      let end = minute + 5 * 366 * 1440
      while minute < end {
        let (day, ofDay) = (minute.flooredDays, Int(minute - minute.flooredDays * 1440))
        let date = CivilDate(days: day)
        let weekday = Int(((day + 4) % 7 + 7) % 7)
        // As cron does: where both are given, one that fits is enough.
        let inMonth = fields[2].contains(Int(date.day))
        let inWeek = fields[4].contains(weekday) || (weekday == 0 && fields[4].contains(7))
        let fits = fields[2].isAny ? inWeek : fields[4].isAny ? inMonth : inMonth || inWeek
        guard fits, fields[3].contains(Int(date.month)) else {
          minute = (day + 1) * 1440
          continue
        }
        if fields[1].contains(ofDay / 60), fields[0].contains(ofDay % 60) {
          return Timestamp(seconds: minute * 60)
        }
        minute += 1
      }
      return nil
    }
  }
}

extension Int64 {
  fileprivate var flooredMinutes: Int64 { floored(by: 60_000_000_000) }
  fileprivate var flooredDays: Int64 { floored(by: 1440) }

  private func floored(by divisor: Int64) -> Int64 {
    let (quotient, remainder) = quotientAndRemainder(dividingBy: divisor)
    return remainder < 0 ? quotient - 1 : quotient
  }
}

/// One field of cron: `*`, lists, ranges and steps of numbers. The catalog has checked its form.
private struct CronField {
  private var items: [(low: Int, high: Int, step: Int)] = []
  let isAny: Bool

  init(_ text: String) {
    isAny = text == "*"
    for item in text.split(separator: ",") {
      let halves = item.split(separator: "/")
      let step = halves.count == 2 ? Int(halves[1]) ?? 1 : 1
      if halves.first == "*" {
        items.append((0, 99, max(1, step)))
        continue
      }
      let ends = (halves.first ?? "").split(separator: "-").compactMap { Int($0) }
      guard let low = ends.first else { continue }
      items.append((low, ends.count == 2 ? ends[1] : halves.count == 2 ? 99 : low, max(1, step)))
    }
  }

  func contains(_ value: Int) -> Bool {
    items.contains { value >= $0.low && value <= $0.high && (value - $0.low).isMultiple(of: $0.step) }
  }
}
