import Core

struct DrillManifest: Sendable {
  var level = Drill.Level.system
  var services: [Located<ServiceName>] = []
  var stores: [Located<StoreName>] = []
  var point = Drill.Choice.latest
  var window: Duration?
  var schedule: Located<BackupPolicy.Schedule>?
  var jitter: Duration = .zero
  var proves: Duration = .seconds(30 * 86_400)
  var deadline: Duration = .seconds(4 * 3600)
  var faults: [FaultManifest] = []
  var places: [String] = []

  static let table = Table(
    "Drill", "A restore that is practised, away from users.", initial: { DrillManifest() },
    choices: [.atMostOne("services", "stores")],
    fields: [
      Field(
        "level", \.level, .word, default: "`system`",
        "How much comes back: a plan that is read, stores, services with what they need, everything, everything from a mirror."
      ),
      Field(
        "services", \.services, Codec<ServiceName>.name.located.list, default: "all", "Whose restore is practised."),
      Field("stores", \.stores, Codec<StoreName>.name.located.list, default: "all", "Which; for `level: store`."),
      Field("point", \.point, .word, default: "`latest`", "Which recovery point is practised with."),
      Field("window", \.window, Codec<Duration>.positiveDuration.optional, "How old a random point may be."),
      Field(
        "schedule", \.schedule, Codec<BackupPolicy.Schedule>.schedule.located.optional, default: "only when asked",
        "`every 7d`, or the five fields of cron in UTC."),
      Field("jitter", \.jitter, .duration, default: "`0s`", "By how much it is put off at most."),
      Field("proves", \.proves, .positiveDuration, default: "`30d`", "How long a pass is evidence."),
      Field("deadline", \.deadline, .positiveDuration, default: "`4h`", "How long it may take; then it has failed."),
      Field("faults", \.faults, FaultManifest.codec.list, "What `--faults` breaks on purpose, one drill for each."),
      Field(
        "places", \.places, Codec<String>.path.list,
        "Directories programs of the drill write to, beside the stores' own; they see copies."),
    ])
}

/// What is broken on purpose: a word, or a mapping that says more.
struct FaultManifest: Sendable {
  var kind: Drill.FaultKind?
  var store: Located<StoreName>?
  var run: Command?
  var mark = Mark.start

  static let table = Table(
    "Fault", "Something broken on purpose, which a drill must find.", initial: { FaultManifest() },
    finish: { record, node, decoding in
      record.mark = node.mark
      if record.kind == .staleSchema, record.run == nil {
        decoding.report(
          .missing, at: node.mark, "what makes the schema an old one is not said",
          "add 'run': a command that takes a column or a table out of the drill's copy")
      }
    },
    fields: [
      Field("kind", \.kind, Codec<Drill.FaultKind>.word.optional, required: true, "What is broken."),
      Field(
        "store", \.store, Codec<StoreName>.name.located.optional, default: "one of the drill's, by chance",
        "Whose copy."),
      Field(
        "run", \.run, Codec<Command>.command.optional,
        "For `stale-schema`: run in the drill once the store's server is up; makes its schema an old one."),
    ])

  static let codec = Codec<FaultManifest>(.either([Codec<Drill.FaultKind>.word.shape, .record(table.shape)])) {
    node, decoding in
    if case .mapping = node.content { return table.read(node, &decoding) }
    guard let kind = Codec<Drill.FaultKind>.word.read(node, &decoding) else { return nil }
    if kind == .staleSchema {
      decoding.report(
        .missing, at: node.mark, "what makes the schema an old one is not said",
        "write '{kind: stale-schema, store: …, run: …}'")
    }
    return FaultManifest(kind: kind, mark: node.mark)
  }
}
