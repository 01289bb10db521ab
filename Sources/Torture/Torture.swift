import ArgumentParser
import Core
import Foundation
import IO
import Runtime

/// Tries hard to find a recovery point that is not one moment.
@main
struct Torture: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "salvor-torture", abstract: "Break Salvor on purpose.",
    subcommands: [Points.self, FailoverSchedules.self])
}

struct Points: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Restore every point taken at full load, and check it.",
    discussion: """
      Lines about progress go to standard error, the outcome to standard output. Exits with 1 if a point is broken, or \
      not one moment of every store; with --no-hold, if none is broken.
      """)

  @Option(help: "Seed of the transfers.") var seed: UInt64 = 1
  @Option(help: "Points to take.") var runs = 100
  @Option(help: "Seconds of load without points, before, between and after the rounds, to compare with.") var calm:
    Int = 5
  @Option(help: "In how many rounds the points are taken, with load alone around each.") var rounds: Int = 1
  @Option(help: "Follow logs, and take points that only mark stores, one every so many milliseconds.") var every: Int?
  @Option(help: "How many of the points to restore, chosen by the seed (default: all).") var restore: Int?
  @Flag(help: "Take points without holding; succeeds only if some are broken.") var noHold = false
  @Flag(help: "Print the outcome as JSON.") var json = false

  func validate() throws {
    guard (1...100_000).contains(runs) else { throw ValidationError("--runs must be 1 to 100000") }
    if let every, !(100...600_000).contains(every) { throw ValidationError("--every must be 100 to 600000") }
    if let restore, restore < 1 { throw ValidationError("--restore must be at least 1") }
    guard (0...3600).contains(calm) else { throw ValidationError("--calm must be 0 to 3600") }
    guard (1...runs).contains(rounds) else { throw ValidationError("--rounds must be 1 to --runs") }
  }

  func run() async throws {
    let command =
      "scripts/torture points --seed \(seed) --runs \(runs) --calm \(calm) --rounds \(rounds)"
      + (noHold ? " --no-hold" : "")
      + (every.map { " --every \($0)" } ?? "") + (restore.map { " --restore \($0)" } ?? "")
    complain("seed \(seed); to repeat: \(command)")
    let program = Files.parent(of: Bundle.main.executablePath ?? CommandLine.arguments[0]) + "/salvor-bank"
    var options = PointsUnderLoad.Options(bank: program, directory: "/tmp/salvor-torture-\(ProcessID.current)")
    (options.seed, options.runs, options.holds) = (seed, runs, !noHold)
    (options.calm, options.rounds) = (.seconds(calm), rounds)
    options.every = every.map { .milliseconds($0) }
    options.restores = restore ?? .max
    let host = Machine(environment: ProcessInfo.processInfo.environment, name: "torture", stateDirectory: "")
    let torment = PointsUnderLoad(options, host: host)
    let outcome = try await Interruption.cancelling { try await torment.run { complain($0) } }
    if json { print(try CanonicalJSON.text(outcome)) } else { summarize(outcome) }
    let asExpected = noHold ? outcome.broken > 0 : outcome.broken == 0 && outcome.lesser == 0
    if noHold {
      complain(asExpected ? "the negative control found broken points, as it must" : "the negative control found none")
    }
    if !asExpected { throw ExitCode(1) }
  }

  private func summarize(_ outcome: PointsUnderLoad.Outcome) {
    func milliseconds(_ nanoseconds: Int64) -> String { String(format: "%.1f ms", Double(nanoseconds) / 1e6) }
    print(
      "\(outcome.pauses.count) points, \(outcome.points.count) restored: \(outcome.broken) broken, \(outcome.lesser) not one moment of every store"
    )
    print(
      "pause: median \(milliseconds(outcome.pause(0.5))), p99 \(milliseconds(outcome.pause(0.99))), "
        + "longest \(milliseconds(outcome.pause(1)))")
    // Without a hold there is nothing to tell apart.
    for (name, timings) in outcome.timings.sorted(by: { $0.key < $1.key }) where outcome.pause(1) > 0 {
      var steps = [("hold", timings.map(\.hold)), ("mark", timings.map(\.mark)), ("release", timings.map(\.release))]
      // Of those that are copied, what nobody waits for.
      let copies = [("prepare", timings.map(\.prepare)), ("finish", timings.map(\.finish))]
      if timings.contains(where: { $0.finish > 0 }) { steps += copies }
      print(
        "  \(name): "
          + steps.map { step, values in
            let share = PointsUnderLoad.Outcome.rank
            return "\(step) \(milliseconds(share(values, 0.5))), p99 \(milliseconds(share(values, 0.99)))"
          }.joined(separator: "; "))
    }
    if let kept = outcome.throughputKept { print("throughput kept: \(String(format: "%.1f", kept * 100)) %") }
    let parts =
      outcome.loads.indices.flatMap { index in
        outcome.calms.dropFirst(index).prefix(1).map { ("without points", $0) } + [
          ("with points", outcome.loads[index])
        ]
      } + outcome.calms.dropFirst(outcome.loads.count).map { ("without points", $0) }
    for (name, load) in parts {
      guard let acknowledged = load["acknowledged"]?.number, let seconds = load["seconds"]?.number else {
        continue
      }
      let latencies = ["P50", "P99", "Max"].map { kind in
        "\(kind.lowercased()) "
          + (load["latency\(kind)Milliseconds"]?.number.map { String(format: "%.1f ms", $0) } ?? "unknown")
      }
      print(
        "load \(name): \(String(format: "%.0f", acknowledged / max(seconds, 0.001))) transfers/s, "
          + "\(load["failed"]?.integer ?? 0) failed, \(latencies.joined(separator: ", "))")
    }
  }
}

private func complain(_ line: String) { FileHandle.standardError.write(Data("\(line)\n".utf8)) }
