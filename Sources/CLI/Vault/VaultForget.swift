import ArgumentParser
import Console
import Core
import Foundation
import Recovery
import Vault

extension RetentionPolicy.Count: ExpressibleByArgument {
  public init?(argument: String) {
    if argument == "unlimited" {
      self = .unlimited
    } else if let number = Int(argument), number >= 0 {
      self = .number(number)
    } else {
      return nil
    }
  }
}

extension CalendarDuration: ExpressibleByArgument {
  public init?(argument: String) { self.init(argument) }
}

/// What is kept: restic's options by restic's names.
struct RetentionOptions: ParsableArguments {
  @Option(name: [.customShort("l"), .long], help: ArgumentHelp("The newest so many.", valueName: "n"))
  var keepLast: RetentionPolicy.Count = .number(0)
  @Option(name: [.customShort("H"), .long], help: ArgumentHelp("The newest of each of so many hours.", valueName: "n"))
  var keepHourly: RetentionPolicy.Count = .number(0)
  @Option(name: [.customShort("d"), .long], help: ArgumentHelp("The newest of each of so many days.", valueName: "n"))
  var keepDaily: RetentionPolicy.Count = .number(0)
  @Option(name: [.customShort("w"), .long], help: ArgumentHelp("The newest of each of so many weeks.", valueName: "n"))
  var keepWeekly: RetentionPolicy.Count = .number(0)
  @Option(
    name: [.customShort("m"), .long], help: ArgumentHelp("The newest of each of so many months.", valueName: "n"))
  var keepMonthly: RetentionPolicy.Count = .number(0)
  @Option(name: [.customShort("y"), .long], help: ArgumentHelp("The newest of each of so many years.", valueName: "n"))
  var keepYearly: RetentionPolicy.Count = .number(0)
  @Option(help: ArgumentHelp("All within so long before the newest, such as 1y5m7d2h.", valueName: "duration"))
  var keepWithin: CalendarDuration?
  @Option(help: ArgumentHelp("The newest of each hour within so long.", valueName: "duration"))
  var keepWithinHourly: CalendarDuration?
  @Option(help: ArgumentHelp("The newest of each day within so long.", valueName: "duration"))
  var keepWithinDaily: CalendarDuration?
  @Option(help: ArgumentHelp("The newest of each week within so long.", valueName: "duration"))
  var keepWithinWeekly: CalendarDuration?
  @Option(help: ArgumentHelp("The newest of each month within so long.", valueName: "duration"))
  var keepWithinMonthly: CalendarDuration?
  @Option(help: ArgumentHelp("The newest of each year within so long.", valueName: "duration"))
  var keepWithinYearly: CalendarDuration?
  @Option(help: ArgumentHelp("All with these tags; may be repeated.", valueName: "tag[,tag…]"))
  var keepTag: [String] = []

  var policy: RetentionPolicy {
    var policy = RetentionPolicy()
    policy.last = keepLast
    let counts: [(RetentionPolicy.Period, RetentionPolicy.Count)] = [
      (.hourly, keepHourly), (.daily, keepDaily), (.weekly, keepWeekly), (.monthly, keepMonthly),
      (.yearly, keepYearly),
    ]
    for (period, count) in counts where count != .number(0) { policy.counts[period] = count }
    policy.within = keepWithin
    let spans: [(RetentionPolicy.Period, CalendarDuration?)] = [
      (.hourly, keepWithinHourly), (.daily, keepWithinDaily), (.weekly, keepWithinWeekly),
      (.monthly, keepWithinMonthly), (.yearly, keepWithinYearly),
    ]
    for (period, span) in spans { policy.withinPeriods[period] = span }
    policy.tags = keepTag.map { $0.split(separator: ",").map(String.init) }
    return policy
  }
}

/// The filters of ``SnapshotFilter``, without a short name that a policy needs.
struct RetentionFilter: ParsableArguments {
  @Option(help: "Only snapshots of this host; may be repeated.") var host: [String] = []
  @Option(help: ArgumentHelp("Only snapshots with all of these tags; may be repeated.", valueName: "tag[,tag…]"))
  var tag: [String] = []
  @Option(help: "Only snapshots that contain this path; may be repeated.", completion: .directory)
  var path: [String] = []

  var filter: SnapshotFilter {
    var filter = SnapshotFilter.all
    (filter.host, filter.tag, filter.path) = (host, tag, path)
    return filter
  }
}

extension VaultCommand {
  struct Forget: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "forget", abstract: "Remove snapshots, by name or by a policy.",
      discussion: """
        The policy is applied to each host's snapshots of the same paths by themselves (--group-by). Every option keeps \
        what it names; what none keeps goes. Data stays until a prune.

        Salvor's own recovery points stay whole: what belongs to a point that is kept is kept. Logs that were followed \
        count in no policy: they go as far as no copy needs them any more. With --tag salvor-log a policy is for logs \
        alone, and takes them from the oldest on. Snapshots dated in the future neither count nor go.

        EXAMPLES
          salvor vault forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
          salvor vault forget --keep-within 30d --keep-tag release --prune
          salvor vault forget 40dc1520
        """)

    @Argument(help: "These snapshots, whatever a policy says.") var ids: [String] = []
    @OptionGroup var retention: RetentionOptions
    @OptionGroup var filter: RetentionFilter
    @Option(
      name: .shortAndLong,
      help: ArgumentHelp("host, paths and tags, separated by commas; '' for one group.", valueName: "criteria"))
    var groupBy = "host,paths"
    @Flag(name: [.customShort("n"), .long], help: "Say what would go, and remove nothing.") var dryRun = false
    @Flag(help: "Prune afterwards if something was removed.") var prune = false
    @Flag(help: "Allow removing every snapshot that the filters let through.") var unsafeAllowRemoveAll = false
    @OptionGroup var pruning: PruneLimits
    @OptionGroup var options: RepositoryOptions

    private func criteria() throws -> Set<SnapshotGroup.Criterion> {
      let names = ["host": "host", "hosts": "host", "path": "paths", "paths": "paths", "tag": "tags", "tags": "tags"]
      return Set(
        try groupBy.split(separator: ",").map { word in
          guard let criterion = names[String(word)].flatMap({ SnapshotGroup.Criterion(rawValue: $0) }) else {
            throw ValidationError("--group-by knows host, paths and tags, not '\(word)'")
          }
          return criterion
        })
    }

    func validate() throws {
      _ = try criteria()
      _ = try pruning.options()
      if ids.isEmpty, retention.policy.isEmpty {
        guard unsafeAllowRemoveAll, !filter.filter.isEmpty else {
          throw ValidationError(
            "nothing says what to keep: give a --keep-… option or ids; to remove every snapshot that a filter lets "
              + "through, add --unsafe-allow-remove-all")
        }
      }
      if !ids.isEmpty, !retention.policy.isEmpty { throw ValidationError("give either ids or a policy") }
    }

    func run() async throws {
      let (command, criteria, limits, line) = (self, try criteria(), try pruning.options(), options.progress)
      let now = options.host.time.now()
      let (decision, pruned) = try await options.locked(exclusive: true, needsLock: !dryRun, loadingIndex: prune) {
        repository in
        var decision = try await command.decide(repository, criteria, now)
        if !command.dryRun {
          for stored in decision.removed {
            do throws(VaultError) { try await repository.forget(stored.id) } catch {
              guard case .store(.locked(_, let lock)) = error, command.ids.isEmpty else { throw error }
              decision.keep(stored, because: "locked \(lock.reason)")
            }
          }
        }
        guard command.prune, !decision.removed.isEmpty, !command.dryRun else {
          return (decision, PruneReport?.none)
        }
        return (decision, try await repository.prune(limits) { line.show($0) })
      }
      line.clear()
      try show(decision, pruned)
    }

    private func decide(
      _ repository: Repository, _ criteria: Set<SnapshotGroup.Criterion>, _ now: Timestamp
    ) async throws -> RetentionDecision {
      // One that can't be read makes this fail: it may be what a point or a policy rests on.
      let all = try await repository.snapshots()
      if !ids.isEmpty {
        var named: [StoredSnapshot] = []
        for id in ids { named.append(try await filter.filter.find(id, in: repository)) }
        return try RetentionDecision(removing: named, of: all)
      }
      let filter = filter.filter
      let groups = SnapshotGroup.groups(of: all.filter { filter.matches($0.snapshot) }, by: criteria)
      // Logs are no copies: they count in no policy, unless it is for them alone.
      let isForLogs = filter.tag.contains { $0.split(separator: ",").contains { $0 == LogArchive.tag } }
      let rule: RetentionDecision.LogRule = retention.policy.isEmpty ? .asOthers : isForLogs ? .policy : .need
      let decision = RetentionDecision(
        groups.map { group in
          let counted =
            rule == .need ? group.snapshots.filter { !LogRetention.isStretch($0.snapshot) } : group.snapshots
          return (group, retention.policy.verdicts(on: counted, now: now))
        }, of: all, rule)
      if !retention.policy.isEmpty, let lost = decision.groups.first(where: { $0.kept.isEmpty }) {
        throw CommandFailure(
          .refused,
          Report("VAULT-161", "the policy would remove the last snapshot of \(lost.group.title)")
            .state("nothing was changed")
            .remedy("keep at least one, such as with --keep-last 1, or name the snapshots to remove"))
      }
      return decision
    }

    private func show(_ decision: RetentionDecision, _ pruned: PruneReport?) throws {
      // With ids there are no groups, and restic says nothing.
      let json = decision.groups.map(\.json)
      try options.show(json) { style in
        var lines: [String] = []
        for group in decision.groups {
          lines.append(style.paint(group.group.title, .strong))
          var table = Table("", "ID", "Time", "Host", "Tags", "Why")
          for verdict in group.verdicts {
            let snapshot = verdict.stored.snapshot
            table.add(
              verdict.isKept ? style.paint("keep", .good) : style.paint("remove", .warning), verdict.stored.shortID,
              snapshot.time.format(fractionDigits: 0), snapshot.hostname.harmless,
              snapshot.tags.joined(separator: ",").harmless, verdict.reasons.joined(separator: ", ").harmless)
          }
          lines += table.lines(style)
        }
        let count = decision.removed.count.of("snapshot")
        lines.append(dryRun ? "\(count) would be removed" : "\(count) removed")
        if let pruned { lines += pruned.lines(isDryRun: false) }
        if prune, dryRun { lines.append("what a prune would free shows after it: `salvor vault prune --dry-run`") }
        return lines
      }
    }
  }
}

/// Which snapshots go.
struct RetentionDecision: Sendable {
  struct Group: Sendable {
    var group: SnapshotGroup
    var verdicts: [RetentionPolicy.Verdict]
    var kept: [RetentionPolicy.Verdict] { verdicts.filter(\.isKept) }
  }

  var groups: [Group]
  var removed: [StoredSnapshot]

  /// It should go, and can't yet.
  mutating func keep(_ stored: StoredSnapshot, because reason: String) {
    removed.removeAll { $0.id == stored.id }
    for group in groups.indices {
      for verdict in groups[group].verdicts.indices where groups[group].verdicts[verdict].stored.id == stored.id {
        groups[group].verdicts[verdict].reasons = [reason]
      }
    }
  }

  /// A policy's verdicts, and what they mean for recovery points and logs: a point that stays, stays whole, and a log stays
  /// from its oldest copy on.
  ///
  /// - Parameter decided: Verdicts on all members of the groups; by ``LogRule/need`` on all but stretches of log.
  init(_ decided: [(SnapshotGroup, [RetentionPolicy.Verdict])], of all: [StoredSnapshot], _ rule: LogRule) {
    let goingByPolicy = Set(decided.flatMap(\.1).filter { !$0.isKept }.map(\.stored.id))
    let staying = Set(all.filter { $0.snapshot.isPoint && !goingByPolicy.contains($0.id) }.compactMap(\.snapshot.point))
    groups = decided.map { group, verdicts in
      Group(
        group: group,
        verdicts: verdicts.map { verdict in
          guard !verdict.isKept, let point = verdict.stored.snapshot.point, staying.contains(point) else {
            return verdict
          }
          var kept = verdict
          kept.reasons = ["belongs to point \(point)"]
          return kept
        })
    }
    removed = []
    judgeLogs(decided.map(\.0), of: all, rule)
    removed = groups.flatMap(\.verdicts).filter { !$0.isKept }.map(\.stored)
  }

  /// What becomes of stretches of log.
  enum LogRule {
    /// They stay where a copy that stays needs them, whatever the policy.
    case need
    /// The policy is for them, and takes them from the oldest on.
    case policy
    /// Everything goes, and they with it.
    case asOthers
  }

  private mutating func judgeLogs(_ members: [SnapshotGroup], of all: [StoredSnapshot], _ rule: LogRule) {
    let going = Set(groups.flatMap(\.verdicts).filter { !$0.isKept }.map(\.stored.id))
    let stretches = members.flatMap(\.snapshots).filter { LogRetention.isStretch($0.snapshot) }
    switch rule {
    case .asOthers: return
    case .need:
      let unneeded = LogRetention.unneeded(stretches, staying: all.filter { !going.contains($0.id) })
      for (index, group) in members.enumerated() {
        groups[index].verdicts += group.snapshots.filter { LogRetention.isStretch($0.snapshot) }.map {
          .init(stored: $0, reasons: unneeded.contains($0.id) ? [] : ["log that leads on from a copy"])
        }
      }
    case .policy:
      let leading = LogRetention.leading(stretches, letGo: going)
      for index in groups.indices {
        for number in groups[index].verdicts.indices {
          let stored = groups[index].verdicts[number].stored
          guard LogRetention.isStretch(stored.snapshot), going.contains(stored.id), !leading.contains(stored.id) else {
            continue
          }
          groups[index].verdicts[number].reasons = ["log that leads on from what is kept"]
        }
      }
    }
  }

  /// Snapshots that were named.
  ///
  /// - Throws: If one belongs to a recovery point that would stay.
  init(removing named: [StoredSnapshot], of all: [StoredSnapshot]) throws {
    groups = []
    var seen: Set<Digest> = []
    removed = named.filter { seen.insert($0.id).inserted }
    for stored in removed where !stored.snapshot.isPoint {
      guard let point = stored.snapshot.point,
        let whole = all.first(where: { $0.snapshot.isPoint && $0.snapshot.point == point && !seen.contains($0.id) })
      else { continue }
      throw CommandFailure(
        .refused,
        Report("VAULT-162", "snapshot \(stored.shortID) belongs to recovery point \(point)")
          .state("nothing was removed")
          .remedy("remove the point with it: add \(whole.shortID), and the other snapshots with the tag point:\(point)")
      )
    }
  }
}

extension Snapshot {
  /// The recovery point it is, or is part of.
  var point: String? {
    tags.first { $0.hasPrefix("point:") }.map { String($0.dropFirst("point:".count)) }
  }

  var isPoint: Bool { tags.contains(PointCatalog.tag) }
}

extension SnapshotGroup {
  var title: String {
    var parts: [String] = []
    if !hostname.isEmpty { parts.append("host \(hostname)") }
    if !paths.isEmpty { parts.append("paths \(paths.joined(separator: ", "))") }
    if !tags.isEmpty { parts.append("tags \(tags.joined(separator: ", "))") }
    return parts.isEmpty ? "all snapshots" : parts.joined(separator: ", ").harmless
  }
}

extension RetentionDecision.Group {
  /// The members `restic forget --json` has.
  var json: JSONValue {
    [
      "tags": group.tags.isEmpty ? .null : .array(group.tags.map { .string($0) }), "host": .string(group.hostname),
      "paths": group.paths.isEmpty ? .null : .array(group.paths.map { .string($0) }),
      "keep": .array(kept.map(\.stored.json)),
      "remove": .array(verdicts.filter { !$0.isKept }.map(\.stored.json)),
      "reasons": .array(
        kept.map { ["snapshot": $0.stored.json, "matches": .array($0.reasons.map { .string($0) })] }),
    ]
  }
}
