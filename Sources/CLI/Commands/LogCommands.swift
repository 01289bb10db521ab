import ArgumentParser
import Console
import Core
import Recovery
import Runtime

struct FollowCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "follow", abstract: "Follow stores' logs into their repositories, until told to stop.",
    discussion: """
      What a store acknowledges is in the repository within seconds, or before it is acknowledged where the store waits \
      for us. SIGTERM and SIGINT write what has come, and end with status 0. A log begins to be of use with the first \
      recovery point taken after it began.

      EXAMPLES
        salvor follow
        salvor follow ledger-db --within 500ms
      """)

  @Argument(help: "Stores to follow; every one that has a log if none is named.") var stores: [String] = []
  @Option(help: "What comes is durable within about this.") var within = "2s"
  @Option(help: "How often it is recorded of a silent store that nothing was missed.") var idle = "30s"
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    var options = LogKeeper.Options()
    options.within = try parseDuration(within, from: .milliseconds(20))
    options.idle = try parseDuration(idle, from: .seconds(1))
    let follow = Follow(managed)
    let targets = try follow.targets(try parseStores(stores))
    guard !targets.isEmpty else {
      throw CommandFailure(
        .usage,
        Report("LOG-105", "no store of the catalog has a log that can be followed").remedy("`salvor graph` lists them"))
    }
    let isQuiet = output.quiet
    try await follow.run(targets, options: options) { store, news in
      if let line = LogText.line(store, news, isQuiet: isQuiet) { standardError(line + "\n") }
    }
  }
}

struct RPOCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rpo", abstract: "Show how much work would be lost if a store were lost now.",
    discussion: """
      Asks the repositories only. Exit status 5 if a store is beyond its objective, or can't be brought back at all.

      EXAMPLES
        salvor rpo
        salvor rpo ledger-db --watch
        salvor rpo -o json
      """)

  @Argument(help: "Stores; all if none is named.") var stores: [String] = []
  @Flag(help: "Show it again every few seconds, until interrupted.") var watch = false
  @Option(help: "With --watch: how often.") var every = "2s"
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    let logs = Logs(managed)
    let names = try logs.stores(try parseStores(stores))
    let pause = try parseDuration(every, from: .milliseconds(100))
    while true {
      let standings: [Logs.Standing]
      do { standings = try await logs.standings(names) } catch {
        // A repository that is away for a while is no reason to stop watching.
        guard watch, error.report.retry == .afterBackoff, !error.isCancellation else { throw error }
        standardError("warning: \(error.report.description.harmless)\n")
        try await managed.host.time.sleep(for: pause)
        continue
      }
      try output.show(standings) { style in LogText.table(standings, style) }
      guard watch else {
        if standings.contains(where: { $0.missesObjective || $0.newest == nil }) { throw ExitStatus.objectiveMissed }
        return
      }
      try await managed.host.time.sleep(for: pause)
    }
  }
}

struct TimelineCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "timeline", abstract: "Show what a store can be brought back to, and where its log has gaps.",
    discussion: """
      Exit status 3 if there are gaps.

      EXAMPLE
        salvor timeline ledger-db
      """)

  @Argument(help: "A store.") var store: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    guard let name = try parseStores([store]).first else { return }
    let (coverage, unreadable) = try await Logs(try await system.load()).coverage(of: name)
    for (snapshot, report) in unreadable.sorted(by: { $0.key < $1.key }) {
      standardError("warning: snapshot \(snapshot.prefix(8)) can't be read: \(report)\n")
    }
    try output.show(coverage) { style in LogText.lines(coverage, style) }
    if !coverage.gaps.isEmpty || !unreadable.isEmpty { throw ExitStatus.incomplete }
  }
}

func parseStores(_ names: [String]) throws -> Set<StoreName> {
  Set(
    try names.map { text in
      guard let name = StoreName(text) else { throw ValidationError("'\(text)' can't be a store's name") }
      return name
    })
}

func parseDuration(_ text: String, from least: Duration) throws -> Duration {
  guard let duration = Duration(text: text), duration >= least, duration <= .seconds(86_400) else {
    throw ValidationError("'\(text)' is not a duration from \(least.brief) to a day, such as 2s")
  }
  return duration
}

/// Logs, for people.
enum LogText {
  /// - Returns: `nil` for what is not worth a line.
  static func line(_ store: StoreName, _ news: LogKeeper.News, isQuiet: Bool) -> String? {
    switch news {
    case .following(let from):
      isQuiet ? nil : "\(store): following from \(from?.description.harmless ?? "where its log begins")"
    case .saved(let span, let bytes):
      isQuiet ? nil : "\(store): durable to \(span.to.description.harmless), \(formatBytes(Int64(bytes)))"
    case .joined(let count): isQuiet ? nil : "\(store): joined \(count) stretches"
    case .gap(let why): "\(store): warning: a gap in the log: \(why.harmless); take a recovery point"
    case .standingBack(let owner):
      isQuiet ? nil : "\(store): standing back: the repository is wanted alone by \(owner.harmless)"
    case .trouble(let report): "\(store): warning: \(report.description.harmless)"
    case .unreadable(let snapshot, let report):
      "\(store): warning: snapshot \(snapshot.prefix(8)) can't be read: \(report.description.harmless)"
    }
  }

  static func table(_ standings: [Logs.Standing], _ style: Style) -> [String] {
    var table = Table([
      .init("store"), .init("state"), .init("newest"), .init("position"), .init("rpo", .right), .init("asked", .right),
      .init("gaps", .right),
    ])
    for standing in standings {
      let rpo = standing.rpoSeconds.map { Duration.seconds($0).brief } ?? "everything"
      table.add(
        standing.store.text,
        style.paint(standing.state.rawValue, standing.state == .followed ? .good : .warning),
        standing.newest?.format(fractionDigits: 3) ?? "-", standing.position?.description.harmless.cut(to: 36) ?? "-",
        style.paint(rpo, standing.missesObjective ? .bad : standing.rpoSeconds == nil ? .bad : .good),
        standing.objectiveSeconds.map { Duration.seconds($0).brief } ?? "-", "\(standing.gaps)")
    }
    return table.lines(style)
  }

  static func lines(_ coverage: LogCoverage, _ style: Style) -> [String] {
    var table = Table([
      .init("point"), .init("from"), .init("to"), .init("from position"), .init("to position"), .init("log", .right),
    ])
    for reach in coverage.reaches {
      table.add(
        reach.point.text, reach.fromTime.format(fractionDigits: 3),
        reach.toTime == reach.fromTime ? "-" : reach.toTime.format(fractionDigits: 3),
        reach.from.description.harmless.cut(to: 36), reach.to.description.harmless.cut(to: 36),
        formatBytes(reach.logBytes))
    }
    var lines = coverage.reaches.isEmpty ? ["no recovery point has a copy of this store"] : table.lines(style)
    for gap in coverage.gaps {
      lines.append(
        style.paint("gap", .bad) + " after \(gap.after.description.harmless)"
          + (gap.afterTime.map { " (\($0.format(fractionDigits: 3)))" } ?? "")
          + ", before \(gap.before.description.harmless)"
          + (gap.beforeTime.map { " (\($0.format(fractionDigits: 3)))" } ?? "") + ": \(gap.why.harmless)")
    }
    for log in coverage.unbased {
      lines.append(
        style.paint("no copy", .warning)
          + " leads to the log from \(log.from.description.harmless) to \(log.to.description.harmless): take a recovery point"
      )
    }
    return lines
  }
}
