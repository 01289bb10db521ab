import Core

struct RepositoryManifest: Sendable {
  var location: Located<Repository.Location>?
  var password: SecretReference?
  var credentials: [String: SecretReference] = [:]
  var mirrors: [Located<Repository.Location>] = []

  static let table = Table(
    "Repository", "A place backups go; a restic repository.", initial: { RepositoryManifest() },
    fields: [
      Field(
        "location", \.location, Codec<Repository.Location>.location.located.optional, required: true,
        "`local:/path` or the path alone, `rest:https://host:8000/path/`, `s3:bucket/prefix`, `rclone:remote:path`."),
      Field(
        "password", \.password, Codec<SecretReference>.secret.optional, required: true,
        "Where the password is read from."),
      Field(
        "credentials", \.credentials, .credentials,
        "What the place asks for, if not what the environment says: "
          + Repository.credentialNames.map { "`\($0)`" }.joined(separator: ", ") + "."),
      Field(
        "mirrors", \.mirrors, Codec<Repository.Location>.location.located.list,
        "Copies that are kept the same: the same password, file by file."),
    ])
}

extension Codec where Value == [String: SecretReference] {
  static let credentials = Codec(.map(Codec<SecretReference>.secret.shape)) { node, decoding in
    guard let found = Codec<SecretReference>.secret.dictionary.read(node, &decoding) else { return nil }
    let unknown = found.keys.filter { !Repository.credentialNames.contains($0) }.sorted()
    guard unknown.isEmpty else {
      decoding.report(
        .badValue, at: node.mark, "'\(excerpt(unknown[0]))' is no credential of a repository",
        "use \(Repository.credentialNames.joined(separator: ", "))")
      return nil
    }
    return found
  }
}

extension Codec where Value == Repository.Location {
  static let location = Codec(.formatted("location", pattern: "^((local:)?/|(rclone|rest|s3):)")) { node, decoding in
    guard let text = Codec<String>.phrase.read(node, &decoding) else { return nil }
    guard let value = Repository.Location(text) else {
      // Only the scheme is repeated: addresses of other kinds may hold a credential.
      let scheme = text.split(separator: ":", maxSplits: 1).first.map(String.init) ?? ""
      if Repository.Location.remoteSchemes.contains(scheme) {
        decoding.report(
          .badValue, at: node.mark, "this is not an address of a repository of kind '\(scheme)'",
          "see the page of that kind; user and password come from the environment, never from the catalog")
        return nil
      }
      let isOther = text.contains(":") && scheme != "local" && scheme.allSatisfy { $0.isASCII && $0.isLetter }
      decoding.report(
        .badValue, at: node.mark,
        isOther ? "there is no kind of repository '\(excerpt(scheme))'" : "this is not a place for a repository",
        "write local:/path, with an absolute path, or an address that begins with rclone:, rest: or s3:")
      return nil
    }
    return value
  }
}

struct GroupManifest: Sendable {
  var stores: [Located<StoreName>] = []
  var services: [Located<ServiceName>] = []
  var holdBudget: Duration = .milliseconds(500)
  var onOverBudget = ConsistencyGroup.OverBudget.fail

  static let table = Table(
    "ConsistencyGroup", "Stores whose writers are held, marked and released together.", initial: { GroupManifest() },
    fields: [
      Field("stores", \.stores, Codec<StoreName>.name.located.list, "Its stores."),
      Field("services", \.services, Codec<ServiceName>.name.located.list, "Every store of these services."),
      Field("holdBudget", \.holdBudget, .positiveDuration, default: "`500ms`", "How long writers may wait at most."),
      Field(
        "onOverBudget", \.onOverBudget, .word, default: "`fail`",
        "What becomes of a point that took longer: none is recorded, or one that says it is not consistent."),
    ])
}

struct PolicyManifest: Sendable {
  var repository: Located<RepositoryName>?
  var schedule: Located<BackupPolicy.Schedule>?
  var retention = BackupPolicy.Retention()
  var stores: [Located<StoreName>] = []
  var services: [Located<ServiceName>] = []
  var holdBudget: Duration?

  static let table = Table(
    "BackupPolicy", "What is backed up when, and kept for how long.", initial: { PolicyManifest() },
    fields: [
      Field(
        "repository", \.repository, Codec<RepositoryName>.name.located.optional, default: "the only one there is",
        "Where the points go."),
      Field(
        "schedule", \.schedule, Codec<BackupPolicy.Schedule>.schedule.located.optional, default: "only when asked",
        "`every 15m`, or the five fields of cron in UTC."),
      Field(
        "retention", \.retention, retentionTable.codec, default: "every point is kept", "How many points are kept."),
      Field(
        "stores", \.stores, Codec<StoreName>.name.located.list, default: "with no `services` either: all",
        "The stores it is about."),
      Field("services", \.services, Codec<ServiceName>.name.located.list, "Every store of these services."),
      Field(
        "holdBudget", \.holdBudget, Codec<Duration>.positiveDuration.optional, default: "each group's own",
        "How long writers may wait at most for this policy's points."),
    ])

  static let retentionTable = Table(
    "Retention", "How many points are kept, as in restic's `forget`.", initial: { BackupPolicy.Retention() },
    fields: [
      Field("keepLast", \.keepLast, .integer(0...1_000_000), default: "`0`", "The newest ones."),
      Field("keepHourly", \.keepHourly, .integer(0...1_000_000), default: "`0`", "One for each of so many hours."),
      Field("keepDaily", \.keepDaily, .integer(0...1_000_000), default: "`0`", "One for each of so many days."),
      Field("keepWeekly", \.keepWeekly, .integer(0...1_000_000), default: "`0`", "One for each of so many weeks."),
      Field("keepMonthly", \.keepMonthly, .integer(0...1_000_000), default: "`0`", "One for each of so many months."),
      Field("keepYearly", \.keepYearly, .integer(0...1_000_000), default: "`0`", "One for each of so many years."),
      Field("keepWithin", \.keepWithin, Codec<Duration>.positiveDuration.optional, "Every point younger than this."),
    ])
}

extension Codec where Value == BackupPolicy.Schedule {
  static let schedule = Codec(.formatted("schedule", pattern: #"^(every \S+|(\S+\s+){4}\S+)$"#)) { node, decoding in
    guard let text = Codec<String>.phrase.read(node, &decoding) else { return nil }
    guard let value = BackupPolicy.Schedule(text) else {
      decoding.report(
        .badValue, at: node.mark, "'\(excerpt(text))' is not a schedule",
        "write 'every 15m', or five fields of cron: minute, hour, day, month, day of week, as numbers")
      return nil
    }
    return value
  }
}

struct InvariantManifest: Sendable {
  var description: String?
  var severity = Invariant.Severity.error
  var references: References?
  var equal: Equal?
  var constant: Constant?

  struct References: Sendable {
    var from: StoreQueryManifest?
    var to: StoreQueryManifest?
    var exact = false

    static let table = Table(
      "References", "Every row of one query is among the rows of another.", initial: { References() },
      fields: [
        Field("from", \.from, StoreQueryManifest.table.codec.optional, required: true, "Whose rows refer."),
        Field("to", \.to, StoreQueryManifest.table.codec.optional, required: true, "Whose rows are referred to."),
        Field("exact", \.exact, .boolean, default: "`false`", "Rows only in `to` are wrong too: orphans."),
      ])
  }

  struct Equal: Sendable {
    var left: StoreQueryManifest?
    var right: StoreQueryManifest?

    static let table = Table(
      "Equal", "Two queries give the same rows, in whatever order.", initial: { Equal() },
      fields: [
        Field("left", \.left, StoreQueryManifest.table.codec.optional, required: true, "The one."),
        Field("right", \.right, StoreQueryManifest.table.codec.optional, required: true, "The other."),
      ])
  }

  struct Constant: Sendable {
    var store: Located<StoreName>?
    var query: String?
    var equals: String?

    static let table = Table(
      "Constant", "A query gives one row with one value, and that is known.", initial: { Constant() },
      fields: [
        Field("store", \.store, Codec<StoreName>.name.located.optional, required: true, "The store it is put to."),
        Field(
          "query", \.query, Codec<String>.phrase.optional, required: true, "In the engine's own language, read-only."),
        Field("equals", \.equals, Codec<String>.scalar.optional, required: true, "The value, as text."),
      ])
  }

  static let table = Table(
    "Invariant", "A rule over one or several stores that holds in every consistent point.",
    initial: { InvariantManifest() }, choices: [.exactlyOne("references", "equal", "constant")],
    fields: [
      Field("description", \.description, Codec<String>.phrase.optional, "What it means to the business."),
      Field(
        "severity", \.severity, .word, default: "`error`", "Whether a violation fails the restore or is only reported."),
      Field(
        "references", \.references, References.table.codec.optional,
        "Every row of one query is among the rows of another."),
      Field("equal", \.equal, Equal.table.codec.optional, "Two queries give the same rows."),
      Field("constant", \.constant, Constant.table.codec.optional, "A query gives a value that is known."),
    ])
}

struct StoreQueryManifest: Sendable {
  var store: Located<StoreName>?
  var query: String?

  static let table = Table(
    "StoreQuery", "A read-only query, and whom it is put to.", initial: { StoreQueryManifest() },
    fields: [
      Field("store", \.store, Codec<StoreName>.name.located.optional, required: true, "The store."),
      Field("query", \.query, Codec<String>.phrase.optional, required: true, "In the engine's own language."),
    ])
}
