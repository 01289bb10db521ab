import ArgumentParser
import Console
import Core
import Foundation
import IO
import Runtime

/// The command line: parses, asks, shows; decides nothing.
package struct SalvorCommand: AsyncParsableCommand {
  package static let configuration = CommandConfiguration(
    commandName: "salvor",
    abstract: "Bring a system of services back: in order, to one consistent moment, checked, with proof.",
    discussion: """
      A catalog (YAML) names services, their stores and what depends on what. `backup` takes recovery points that are \
      consistent across stores, into a repository that stock restic can read. `restore` brings one service or all of \
      them back beside the live state, validates, and swaps.

      EXAMPLES
        salvor demo                            the whole story, on a small bank, in a minute
        salvor init                            write a first catalog
        salvor backup                          take a recovery point of every group
        salvor plan restore --at 2026-11-21T08:00:00Z
        salvor restore ledger                  one service, newest good point

      Data goes to standard output, everything else to standard error. Exit status: 0 done, 1 failed, 2 usage, \
      3 incomplete, 4 validation failed, 5 objective missed, 6 refused, 130 interrupted.
      """,
    version: version,
    subcommands: [
      InitCommand.self, ValidateCommand.self, GraphCommand.self, SchemaCommand.self,
      BackupCommand.self, PointCommand.self, PointsCommand.self, PlanCommand.self, RestoreCommand.self,
      FollowCommand.self, RPOCommand.self, TimelineCommand.self, FailoverCommand.self,
      TrafficCommand.self, RolloutCommand.self, FlagCommand.self,
      RunsCommand.self, RunCommand.self, VerifyCommand.self, EvidenceCommand.self, DrillCommand.self,
      RedactCommand.self, DumpCommand.self,
      SynthesizeCommand.self,
      ObjectivesCommand.self, LoadCommand.self, CompatCommand.self,
      CompareCommand.self, RunbookCommand.self, LessonsCommand.self, DiagramCommand.self,
      ReconcileCommand.self, EventReplayCommand.self,
      VaultCommand.self, DriverCommand.self, DemoCommand.self, CompletionCommand.self,
    ])

  package static let version = "0.1.0"

  package init() {}

  /// Runs the program and returns its exit status.
  package static func main(arguments: [String]) async -> Int32 {
    ProcessMemory.prepare()
    do {
      try await Interruption.cancelling {
        var command = try parseAsRoot(arguments)
        if var asynchronous = command as? any AsyncParsableCommand {
          try await asynchronous.run()
        } else {
          try command.run()
        }
      }
      return ExitStatus.done.rawValue
    } catch {
      return report(error)
    }
  }

  private static func report(_ error: any Error) -> Int32 {
    if let status = error as? ExitStatus { return status.rawValue }
    if error is any Failure || error is CancellationError {
      let failure = CommandFailure(error)
      let style = Style.detect(2, environment: ProcessInfo.processInfo.environment)
      standardError(failure.lines(style).joined(separator: "\n") + "\n")
      return failure.status.rawValue
    }
    let code = exitCode(for: error)
    let text = fullMessage(for: error)
    if code.isSuccess {
      standardOutput(text + (text.hasSuffix("\n") ? "" : "\n"))
      return ExitStatus.done.rawValue
    }
    standardError(text + (text.hasSuffix("\n") ? "" : "\n"))
    return code == .validationFailure ? ExitStatus.usage.rawValue : ExitStatus.failed.rawValue
  }
}

extension ExitStatus: Error {}

extension CommandFailure {
  /// What a person reads: what happened, what state things are in, what to do next.
  func lines(_ style: Style) -> [String] {
    var lines = [style.paint("error", .bad) + " \(report.code): \(report.summary.harmless)"]
    if let state = report.state, !state.isEmpty { lines.append("  state: \(state.harmless)") }
    if let remedy = report.remedy, !remedy.isEmpty { lines.append("  next:  \(remedy.harmless)") }
    return lines
  }
}

struct CompletionCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "completion", abstract: "Print a completion script for a shell.",
    discussion: "EXAMPLE\n  salvor completion bash > /etc/bash_completion.d/salvor")

  enum Shell: String, CaseIterable, ExpressibleByArgument { case bash, zsh, fish }

  @Argument(help: "bash, zsh or fish.") var shell: Shell

  func run() {
    let which: CompletionShell =
      switch shell {
      case .bash: .bash
      case .zsh: .zsh
      case .fish: .fish
      }
    standardOutput(SalvorCommand.completionScript(for: which))
  }
}
