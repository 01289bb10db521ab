import ArgumentParser
import Catalog
import Console
import Core
import Reconciliation
import Runtime

struct ReconcileCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "reconcile",
    abstract: "Compare stores by key, propose what would set them right, and do what was consented to.",
    discussion: """
      Without a subcommand: find. Nothing is changed but by 'apply', and that carries out exactly what was reviewed.

      EXAMPLES
        salvor reconcile
        salvor reconcile propose 3f9a1c0b77de --to review
        salvor reconcile apply 3f9a1c0b77de --consent DIGEST
      """,
    subcommands: [
      ReconcileFindCommand.self, ReconcileListCommand.self, ReconcileShowCommand.self, ReconcileProposeCommand.self,
      ReconcileApplyCommand.self, ReconcileHistoriesCommand.self,
    ], defaultSubcommand: ReconcileFindCommand.self)
}

struct ReconcileFindCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "find", abstract: "Compare stores by the catalog's rules and invariants; keep what was found.",
    discussion: """
      What is live is compared, or with --point the copies of a recovery point, brought back beside for it. Of what is \
      live, rows as new as the question and a rule's 'skew' are in flight, and no finding.

      Exit status 4 if something was found.

      EXAMPLES
        salvor reconcile
        salvor reconcile find --rule statements-of-transfers --since 2026-11-21T08:00:00Z
        salvor reconcile find --point latest -o json
      """)

  @Option(help: "A rule or invariant, as named in the catalog; may be repeated (default: all).") var rule: [String] = []
  @Option(help: "Compare the copies of this recovery point; 'latest' for the newest.") var point: String?
  @Flag(help: "Compare what is live; the usual.") var live = false
  @Option(help: "Only rows from this time on, by a rule's 'time'.") var since: String?
  @Option(help: "Only rows before this time.") var until: String?
  @Option(help: "How many findings are listed; all are counted.") var limit = 100_000
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    guard point == nil || !live else { throw ValidationError("--point and --live exclude each other") }
    guard limit >= 0 else { throw ValidationError("--limit is a number from 0") }
    var request = Reconcile.Request()
    (request.rules, request.limit) = (Set(rule), limit)
    if let point { request.moment = .point(point) }
    (request.from, request.to) = (try since.map(parseTime), try until.map(parseTime))
    let managed = try await system.load()
    let display = ProgressDisplay(output, managed.host)
    let report = try await Reconcile(managed, journal: try await system.journal()).find(request) {
      display.line.show("reconcile", $0)
    }
    display.line.clear()
    try output.show(report) { style in ReconcileText.lines(report, style, examples: 10) }
    if report.found > 0 { throw ExitStatus.validationFailed }
  }
}

struct ReconcileListCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list", abstract: "List reports that were kept, oldest first.",
    discussion: "EXAMPLE\n  salvor reconcile list")

  struct Line: Encodable {
    var id: String
    var at: Timestamp
    var source: String
    var found: Int64
    var rules: Int
  }

  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    let lines = try await Reconcile(managed, journal: try await system.journal()).reports().map {
      Line(id: $0.id, at: $0.at, source: $0.source, found: $0.found, rules: $0.rules.count)
    }
    try output.show(lines) { style in
      if lines.isEmpty { return ["nothing was reconciled yet"] }
      var table = Table([.init("report"), .init("at"), .init("of"), .init("rules", .right), .init("found", .right)])
      for line in lines {
        table.add(
          line.id, line.at.format(fractionDigits: 0), line.source, "\(line.rules)",
          style.paint("\(line.found)", line.found == 0 ? .good : .bad))
      }
      return table.lines(style)
    }
  }
}

struct ReconcileShowCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "show", abstract: "Show one report, with every finding that is listed.",
    discussion: "EXAMPLE\n  salvor reconcile show 3f9a1c0b77de -o json")

  @Argument(help: "A report's id, or the end or beginning of one.") var id: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    let report = try await Reconcile(managed, journal: try await system.journal()).report(id)
    try output.show(report) { style in ReconcileText.lines(report, style, examples: .max) }
  }
}

struct ReconcileProposeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "propose", abstract: "Write what would set a report's findings right, to be reviewed.",
    discussion: """
      One script for each store, each statement guarded by what was seen; 'by-hand.txt' lists what nothing is proposed \
      for, and why; 'manifest.json' has the digest consent is given to. Changes nothing.

      EXAMPLE
        salvor reconcile propose 3f9a1c0b77de --to review
      """)

  struct View: Encodable {
    var report: String
    var digest: String
    var corrections: Int
    var unproposed: Int
  }

  @Argument(help: "A report's id, or the end or beginning of one.") var id: String
  @Option(name: .customLong("to"), help: "A directory that is not there yet.") var directory: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    let reconcile = Reconcile(managed, journal: try await system.journal())
    let proposal = try await reconcile.propose(id)
    try await reconcile.write(proposal, to: absolute(directory))
    let view = View(
      report: proposal.report, digest: try proposal.digest().hex, corrections: proposal.corrections.count,
      unproposed: proposal.unproposed.count)
    try output.show(view) { style in
      [
        "\(view.corrections.of("correction")) in \(directory), \(view.unproposed) to be settled by hand",
        "review them, then: salvor reconcile apply \(view.report) --consent \(view.digest)",
      ]
    }
  }
}

struct ReconcileApplyCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "apply", abstract: "Carry out what was proposed and reviewed.",
    discussion: """
      Each correction acts only if the state is still what was seen. Interrupted at any moment, the same command goes on \
      where it was.

      Exit status 3 if some were left or refused, 6 if the digest is not that of the proposal.

      EXAMPLE
        salvor reconcile apply 3f9a1c0b77de --consent DIGEST
      """)

  @Argument(help: "A report's id, or the end or beginning of one.") var id: String
  @Option(help: "The digest of what was reviewed, from its manifest.") var consent: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    let display = ProgressDisplay(output, managed.host)
    let outcome = try await Reconcile(managed, journal: try await system.journal()).apply(id, consent: consent) {
      display.line.show("reconcile", $0)
    }
    display.line.clear()
    try output.show(outcome) { style in ReconcileText.lines(outcome, style) }
    if !outcome.left.isEmpty || !outcome.refused.isEmpty { throw ExitStatus.incomplete }
  }
}

struct ReconcileHistoriesCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "histories",
    abstract: "Compare two states of one store by key: what is only here, only there, or changed.",
    discussion: """
      A state is 'live', a recovery point, 'latest', or a time that the store's log leads to. Copies are brought back \
      beside for it, and given up.

      Exit status 4 if they differ.

      EXAMPLES
        salvor reconcile histories ledger-db latest live
        salvor reconcile histories ledger-db 3f9a1c0b77de 2026-11-21T08:00:00Z -o json
      """)

  @Argument(help: "A store.") var store: String
  @Argument(help: "The one state.") var left: String
  @Argument(help: "The other.") var right: String
  @Option(help: "How many differences are listed; all are counted.") var limit = 100_000
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    guard let name = try parseStores([store]).first else { return }
    let managed = try await system.load()
    let display = ProgressDisplay(output, managed.host)
    let report = try await Reconcile(managed, journal: try await system.journal()).histories(
      of: name, StoreMoment(left), StoreMoment(right), limit: limit
    ) { display.line.show("histories", $0) }
    display.line.clear()
    try output.show(report) { style in ReconcileText.lines(report, style) }
    if report.found > 0 || report.tables.contains(where: { $0.note != nil }) { throw ExitStatus.validationFailed }
  }
}

/// Reports, for people.
enum ReconcileText {
  static func lines(_ report: ReconciliationReport, _ style: Style, examples: Int) -> [String] {
    var table = Table([
      .init("rule"), .init("left"), .init("rows", .right), .init("right"), .init("rows", .right), .init("found"),
      .init("in flight", .right), .init("outside", .right),
    ])
    for rule in report.rules {
      let found = rule.counts.sorted { $0.key < $1.key }.map { "\($0.value) \($0.key)" }.joined(separator: ", ")
      table.add(
        rule.rule.text, rule.leftStore.text, "\(rule.leftRows)", rule.rightStore.text, "\(rule.rightRows)",
        found.isEmpty ? style.paint("nothing", .good) : style.paint(found, .bad), "\(rule.inFlight)",
        "\(rule.outside + rule.undated)")
    }
    var lines = table.lines(style)
    for finding in report.findings.prefix(examples) {
      lines.append(
        "\(finding.rule) \(style.paint(finding.kind.rawValue, .bad)): "
          + finding.key.map { $0.harmless.cut(to: 60) }.joined(separator: " | "))
    }
    if report.findings.count > examples { lines.append("and \(report.findings.count - examples) more") }
    if report.rules.contains(where: \.isCut) { lines.append("the list is cut; the counts are not") }
    lines.append("report \(report.id), of \(report.source) at \(report.at.format(fractionDigits: 0))")
    return lines
  }

  static func lines(_ outcome: CorrectionOutcome, _ style: Style) -> [String] {
    var lines = [
      "\(outcome.made) made, \(outcome.settled) settled already, \(outcome.left.count) left, \(outcome.refused.count) refused",
      "found before: \(outcome.before), after: "
        + style.paint("\(outcome.after)", outcome.after == 0 ? .good : .warning),
    ]
    for (word, some) in [("left", outcome.left), ("refused", outcome.refused)] {
      for line in some.prefix(20) {
        let key = line.key.map { $0.harmless.cut(to: 60) }.joined(separator: " | ")
        lines.append("\(style.paint(word, .warning)) \(line.correction) \(key): \(line.why.harmless)")
      }
    }
    return lines
  }

  static func lines(_ report: HistoryReport, _ style: Style) -> [String] {
    var table = Table([
      .init("table"), .init("key"), .init(report.left.cut(to: 30), .right), .init(report.right.cut(to: 30), .right),
      .init("only left", .right), .init("only right", .right), .init("changed", .right), .init(""),
    ])
    for line in report.tables {
      table.add(
        line.name.harmless, line.key.joined(separator: ", ").harmless, "\(line.leftRows)", "\(line.rightRows)",
        "\(line.onlyLeft)", "\(line.onlyRight)", "\(line.changed)", (line.note ?? "").harmless)
    }
    var lines = table.lines(style)
    for difference in report.differences.prefix(20) {
      let key = difference.key.map { $0.harmless.cut(to: 60) }.joined(separator: " | ")
      lines.append("\(difference.table.harmless) \(style.paint(difference.kind.rawValue, .warning)): \(key)")
    }
    if report.differences.count > 20 { lines.append("and \(report.differences.count - 20) more: say -o json") }
    return lines
  }
}
