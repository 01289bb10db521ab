import ArgumentParser
import Console
import Core
import Recovery
import Runtime
import Synchronization

struct BackupCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "backup", abstract: "Take a recovery point of every consistency group.",
    discussion: """
      Each store of a group is held, marked and released together; the pause is measured and kept with the point. A point \
      that can't be taken within its budget is not taken, and writers are released at once.

      EXAMPLES
        salvor backup
        salvor backup bank --hold-budget 200ms
        salvor backup --dry-run
      """)

  @Argument(help: "Groups to take; all if none is named.") var groups: [String] = []
  @Option(help: "How long writers may wait, such as 200ms; instead of the groups' own budget.") var holdBudget: String?
  @Flag(help: "Hold nobody: the point is fuzzy, and nothing is promised between stores.") var noHold = false
  @Flag(help: "Record no digest of the content at the mark.") var noDigest = false
  @Flag(name: [.customShort("n"), .long], help: "Show what would be taken.") var dryRun = false
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    var options = Backup.Options()
    options.holds = !noHold
    options.wantsContentDigests = !noDigest
    if let holdBudget {
      guard let budget = Duration(text: holdBudget), budget > .zero else {
        throw ValidationError("'\(holdBudget)' is not a duration, such as 200ms")
      }
      options.holdBudget = budget
    }
    options.groups = try parseGroups(groups)
    let backup = Backup(managed, journal: try await system.journal())
    let targets = try backup.targets(options)
    if dryRun {
      try output.show(targets) { style in PointText.table(targets, style) }
      return
    }
    let display = ProgressDisplay(output, managed.host)
    var points: [RecoveryPoint] = []
    for target in targets {
      let point = try await backup.take(target, options) { store, progress in
        display.line.show(
          "backup \(target.group)", "\(store): \(progress.phase) \(formatBytes(progress.doneBytes ?? 0))")
      }
      display.line.clear()
      points.append(point)
      if output.output == .table {
        try output.show(point) { style in PointText.lines(point, style) }
      }
    }
    if output.output != .table { try output.show(points) { _ in [] } }
    // A point that is less than was asked for is not a success.
    if !noHold, points.contains(where: { $0.stores.count > 1 && ($0.mode == .fuzzy || $0.hasStoresOutside) }) {
      throw ExitStatus.incomplete
    }
  }
}

struct PointCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "point", abstract: "Take recovery points of stores whose logs are followed: none of them is copied.",
    subcommands: [PointTakeCommand.self])
}

struct PointTakeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "take", abstract: "Hold a group for a moment, and write down where each store stands.",
    discussion: """
      Of stores that are followed (`salvor follow`) a copy from before and the log lead to the mark; those of the group \
      that have no log to follow are copied each time. Such a point costs a pause and some kilobytes, so it can be taken every \
      few seconds. With --every they are thinned out as they age; those with a name stay. SIGINT and SIGTERM end it with \
      status 0.

      EXAMPLES
        salvor point take bank --name before-release-42
        salvor point take --every 5s --keep 2h
      """)

  @Argument(help: "Groups to take; every one with a store that can be followed if none is named.") var groups:
    [String] = []
  @Option(help: "What to call it, such as a release.") var name: String?
  @Option(help: "Take one so often, until told to stop.") var every: String?
  @Option(help: "With --every: end after so many.") var count: Int?
  @Option(help: "With --every: how long all of them stay; then one a minute for a day, then one an hour.") var keep =
    "1h"
  @Option(help: "How long writers may wait, such as 200ms; instead of the groups' own budget.") var holdBudget: String?
  @Option(help: "Without --every: how long to wait until the logs have come so far.") var wait = "10s"
  @Flag(help: "Hold nobody: the point is fuzzy, and nothing is promised between stores.") var noHold = false
  /// For controls that must find a broken point: marks in the same instant could be a cut by luck.
  @Option(help: .hidden) var apart: String?
  @Flag(name: [.customShort("n"), .long], help: "Show what would be taken.") var dryRun = false
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  private func options() throws -> Barriers.Options {
    var options = Barriers.Options()
    options.groups = try parseGroups(groups)
    options.holds = !noHold
    if let name {
      guard (1...64).contains(name.utf8.count), name.utf8.allSatisfy({ $0 > 32 && $0 < 127 && $0 != 44 }) else {
        throw ValidationError("a name has 1 to 64 letters, digits and signs, without blanks and commas")
      }
      options.name = name
    }
    options.every = try every.map { try parseDuration($0, from: .milliseconds(100)) }
    options.keepsAll = try parseDuration(keep, from: .seconds(10))
    options.reachedWithin = try parseDuration(wait, from: .zero)
    options.count = count
    if let count, count < 1 || every == nil { throw ValidationError("--count goes with --every, and is at least 1") }
    if let apart { options.apart = try parseDuration(apart, from: .zero) }
    if let holdBudget { options.holdBudget = try parseDuration(holdBudget, from: .milliseconds(1)) }
    return options
  }

  func run() async throws {
    let options = try options()
    let managed = try await system.load()
    let barriers = Barriers(managed, journal: try await system.journal())
    let targets = try barriers.targets(options)
    if dryRun {
      try output.show(targets) { style in PointText.table(targets, style) }
      return
    }
    let taken = Taken()
    let output = output
    try await barriers.run(targets, options) { news in
      switch news {
      case .taken(let point):
        taken.add(point)
        // One after another as they come: nobody waits for the end.
        if output.output == .table || options.every != nil {
          try? output.show(point) { style in PointText.lines(point, style) }
        }
      case .trouble(let group, let report): standardError("\(group): warning: \(report.description.harmless)\n")
      case .thinned(let group, let count):
        if !output.quiet { standardError("\(group): \(count.of("old point")) removed\n") }
      }
    }
    guard options.every == nil else { return }
    if output.output != .table { try output.show(taken.points) { _ in [] } }
    var isWhole = true
    for point in taken.points {
      for (store, why) in try await barriers.unreached(point, within: options.reachedWithin).sorted(by: {
        $0.key < $1.key
      }) {
        isWhole = false
        standardError("warning: \(store) can't be brought to \(point.id) yet: \(why.harmless)\n")
      }
      if !noHold, point.members.count > 1, point.mode == .fuzzy || point.hasStoresOutside { isWhole = false }
    }
    if !isWhole { throw ExitStatus.incomplete }
  }
}

/// Points as they are taken, by several groups at once.
private final class Taken: Sendable {
  private let list = Mutex<[RecoveryPoint]>([])
  var points: [RecoveryPoint] { list.withLock { $0.sorted { ($0.time, $0.id) < ($1.time, $1.id) } } }
  func add(_ point: RecoveryPoint) { list.withLock { $0.append(point) } }
}

func parseGroups(_ names: [String]) throws -> Set<GroupName> {
  Set(
    try names.map { text in
      guard let name = GroupName(text) else { throw ValidationError("'\(text)' can't be a group's name") }
      return name
    })
}

struct PointsCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "points", abstract: "List recovery points, oldest first.",
    discussion: "EXAMPLES\n  salvor points\n  salvor points 20261121T0809 -o yaml")

  @Argument(help: "A point's id, the beginning of one, or its name, to show in full.") var id: String?
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    let listing = try await Points(managed).list()
    for (snapshot, report) in listing.unreadable {
      standardError("warning: snapshot \(snapshot.prefix(8)) is tagged as a point and can't be read: \(report)\n")
    }
    if let id {
      let point = try listing.points.called(id)
      try output.show(point) { style in PointText.lines(point, style) }
      return
    }
    try output.show(listing.points) { style in
      var table = Table([
        .init("id"), .init("group"), .init("time"), .init("mode"), .init("stores", .right), .init("pause", .right),
        .init("size", .right), .init("remarks"),
      ])
      for point in listing.points {
        let size = point.stores.values.reduce(0) { $0 &+ $1.capture.sizeBytes }
        table.add(
          point.id.text, point.group.text, point.time.format(fractionDigits: 3),
          style.paint(point.mode.rawValue, point.mode == .fuzzy ? .warning : .good), "\(point.members.count)",
          point.pause.brief, point.stores.isEmpty ? "log" : formatBytes(size),
          ((point.name.map { ["'\($0)'"] } ?? []) + point.remarks).joined(separator: "; ").harmless)
      }
      return table.lines(style)
    }
    if !listing.unreadable.isEmpty { throw ExitStatus.incomplete }
  }
}

struct VerifyCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify", abstract: "Read every byte of recovery points and check it.",
    discussion: """
      Exit status 4 if any copy is damaged.

      EXAMPLES
        salvor verify                 the newest point of each group
        salvor verify --all
        salvor verify 20261121T0809
      """)

  @Argument(help: "A point's id, its beginning, or its name.") var id: String?
  @Flag(help: "Every point, not only the newest of each group.") var all = false
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    let display = ProgressDisplay(output, managed.host)
    let verdicts = try await Points(managed).verify(id, all: all, journal: try await system.journal()) {
      display.line.show("verify", $0)
    }
    display.line.clear()
    try output.show(verdicts) { style in
      var table = Table("point", "store", "verdict")
      for verdict in verdicts {
        table.add(
          verdict.point.text, verdict.store.text,
          verdict.damage.map { style.paint("damaged: \($0.harmless)", .bad) } ?? style.paint("whole", .good))
      }
      return table.lines(style)
    }
    guard !verdicts.isEmpty else { throw RecoveryError.noPoint(why: []) }
    if verdicts.contains(where: { $0.damage != nil }) { throw ExitStatus.validationFailed }
  }
}

/// A point, for people.
enum PointText {
  static func table(_ targets: [Backup.Target], _ style: Style) -> [String] {
    var table = Table("group", "stores", "repository", "hold budget")
    for target in targets {
      table.add(
        target.group.text, target.stores.map(\.text).joined(separator: " "), target.repository.text,
        target.holdBudget.brief)
    }
    return table.lines(style)
  }

  static func lines(_ point: RecoveryPoint, _ style: Style) -> [String] {
    let pause = point.pause == .zero ? "nobody waited" : "writers waited \(point.pause.brief)"
    var lines = [
      "point \(style.paint(point.id.text, .strong))  \(point.name.map { "'\($0.harmless)'  " } ?? "")\(point.group)  "
        + style.paint(point.mode.rawValue, point.mode == .fuzzy ? .warning : .good)
        + "  \(pause) (budget \(Duration.nanoseconds(point.holdBudgetNanoseconds).brief))"
    ]
    var table = Table([
      .init("store"), .init("driver"), .init("position"), .init("hold", .right), .init("size", .right),
      .init("added", .right), .init("snapshot"), .init("cut"),
    ])
    func cut(_ cut: StorePoint.Cut) -> String {
      switch cut {
      case .held: style.paint("held", .good)
      case .moment: style.paint("one moment", .good)
      // Why is among the remarks.
      case .outside: style.paint("outside", .warning)
      }
    }
    for (name, store) in (point.logged ?? [:]).sorted(by: { $0.key < $1.key }) {
      table.add(
        name.text, store.driver.text, store.position.description.harmless.cut(to: 36),
        Duration.nanoseconds(store.timings.hold).brief, "-", "-", "log", cut(store.cut))
    }
    for (name, store) in point.stores.sorted(by: { $0.key < $1.key }) {
      table.add(
        name.text, "\(store.driver) \(store.capture.version)", store.capture.position.description.harmless.cut(to: 36),
        Duration.nanoseconds(store.timings.hold).brief, formatBytes(store.capture.sizeBytes),
        formatBytes(store.addedBytes), String(store.snapshot.prefix(8)), cut(store.cut))
    }
    lines += table.lines(style).map { "  " + $0 }
    lines += point.remarks.map { "  " + style.paint("note: \($0.harmless)", .warning) }
    return lines
  }
}
