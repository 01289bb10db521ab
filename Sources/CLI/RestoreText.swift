import Console
import Core
import Planning
import Runtime
import StateKit

/// A plan, for people.
enum PlanText {
  static func lines(_ prepared: Restore.Prepared, _ style: Style) -> [String] {
    let plan = prepared.plan
    var lines: [String] = []
    for rejected in prepared.rejected {
      lines.append(style.paint("not \(rejected.id): \(rejected.why.harmless)", .warning))
    }
    lines.append(
      "point \(style.paint(plan.pointID, .strong)) of \(plan.pointTime.format(fractionDigits: 3)), "
        + "\(plan.services.count.of("service")), \(plan.stores.count.of("store"))")
    for forward in prepared.input.forwards {
      let target: String =
        switch forward.target {
        case .newest: forward.time.map { "what was durable at \($0.format(fractionDigits: 3))" } ?? "\(forward.through)"
        case .time(let time): time.format(fractionDigits: 3)
        case .name(let name): "the restore point '\(name.harmless)'"
        case .transaction(let id): "transaction \(id.harmless)"
        }
      lines.append("then \(forward.store) goes on along its log to \(style.paint(target, .strong))")
    }
    lines += plan.refusals.map { style.paint("refused \($0.description.harmless)", .bad) }
    lines += plan.warnings.map { style.paint("warning \($0.description.harmless)", .warning) }
    guard !plan.steps.isEmpty else { return lines }
    let critical = Set(plan.criticalPath.steps)
    var table = Table([.init("wave", .right), .init("step"), .init("predicted", .right), .init("basis")])
    for step in plan.steps {
      let mark = critical.contains(step.id) ? style.paint("*", .strong) : " "
      table.add(
        "\(step.wave)", "\(mark) \(step.id)", step.predictedSeconds.map { Duration.seconds($0).brief } ?? "?",
        style.paint(step.basis, .faint))
    }
    lines += table.lines(style)
    let unknown = plan.criticalPath.unknownSteps
    lines.append(
      "critical path (*): "
        + (unknown == plan.criticalPath.steps.count
          ? "no history yet"
          : Duration.seconds(plan.criticalPath.seconds).brief
            + (unknown > 0 ? ", and \(unknown.of("step")) with no history yet" : "")))
    var services = Table([.init("service"), .init("predicted", .right), .init("rto", .right), .init("verdict")])
    for prediction in plan.predictions {
      let tone: Style.Tone =
        switch prediction.verdict {
        case .met: .good
        case .missed: .bad
        case .unknown, .none: .faint
        }
      services.add(
        prediction.service.text,
        prediction.isComplete ? Duration.seconds(prediction.seconds).brief : "no history yet",
        prediction.rtoSeconds.map { Duration.seconds($0).brief } ?? "-", style.paint(prediction.verdict.rawValue, tone))
    }
    return lines + services.lines(style)
  }
}

/// What a restore came to, for people and for the exit status.
package enum OutcomeText {
  static func show(_ outcome: RestoreOutcome, _ output: OutputOptions) throws {
    try output.show(outcome) { style in lines(outcome, style) }
    let status = ExitStatus(outcome)
    if status != .done { throw status }
  }

  package static func lines(_ outcome: RestoreOutcome, _ style: Style) -> [String] {
    var lines = ["\(style.paint(outcome.run.text, .strong))  \(paint(outcome.state, style))"]
    if let failure = outcome.failure { lines.append(style.paint(failure.description.harmless, .bad)) }
    lines += outcome.gatesRetried.map { style.paint("gate \($0.harmless)", .warning) }
    for comparison in outcome.comparisons where !comparison.isCompared {
      lines.append(
        "\(style.paint("not compared", .warning))  \(comparison.store)  no digest of its content was recorded at the mark; "
          + "its engine's own checks passed")
    }
    for check in outcome.checks {
      let tone: Style.Tone =
        switch check.verdict {
        case .passed: .good
        case .warned: .warning
        case .failed, .couldNotCheck: .bad
        }
      lines.append("\(style.paint(check.verdict.rawValue, tone))  \(check.name)  \(check.summary.harmless)")
    }
    lines += objectives(outcome.services, style)
    lines.append("evidence \(outcome.evidence)")
    return lines + next(outcome).map { style.paint($0, .faint) }
  }

  /// What is left to decide.
  private static func next(_ outcome: RestoreOutcome) -> [String] {
    switch outcome.state {
    case .succeeded:
      [
        "the old state is kept: `salvor run rollback \(outcome.run)` puts it back, "
          + "`salvor run release \(outcome.run)` frees its space"
      ]
    case .rolledBack where outcome.failure?.code != "RESTORE-102":
      ["what was restored is kept beside the live state: `salvor run release \(outcome.run)` frees its space"]
    case .failed, .rollbackFailed:
      ["`salvor run show \(outcome.run)` tells how far it got; `salvor run resume \(outcome.run)` tries again"]
    default: []
    }
  }

  /// Objective beside measure, per service.
  package static func objectives(_ services: [ServiceMeasurement], _ style: Style) -> [String] {
    var table = Table([
      .init("service"), .init("rpo asked", .right), .init("rpo measured", .right), .init("rto asked", .right),
      .init("rto measured", .right),
    ])
    func cell(_ seconds: Double?, _ verdict: ServiceMeasurement.Verdict) -> String {
      let text = seconds.map { Duration.seconds($0).brief } ?? "-"
      return switch verdict {
      case .met: style.paint(text, .good)
      case .missed: style.paint(text + " missed", .bad)
      case .unknown: style.paint("unknown", .bad)
      case .none: text
      }
    }
    for service in services {
      table.add(
        service.service.text, service.rpoObjectiveSeconds.map { Duration.seconds($0).brief } ?? "-",
        service.rpoSeconds == nil ? "-" : cell(service.rpoSeconds, service.rpoVerdict),
        service.rtoObjectiveSeconds.map { Duration.seconds($0).brief } ?? "-",
        cell(service.rtoSeconds, service.rtoVerdict))
    }
    return table.lines(style)
  }

  static func paint(_ state: RunState, _ style: Style) -> String {
    switch state {
    case .succeeded, .released: style.paint(state.rawValue, .good)
    case .failed, .rollbackFailed: style.paint(state.rawValue, .bad)
    case .rolledBack, .rollingBack, .abandoned: style.paint(state.rawValue, .warning)
    case .pending, .running: state.rawValue
    }
  }
}
