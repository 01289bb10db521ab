import ArgumentParser
import Catalog
import Console
import Core
import Foundation
import IO
import Runtime

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
            + ": \(catalog.services.count.of("service")), \(catalog.stores.count.of("store")), "
            + "\(catalog.groups.count.of("group")), \(catalog.invariants.count.of("invariant")); "
            + "digest \(catalog.digest.short)")
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
    standardOutput(CatalogSchema.text(drivers: Registry.schemas))
  }
}
