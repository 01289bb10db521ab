import ArgumentParser
import Core
import IO

extension Flavour: EnumerableFlag {}

struct Configure: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Lay a bank out below a directory: bank.json and one configuration per service.",
    discussion: "For --engines, run `salvor-bank engines up` first. Then `salvor-bank init` each service.")

  @Option(help: "The bank's directory; made if missing.") var directory: String
  @Flag(help: "Where the stores live.") var flavour: Flavour = .embedded
  @Option(help: "The first of five ports on loopback, of seven with --engines.") var basePort: Int = 7100
  @Option(help: "How many accounts to open.") var accounts: Int = 1000
  @Option(help: "What each account holds at first, in cents.") var openingBalanceCents: Int64 = 100_000
  @Option(help: "Write a statement for every n-th transfer.") var statementEvery: Int = 1
  @Option(help: "How often the statements' /ready says no after each start.") var failFirstReady: Int = 0

  func validate() throws {
    guard (1...65_529).contains(basePort) else { throw ValidationError("--base-port must be 1 to 65529") }
    guard (2...10_000_000).contains(accounts) else { throw ValidationError("--accounts must be 2 to 10000000") }
    guard openingBalanceCents >= 0, openingBalanceCents <= 1_000_000_000 else {
      throw ValidationError("--opening-balance-cents must be 0 to 10^9")
    }
    guard statementEvery > 0, failFirstReady >= 0 else {
      throw ValidationError("--statement-every must be at least 1, --fail-first-ready at least 0")
    }
  }

  func run() throws {
    try Files.createDirectory(directory)
    let root = try Layout.absolute(directory)
    let layout = Layout(
      directory: root, flavour: flavour, basePort: basePort, accounts: accounts,
      openingBalanceCents: openingBalanceCents, statementEvery: statementEvery, failFirstReady: failFirstReady)
    try layout.write(flavour == .engines ? EngineFacts.read(in: root) : nil)
  }
}
