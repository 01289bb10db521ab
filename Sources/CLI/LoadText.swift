import Catalog
import Console
import Core
import Load

/// Workflows and what came of them, for people.
enum LoadTexts {
  static func load(_ load: LoadWorkflow.Load) -> String {
    var words = [load.rate.map { "\($0.text), at most \(load.users.of("user"))" } ?? load.users.of("user")]
    if let duration = load.duration { words.append("for \(duration.brief)") }
    if let iterations = load.iterations { words.append("at most \(iterations.of("run"))") }
    if load.warmUp > .zero { words.append("after \(load.warmUp.brief) that don't count") }
    return words.joined(separator: ", ")
  }

  static func lines(_ workflow: LoadWorkflow, _ style: Style) -> [String] {
    var lines = ["\(workflow.name) \(workflow.effects.rawValue), \(load(workflow.load))"]
    if let description = workflow.description { lines.append("  \(description.harmless)") }
    for step in workflow.steps {
      switch step.action {
      case .http(let request): lines.append("  \(step.name): \(request.method.rawValue) \(request.url.harmless)")
      case .exec(let command): lines.append("  \(step.name): \(command.words.joined(separator: " ").harmless)")
      }
    }
    for percentile in LoadWorkflow.Bounds.Percentile.allCases {
      guard let limit = workflow.bounds.latencies[percentile] else { continue }
      lines.append("  \(percentile.rawValue) at most \(limit.brief)")
    }
    lines.append("  at most \(LoadReport.percent(Double(workflow.bounds.failedPerMillion) / 1_000_000)) may fail")
    return lines
  }

  static func lines(_ report: LoadReport, _ style: Style) -> [String] {
    let verdict = report.isPassed ? style.paint("passed", .good) : style.paint("failed", .bad)
    var lines = ["\(report.workflow) \(verdict): \(report.summary)"]
    var table = Table([
      .init("step"), .init("passed", .right), .init("failed", .right), .init("p50", .right), .init("p90", .right),
      .init("p95", .right), .init("p99", .right), .init("max", .right),
    ])
    func add(_ name: String, _ passed: Int64, _ failed: Int64, _ latency: LoadReport.Latency?) {
      let figures =
        latency.map { [$0.p50, $0.p90, $0.p95, $0.p99, $0.max].map { LoadReport.brief($0) } }
        ?? Array(repeating: "", count: 5)
      table.add([name, "\(passed)", "\(failed)"] + figures)
    }
    for step in report.steps { add(step.name.text, step.passed, step.failed, step.latency) }
    add("all", report.passed, report.failed, report.latency)
    lines += table.lines(style).map { "  " + $0 }
    for failure in report.failures.prefix(10) {
      lines.append("  \(failure.count) × \(failure.step): \(failure.why.harmless)")
    }
    for violation in report.violations {
      lines.append("  " + style.paint("not as expected", .bad) + " \(violation.harmless)")
    }
    if report.isStoppedEarly { lines.append("  stopped early: more than half failed") }
    if report.late > 0 {
      lines.append("  \(report.late) began late: all \(report.users.of("user")) were busy; the wait is in the figures")
    }
    lines.append(
      "  \(Duration.nanoseconds(report.durationNanoseconds).brief), seed \(report.seed)"
        + (report.uncounted > 0 ? ", \(report.uncounted) in the warm-up" : ""))
    return lines
  }
}
