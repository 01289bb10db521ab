import ArgumentParser
import Console
import Core
import DriverKit
import Foundation
import Recovery
import Runtime

struct DumpCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "dump", abstract: "Take single databases and tables, and bring them back into a running server.",
    discussion: """
      Beside recovery points, never in their place: a dump is of one PostgreSQL database, of one moment, written by pg_dump.

      EXAMPLES
        salvor dump take ledger --database shop
        salvor dump list ledger
        salvor dump restore ledger --database shop --table public.orders --dry-run
      """,
    subcommands: [DumpTakeCommand.self, DumpListCommand.self, DumpRestoreCommand.self])
}

/// Where files lie for a while, and how many programs work on them.
struct DumpOptions: ParsableArguments {
  @Option(help: "Where the dump's files lie until they are done with; they are removed.", completion: .directory)
  var work = "/var/tmp"
  @Option(name: .shortAndLong, help: "How many tables are worked on at the same time.") var jobs = 2

  func validate() throws {
    guard (1...64).contains(jobs) else { throw ValidationError("--jobs is from 1 to 64") }
  }
}

private func parseStore(_ text: String) throws -> StoreName {
  guard let name = StoreName(text) else { throw ValidationError("'\(text)' can't be a store's name") }
  return name
}

struct DumpTakeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "take", abstract: "Dump a database, or tables of one, into the store's repository.",
    discussion: """
      Everything in a dump is of one moment, however long it takes; nobody waits but who changes the layout of a table. What is \
      the same as in earlier dumps is stored once.

      EXAMPLES
        salvor dump take ledger --database shop
        salvor dump take ledger --database shop --table public.orders --table '"OrderLines"' --jobs 4
      """)

  @Argument(help: "The store, as the catalog names it.") var store: String
  @Option(name: .shortAndLong, help: "The database, as it is called.") var database: String
  @Option(
    name: [.customShort("t"), .customLong("table")],
    help: "A table, as a statement would name it; may be given again. Its partitions come along.")
  var tables: [String] = []
  @OptionGroup var options: DumpOptions
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    let display = ProgressDisplay(output, managed.host)
    let dumps = Dumps(managed, journal: try await system.journal(), work: absolute(options.work))
    let taken = try await dumps.take(
      try parseStore(store), DumpRequest(database: database, tables: tables, jobs: options.jobs)
    ) { phase, bytes in display.line.show(phase, formatBytes(bytes)) }
    display.line.clear()
    try output.show(taken) { style in DumpText.lines(taken, style) }
  }
}

struct DumpListCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list", abstract: "List dumps, oldest first; one in full when the beginning of its id is given.",
    discussion: "EXAMPLES\n  salvor dump list\n  salvor dump list ledger\n  salvor dump list --id 40dc1520")

  @Argument(help: "The store, as the catalog names it; all without one.") var store: String?
  @Option(help: "The beginning of a dump's id, to show what it holds.") var id: String?
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let dumps = Dumps(try await system.load(), journal: try await system.journal(), work: "/var/tmp")
    let name = try store.map(parseStore)
    if let id {
      let one = try await dumps.find(id, of: name)
      return try output.show(one) { style in
        DumpText.lines(one, style) + one.dump.tables.map { "  \($0.sql.harmless)" }
      }
    }
    let listing = try await dumps.list(name)
    for (snapshot, report) in listing.unreadable {
      standardError("warning: snapshot \(snapshot.prefix(8)) is tagged as a dump and can't be read: \(report)\n")
    }
    try output.show(listing.dumps) { style in
      var table = Table([
        .init("id"), .init("store"), .init("database"), .init("time"), .init("position"), .init("holds"),
        .init("size", .right),
      ])
      for one in listing.dumps {
        table.add(
          String(one.id.prefix(8)), one.dump.store.text, one.dump.database.harmless, one.time.format(fractionDigits: 0),
          one.dump.position.value.harmless, DumpText.content(one.dump).harmless.cut(to: 60), formatBytes(one.sizeBytes))
      }
      return table.lines(style)
    }
    if !listing.unreadable.isEmpty { throw ExitStatus.incomplete }
  }
}

struct DumpRestoreCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "restore", abstract: "Bring a database, or tables of one, back into the running server.",
    discussion: """
      With --into another database it comes back beside: one that is not there is made, and has its name once it is whole. \
      Into a database that is there everything comes in one transaction, or nothing does; what it has already is dropped \
      only with --replace, and nothing that leans on it. Of tables the newest dump is taken that holds them.

      EXAMPLES
        salvor dump restore ledger --database shop --table public.orders --dry-run
        salvor dump restore ledger --database shop --table public.orders --yes
        salvor dump restore ledger --database shop --into shop_last_night --at 2026-11-21T04:00:00Z --yes
      """)

  @Argument(help: "The store, as the catalog names it.") var store: String
  @Option(name: .shortAndLong, help: "The database the dump is of.") var database: String
  @Option(
    name: [.customShort("t"), .customLong("table")],
    help: "A table, as a statement would name it; may be given again. Its partitions come along.")
  var tables: [String] = []
  @Option(help: "The beginning of a dump's id, or latest.") var from: String?
  @Option(help: "The newest dump at or before this time, in RFC 3339.") var at: String?
  @Option(help: "Another database, which is made if it is not there.") var into: String?
  @Flag(help: "Drop what is there already of what comes back.") var replace = false
  @Flag(help: "Leave owners and rights behind.") var noOwner = false
  @Flag(name: [.customShort("n"), .long], help: "Only show what would be done.") var dryRun = false
  @OptionGroup var consent: ConsentOptions
  @OptionGroup var options: DumpOptions
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func validate() throws {
    if from != nil, at != nil { throw ValidationError("--from and --at exclude each other") }
  }

  func run() async throws {
    let managed = try await system.load()
    let display = ProgressDisplay(output, managed.host)
    let dumps = Dumps(managed, journal: try await system.journal(), work: absolute(options.work))
    var wish = Dumps.Wish(store: try parseStore(store), database: database)
    (wish.tables, wish.from, wish.at, wish.into) = (tables, from, try at.map(parseTime), into)
    (wish.replaces, wish.dropsOwners, wish.jobs) = (replace, noOwner, options.jobs)
    let prepared = try await dumps.prepare(wish)
    if dryRun {
      try output.show(prepared) { style in DumpText.lines(prepared, style, done: false) }
      return
    }
    let style = Style.detect(2, environment: managed.host.environment)
    if !output.quiet, output.output == .table {
      standardError(DumpText.lines(prepared, style, done: false).joined(separator: "\n") + "\n")
    }
    try consent.require("Bring this back into database '\(prepared.plan.database.harmless)'?")
    _ = try await dumps.restore(prepared, wish) { phase, bytes in display.line.show(phase, formatBytes(bytes)) }
    display.line.clear()
    try output.show(prepared) { style in DumpText.lines(prepared, style, done: true) }
  }
}

/// A dump, for people.
enum DumpText {
  static func content(_ dump: StoreDump) -> String {
    dump.isWhole ? "whole, \(dump.tables.count.of("table"))" : dump.tables.map(\.sql).joined(separator: " ")
  }

  static func lines(_ one: Dumps.Listed, _ style: Style) -> [String] {
    [
      "dump \(style.paint(String(one.id.prefix(8)), .strong))  database '\(one.dump.database.harmless)' of "
        + "\(one.dump.store)  \(one.time.format(fractionDigits: 0))",
      "  \(content(one.dump).harmless.cut(to: 200)), PostgreSQL \(one.dump.version), before \(one.dump.position.value)",
      "  \(formatBytes(one.sizeBytes))"
        + (one.addedBytes.map { ", of which \(formatBytes($0)) were new to the repository" } ?? ""),
    ]
  }

  static func lines(_ prepared: Dumps.Prepared, _ style: Style, done: Bool) -> [String] {
    let plan = prepared.plan
    var lines = [
      "\(done ? "brought back" : "would bring back") from dump \(style.paint(String(prepared.id.prefix(8)), .strong)) of "
        + "\(prepared.time.format(fractionDigits: 0)) into \(plan.makesDatabase ? "a new database" : "database") "
        + "'\(plan.database.harmless)'"
        + (plan.makesDatabase ? "" : ", in one transaction")
    ]
    lines += plan.tables.prefix(20).map { table in
      "  \(table.harmless)"
        + (plan.replaced.contains(table)
          ? style.paint(done ? "  in the place of what was there" : "  is there, and will be dropped", .warning) : "")
    }
    if plan.tables.count > 20 { lines.append("  and \(plan.tables.count - 20) more") }
    lines += plan.left.prefix(20).map { style.paint("  stays behind: \($0.harmless)", .warning) }
    if plan.left.count > 20 { lines.append("  and \(plan.left.count - 20) more stay behind") }
    return lines
  }
}
