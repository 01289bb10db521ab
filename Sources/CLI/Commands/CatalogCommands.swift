import ArgumentParser
import Catalog
import Console
import Core
import Foundation
import IO
import Runtime

struct InitCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "init", abstract: "Write a first catalog, to be filled in.",
    discussion: """
      Writes a catalog with one SQLite store, a password file (random, readable by you alone), and the repository they name.

      EXAMPLE
        salvor init && $EDITOR salvor.yaml && salvor validate && salvor backup
      """)

  @Option(help: "Where the catalog is written.") var file = "salvor.yaml"
  @Option(help: "Where the repository is made.") var repository = "salvor-repository"
  @Option(help: "Where the repository's password is kept.") var passwordFile = "salvor-password"
  @Option(help: "A SQLite database to begin with.") var sqlite = "app.db"
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let host = SystemOptions.parseOrExit([]).host
    for path in [file, passwordFile] where Files.exists(path) {
      throw CommandFailure(
        .refused,
        Report("USAGE-301", "\(path) is there already").state("nothing was written").remedy("choose another name with --file or --password-file"))
    }
    let text = FirstCatalog.text(
      repository: absolute(repository), passwordFile: absolute(passwordFile), sqlite: absolute(sqlite))
    try Files.replace(passwordFile, with: Array((Hex.encode(host.randomness.bytes(32)) + "\n").utf8), mode: 0o600)
    try Files.replace(file, with: Array(text.utf8), mode: 0o644)
    let loaded = try await CatalogFiles.load(file, pool: host.pool)
    let vaults = Vaults(host: host)
    for declared in loaded.catalog.repositories { _ = try await vaults.create(declared) }
    standardError(
      """
      wrote \(file), \(passwordFile) and an empty repository in \(repository)
      next: edit \(file), then `salvor validate` and `salvor backup`
      keep a copy of \(passwordFile) elsewhere: without it the backups can't be read

      """)
  }
}

struct ValidateCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "validate", abstract: "Check a catalog; every problem in one pass.",
    discussion: """
      Reads nothing but the catalog. Exit status 2 if there is an error.

      EXAMPLES
        salvor validate
        salvor validate -c infra/salvor -o json | jq '.diagnostics[]'
      """)

  struct Result: Encodable {
    var valid: Bool
    var digest: Digest?
    var diagnostics: [Diagnostic]
  }

  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let host = system.host
    let files = try await CatalogFiles.read(system.catalogPath, pool: host.pool)
    let resolution = Catalog.resolve(files, drivers: Registry.schemas)
    let result = Result(
      valid: resolution.catalog != nil, digest: resolution.catalog?.digest, diagnostics: resolution.diagnostics)
    try output.show(result) { style in
      var lines = resolution.diagnostics.map { diagnostic in
        let tone: Style.Tone =
          switch diagnostic.severity {
          case .error: .bad
          case .warning: .warning
          case .note: .faint
          }
        return style.paint(diagnostic.description.harmless, tone)
      }
      if let catalog = resolution.catalog {
        lines.append(
          style.paint("valid", .good)
            + ": \(catalog.services.count) services, \(catalog.stores.count) stores, \(catalog.groups.count) groups, "
            + "\(catalog.invariants.count) invariants; digest \(catalog.digest.short)")
      }
      return lines
    }
    if resolution.catalog == nil { throw ExitStatus.usage }
  }
}

extension CatalogGraph.Format: ExpressibleByArgument {}

struct GraphCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "graph", abstract: "Show services, stores and what depends on what.",
    discussion: """
      EXAMPLES
        salvor graph
        salvor graph --format dot | dot -Tsvg > graph.svg
        salvor graph --format mermaid
      """)

  @Option(name: .shortAndLong, help: "tree, dot, mermaid or json.") var format: CatalogGraph.Format = .tree
  @OptionGroup var system: SystemOptions

  func run() async throws {
    let loaded = try await CatalogFiles.load(system.catalogPath, pool: system.host.pool)
    let text = CatalogGraph(loaded.catalog).render(format)
    standardOutput(text + (text.hasSuffix("\n") ? "" : "\n"))
  }
}

struct SchemaCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "schema", abstract: "Print the catalog's JSON Schema, for editors and pipelines.",
    discussion: "EXAMPLE\n  salvor schema > .vscode/salvor.schema.json")

  func run() throws {
    standardOutput(try CatalogSchema.text(drivers: Registry.schemas))
  }
}
