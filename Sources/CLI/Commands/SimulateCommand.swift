import ArgumentParser
import Catalog
import Console
import Core
import Failover
import Foundation
import IO
import Runtime

struct SimulateCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "simulate", abstract: "Try a policy against failures, by the thousand, with the agents' own code.",
    discussion: """
      Hosts, engines, agents, network and lease store are simulated; the decisions are not. Exits with 1 if a promise was \
      broken. The same seed is the same run, on however many cores.

      EXAMPLES
        salvor failover simulate --policy bank.json --runs 10000
        salvor failover simulate --policy bank.json --seed 4711 --runs 1 --trace
        salvor failover simulate --policy bank --compare bank-with-witness.yaml
        salvor failover simulate --standard --runs 50000
        salvor failover simulate --policy bank.json --without fence-before-promote
      """)

  @Option(help: "The failover policy: its name in the catalog, or a YAML or JSON file.") var policy: String?
  @Option(help: "Another one, run against the same failures: what a change would do.") var compare: String?
  @Flag(help: "The twenty topologies that the tests use, instead of a policy.") var standard = false
  @Option(help: "Runs; each has one to seven faults.") var runs = 1000
  @Option(help: "Seed of the first run.") var seed: UInt64 = 1
  @Option(help: "Milliseconds from one host to another.") var delay = 1
  @Flag(help: "Only what must not move service.") var noise = false
  @Option(help: "Take a protection away, to see what it is for.") var without: [String] = []
  @Flag(help: "Say what happens.") var trace = false
  @Option(help: "Runs at a time (default: one per processor).") var jobs: Int?
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  struct Result: Encodable {
    var reports: [SimulationReport]
  }

  func validate() throws {
    guard (1...10_000_000).contains(runs) else { throw ValidationError("--runs must be 1 to 10000000") }
    guard (0...10_000).contains(delay) else { throw ValidationError("--delay must be 0 to 10000") }
    guard (policy == nil) == standard else { throw ValidationError("give --policy, or --standard") }
    guard compare == nil || !standard else { throw ValidationError("--compare compares with --policy") }
    guard (1...1024).contains(jobs ?? 1) else { throw ValidationError("--jobs must be 1 to 1024") }
    for name in without where !Protections.names.contains(where: { $0.name == name }) {
      throw ValidationError(
        "there is no protection '\(name)'; there is \(Protections.names.map(\.name).joined(separator: ", "))")
    }
  }

  func run() async throws {
    var options = FailoverSimulation.Options()
    (options.onlyNoise, options.isTraced, options.replays) = (noise, trace, true)
    for (name, protection) in Protections.names where without.contains(name) { options.protections.remove(protection) }
    var reports: [SimulationReport] = []
    if standard { reports.append(try await report("standard", SimulatedTopology.standard, options)) }
    for text in [policy, compare].compactMap(\.self) {
      var found = try await PolicyFiles.load(text, catalog: system.catalogPath, pool: system.host.pool)
      // Nobody is there to say yes, and what is asked is what would happen.
      if found.consent != .autoBounded { found.consent = .autoZeroLoss }
      found.isInMaintenance = false
      (found.freezes, found.weeklyFreezes, found.context, found.checks) = ([], [], .init(), [])
      let topology = SimulatedTopology(
        name: found.name.text, policy: found, delayMicroseconds: Int64(max(delay, 0)) * 1000)
      reports.append(try await report(text, [topology], options))
    }
    let result = Result(reports: reports)
    try output.show(result) { _ in SimulationText.lines(result.reports) }
    if result.reports.contains(where: { $0.brokenPromises > 0 }) { throw ExitStatus.failed }
  }

  private func report(
    _ name: String, _ topologies: [SimulatedTopology], _ options: FailoverSimulation.Options
  ) async throws -> SimulationReport {
    let host = system.host
    let shows = !output.quiet && !trace && isatty(2) == 1
    let began = host.time.monotonicNanoseconds()
    var shown = began
    let summary = try await SimulationSummary.run(
      topologies, from: seed, count: runs, options,
      workers: jobs ?? ProcessInfo.processInfo.activeProcessorCount
    ) { lines, done in
      for line in lines { standardError(line + "\n") }
      let now = host.time.monotonicNanoseconds()
      if shows, now - shown > 500_000_000 {
        shown = now
        let left = Duration.nanoseconds((now - began) / Int64(done) * Int64(runs - done))
        standardError("\r\u{1B}[K\(name): \(done) of \(runs) runs, \(left.brief) to go")
      }
    }
    if shown != began { standardError("\r\u{1B}[K") }
    return SimulationReport(summary, of: name)
  }
}

enum SimulationText {
  static func lines(_ reports: [SimulationReport]) -> [String] {
    guard reports.count == 2 else { return reports.flatMap { one($0) } }
    return reports.flatMap { one($0) + [""] } + difference(reports[0], reports[1])
  }

  private static func one(_ report: SimulationReport) -> [String] {
    var lines = [
      "\(report.policy): \(report.runs.of("run")), \(report.failures.of("failure")), \(report.failovers.of("failover")), \(report.decisionsReplayed) decisions replayed",
      "acknowledged \(report.acknowledged), lost \(report.lost), split brains \(report.splitBrains)",
      "without an acknowledgement: \(spread(report.outage))",
    ]
    lines += histogram(report.outage)
    lines.append("lost work: \(spread(report.loss))")
    if report.loss.longest > 0 { lines += histogram(report.loss) }
    lines.append("broken promises: \(report.brokenPromises)")
    return lines + report.examples.map { "  \($0)" }
  }

  private static func brief(_ milliseconds: Int64) -> String { Duration.milliseconds(milliseconds).brief }

  private static func spread(_ values: Distribution) -> String {
    [("median", values.median), ("p90", values.p90), ("p99", values.p99), ("longest", values.longest)]
      .map { "\($0) \(brief($1))" }.joined(separator: ", ")
  }

  static func histogram(_ values: Distribution) -> [String] {
    let most = max(1, values.bins.map(\.count).max() ?? 1)
    return values.bins.map { bin in
      let label = bin.atMost.map { $0 == 0 ? "none" : "up to \(brief($0))" } ?? "longer"
      let length = bin.count == 0 ? 0 : max(1, bin.count * 40 / most)
      let bar = String(repeating: "#", count: length)
      return "  \(label.padded(to: 14))\(String(bin.count).padded(to: 8, right: true))  \(bar)"
    }
  }

  private static func difference(_ a: SimulationReport, _ b: SimulationReport) -> [String] {
    func row(_ what: String, _ left: String, _ right: String) -> String {
      "  \(what.padded(to: 30))\(left.padded(to: 14, right: true))\(right.padded(to: 14, right: true))"
    }
    func time(_ what: String, _ path: KeyPath<SimulationReport, Int64>) -> String {
      row(what, brief(a[keyPath: path]), brief(b[keyPath: path]))
    }
    return [
      "the same failures, first and second policy:",
      row("failovers", "\(a.failovers)", "\(b.failovers)"), row("lost writes", "\(a.lost)", "\(b.lost)"),
      row("split brains", "\(a.splitBrains)", "\(b.splitBrains)"),
      row("broken promises", "\(a.brokenPromises)", "\(b.brokenPromises)"),
      time("without service, median", \.outage.median), time("without service, p90", \.outage.p90),
      time("without service, p99", \.outage.p99), time("without service, longest", \.outage.longest),
      time("lost work, longest", \.loss.longest),
    ]
  }
}

extension String {
  fileprivate func padded(to width: Int, right: Bool = false) -> String {
    let blanks = String(repeating: " ", count: max(0, width - count))
    return right ? blanks + self : self + blanks
  }
}
