import ArgumentParser
import Core
import Foundation
import IO
import Runtime

/// Tries hard to find a recovery point that is not one moment.
@main
struct Torture: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "salvor-torture", abstract: "Break Salvor on purpose.", subcommands: [Points.self])
}

struct Points: AsyncParsableCommand {
  static let configuration = CommandConfiguration(abstract: "Restore every point taken at full load, and check it.")

  @Option(help: "Seed of the transfers.") var seed: UInt64 = 1
  @Option(help: "Points to take.") var runs = 100
  @Flag(help: "Take points without holding; succeeds only if some are broken.") var noHold = false

  func validate() throws {
    guard (1...100_000).contains(runs) else { throw ValidationError("--runs must be 1 to 100000") }
  }

  func run() async throws {
    let command = "scripts/torture points --seed \(seed) --runs \(runs)\(noHold ? " --no-hold" : "")"
    print("seed \(seed); to repeat: \(command)")
    let program = Files.parent(of: Bundle.main.executablePath ?? CommandLine.arguments[0]) + "/salvor-bank"
    var options = PointsUnderLoad.Options(bank: program, directory: "/tmp/salvor-torture-\(ProcessID.current)")
    (options.seed, options.runs, options.holds) = (seed, runs, !noHold)
    let host = Machine(environment: ProcessInfo.processInfo.environment, name: "torture", stateDirectory: "")
    let outcome = try await PointsUnderLoad(options, host: host).run { print($0) }
    let pauses = outcome.points.map(\.pauseNanoseconds).sorted()
    print(
      "\(outcome.points.count) points, \(outcome.broken) broken; median pause \(pauses[pauses.count / 2] / 1000) us")
    print("load: \(try CanonicalJSON.text(outcome.load))")
    let holds = noHold ? outcome.broken > 0 : outcome.broken == 0
    if noHold {
      print(holds ? "the negative control found broken points, as it must" : "the negative control found none")
    }
    if !holds { throw ExitCode(1) }
  }
}
