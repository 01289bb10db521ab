import ArgumentParser
import Console
import Core
import Runtime
import Validation

struct CompareCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compare",
    abstract: "Compare what a point brings back with its mark, with what is live, or with another.",
    discussion: """
      The point's copies are brought back beside, read whole, and thrown away. With --live, every table is the same, \
      changed since, gone or new, and whatever is laid out otherwise is named. A live system that goes on is seen at one \
      moment of each database.

      Exit status 0 if tables are the same, or only went on; 4 if something is gone, new or laid out otherwise, or if \
      what came back is not what was captured; 3 if a store could not be compared.

      EXAMPLES
        salvor compare
        salvor compare --live ledger-data
        salvor compare --point 20261121T080920Z-3fa9c1d2 --with 20261122T -o json
      """)

  @Argument(help: "Stores (default: all).") var stores: [String] = []
  @Option(help: "A point's id, its beginning, or its name (default: the newest good one).") var point: String?
  @Flag(help: "With what is live.") var live = false
  @Option(help: "With another point.") var with: String?
  @Option(help: "How long reading one live store may take.") var within = "10m"
  @Flag(help: "What changed counts as different: for systems that are at rest.") var exact = false
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    guard !live || with == nil else { throw ValidationError("compare with what is live, or with another point") }
    guard let limit = Duration(text: within), limit > .zero else {
      throw ValidationError("'\(within)' is not a duration such as 10m")
    }
    let managed = try await system.load()
    let display = ProgressDisplay(output, managed.host)
    let reference: CompareRun.Reference = live ? .live(within: limit) : with.map { .point($0) } ?? .mark
    let report = try await CompareRun(managed).run(point: point, with: reference, stores: try parseStores(stores)) {
      display.line.show("compare", $0)
    }
    display.line.clear()
    try output.show(report) { style in lines(report, style) }
    switch report.verdict {
    case .same: break
    case .changed: if exact { throw ExitStatus.validationFailed }
    case .different: throw ExitStatus.validationFailed
    case .couldNotCompare: throw ExitStatus.incomplete
    }
  }

  private func lines(_ report: CompareReport, _ style: Style) -> [String] {
    var other = "its mark"
    if report.reference != "mark" {
      other = report.reference == "live" ? "what is live" : "point \(report.reference)"
      if let time = report.referenceTime { other += " of \(time.format(fractionDigits: 0))" }
    }
    var lines = ["point \(report.point) of \(report.pointTime.format(fractionDigits: 0)) beside \(other)"]
    for store in report.stores {
      lines.append("  \(store.store) \(paint(store.verdict, style))")
      lines.append("    what came back beside its mark: \(store.mark.summary.harmless)")
      if let problem = store.problem { lines.append("    \(problem.summary.harmless)") }
      if !store.tables.isEmpty {
        lines.append("    \(store.count(.same)) of \(store.tables.count.of("table")) the same")
      }
      for table in store.tables where table.state != .same {
        lines.append("    \(table.name.harmless): \(words(table))")
      }
      for name in store.schema { lines.append("    laid out otherwise: \(name.harmless)") }
    }
    return lines
  }

  private func words(_ table: CompareReport.Table) -> String {
    switch table.state {
    case .same: "the same"
    case .changed:
      table.count == table.referenceCount
        ? "\(table.count ?? 0) rows, with other content" : "\(table.count ?? 0) rows, then \(table.referenceCount ?? 0)"
    case .gone: "gone, with \(table.count ?? 0) rows"
    case .new: "new, with \(table.referenceCount ?? 0) rows"
    }
  }

  private func paint(_ verdict: CompareReport.Verdict, _ style: Style) -> String {
    switch verdict {
    case .same: style.paint("the same", .good)
    case .changed: style.paint("changed since", .warning)
    case .different: style.paint("different", .bad)
    case .couldNotCompare: style.paint("could not be compared", .warning)
    }
  }
}
