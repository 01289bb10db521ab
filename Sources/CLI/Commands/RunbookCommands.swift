import ArgumentParser
import Console
import Core
import Foundation
import IO
import Runbooks
import Runtime

struct RunbookCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "runbook",
    abstract: "Write down what to do when it happens, from catalog, plans and drills; and see whether it is still so.",
    subcommands: [
      RunbookWriteCommand.self, RunbookShowCommand.self, RunbookCheckCommand.self, RunbookDiffCommand.self,
      RunbookRollbackCommand.self, RunbookMatrixCommand.self,
    ])
}

/// Where the machine that the runbook is followed on keeps things.
struct RunbookOptions: ParsableArguments {
  @Option(help: "Where the catalog is on the machine that restores (default: where it is here).")
  var catalogPlace: String?

  @Option(help: "Where Salvor's state is on the machine that restores (default: where it is here).")
  var statePlace: String?

  func place(_ system: SystemOptions, _ kept: RunbookFacts.Place? = nil) -> RunbookFacts.Place {
    RunbookFacts.Place(
      catalog: catalogPlace ?? kept?.catalog ?? absolute(system.catalogPath),
      state: statePlace ?? kept?.state ?? system.host.stateDirectory, toolVersion: SalvorCommand.version)
  }
}

extension SystemOptions {
  /// Everything a runbook is made from.
  fileprivate func runbookFacts(_ place: RunbookFacts.Place) async throws -> RunbookFacts {
    let managed = try await load()
    return try await RunbookCollector(managed, journal: try await journal(), place: place).collect()
  }

  /// What the manifests alone say.
  fileprivate func manifestFacts(_ place: RunbookFacts.Place) async throws -> RunbookFacts {
    try RunbookCollector.manifests(try await CatalogFiles.load(catalogPath, pool: host.pool).catalog, place: place)
  }
}

/// - Throws: ``RunbookError/noSuchDomain(_:known:)``.
private func known(_ domain: String?, _ facts: RunbookFacts) throws -> String? {
  guard let domain else { return nil }
  guard facts.domainNames.contains(domain) else {
    throw RunbookError.noSuchDomain(domain, known: facts.domainNames)
  }
  return domain
}

extension Edition.Format: ExpressibleByArgument {}

struct RunbookWriteCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "write", abstract: "Write the runbooks of the system and of each domain into a folder.",
    discussion: """
      The edition that is there is kept, and `salvor runbook rollback` brings it back. What stands between \
      `<!-- notes:… -->` and `<!-- /notes -->` survives. The same manifests, history and drills give the same bytes.

      EXAMPLES
        salvor runbook write runbooks
        salvor runbook write runbooks --domain payments --format md
        salvor runbook write runbooks --dry-run
      """)

  struct Result: Encodable {
    var folder: String
    var isDryRun: Bool
    var files: [String]
    var manifests: Digest
    var drills: Digest
    /// Files whose text was changed by hand; the earlier edition has them.
    var editedByHand: [String]
  }

  @Argument(help: "The folder.", completion: .directory) var folder: String
  @Option(help: "Only this domain's (default: the system's and every domain's).") var domain: String?
  @Option(help: "md, html, or both, with a comma.") var format: String = "md,html"
  @Flag(name: [.customShort("n"), .long], help: "Only say what would be written.") var dryRun = false
  @OptionGroup var places: RunbookOptions
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let formats = try format.split(separator: ",").map { word in
      guard let format = Edition.Format(rawValue: String(word)) else {
        throw ValidationError("'\(word)' is no format; there is md and html")
      }
      return format
    }
    guard !formats.isEmpty else { throw ValidationError("no format is named; there is md and html") }
    let target = RunbookFolder(absolute(folder), pool: system.host.pool)
    let kept = try await target.edition()
    let facts = try await system.runbookFacts(places.place(system, kept?.facts.place))
    let texts = try await target.texts()
    let (edition, files) = try Edition(facts, domain: known(domain, facts), formats: formats)
      .sealed(notes: RunbookFolder.notes(texts))
    let edited = kept?.stale(
      now: system.host.time.now(), facts: nil, documents: kept?.facts.documents ?? [:], found: texts
    )
    .filter { $0.kind == .text }.map(\.subject)
    if !dryRun { try await target.write(files) }
    let result = Result(
      folder: folder, isDryRun: dryRun, files: files.keys.sorted(), manifests: edition.facts.manifests,
      drills: edition.facts.drillsDigest, editedByHand: edited ?? [])
    try output.show(result) { style in
      var lines = [
        "\(dryRun ? "would write" : style.paint("written", .good)): \(files.count.of("file")) in \(folder), "
          + "manifests \(facts.manifests.short), \(facts.drills.count.of("drill"))"
      ]
      lines += result.editedByHand.map { style.paint("was changed by hand: \($0)", .warning) }
      let missing = Matrix(facts).rows.filter { !$0.missing.isEmpty }
      lines += missing.map { row in
        style.paint("\(row.service) has no \(row.missing.joined(separator: ", no "))", .warning)
      }
      return lines
    }
  }
}

struct RunbookShowCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "show", abstract: "Print a runbook as it would be written now, as Markdown.",
    discussion: "EXAMPLES\n  salvor runbook show\n  salvor runbook show payments")

  @Argument(help: "A domain (default: the whole system).") var domain: String?
  @OptionGroup var places: RunbookOptions
  @OptionGroup var system: SystemOptions

  func run() async throws {
    let facts = try await system.runbookFacts(places.place(system))
    let domain = try known(domain, facts)
    guard let scope = Scope.all(of: facts).first(where: { $0.domain == domain }) else { return }
    standardOutput(Markdown().render(RunbookPage(facts, scope).page()))
  }
}

struct RunbookCheckCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check", abstract: "Say whether runbooks still say what is so, and what has changed.",
    discussion: """
      Compares manifests, figures of drills and restores, the text itself, and whether what was proven still counts. \
      With --offline only manifests, text and time: no repository is opened. Exit status 1 if it is stale.

      EXAMPLES
        salvor runbook check runbooks
        salvor runbook check runbooks --offline -o json
      """)

  struct Result: Encodable {
    var folder: String
    var isStale: Bool
    var reasons: [Stale]
  }

  @Argument(help: "The folder.", completion: .directory) var folder: String
  @Flag(help: "Look at manifests and files alone.") var offline = false
  @Option(help: "By how many hundredths a figure may be off.") var tolerance = 25
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func validate() throws {
    guard (0...10_000).contains(tolerance) else { throw ValidationError("--tolerance is between 0 and 10000") }
  }

  func run() async throws {
    let target = RunbookFolder(absolute(folder), pool: system.host.pool)
    guard let kept = try await target.edition() else { throw RunbookError.noEdition(folder) }
    let facts =
      offline
      ? try await system.manifestFacts(kept.facts.place) : try await system.runbookFacts(kept.facts.place)
    let reasons = kept.stale(
      now: system.host.time.now(), facts: offline ? nil : facts, documents: facts.documents,
      found: try await target.texts(), tolerance: .init(share: Double(tolerance) / 100))
    try output.show(Result(folder: folder, isStale: !reasons.isEmpty, reasons: reasons)) { style in
      reasons.isEmpty
        ? [style.paint("current", .good) + ": \(folder) says what is so"]
        : reasons.map { style.paint("stale", .bad) + ": \($0.words.harmless)" }
    }
    if !reasons.isEmpty { throw RunbookError.stale(folder, reasons) }
  }
}

struct RunbookDiffCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "diff", abstract: "Show what a new edition would say otherwise, and the lesson behind each change.",
    discussion: "EXAMPLES\n  salvor runbook diff runbooks\n  salvor runbook diff runbooks -o json")

  @Argument(help: "The folder.", completion: .directory) var folder: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let target = RunbookFolder(absolute(folder), pool: system.host.pool)
    guard let kept = try await target.edition() else { throw RunbookError.noEdition(folder) }
    let facts = try await system.runbookFacts(kept.facts.place)
    let texts = try await target.texts()
    let next = Edition(facts, domain: kept.domain, formats: kept.formats.contains(.md) ? kept.formats : [.md])
    let diff = RunbookDiff(kept: kept, old: texts, next: next, new: next.render(notes: RunbookFolder.notes(texts)))
    try output.show(diff) { style in
      diff.text.split(separator: "\n", omittingEmptySubsequences: false).map { line in
        let text = String(line).harmless
        if line.hasPrefix("---") { return style.paint(text, .strong) }
        if line.hasPrefix("because") { return style.paint(text, .warning) }
        return line.hasPrefix("+") ? style.paint(text, .good) : line.hasPrefix("-") ? style.paint(text, .bad) : text
      }
    }
  }
}

struct RunbookRollbackCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rollback", abstract: "Put the edition before back; once more, and it is as it was.",
    discussion: "EXAMPLE\n  salvor runbook rollback runbooks")

  @Argument(help: "The folder.", completion: .directory) var folder: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let target = RunbookFolder(absolute(folder), pool: system.host.pool)
    guard try await target.edition() != nil else { throw RunbookError.noEdition(folder) }
    try await target.rollBack()
    let edition = try await target.edition()
    try output.show(["manifests": edition?.facts.manifests]) { _ in
      ["back: \(folder), manifests \(edition?.facts.manifests.short ?? "unknown")"]
    }
  }
}

struct RunbookMatrixCommand: AsyncParsableCommand {
  enum Format: String, CaseIterable, ExpressibleByArgument { case table, json, csv, md }

  static let configuration = CommandConfiguration(
    commandName: "matrix", abstract: "Show who owns, approves and is called for each service, and what is missing.",
    discussion: "EXAMPLES\n  salvor runbook matrix\n  salvor runbook matrix -o csv > matrix.csv")

  @Option(name: [.short, .customLong("output")], help: "table, json, csv or md.") var output: Format = .table
  @OptionGroup var system: SystemOptions

  func run() async throws {
    let matrix = Matrix(
      try await system.manifestFacts(.init(catalog: "", state: "", toolVersion: SalvorCommand.version)))
    switch output {
    case .json: standardOutput(try CanonicalJSON.text(matrix.rows, pretty: true) + "\n")
    case .csv: standardOutput(matrix.csv)
    case .md: standardOutput(matrix.markdown)
    case .table:
      let style = Style.detect(1, environment: system.environment)
      let rows = matrix.cellRows
      var table = Table(rows[0].map { .init($0) })
      for (cells, row) in zip(rows.dropFirst(), matrix.rows) {
        table.add(
          cells.enumerated().map { index, cell in
            row.missing.contains(rows[0][index]) ? style.paint("missing", .warning) : cell.harmless
          })
      }
      standardOutput(table.lines(style).joined(separator: "\n") + "\n")
    }
  }
}

struct LessonsCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "lessons", abstract: "What drills have taught, and what is to be changed for it.",
    subcommands: [LessonsListCommand.self])
}

struct LessonsListCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list", abstract: "List the lessons of drills, newest first, each with the change it asks for.",
    discussion: "EXAMPLE\n  salvor lessons list")

  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let place = RunbookFacts.Place(
      catalog: absolute(system.catalogPath), state: system.host.stateDirectory, toolVersion: SalvorCommand.version)
    let facts = try await system.runbookFacts(place)
    let lessons = Array(Lesson.all(of: facts).reversed())
    try output.show(lessons) { style in
      if lessons.isEmpty { return ["no drill has taught anything yet"] }
      var table = Table("when", "drill", "learned", "changes", "so")
      for lesson in lessons {
        table.add(
          lesson.at.format(fractionDigits: 0), lesson.drill, lesson.learned.harmless, lesson.kind.rawValue,
          lesson.change.harmless)
      }
      return table.lines(style)
    }
  }
}

struct DiagramCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "diagram", abstract: "Draw the system, from its manifests.",
    subcommands: [DiagramDependenciesCommand.self, DiagramDataFlowCommand.self, DiagramReplicationCommand.self])
}

struct DiagramOptions: ParsableArguments {
  enum Format: String, CaseIterable, ExpressibleByArgument { case mermaid, svg }

  @Option(name: .shortAndLong, help: "mermaid or svg.") var format: Format = .svg

  func show(_ system: SystemOptions, _ draw: (Diagrams) -> Drawing) async throws {
    let place = RunbookFacts.Place(catalog: "", state: "", toolVersion: SalvorCommand.version)
    let drawing = draw(Diagrams(try await system.manifestFacts(place)))
    switch format {
    case .svg: standardOutput(SVG.text(drawing))
    case .mermaid: standardOutput(Mermaid.text(drawing) + "\n")
    }
  }
}

struct DiagramDependenciesCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "dependencies", abstract: "What comes back before what, in waves.",
    discussion: "EXAMPLE\n  salvor diagram dependencies > dependencies.svg")

  @OptionGroup var drawing: DiagramOptions
  @OptionGroup var system: SystemOptions

  func run() async throws { try await drawing.show(system) { $0.dependencies() } }
}

struct DiagramDataFlowCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "data-flow", abstract: "Who asks whom, and who keeps what where.",
    discussion: "EXAMPLE\n  salvor diagram data-flow --format mermaid")

  @OptionGroup var drawing: DiagramOptions
  @OptionGroup var system: SystemOptions

  func run() async throws { try await drawing.show(system) { $0.dataFlow() } }
}

struct DiagramReplicationCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "replication", abstract: "Which copies there are: points, logs, repositories and their copies.",
    discussion: "EXAMPLE\n  salvor diagram replication --format svg")

  @OptionGroup var drawing: DiagramOptions
  @OptionGroup var system: SystemOptions

  func run() async throws { try await drawing.show(system) { $0.replication() } }
}
