import Core

/// What the operator wrote about a service.
struct ServiceManifest: Sendable {
  var owner: String?
  var tier = Tier.normal
  var domain: String?
  var objectives = Objectives()
  var dependsOn: [Located<ServiceName>] = []
  var stores: [StoreManifest] = []
  var start: Command?
  var stop: Command?
  var ready: [ProbeManifest] = []
  var validators: [ValidatorManifest] = []
  var schema: [SchemaGateManifest] = []
  var impact: String?
  var approvers: [String] = []
  var escalation: [CallManifest] = []
  var triggers: [String] = []
  var completion: [CompletionManifest] = []

  static let table = Table(
    "Service", "Something that runs, with the state it owns.", initial: { ServiceManifest() },
    fields: [
      Field("owner", \.owner, Codec<String>.phrase.optional, "Whom to ask: a team, an address."),
      Field("tier", \.tier, .word, default: "`normal`", "How much it matters; more important ones come back first."),
      Field("domain", \.domain, Codec<String>.phrase.optional, "The business domain its numbers are summed up under."),
      Field("objectives", \.objectives, objectivesTable.codec, "What may be lost, and how long it may take."),
      Field(
        "dependsOn", \.dependsOn, Codec<ServiceName>.name.located.list,
        "Services that must be ready before this one is started."),
      Field("stores", \.stores, StoreManifest.table.codec.list, "The state it owns."),
      Field("start", \.start, Codec<Command>.command.optional, default: "started by somebody else", "Starts it."),
      Field("stop", \.stop, Codec<Command>.command.optional, default: "stopped by somebody else", "Stops it."),
      Field(
        "ready", \.ready, ProbeManifest.table.codec.list, "All must say yes before anyone who depends on it is started."
      ),
      Field(
        "validators", \.validators, ValidatorManifest.table.codec.list,
        "All must pass for the service to count as restored."),
      Field(
        "schema", \.schema, SchemaGateManifest.table.codec.list,
        "Versions of its stores' schemas it works with; a copy with another is not put in place."),
      Field("impact", \.impact, Codec<String>.phrase.optional, "What customers notice while it is away."),
      Field("approvers", \.approvers, Codec<String>.phrase.list, "Who may say yes to what can't be taken back."),
      Field("escalation", \.escalation, CallManifest.table.codec.list, "Whom to call, and when."),
      Field("triggers", \.triggers, Codec<String>.phrase.list, "What is seen when the runbook is to be opened."),
      Field("completion", \.completion, CompletionManifest.codec.list, "What must be so before the work is over."),
    ])

  static let objectivesTable = Table(
    "Objectives", "What the owner accepts to lose and to wait.", initial: { Objectives() },
    fields: [
      Field("rpo", \.rpo, Codec<Duration>.positiveDuration.optional, "How much work may be lost, as time."),
      Field(
        "rto", \.rto, Codec<Duration>.positiveDuration.optional,
        "How long a restore may take, until the service's validators have passed."),
    ])
}

/// What the operator wrote about one store of a service.
struct StoreManifest: Sendable {
  var name: Located<StoreName>?
  var driver: Located<DriverName>?
  var optionsNode: YAMLNode?
  /// Checked against the driver's schema.
  var options: [String: JSONValue] = [:]
  var start: Command?
  var stop: Command?
  var repository: Located<RepositoryName>?
  var dependsOn: [Located<StoreName>] = []

  static let table = Table(
    "Store", "A database, a keyspace, a tree of files: captured and brought back as one piece.",
    initial: { StoreManifest() },
    driverKey: { driver, node, record, decoding in
      if let already = record.driver {
        decoding.report(
          .exclusive, at: driver.mark, "the store has a driver already: \(already.value)", "keep one of the two")
      }
      (record.driver, record.optionsNode) = (driver, node)
    },
    finish: { record, node, decoding in record.checkDriver(at: node.mark, &decoding) },
    fields: [
      Field("name", \.name, Codec<StoreName>.name.located.optional, required: true, "Unique in the whole catalog."),
      Field(
        "driver", \.driver, Codec<DriverName>.name.located.optional,
        "The kind of store; or the driver's name as a key, with its options."),
      Field("options", \.optionsNode, Codec<YAMLNode>.node.optional, "The driver's own options; see docs/drivers."),
      Field(
        "repository", \.repository, Codec<RepositoryName>.name.located.optional, default: "the only one there is",
        "Where its backups go."),
      Field(
        "dependsOn", \.dependsOn, Codec<StoreName>.name.located.list,
        "Stores that must serve before this one is started."),
      Field("start", \.start, Codec<Command>.command.optional, default: "the driver's own way", "Starts its server."),
      Field("stop", \.stop, Codec<Command>.command.optional, default: "the driver's own way", "Stops its server."),
    ])

  private mutating func checkDriver(at mark: Mark, _ decoding: inout Decoding) {
    guard let driver else {
      let known = decoding.drivers.keys.map(\.text).sorted()
      decoding.report(
        .missing, at: mark, "the store does not say what it is",
        known.isEmpty ? "add 'driver'" : "add one of \(known.joined(separator: ", ")) with its options")
      return
    }
    guard let schema = decoding.drivers[driver.value] else {
      let known = decoding.drivers.keys.map(\.text).sorted()
      decoding.report(
        .unknownDriver, at: driver.mark, "there is no driver '\(driver.value)'",
        nearest(driver.value.text, in: known).map { "did you mean '\($0)'?" }
          ?? "there is \(known.joined(separator: ", "))")
      return
    }
    options = decoding.options(optionsNode, of: driver, schema: schema)
  }
}

extension Codec where Value == YAMLNode {
  /// Kept for later.
  static let node = Codec(.options) { node, _ in node }
}
