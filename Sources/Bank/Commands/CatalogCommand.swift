import ArgumentParser
import Core
import IO

struct CatalogCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "catalog", abstract: "Print the Salvor catalog of the bank laid out in a directory.")

  @Option(help: "The bank's directory, laid out by `salvor-bank configure`.") var directory: String

  func run() throws {
    let layout = try Layout.read(directory)
    let catalog = CatalogText(
      layout: layout, engines: try EngineFacts.read(in: layout.directory),
      program: try Layout.absolute("/proc/self/exe"))
    print(try catalog.render(), terminator: "")
  }
}
