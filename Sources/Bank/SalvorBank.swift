import ArgumentParser

/// A small bank of five services, seven on engines, to have something worth losing.
@main
struct SalvorBank: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "salvor-bank",
    abstract: "A small bank of five services, seven on engines, to back up, destroy and bring back.",
    subcommands: [Configure.self, Engines.self, Initialize.self, Serve.self, Load.self, CatalogCommand.self])
}
