import ArgumentParser
import Console
import Core
import Foundation
import IO
import Runtime
import Synthetic

struct SynthesizeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "synthesize", abstract: "Make data of a system's shape, with none of its values.",
    subcommands: [SynthesizeLearnCommand.self, SynthesizeMakeCommand.self])
}

struct SynthesizeLearnCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "learn", abstract: "Learn what stores of tables look like, from a point that is restored in private.",
    discussion: """
      The profile holds names, types, keys, references, shares of NULL, lengths, and numbers rounded to two digits. Values \
      stand in it only of columns named with --public. References between stores come from the catalog's invariants, where \
      both queries are SELECT column FROM table, and from --link.

      EXAMPLES
        salvor synthesize learn --to profile.json
        salvor synthesize learn --store ledger --public ledger:accounts.currency --to profile.json
      """)

  @Option(help: "The profile's file.", completion: .file(extensions: ["json"])) var to: String
  @OptionGroup var target: RedactTarget
  @Option(
    name: .customLong("public"),
    help: "A column whose values may stand in the profile, as store:table.column; may be given again.")
  var isPublic: [String] = []
  @Option(
    name: .customLong("link"),
    help: "A column whose values are another store's, as store:table.column=store:table.column.")
  var links: [String] = []
  @Option(help: "Where the point is restored in private; a server's user must be able to pass.", completion: .directory)
  var work = "/var/tmp"
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    let display = ProgressDisplay(output, managed.host)
    let named = try target.request(policy: "", directory: work)
    var request = SyntheticData.Request()
    (request.stores, request.point, request.verifies, request.work) = (
      named.stores, named.point, named.verifies, named.directory
    )
    (request.isPublic, request.links) = (isPublic, links)
    let profile = try await SyntheticData(managed).learn(request) { display.line.show("learn", $0) }
    display.line.clear()
    try Files.replace(absolute(to), with: Array(try CanonicalJSON.text(profile, pretty: true).utf8), mode: 0o644)
    try output.show(profile) { style in
      var table = Table("store", "table", "rows", "columns", "references")
      for (name, store) in profile.stores.sorted(by: { $0.key < $1.key }) {
        for one in store.tables {
          let links = profile.links.count { $0.store == name && $0.table == one.shape.name }
          table.add(
            name.text, one.shape.name, "\(one.rows)", "\(one.columns.count)", "\(one.shape.references.count + links)")
        }
      }
      return table.lines(style)
    }
  }
}

struct SynthesizeMakeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "make", abstract: "Make data from a profile: the same for the same seed, byte by byte.",
    discussion: """
      For each store a load.sql, for sqlite3 or psql, and a file of JSON lines for each table.

      EXAMPLES
        salvor synthesize make --profile profile.json --seed 1 --to /tmp/made
        salvor synthesize make --profile profile.json --seed 1 --scale 10 --to /tmp/made
      """)

  @Option(help: "The profile's file.", completion: .file(extensions: ["json"])) var profile: String
  @Option(help: "Another seed gives other data.") var seed: UInt64 = 1
  @Option(help: "How many times the rows there were.") var scale = 1.0
  @Option(help: "The directory to write; it must not exist.", completion: .directory) var to: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    guard scale > 0, scale <= 1_000_000 else { throw ValidationError("--scale is above 0") }
    let read: SyntheticProfile
    do {
      read = try CanonicalJSON.decode(SyntheticProfile.self, from: Files.read(absolute(profile), limitBytes: 256 << 20))
    } catch let error as SystemFailure { throw error } catch {
      throw SyntheticError.badProfile("\(profile) can't be read as one")
    }
    let outcome = try await SyntheticData.make(read, seed: seed, scale: scale, to: absolute(to), host: system.host)
    try output.show(outcome) { style in
      var table = Table("store", "table", "rows")
      for (store, tables) in outcome.rows.sorted(by: { $0.key < $1.key }) {
        for (name, count) in tables.sorted(by: { $0.key < $1.key }) { table.add(store.text, name, "\(count)") }
      }
      return table.lines(style)
    }
  }
}
