import ArgumentParser
import Console
import Core
import IO
import Runtime
import Validation

struct CompatCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compat", abstract: "Try a release's migrations on what a backup holds.",
    discussion: """
      Brings the point's copies back beside, behind servers that nobody else can reach, migrates them as release.yaml \
      says, asks what must work afterwards, and throws them away. The system is not touched.

      Exit status 1 if the backup would not come back under this release.

      EXAMPLES
        salvor compat --release ./release
        salvor compat --release ./release --point 20261121T080920Z-3fa9c1d2 --junit compat.xml
        salvor compat --release ./release --store ledger-data -o json
      """)

  @Option(help: "The release's directory, with a release.yaml.", completion: .directory) var release: String
  @Option(help: "A point's id, its beginning, or its name (default: the newest good one).") var point: String?
  @Option(help: "Only this store of the release's; can be given again.") var store: [String] = []
  @Option(help: "Write a report for pipelines here.", completion: .file(extensions: ["xml"])) var junit: String?
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    let stores = try parseStores(store)
    let display = ProgressDisplay(output, managed.host)
    let report = try await CompatRun(managed).run(release: absolute(release), point: point, stores: stores) {
      display.line.show("compat", $0)
    }
    display.line.clear()
    if let junit {
      try await managed.host.pool.run { () throws(SystemFailure) in
        try Files.replace(absolute(junit), with: Array(report.junit.utf8), mode: 0o644)
      }
    }
    try output.show(report) { style in lines(report, style) }
    if !report.isCompatible { throw ExitStatus.failed }
  }

  private func lines(_ report: CompatReport, _ style: Style) -> [String] {
    let verdict =
      report.isCompatible
      ? style.paint("would come back", .good) : style.paint("would not come back", .bad)
    var lines = [
      "point \(report.point) of \(report.pointTime.format(fractionDigits: 0)) \(verdict) under release \(report.release.harmless)"
    ]
    for store in report.stores {
      var versions = ""
      if let before = store.versionBefore {
        versions = ", schema \(before.harmless)" + (store.versionAfter.map { " → \($0.harmless)" } ?? "")
      }
      lines.append("  \(store.store)\(versions)")
      lines += store.cases.map { self.line($0, style) }
    }
    if !report.invariants.isEmpty { lines += ["  invariants"] + report.invariants.map { line($0, style) } }
    return lines + [
      "  \(Duration.nanoseconds(report.nanoseconds).brief); the copies are gone, the system was not touched"
    ]
  }

  private func line(_ one: CompatReport.Case, _ style: Style) -> String {
    let mark =
      switch one.outcome {
      case .passed: style.paint("✓", .good)
      case .failed: style.paint("✗", .bad)
      case .skipped: "–"
      }
    var text = "    \(mark) \(one.kind) \(one.name.harmless)"
    if one.nanoseconds > 0 { text += " (\(Duration.nanoseconds(one.nanoseconds).brief))" }
    if one.outcome == .failed, let place = one.place { text += " at \(place.harmless)" }
    if let message = one.message, !message.isEmpty { text += ": \(message.harmless)" }
    return text
  }
}
