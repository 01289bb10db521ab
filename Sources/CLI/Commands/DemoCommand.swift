import ArgumentParser
import Console
import Core
import Demo
import Foundation
import IO
import Runtime

struct DemoCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "demo", abstract: "The whole story on a small bank: capture, destroy, bring back, prove.",
    discussion: """
      Runs a bank of five small services under live load in a temporary directory, takes recovery points, destroys \
      everything, shows what the naive way breaks, brings the bank back consistently, and cleans up.

      EXAMPLES
        scripts/demo
        scripts/demo --engines --json outcome.json
      """)

  @Flag(help: "On real PostgreSQL and Redis servers as well.") var engines = false
  @Option(help: "Write the whole outcome to this file.") var json: String?
  @Option(help: "The bank's program (default: salvor-bank beside this one).") var bank: String?
  @Option(help: "Where the bank lives (default: a temporary directory).") var directory: String?
  @Flag(help: "Keep the directory, for a look around.") var keep = false
  @Option(help: "Transfers per second.") var rate: Double = 60
  @Option(help: "The first of eleven ports on loopback.") var basePort = 17_100
  @Option(help: "Seed of the transfers.") var seed: UInt64 = 1

  func validate() throws {
    guard (1024...65_000).contains(basePort) else { throw ValidationError("--base-port must be 1024 to 65000") }
    guard rate >= 1, rate <= 10_000 else { throw ValidationError("--rate must be 1 to 10000") }
  }

  func run() async throws {
    let environment = ProcessInfo.processInfo.environment
    let beside = Files.parent(of: Bundle.main.executablePath ?? CommandLine.arguments[0]) + "/salvor-bank"
    var options = Story.Options(bank: bank.map(absolute) ?? beside)
    (options.engines, options.keeps, options.rate) = (engines, keep, rate)
    (options.directory, options.basePort, options.seed) = (directory.map(absolute), basePort, seed)
    let host = Machine(environment: environment, name: "demo", stateDirectory: "")
    let outcome = try await Story(options, host: host, style: Style.detect(1, environment: environment)) { line in
      standardOutput(line + "\n")
    }.run()
    if let json {
      try Files.replace(absolute(json), with: try CanonicalJSON.encode(outcome, pretty: true) + [10], mode: 0o644)
    }
  }
}
