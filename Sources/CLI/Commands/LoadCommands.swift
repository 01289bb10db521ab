import ArgumentParser
import Catalog
import Console
import Core
import Load
import Runtime

struct LoadCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "load", abstract: "Do what users do, at a rate, and measure how services answer.",
    subcommands: [LoadRunCommand.self, LoadListCommand.self, LoadShowCommand.self])
}

/// The system with a workflow of its catalog.
private func find(_ text: String, in catalog: Catalog) throws -> LoadWorkflow {
  guard let name = WorkflowName(text), let workflow = catalog.workflow(name) else {
    throw LoadError.noSuchWorkflow(text)
  }
  return workflow
}

struct LoadRunCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run", abstract: "Go through a workflow at its load, against what is live.",
    discussion: """
      With a rate, runs are due at moments of their own, and timed from there: a server that stalls is seen by all who \
      come meanwhile. Without one, each user begins anew once done.

      A workflow that writes needs --consent. Exit status 4 if what it expects does not hold.

      EXAMPLES
        salvor load run look-around
        salvor load run look-around --rate 50/s --for 30s
        salvor load run transfer --consent --users 4 --iterations 100 --seed 7 -o json
      """)

  @Argument(help: "A workflow, as named in the catalog.") var name: String
  @Option(help: "How many begin, such as 20/s or 90/m.") var rate: String?
  @Option(name: .customLong("for"), help: "How long, such as 30s; after the warm-up.") var duration: String?
  @Option(help: "How often it is gone through at most.") var iterations: Int?
  @Option(help: "How many users there are at most at one moment.") var users: Int?
  @Option(help: "Make the choices of an earlier run again.") var seed: UInt64?
  @Flag(help: "What it leaves behind on the live system is welcome.") var consent = false
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    var request = LoadRuns.Request(try find(name, in: managed.catalog).name)
    if let rate {
      guard let value = LoadWorkflow.Rate(rate) else { throw ValidationError("'\(rate)' is not a rate such as 20/s") }
      request.rate = value
    }
    if let duration {
      guard let value = Duration(text: duration), value > .zero else {
        throw ValidationError("'\(duration)' is not a duration such as 30s")
      }
      request.duration = value
    }
    if let iterations, iterations < 1 { throw ValidationError("go through it at least once") }
    if let users, !(1...10_000).contains(users) { throw ValidationError("there are 1 to 10000 users") }
    (request.iterations, request.users, request.seed, request.hasConsent) = (iterations, users, seed, consent)
    let display = ProgressDisplay(output, managed.host)
    let name = request.workflow
    let report = try await LoadRuns(managed.catalog, host: managed.host).run(request) { counted, failed in
      display.line.show(name.text, "\(counted) runs, \(failed) failed")
    }
    display.line.clear()
    try output.show(report) { style in LoadTexts.lines(report, style) }
    if !report.isPassed { throw ExitStatus.validationFailed }
  }
}

struct LoadListCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list", abstract: "List the catalog's workflows.", discussion: "EXAMPLE\n  salvor load list")

  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let catalog = try await system.load().catalog
    try output.show(catalog.workflows) { style in
      var table = Table("workflow", "effects", "load", "steps", "checked by")
      for workflow in catalog.workflows {
        let users = catalog.services.filter { service in
          service.validators.contains { $0.question == .workflow(workflow.name) }
        }
        table.add(
          workflow.name.text, workflow.effects.rawValue, LoadTexts.load(workflow.load), "\(workflow.steps.count)",
          users.map(\.name.text).joined(separator: ", "))
      }
      return table.lines(style)
    }
  }
}

struct LoadShowCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "show", abstract: "Show a workflow: its steps, its load, what it expects.",
    discussion: "EXAMPLE\n  salvor load show look-around")

  @Argument(help: "A workflow, as named in the catalog.") var name: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let workflow = try find(name, in: try await system.load().catalog)
    try output.show(workflow) { style in LoadTexts.lines(workflow, style) }
  }
}
