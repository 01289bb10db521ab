import ArgumentParser
import Console
import Core
import Replay
import Runtime

struct EventReplayCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "replay",
    abstract: "Replay recorded events more than once from the same state, and see whether they lead to the same.",
    discussion: """
      A store's followed log is replayed beside its live state, from a recovery point on. With --program the events are \
      given to a program, a line of JSON each; it answers each with {"digest": "…"} of its state. A difference names the \
      first event after which the states differ.

      Exit status 4 if they differ.

      EXAMPLES
        salvor replay sessions
        salvor replay sessions --from 3f9a1c0b77de --to 2026-11-21T08:00:00Z
        salvor replay --program ./consumer --events events.jsonl
      """)

  @Argument(help: "A store whose log is followed, or that is asked with --query.") var store: String?
  @Option(help: "The recovery point to begin with (default: the newest).") var from: String?
  @Option(help: "The time to end with (default: the log's end).") var to: String?
  @Option(help: "The position to end with, as the engine writes it.") var position: String?
  @Option(help: "How often it is replayed.") var times = 2
  @Option(help: "A program that is given the events, and says what its state is.") var program: String?
  @Option(help: "With --program: events from a file, a line of JSON each.") var events: String?
  @Option(help: "With --program: events from a query to the store, each row one; such as a stream's messages.")
  var query: String?
  @Option(name: .customLong("starting-state"), help: "With --program: a directory it finds a copy of as its own.")
  var startingState: String?
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    guard (2...100).contains(times) else { throw ValidationError("--times is a number from 2 to 100") }
    guard to == nil || position == nil else { throw ValidationError("--to and --position exclude each other") }
    let managed = try await system.load()
    let replays = Replays(managed, journal: try await system.journal())
    let display = ProgressDisplay(output, managed.host)
    let report: ReplayReport
    if let program {
      guard let words = CommandWords.split(program), !words.isEmpty else {
        throw ValidationError("'\(program)' is no command: check its quotes")
      }
      report = try await replays.replay(
        try source(), program: words.enumerated().map { $0 == 0 && $1.contains("/") ? absolute($1) : $1 },
        state: startingState.map(absolute), times: times
      ) { display.line.show("replay", $0) }
    } else {
      guard events == nil, query == nil, startingState == nil else {
        throw ValidationError("--events, --query and --starting-state are for --program")
      }
      report = try await replays.replay(try request()) { display.line.show("replay", $0) }
    }
    display.line.clear()
    try output.show(report) { style in Self.lines(report, style) }
    if report.verdict == .differs { throw ExitStatus.validationFailed }
  }

  private func request() throws -> Replays.Request {
    guard let store, let name = try parseStores([store]).first else { throw ValidationError("name a store") }
    var request = Replays.Request(name)
    (request.from, request.times) = (from, times)
    if let to { request.to = .time(try parseTime(to)) }
    if let position { request.to = .position(position) }
    return request
  }

  private func source() throws -> Replays.Events {
    if let events { return .file(absolute(events)) }
    if let query {
      guard let store, let name = try parseStores([store]).first else { throw ValidationError("name a store") }
      return .query(name, query)
    }
    return .log(try request())
  }

  private static func lines(_ report: ReplayReport, _ style: Style) -> [String] {
    var lines = [
      "\(report.subject.harmless) from \(report.from.harmless) to \(report.to.harmless)"
        + (report.events.map { ", \($0.of("event"))" } ?? "")
    ]
    for (number, digest) in report.digests.enumerated() { lines.append("replay \(number + 1): \(digest.harmless)") }
    guard let difference = report.difference else {
      return lines + [style.paint(report.verdict.rawValue, report.verdict == .same ? .good : .bad)]
    }
    lines.append(
      style.paint("differs", .bad) + " first after \(difference.event.map { "event \($0 + 1)" } ?? "the start"), at "
        + "\(difference.place.harmless): \(difference.what.harmless)")
    if !difference.parts.isEmpty { lines.append("in \(difference.parts.prefix(10).joined(separator: ", ").harmless)") }
    return lines
  }
}
