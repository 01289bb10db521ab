import ArgumentParser
import Catalog
import Console
import Core
import Drills
import Foundation
import IO
import Runtime
import StateKit

struct DrillCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "drill", abstract: "Practise restores, away from users, and see whether faults would be noticed.",
    subcommands: [
      DrillRunCommand.self, DrillListCommand.self, DrillDueCommand.self, DrillHistoryCommand.self,
      DrillShowCommand.self, DrillScoreCommand.self, DrillEnterCommand.self,
    ])
}

/// The system with its drills' memory.
struct DrillAccess {
  var managed: ManagedSystem
  var journal: any RunJournal
  var history: DrillHistory

  init(_ options: SystemOptions) async throws {
    managed = try await options.load()
    journal = try await options.journal()
    history = DrillHistory(journal, managed)
  }

  func drill(_ text: String) throws -> Drill {
    guard let name = DrillName(text), let drill = managed.catalog.drill(name) else {
      throw DrillError.noSuchDrill(text)
    }
    return drill
  }
}

struct DrillRunCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run", abstract: "Carry drills out now.",
    discussion: """
      A drill takes place in namespaces of its own: the same paths and ports, with nothing of production behind them. \
      With --faults, each fault of the document is planted in a drill of its own, and a green one has failed.

      Exit status 4 if a drill failed, 6 if one could not be carried out: that is never a pass.

      EXAMPLES
        salvor drill run weekly
        salvor drill run weekly --faults
        salvor drill run weekly --faults --resume
        salvor drill run weekly --fault flipped-byte --seed 7
        salvor drill run --due
      """)

  @Argument(help: "Drills, as named in the catalog.") var names: [String] = []
  @Flag(help: "Those that are due.") var due = false
  @Flag(help: "Plant every fault the document names, one after the other, after the honest drill.") var faults = false
  @Flag(help: "With --faults: only what the newest programme, interrupted, has left out.") var resume = false
  @Option(help: "Plant this fault only; one the document need not name.") var fault: String?
  @Option(help: "Whose copy the fault is in (default: by the seed).") var store: String?
  @Option(help: "tabletop, store, service, system or region, in place of the document's.") var level: String?
  @Option(help: "Make the choices of an earlier drill again; `drill show` has its seed.") var seed: UInt64?
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let access = try await DrillAccess(system)
    guard due != !names.isEmpty else { throw ValidationError("name drills, or say --due") }
    guard !resume || faults else { throw ValidationError("--resume goes with --faults") }
    var drills = try names.map { try access.drill($0) }
    let earlier = try await access.history.list()
    if due {
      let records = earlier
      drills = DrillTexts.due(access.managed.catalog, records, now: access.managed.host.time.now()).filter(\.isDue)
        .compactMap { access.managed.catalog.drill($0.drill) }
    }
    if let level {
      guard let value = Drill.Level(rawValue: level) else { throw ValidationError("there is no level '\(level)'") }
      for index in drills.indices { drills[index].level = value }
    }
    let runner = DrillRunner(access.managed, journal: access.journal, program: try ownProgram())
    let display = ProgressDisplay(output, access.managed.host)
    var records: [DrillRecord] = []
    for drill in drills {
      for planted in try plans(drill, earlier) {
        let what = "\(drill.name)\(planted.map { " with \($0.kind.rawValue)" } ?? "")"
        let record = try await runner.run(DrillRunner.Request(drill, seed: seed, fault: planted)) {
          display.line.show(what, $0)
        }
        display.line.clear()
        if output.output == .table {
          try output.show(record) { style in DrillTexts.lines(record, style) }
        }
        records.append(record)
      }
    }
    if output.output != .table { try output.show(records) { _ in [] } }
    if records.contains(where: { $0.verdict == .failed }) { throw ExitStatus.validationFailed }
    if records.contains(where: { $0.verdict != .passed }) { throw ExitStatus.refused }
  }

  /// The honest drill, and those with something broken.
  private func plans(_ drill: Drill, _ earlier: [DrillRecord]) throws -> [Drill.Fault?] {
    if let fault {
      guard let kind = Drill.FaultKind(rawValue: fault) else { throw ValidationError("there is no fault '\(fault)'") }
      var planted = drill.faults.first { $0.kind == kind } ?? Drill.Fault(kind: kind)
      if let store {
        guard let name = StoreName(store), drill.stores.contains(name) else {
          throw ValidationError("'\(store)' is no store of drill \(drill.name)")
        }
        planted.store = name
      }
      return [planted]
    }
    if resume { return DrillProgramme.remaining(drill, earlier) }
    return faults ? [nil] + drill.faults.map { .some($0) } : [nil]
  }
}

/// This program's own file.
func ownProgram() throws -> String {
  guard let resolved = realpath("/proc/self/exe", nil) else { throw SystemFailure("realpath", path: "/proc/self/exe") }
  defer { free(resolved) }
  return String(cString: resolved)
}

struct DrillListCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list", abstract: "List the catalog's drills, and what each came to last.",
    discussion: "EXAMPLE\n  salvor drill list -o json")

  struct View: Encodable {
    var drill: Drill
    var last: DrillRecord?
  }

  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let access = try await DrillAccess(system)
    let records = try await access.history.list()
    let views = access.managed.catalog.drills.map { drill in
      View(drill: drill, last: records.last { $0.drill == drill.name && $0.control == nil })
    }
    try output.show(views) { style in
      var table = Table("drill", "level", "schedule", "stores", "last", "verdict")
      for view in views {
        table.add(
          view.drill.name.text, view.drill.level.rawValue, view.drill.schedule?.description ?? "by hand",
          "\(view.drill.stores.count)", view.last?.finishedAt.format(fractionDigits: 0) ?? "never",
          view.last.map { DrillTexts.paint($0.verdict, style) } ?? "unproven")
      }
      return table.lines(style)
    }
  }
}

struct DrillDueCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "due", abstract: "Show when drills are due, jitter and all.",
    discussion: "Exit status 5 if one is overdue.\n\nEXAMPLE\n  salvor drill due")

  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let access = try await DrillAccess(system)
    let due = DrillTexts.due(
      access.managed.catalog, try await access.history.list(), now: access.managed.host.time.now())
    try output.show(due) { style in
      var table = Table("drill", "last", "next", "")
      for one in due {
        table.add(
          one.drill.text, one.last?.format(fractionDigits: 0) ?? "never",
          one.next?.format(fractionDigits: 0) ?? "by hand", one.isDue ? style.paint("due", .warning) : "")
      }
      return table.lines(style)
    }
    if due.contains(where: \.isDue) { throw ExitStatus.objectiveMissed }
  }
}

struct DrillHistoryCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "history", abstract: "List drills that were carried out, newest first, and how times go.",
    discussion: """
      EXAMPLES
        salvor drill history
        salvor drill history weekly -o json
        salvor drill history --from main
      """)

  struct View: Encodable {
    var records: [DrillRecord]
    var trends: [DrillTrend]
    var predictions: PredictionScore
  }

  @Argument(help: "A drill (default: all).") var name: String?
  @Option(help: "Read the records a repository keeps, where the journal is lost.") var from: String?
  @Option(help: "How many.") var limit = 50
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let access = try await DrillAccess(system)
    let drill = try name.map { try access.drill($0).name }
    var records: [DrillRecord]
    if let from {
      guard let repository = RepositoryName(from) else { throw ValidationError("'\(from)' is no repository's name") }
      records = try await access.history.kept(in: repository).filter { drill == nil || $0.drill == drill }
    } else {
      records = try await access.history.list(drill)
    }
    let trends = access.managed.catalog.services.map { DrillTrend(of: $0.name, records) }.filter { $0.runs > 0 }
    let view = View(
      records: Array(records.reversed().prefix(limit)), trends: trends, predictions: PredictionScore(records))
    try output.show(view) { style in DrillTexts.history(view.records, trends, view.predictions, style) }
  }
}

struct DrillShowCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "show", abstract: "Show one drill in full: what it found, tried, restored and measured.",
    discussion: "EXAMPLE\n  salvor drill show latest")

  @Argument(help: "A drill's id, its beginning, or 'latest'.") var id: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let access = try await DrillAccess(system)
    let records = try await access.history.list()
    let found = id == "latest" ? records.last : records.last { $0.id.hasPrefix(id) || $0.id.hasSuffix("-" + id) }
    guard let record = found else { throw DrillError.noSuchDrill(id) }
    try output.show(record) { style in DrillTexts.lines(record, style) + DrillTexts.detail(record, style) }
  }
}

struct DrillScoreCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "score", abstract: "Show how many planted faults were noticed, per service and fault.",
    discussion: """
      Exit status 4 if one was not noticed, or noticed for another reason.

      EXAMPLE
        salvor drill score
      """)

  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let access = try await DrillAccess(system)
    let score = DrillScore(try await access.history.list())
    try output.show(score) { style in DrillTexts.score(score, style) }
    if score.caught < score.planted { throw ExitStatus.validationFailed }
  }
}

/// The other end of `drill run`: what its own process does, in namespaces that are made for it.
struct DrillEnterCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "enter", abstract: "Carry a drill's job out; for `drill run`, in a place made for it.",
    discussion: "EXAMPLE\n  salvor drill enter /state/drills/drill-3f9a1c0b77de/job.json", shouldDisplay: false)

  @Argument(help: "The job.") var job: String

  func run() async throws { try await DrillInside.run(jobFile: job) }
}
