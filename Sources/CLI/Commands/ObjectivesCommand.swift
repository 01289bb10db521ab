import ArgumentParser
import Console
import Core
import Drills
import Runtime

struct ObjectivesCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "objectives",
    abstract:
      "Show what was asked of each service and domain, what is likely, what was measured, and until when it counts.",
    discussion: """
      RTO is predicted along the critical path, at the 95th percentile of what steps took in restores and drills. What was \
      never measured is unknown, and what was proven too long ago is unproven.

      Exit status 5 if an objective is missed.

      EXAMPLE
        salvor objectives
      """)

  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    let view = try await Objectives(managed, journal: try await system.journal()).view()
    try output.show(view) { style in
      var lines = table(view.services, "service", style)
      if !view.domains.isEmpty { lines += [""] + table(view.domains, "domain", style) }
      for line in view.services where !line.advice.isEmpty {
        lines += ["", "\(line.name) would be back sooner:"]
        lines += line.advice.map { "  \($0.change): \(Duration.seconds($0.gainSeconds).brief) sooner" }
      }
      return lines
    }
    if view.missesAny { throw ExitStatus.objectiveMissed }
  }

  private func table(_ lines: [Objectives.Line], _ what: String, _ style: Style) -> [String] {
    var table = Table([
      .init(what), .init("RPO asked", .right), .init("at worst", .right), .init("now", .right), .init(""),
      .init("RTO asked", .right), .init("predicted", .right), .init("measured", .right), .init(""), .init("proven"),
    ])
    for line in lines {
      table.add(
        line.name, DrillTexts.brief(line.rpoAskedSeconds), DrillTexts.brief(line.rpoPredictedSeconds),
        DrillTexts.brief(line.rpoNowSeconds), paint(line.rpoVerdict, style), DrillTexts.brief(line.rtoAskedSeconds),
        DrillTexts.brief(line.rtoPredictedSeconds), DrillTexts.brief(line.rtoMeasuredSeconds),
        paint(line.rtoVerdict, style),
        line.proof == .proven
          ? "until \(line.provenUntil?.format(fractionDigits: 0) ?? "")" : style.paint(line.proof.rawValue, .warning))
    }
    return table.lines(style)
  }

  private func paint(_ verdict: Objectives.Line.Verdict, _ style: Style) -> String {
    switch verdict {
    case .met: style.paint("met", .good)
    case .missed: style.paint("missed", .bad)
    case .unknown: style.paint("unknown", .warning)
    case .none: ""
    }
  }
}
