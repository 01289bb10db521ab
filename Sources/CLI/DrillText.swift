import Catalog
import Console
import Core
import Drills
import Runtime

/// Drills as people read them.
enum DrillTexts {
  static func due(_ catalog: Catalog, _ records: [DrillRecord], now: Timestamp) -> [DrillDue] {
    catalog.drills.map { drill in
      let own = records.filter { $0.drill == drill.name && $0.control == nil && $0.verdict != .aborted }
      // One that never ran is due at once.
      let since = now - .seconds(366 * 86_400)
      return DrillDue(drill, began: own.map(\.startedAt).max(), since: since, now: now)
    }
  }

  static func paint(_ verdict: DrillRecord.Verdict, _ style: Style) -> String {
    switch verdict {
    case .passed: style.paint(verdict.rawValue, .good)
    case .failed: style.paint(verdict.rawValue, .bad)
    case .couldNotRun, .aborted: style.paint(verdict.rawValue, .warning)
    }
  }

  static func lines(_ record: DrillRecord, _ style: Style) -> [String] {
    var lines = [
      "\(paint(record.verdict, style))  \(style.paint(record.drill.text, .strong))  \(record.level.rawValue)  "
        + "\(record.point.map { "point \($0.id)" } ?? "")  \(Duration.seconds(record.seconds).brief)  \(record.id)"
    ]
    if let control = record.control {
      lines.append("  planted \(control.fault.rawValue): \(control.planted.harmless)")
      lines.append("  \(control.outcome.rawValue)")
    }
    for finding in record.findings {
      lines.append("  \(finding.stage.rawValue): \(finding.code) \(finding.summary.harmless)")
    }
    let times = record.times.named.compactMap { name, seconds in
      seconds.map { "\(name) \(Duration.seconds($0).brief)" }
    }
    if !times.isEmpty { lines.append("  " + times.joined(separator: ", ")) }
    if record.control == nil, !record.results.isEmpty {
      var table = Table([
        .init("service"), .init("back after", .right), .init("predicted", .right), .init("objective", .right),
        .init(""),
      ])
      for result in record.results {
        table.add(
          result.service.text, brief(result.rtoSeconds), brief(result.predictedSeconds),
          brief(result.rtoObjectiveSeconds), result.missesObjective ? style.paint("missed", .bad) : "")
      }
      lines += table.lines(style).map { "  " + $0 }
    }
    for store in record.notCompared { lines.append("  not compared: \(store), nothing was recorded at its mark") }
    return lines
  }

  static func detail(_ record: DrillRecord, _ style: Style) -> [String] {
    var lines = [
      "seed: \(record.point.map { "\($0.seed)" } ?? "none"), \(record.checks) checks, \(record.compared) stores compared"
    ]
    lines += (record.workflows ?? []).map { "workflow \($0.harmless)" }
    var doors = Table("door", "tried, and")
    for attempt in record.attempts { doors.add(attempt.door.harmless, attempt.result) }
    if !record.attempts.isEmpty { lines += doors.lines(style) }
    var steps = Table([.init("step"), .init("took", .right), .init("bytes", .right)])
    for step in record.steps.sorted(by: { $0.seconds > $1.seconds }) {
      steps.add(step.step, Duration.seconds(step.seconds).brief, step.bytes.map { "\($0)" } ?? "")
    }
    if !record.steps.isEmpty { lines += steps.lines(style) }
    return lines
  }

  static func history(
    _ records: [DrillRecord], _ trends: [DrillTrend], _ predictions: PredictionScore, _ style: Style
  ) -> [String] {
    var table = Table([
      .init("drill"), .init("when"), .init("level"), .init("fault"), .init("verdict"), .init("took", .right),
      .init("why"),
    ])
    for record in records {
      table.add(
        record.drill.text, record.startedAt.format(fractionDigits: 0), record.level.rawValue,
        record.control?.fault.rawValue ?? "", paint(record.verdict, style), Duration.seconds(record.seconds).brief,
        record.findings.first.map { "\($0.code) \($0.summary.harmless)" } ?? "")
    }
    var lines = table.lines(style)
    guard !trends.isEmpty else { return lines }
    var times = Table([
      .init("service"), .init("drills", .right), .init("back after", .right), .init("before", .right), .init(""),
      .init("most of it"),
    ])
    for trend in trends {
      let share = trend.bottleneckShare.map { " (\(Int(($0 * 100).rounded())) %)" } ?? ""
      times.add(
        trend.service.text, "\(trend.runs)", brief(trend.newestSeconds), brief(trend.beforeSeconds),
        trend.isRegression ? style.paint("slower", .bad) : "", (trend.bottleneck ?? "") + share)
    }
    lines += [""] + times.lines(style)
    if let error = predictions.medianError {
      lines.append(
        "predictions: off by \(Int((error * 100).rounded())) % at the median of \(predictions.compared.of("restore"))")
    }
    return lines
  }

  static func score(_ score: DrillScore, _ style: Style) -> [String] {
    guard let share = score.share else { return ["nothing was planted yet: there is no score"] }
    var table = Table([
      .init("service"), .init("fault"), .init("planted", .right), .init("caught", .right),
      .init("other reason", .right), .init("missed", .right), .init("nothing to break", .right), .init("last"),
    ])
    for line in score.lines {
      table.add(
        line.service?.text ?? "-", line.fault.rawValue, "\(line.planted)", "\(line.caught)", "\(line.otherReason)",
        line.missed > 0 ? style.paint("\(line.missed)", .bad) : "0", "\(line.notApplicable)",
        line.last.format(fractionDigits: 0))
    }
    return table.lines(style) + ["\(score.caught) of \(score.planted) caught: \(Int((share * 100).rounded(.down))) %"]
  }

  static func brief(_ seconds: Double?) -> String { seconds.map { Duration.seconds($0).brief } ?? "-" }
}
