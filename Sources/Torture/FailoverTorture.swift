import ArgumentParser
import Core
import FailoverRig
import Foundation
import IO

struct FailoverSchedules: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "failover",
    abstract: "Kill, freeze, cut off and fill up what serves and all around it, on hosts of their own.",
    discussion: """
      Needs root, for network namespaces. Every schedule has a room of its own: three PostgreSQL servers with agents, a \
      witness, etcd, HAProxy and clients. Exits with 1 if anything that is promised was broken; a failed schedule's logs stay.
      """)

  @Option(help: "Seed of the first schedule.") var seed: UInt64 = 1
  @Option(help: "How many.") var schedules = 10
  @Option(help: "zero-loss or bounded.") var mode = "zero-loss"
  @Option(help: "Rooms at a time.") var rooms = 1
  @Flag(help: "Take each protection away in turn: every one must be missed.") var controls = false
  @Option(help: "Only this control; can be given several times.") var control: [String] = []

  func validate() throws {
    guard (1...100_000).contains(schedules) else { throw ValidationError("--schedules must be 1 to 100000") }
    guard (1...16).contains(rooms) else { throw ValidationError("--rooms must be 1 to 16") }
    guard FailoverRoom.Mode(rawValue: mode) != nil else { throw ValidationError("--mode must be zero-loss or bounded") }
    for name in control where FailoverControl(rawValue: name) == nil {
      let known = FailoverControl.allCases.map(\.rawValue).joined(separator: ", ")
      throw ValidationError("there is no control '\(name)'; there is \(known)")
    }
  }

  func run() async throws {
    let program = Files.parent(of: Bundle.main.executablePath ?? CommandLine.arguments[0]) + "/salvor"
    let bad = controls || !control.isEmpty ? try await runControls(program) : try await runSchedules(program)
    if bad > 0 { throw ExitCode(1) }
  }

  private func runSchedules(_ program: String) async throws -> Int {
    let mode = FailoverRoom.Mode(rawValue: mode) ?? .zeroLoss
    let seeds = (0..<UInt64(schedules)).map { seed &+ $0 }
    var results: [ScheduleRun.Result] = []
    try await withThrowingTaskGroup(of: ScheduleRun.Result.self) { group in
      var waiting = seeds[...]
      func begin() {
        guard let seed = waiting.popFirst() else { return }
        group.addTask {
          try await BlockingPool.shared.run {
            try ScheduleRun.carryOut(FailoverSchedule(seed: seed, mode: mode), program: program)
          }
        }
      }
      for _ in 0..<rooms { begin() }
      while let result = try await group.next() {
        show(result)
        results.append(result)
        begin()
      }
    }
    let bad = results.filter { !$0.isGood }
    let acknowledged = results.reduce(0) { $0 + $1.verdict.acknowledged }
    let lost = results.reduce(0) { $0 + $1.verdict.lost }
    let failovers = results.reduce(0) { $0 + $1.failovers }
    let silences = results.filter { $0.failovers > 0 }.map(\.verdict.longestSilence).sorted()
    let median = silences.isEmpty ? "-" : silences[silences.count / 2].brief
    print(
      "\(results.count) schedules, \(failovers) failovers, acknowledged \(acknowledged), lost \(lost), "
        + "median of the longest silences with a failover \(median), broken promises in \(bad.count)"
        + (bad.isEmpty ? "" : ": seeds \(bad.map { String($0.schedule.seed) }.joined(separator: ", "))"))
    return bad.count
  }

  private func show(_ result: ScheduleRun.Result) {
    let verdict = result.verdict
    say(
      "seed \(result.schedule.seed): \(result.isGood ? "good" : "BROKEN"), failovers \(result.failovers), "
        + "longest silence \(verdict.longestSilence.brief), acknowledged \(verdict.acknowledged), lost \(verdict.lost)"
        + (verdict.lost > 0 ? " up to \(verdict.oldestLost.brief) back" : "") + ", whole after \(result.recovery.brief)"
    )
    for line in result.done { say("  \(line)") }
    for finding in verdict.findings.prefix(5) { say("  ! \(finding)") }
    for problem in result.problems { say("  ! \(problem)") }
    if let logs = result.logs { say("  logs are in \(logs)") }
  }

  private func runControls(_ program: String) async throws -> Int {
    let chosen = control.isEmpty ? FailoverControl.allCases : control.compactMap { FailoverControl(rawValue: $0) }
    let seed = seed
    var bad = 0
    for control in chosen {
      for withProtections in [false, true] {
        let result = try await BlockingPool.shared.run {
          try control.run(seed: seed, program: program, withProtections: withProtections)
        }
        let asExpected = control.isRed(result) != withProtections && (!withProtections || result.isGood)
        if !asExpected { bad += 1 }
        say(
          "\(withProtections ? "with" : "without") \(control.protections.joined(separator: ", ")) (\(control.says)): "
            + "\(control.isRed(result) ? "red" : "green"), failovers \(result.failovers), lost \(result.verdict.lost)"
            + (asExpected ? "" : ", WHICH IS WRONG"))
        for finding in result.verdict.findings.prefix(2) { say("  \(finding)") }
        if withProtections { for problem in result.problems { say("  ! \(problem)") } }
        if let logs = result.logs, asExpected { try? Files.removeTree(logs) }
      }
    }
    return bad
  }

  private func say(_ text: String) { FileHandle.standardError.write(Data((text + "\n").utf8)) }
}
