import Core

/// What the operator wrote about moving service to another copy.
struct FailoverManifest: Sendable {
  var policy = FailoverPolicy(name: PolicyName(unchecked: "unnamed"), members: [], consent: .propose)
  var members: [FailoverMemberManifest] = []
  var witnesses: [FailoverMemberManifest] = []
  var store: Located<StoreName>?
  var service: Located<ServiceName>?
  var lossBound: LossBoundManifest?
  var freezes: [FreezeManifest] = []
  var checks: [FailoverCheckManifest] = []
  var healing = HealingManifest()
  var group: FailoverGroupManifest?
  var practice: PracticeManifest?

  static let table = Table(
    "FailoverPolicy", "When service moves to another copy of a store, and what must be certain before it does.",
    initial: { FailoverManifest() }, choices: [.atMostOne("store", "service")],
    finish: { record, node, decoding in record.finish(node, &decoding) },
    fields: [
      Field("store", \.store, Codec<StoreName>.name.located.optional, "The store of which the members are copies."),
      Field(
        "service", \.service, Codec<ServiceName>.name.located.optional,
        "The service it is about, where it is no store of the catalog's."),
      Field("engine", \.policy.engine, .word, default: "`postgresql`", "What replicates."),
      Field(
        "members", \.members, FailoverMemberManifest.table.codec.list, required: true,
        "Two to nine copies; any of them can become the primary."),
      Field(
        "witnesses", \.witnesses, FailoverMemberManifest.table.codec.list,
        "Agents beside no engine: they look, they may conduct, they hold nothing."),
      Field(
        "acknowledgements", \.policy.acknowledgements, .integer(0...8), default: "`1`",
        "How many standbys have flushed a commit before it is acknowledged."),
      Field("consent", \.policy.consent, .word, default: "`propose`", "What may happen by itself."),
      Field(
        "lossBound", \.lossBound, LossBoundManifest.table.codec.optional,
        "What may be lost, under `consent: auto-bounded`."),
      Field("signals", \.policy.signals, signalsTable.codec, "What is taken for a failure of the engine."),
      Field("checks", \.checks, FailoverCheckManifest.table.codec.list, "What else is asked, and what it counts for."),
      Field("budgets", \.policy.budgets, budgetsTable.codec, "How long and how often."),
      Field(
        "freezes", \.freezes, FreezeManifest.table.codec.list, "While one of them lasts nothing is done by itself."),
      Field(
        "maintenance", \.policy.isInMaintenance, .boolean, default: "`false`",
        "`true`: observed and told, never acted on."),
      Field(
        "healing", \.healing, HealingManifest.table.codec, default: "see [failover](../operating/failover.md)",
        "What is done about each class of failures, and who must say yes."),
      Field("group", \.group, FailoverGroupManifest.table.codec.optional, "What moves with it."),
      Field(
        "context", \.policy.context, contextTable.codec,
        "What else is recorded with every decision, and what it must say."),
      Field(
        "practice", \.practice, PracticeManifest.table.codec.optional, "How moving service is practised, and when."),
    ])

  static let signalsTable = Table(
    "FailoverSignals", "What is taken for a failure of the engine.", initial: { FailoverPolicy.Signals() },
    fields: [
      Field("interval", \.interval, .positiveDuration, default: "`200ms`", "How often every member is asked."),
      Field(
        "suspicion", \.suspicionThousandths, .thousandths(1...100), default: "`8`",
        "Phi: 8 is one mistake in 10^8 answers."),
      Field("dwell", \.dwell, .positiveDuration, default: "`2s`", "How long a suspected primary must be silent."),
      Field(
        "refusedDwell", \.refusedDwell, .positiveDuration, default: "`400ms`",
        "How long the host may answer that nobody listens."),
      Field(
        "observers", \.observers, .integer(1...18), default: "`2`",
        "How many must agree; members' agents and witnesses."
      ),
      Field(
        "doubt", \.doubt, .positiveDuration, default: "`400ms`",
        "How late an observer may be itself before it doubts its own eyes."),
      Field("freshness", \.freshness, .positiveDuration, default: "`1s`", "How old a report may be."),
    ])

  static let budgetsTable = Table(
    "FailoverBudgets", "How long and how often.", initial: { FailoverPolicy.Budgets() },
    fields: [
      Field("lease", \.lease, .positiveDuration, default: "`5s`", "The right to conduct, without being renewed."),
      Field("fence", \.fence, .positiveDuration, default: "`10s`", "Until enough standbys have detached."),
      Field("observe", \.observe, .positiveDuration, default: "`10s`", "The new primary is watched so long."),
      Field("pause", \.pause, .positiveDuration, default: "`30s`", "Between two failovers nobody asked for."),
      Field(
        "trust", \.trust, .positiveDuration, default: "`5s`",
        "An agent goes on without the lease store and without standbys, before it stops the engine."),
      Field(
        "restart", \.restart, .positiveDuration, default: "`10s`",
        "An engine that ended is left to a failover, before its agent starts it again."),
      Field(
        "absence", \.absence, .positiveDuration, default: "`10s`",
        "A standby may be away, before commits wait for the others alone and it no longer counts in a failover."),
    ])

  static let contextTable = Table(
    "FailoverContext", "What else is true while a decision is made.", initial: { FailoverContext() },
    fields: [
      Field(
        "file", \.file, Codec<String>.path.optional,
        "A JSON file of strings, such as the release, images' digests, values of flags; the first 64 are recorded."),
      Field("gates", \.gates, gateTable.codec.list, "What it must say before anything moves by itself."),
    ])

  static let gateTable = Table(
    "FailoverGate", "Nothing moves by itself unless the context says so.",
    initial: { FailoverContext.Gate(key: "", allows: []) },
    fields: [
      Field("key", \.key, .phrase, required: true, "Which of its strings."),
      Field("allows", \.allows, Codec<String>.scalar.list, required: true, "One of these; anything else is no."),
    ])

  private mutating func finish(_ node: YAMLNode, _ decoding: inout Decoding) {
    policy.members = members.compactMap(\.member)
    policy.witnesses = witnesses.compactMap(\.member)
    (policy.store, policy.service) = (store?.value, service?.value)
    policy.lossBound = lossBound.map { .init(bytes: Int64($0.bytes), duration: $0.duration) }
    policy.freezes = freezes.compactMap(\.window)
    policy.weeklyFreezes = freezes.compactMap(\.weekly)
    policy.checks = checks.compactMap(\.check)
    policy.healing = healing.healing
    policy.group = group.map {
      FailoverGroup(followers: $0.followers.map(\.value), onFailure: $0.onFailure, patience: $0.patience)
    }
    policy.practice = practice.map {
      FailoverPractice(kind: $0.kind, schedule: $0.schedule, within: $0.within, returns: $0.returns)
    }
    // What couldn't be read was said already, and would only be said again in other words.
    guard members.count == policy.members.count, witnesses.count == policy.witnesses.count else { return }
    for problem in policy.problems {
      decoding.report(
        problem.isWarning ? .oddFailover : .badFailover, at: Self.mark(of: problem.path, in: node), problem.text,
        problem.remedy)
    }
  }

  /// Where a field stands, or the innermost thing around it that was written.
  static func mark(of path: [String], in node: YAMLNode) -> Mark {
    var (place, mark) = (node, node.mark)
    // As the model calls it, and as it is written.
    let names = ["weeklyFreezes": "freezes", "suspicionThousandths": "suspicion"]
    for step in path {
      switch place.content {
      case .mapping(let members):
        guard let member = members.first(where: { $0.key == names[step] ?? step }) else { return mark }
        (place, mark) = (member.value, member.keyMark)
      case .sequence(let items):
        guard let index = Int(step), items.indices.contains(index) else { return mark }
        (place, mark) = (items[index], items[index].mark)
      case .scalar: return mark
      }
    }
    return mark
  }
}

struct FailoverMemberManifest: Sendable {
  var name: MemberName?
  var address = ""
  var agent = ""
  var priority = 100
  var site: String?

  static let table = Table(
    "FailoverMember", "One copy of the store, or a witness, and its agent.", initial: { FailoverMemberManifest() },
    fields: [
      Field("name", \.name, Codec<MemberName>.name.optional, required: true, "Unique in the policy."),
      Field("address", \.address, .hostPort, "Where its engine takes connections: `host:port`; none of a witness."),
      Field("agent", \.agent, .httpURL, "Where its agent answers: `http://host:port`."),
      Field(
        "priority", \.priority, .integer(0...1_000_000), default: "`100`",
        "Higher is preferred among equals; 0 is never promoted."),
      Field(
        "site", \.site, Codec<String>.phrase.optional, default: "the member's name",
        "Where it stands; a group moves to members of one site."),
    ])

  var member: FailoverPolicy.Member? {
    name.map { .init(name: $0, address: address, agent: agent, priority: priority, site: site) }
  }
}

struct LossBoundManifest: Sendable {
  var bytes = 0
  var duration = Duration.zero

  static let table = Table(
    "LossBound", "What may be lost in a failover.", initial: { LossBoundManifest() },
    fields: [
      Field("bytes", \.bytes, .integer(1...(1 << 50)), required: true, "Of the engine's log."),
      Field("duration", \.duration, .positiveDuration, required: true, "Of acknowledged work."),
    ])
}

/// A window between two moments, or one of every week.
struct FreezeManifest: Sendable {
  var from: String?
  var until: String?
  var zone: String?
  var window: FailoverPolicy.FreezeWindow?
  var weekly: WeeklyFreeze?

  static let table = Table(
    "Freeze", "A time in which nothing is done by itself.", initial: { FreezeManifest() },
    finish: { record, node, decoding in
      guard let from = record.from, let until = record.until else { return }
      if let from = WeeklyFreeze.minute(from), let until = WeeklyFreeze.minute(until) {
        record.weekly = WeeklyFreeze(from: from, until: until, zone: record.zone ?? "UTC")
      } else if let from = Timestamp(from), let until = Timestamp(until) {
        record.window = .init(from: from, until: until)
        if record.zone != nil {
          decoding.report(
            .exclusive, at: node.mark, "these moments say their zone themselves", "leave 'zone' out")
        }
      } else {
        decoding.report(
          .badValue, at: node.mark, "'\(excerpt(from))' to '\(excerpt(until))' is no window",
          "write two moments such as 2026-12-20T00:00:00Z, or two of every week such as fri 16:00")
      }
    },
    fields: [
      Field("from", \.from, Codec<String>.phrase.optional, required: true, "RFC 3339, or `fri 16:00` of every week."),
      Field("until", \.until, Codec<String>.phrase.optional, required: true, "The first moment after it."),
      Field(
        "zone", \.zone, Codec<String>.timeZone.optional, default: "`UTC`",
        "Of a weekly window, such as `Europe/Berlin`."),
    ])
}

struct FailoverGroupManifest: Sendable {
  var followers: [Located<PolicyName>] = []
  var onFailure = FailoverGroup.OnFailure.stop
  var patience = Duration.seconds(60)

  static let table = Table(
    "FailoverGroup", "Other policies whose service is to be where this one's is.",
    initial: { FailoverGroupManifest() },
    fields: [
      Field(
        "followers", \.followers, Codec<PolicyName>.name.located.list, required: true,
        "In the order they move, each when the one before serves: database, cache, queue, proxy, flags."),
      Field(
        "onFailure", \.onFailure, .word, default: "`stop`",
        "If one doesn't come to serve: the rest stays, those that moved `go-back`, or the rest is to `go-on`."),
      Field("patience", \.patience, .positiveDuration, default: "`60s`", "How long each may take."),
    ])
}

struct PracticeManifest: Sendable {
  var kind = FailoverPractice.Kind.switchover
  var schedule: BackupPolicy.Schedule?
  var within = Duration.seconds(10)
  var returns = true

  static let table = Table(
    "FailoverPractice", "How moving service is practised, and when.", initial: { PracticeManifest() },
    fields: [
      Field(
        "kind", \.kind, .word, default: "`switchover`",
        "In good order, or a `failover`: the primary's engine is killed, which only this allows."),
      Field(
        "schedule", \.schedule, Codec<BackupPolicy.Schedule>.schedule.optional, default: "only when asked",
        "`every 7d`, or the five fields of cron in UTC."),
      Field("within", \.within, .positiveDuration, default: "`10s`", "How long nobody may have service."),
      Field("returns", \.returns, .boolean, default: "`true`", "Whether service goes back to where it was."),
    ])
}

struct HealingManifest: Sendable {
  var restartFirst = Duration.zero
  var process: ResponseManifest?
  var host: ResponseManifest?
  var disk: ResponseManifest?
  var corruption: ResponseManifest?
  var lag: ResponseManifest?
  var overload: ResponseManifest?

  static let table = Table(
    "FailoverHealing",
    "What is done about each class of failures: restart, failover, restore, in the order of what they cost.",
    initial: { HealingManifest() },
    fields: [
      Field(
        "restartFirst", \.restartFirst, .duration, default: "`0s`",
        "How long an engine that ended may be started again before service moves away from it."),
      Field("process", \.process, ResponseManifest.table.codec.optional, "The engine's process is gone."),
      Field("host", \.host, ResponseManifest.table.codec.optional, "Nothing there answers."),
      Field("disk", \.disk, ResponseManifest.table.codec.optional, "Full, or no longer writable."),
      Field(
        "corruption", \.corruption, ResponseManifest.table.codec.optional,
        "Checksums that don't fit; only `restore` can be chosen."),
      Field("lag", \.lag, ResponseManifest.table.codec.optional, "Standbys are behind."),
      Field("overload", \.overload, ResponseManifest.table.codec.optional, "It answers, too slowly or too seldom."),
    ])

  var healing: FailoverHealing {
    var result = FailoverHealing()
    result.restartFirst = restartFirst
    let given: [(FailureClass, ResponseManifest?)] = [
      (.process, process), (.host, host), (.disk, disk), (.corruption, corruption), (.lag, lag), (.overload, overload),
    ]
    for (failure, response) in given {
      guard let response else { continue }
      let usual = FailoverHealing.usual(failure)
      result.responses[failure] = .init(
        restart: response.restart ?? usual.restart, failover: response.failover ?? usual.failover,
        restore: response.restore ?? usual.restore)
    }
    return result
  }
}

struct ResponseManifest: Sendable {
  var restart: FailoverHealing.Consent?
  var failover: FailoverHealing.Consent?
  var restore: FailoverHealing.Consent?

  static let table = Table(
    "FailoverResponse", "What is done about one class of failures: `off`, `propose`, or `auto`.",
    initial: { ResponseManifest() },
    fields: [
      Field("restart", \.restart, Codec<FailoverHealing.Consent>.word.optional, "The engine, where it is."),
      Field("failover", \.failover, Codec<FailoverHealing.Consent>.word.optional, "To another member."),
      Field(
        "restore", \.restore, Codec<FailoverHealing.Consent>.word.optional,
        "From the last good point; `off`, or `propose`: the command is said."),
    ])
}
