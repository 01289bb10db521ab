import ArgumentParser
import Console
import Core
import Foundation
import IO
import Runtime
import StateKit

struct DriverCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "driver", abstract: "Work on drivers that are programs of yours.", subcommands: [Test.self])

  struct Test: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "test", abstract: "Try a driver's program against every promise a driver makes.",
      discussion: """
        The program makes stores of its own for this, in directories below /tmp that are removed again; see 'test.' calls in \
        docs/formats/driver-protocol.md. Exit status 4 if a promise was broken.

        EXAMPLES
          salvor driver test ./my-driver
          salvor driver test --setting port=7000 -o json -- python3 my_driver.py --verbose
        """)

    @Argument(help: "The program, and its arguments after '--'.") var command: [String]
    @Option(name: .customLong("setting"), help: "Something to tell the program, as name=value; may be repeated.")
    var settings: [String] = []
    @OptionGroup var output: OutputOptions

    struct Result: Encodable {
      var command: [String]
      var kept: Int
      var broken: Int
      var promises: [DriverCheck.Outcome]
    }

    func run() async throws {
      var told: [String: String] = [:]
      for text in settings {
        guard let sign = text.firstIndex(of: "="), sign != text.startIndex else {
          throw ValidationError("--setting needs name=value, not '\(text)'")
        }
        told[String(text[..<sign])] = String(text[text.index(after: sign)...])
      }
      var words = command
      if words[0].contains("/") { words[0] = absolute(words[0]) }
      // The program stands elsewhere when it runs.
      for index in words.indices.dropFirst() where !words[index].hasPrefix("-") && Files.exists(words[index]) {
        words[index] = absolute(words[index])
      }
      let environment = ProcessInfo.processInfo.environment
      let host = Machine(
        environment: environment, name: ProcessInfo.processInfo.hostName,
        stateDirectory: Machine.defaultStateDirectory(environment), log: { standardError($0 + "\n") })
      let isQuiet = output.quiet || output.output != .table || isatty(2) == 0
      let outcomes = try await DriverCheck(command: words, settings: told, host: host).run { outcome in
        if !isQuiet { standardError("\(outcome.isKept ? "kept" : "broken"): \(outcome.promise)\n") }
      }
      let broken = outcomes.count { !$0.isKept }
      let result = Result(command: words, kept: outcomes.count - broken, broken: broken, promises: outcomes)
      try output.show(result) { style in
        var table = Table([.init("Promise"), .init("Verdict"), .init("ms", .right), .init("Seen")])
        for outcome in outcomes {
          table.add([
            outcome.promise, style.paint(outcome.isKept ? "kept" : "broken", outcome.isKept ? .good : .bad),
            "\(outcome.milliseconds)", (outcome.why ?? "").harmless,
          ])
        }
        return table.lines(style) + ["\(outcomes.count.of("promise")), \(broken) broken"]
      }
      if broken > 0 { throw ExitStatus.validationFailed }
    }
  }
}
