import Core

struct ReconciliationManifest: Sendable {
  var description: String?
  var left: Side?
  var right: Side?
  var key: [String] = []
  var time: String?
  var skew: Duration = .seconds(5)
  var truth = ReconciliationRule.Truth.left
  var isLink = false
  var isExact = true
  var compensate = Compensations()

  struct Side: Sendable {
    var store: Located<StoreName>?
    var query: String?
    var columns: [String] = []
    var table: String?
    var entry: String?
    var field: String?
    var value: String?
    var file: String?

    static let table = Table(
      "Side", "One of the two that are compared.", initial: { Side() }, choices: [.atMostOne("table", "entry", "file")],
      fields: [
        Field("store", \.store, Codec<StoreName>.name.located.optional, required: true, "The store."),
        Field("query", \.query, Codec<String>.phrase.optional, required: true, "In the engine's own language."),
        Field(
          "columns", \.columns, Codec<String>.phrase.list, default: "as the engine names them",
          "Names of the answer's columns."),
        Field("table", \.table, Codec<String>.phrase.optional, "SQL: the table whose columns these are."),
        Field("entry", \.entry, Codec<String>.phrase.optional, "Redis: the key's name, with columns in braces."),
        Field("field", \.field, Codec<String>.phrase.optional, "Redis: the hash's field that holds `value`."),
        Field("value", \.value, Codec<String>.phrase.optional, "Redis: the column with what is stored there."),
        Field("file", \.file, Codec<String>.phrase.optional, "Files: the path, with columns in braces."),
      ])
  }

  struct Compensations: Sendable {
    var brokenLink: Command?
    var orphan: Command?
    var missing: Command?
    var changed: Command?
    var duplicate: Command?

    static let table = Table(
      "Compensations", "Programs run once per finding, with the finding as JSON on standard input.",
      initial: { Compensations() },
      fields: [
        Field("broken-link", \.brokenLink, Codec<Command>.command.optional, "For what refers to nothing."),
        Field("orphan", \.orphan, Codec<Command>.command.optional, "For what belongs to nothing."),
        Field("missing", \.missing, Codec<Command>.command.optional, "For what ought to be there."),
        Field("changed", \.changed, Codec<Command>.command.optional, "For what the sides say differently."),
        Field("duplicate", \.duplicate, Codec<Command>.command.optional, "For what is there more than once."),
      ])

    var byKind: [ReconciliationRule.Kind: Command] {
      var result: [ReconciliationRule.Kind: Command] = [:]
      result[.brokenLink] = brokenLink
      result[.orphan] = orphan
      result[.missing] = missing
      result[.changed] = changed
      result[.duplicate] = duplicate
      return result
    }
  }

  static let table = Table(
    "Reconciliation", "Two stores compared by key, and how the one is corrected by the other.",
    initial: { ReconciliationManifest() },
    finish: { record, node, decoding in
      if record.key.isEmpty {
        decoding.report(.missing, at: node.mark, "'key' names no column", "name the columns rows are the same by")
      }
    },
    fields: [
      Field("description", \.description, Codec<String>.phrase.optional, "What it means to the business."),
      Field("left", \.left, Side.table.codec.optional, required: true, "The one."),
      Field("right", \.right, Side.table.codec.optional, required: true, "The other."),
      Field("key", \.key, Codec<String>.phrase.list, required: true, "Columns by which rows are the same."),
      Field(
        "time", \.time, Codec<String>.phrase.optional,
        "The column that says when a row came about; with it a window can be asked for."),
      Field(
        "skew", \.skew, .duration, default: "`5s`",
        "What is this near to the window's edge is in flight, not a finding."),
      Field("truth", \.truth, .word, default: "`left`", "Whose word counts where they differ; `none`: nobody's."),
      Field(
        "link", \.isLink, .boolean, default: "`false`",
        "Left rows refer to right ones: without its right row one is a broken link."),
      Field("exact", \.isExact, .boolean, default: "`true`", "Rows only the other side has are orphans."),
      Field(
        "compensate", \.compensate, Compensations.table.codec, "Programs run in place of changes of Salvor's own."),
    ])
}

extension Resolver {
  mutating func reconciliation(_ declared: Declared<ReconciliationManifest>) -> ReconciliationRule? {
    let spec = declared.spec
    let left = side(spec.left, declared.file)
    let right = side(spec.right, declared.file)
    guard let left, let right, !spec.key.isEmpty else { return nil }
    var rule = ReconciliationRule(
      name: CheckName(unchecked: declared.name.value), left: left, right: right, key: spec.key)
    rule.description = spec.description
    (rule.time, rule.skew, rule.truth) = (spec.time, spec.skew, spec.truth)
    (rule.isLink, rule.isExact, rule.compensations) = (spec.isLink, spec.isExact, spec.compensate.byKind)
    return rule
  }

  private mutating func side(_ manifest: ReconciliationManifest.Side?, _ file: String) -> ReconciliationRule.Side? {
    guard let manifest, let store = manifest.store, let query = manifest.query, exists(store, file) else { return nil }
    var side = ReconciliationRule.Side(store: store.value, query: query)
    side.columns = manifest.columns.isEmpty ? nil : manifest.columns
    (side.table, side.entry, side.field) = (manifest.table, manifest.entry, manifest.field)
    (side.value, side.file) = (manifest.value, manifest.file)
    return side
  }
}
