import ArgumentParser
import Console
import Core
import Foundation
import Yams

/// How results are shown.
struct OutputOptions: ParsableArguments {
  enum Format: String, CaseIterable, ExpressibleByArgument { case table, json, yaml }

  @Option(name: [.short, .customLong("output")], help: "table, json or yaml.") var output: Format = .table
  @Flag(name: .shortAndLong, help: "Show no progress.") var quiet = false

  var style: Style { Style.detect(1, environment: ProcessInfo.processInfo.environment) }

  /// Prints `value` as JSON or YAML, or what `table` makes of it.
  func show(_ value: some Encodable, table: (Style) -> [String]) throws {
    switch output {
    case .table:
      let lines = table(style)
      if !lines.isEmpty { standardOutput(lines.joined(separator: "\n") + "\n") }
    case .json: standardOutput(try CanonicalJSON.text(value, pretty: true) + "\n")
    case .yaml:
      let encoder = YAMLEncoder()
      encoder.options.sortKeys = true
      // By way of JSON, so that both show the same keys and texts.
      let plain = try CanonicalJSON.decode(JSONValue.self, from: CanonicalJSON.encode(value))
      standardOutput(try encoder.encode(plain))
    }
  }
}

extension Int {
  /// `1 store`, `2 stores`.
  func of(_ noun: String) -> String { "\(self) \(noun)\(self == 1 ? "" : "s")" }
}

/// Asks before what can't be undone; `--yes` answers.
struct ConsentOptions: ParsableArguments {
  @Flag(name: .shortAndLong, help: "Don't ask.") var yes = false

  func require(_ question: String) throws {
    if yes { return }
    guard isatty(0) == 1 else {
      throw CommandFailure(
        .refused,
        Report("USAGE-201", "this needs consent, and there is no terminal to ask on")
          .state("nothing was changed").remedy("add --yes if you mean it"))
    }
    standardError("\(question) [y/N] ")
    guard let answer = readLine()?.lowercased(), answer == "y" || answer == "yes" else {
      throw CommandFailure(.refused, Report("USAGE-202", "not confirmed").state("nothing was changed"))
    }
  }
}
