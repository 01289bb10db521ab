import Core

struct ReleaseManifest: Sendable {
  var stores: [ReleasePartManifest] = []
  var invariants: [Located<CheckName>]?

  static let table = Table(
    "Release", "What a release does to stores, and what it needs of them.", initial: { ReleaseManifest() },
    fields: [
      Field("stores", \.stores, ReleasePartManifest.table.codec.list, required: true, "Those it changes or reads."),
      Field(
        "invariants", \.invariants, Codec<CheckName>.name.located.list.optional, default: "all that can be asked",
        "Those of the catalog's that must hold afterwards."),
    ])
}

struct ReleasePartManifest: Sendable {
  var store: Located<StoreName>?
  var migrations: String?
  var applied: String?
  var record: String?
  var run: Command?
  var down: String?
  var version: String?
  var accepts: [String] = []
  var leadsTo: String?
  var checks: [ReleaseCheckManifest] = []

  static let table = Table(
    "ReleaseStore", "One store's share of a release.", initial: { ReleasePartManifest() },
    choices: [.atMostOne("migrations", "run")],
    finish: { part, node, decoding in
      for path in [part.migrations, part.down].compactMap(\.self) where !isInside(path) {
        decoding.report(
          .badValue, at: node.mark, "'\(excerpt(path))' is not a directory of the release",
          "write it relative to the release's directory, without '..'")
      }
      if part.migrations == nil, part.applied != nil || part.record != nil || part.down != nil {
        decoding.report(
          .missing, at: node.mark, "'applied', 'record' and 'down' are about migrations", "add 'migrations'")
      }
      if part.version == nil, !part.accepts.isEmpty || part.leadsTo != nil {
        decoding.report(.missing, at: node.mark, "nothing says how the version is asked", "add 'version': a query")
      }
    },
    fields: [
      Field("store", \.store, Codec<StoreName>.name.located.optional, required: true, "A store of the catalog."),
      Field("migrations", \.migrations, Codec<String>.phrase.optional, "A directory of `*.sql`."),
      Field("applied", \.applied, Codec<String>.phrase.optional, "A query for the names of those applied."),
      Field("record", \.record, Codec<String>.phrase.optional, "A statement that notes `{{migration}}`."),
      Field("run", \.run, Codec<Command>.command.optional, "A command that migrates, in place of scripts."),
      Field("down", \.down, Codec<String>.phrase.optional, "A directory of `*.sql` that undo."),
      Field("version", \.version, Codec<String>.phrase.optional, "A query for the schema's version."),
      Field("accepts", \.accepts, Codec<String>.scalar.list, "Versions it can start from."),
      Field("leadsTo", \.leadsTo, Codec<String>.scalar.optional, "The version it leads to."),
      Field("checks", \.checks, ReleaseCheckManifest.table.codec.list, "What must work afterwards."),
    ])

  /// Below the release's directory, whatever links there are.
  private static func isInside(_ path: String) -> Bool {
    !path.hasPrefix("/") && !path.split(separator: "/").contains("..")
  }

  var part: Release.Part? {
    guard let store else { return nil }
    var change: Release.Change?
    if let migrations { change = .scripts(directory: migrations, applied: applied, record: record) }
    if let run { change = .command(run) }
    return Release.Part(
      store: store.value, change: change, down: down, version: version, accepts: accepts, leadsTo: leadsTo,
      checks: checks.compactMap(\.check))
  }
}

struct ReleaseCheckManifest: Sendable {
  var name: Located<CheckName>?
  var query: String?
  var equals: String?
  var rows: Int?
  var empty: Bool?
  var matches: String?

  static let table = Table(
    "ReleaseCheck", "A query that must work afterwards.", initial: { ReleaseCheckManifest() },
    choices: [.atMostOne("equals", "rows", "empty", "matches")],
    fields: [
      Field("name", \.name, Codec<CheckName>.name.located.optional, required: true, "Unique within the store's."),
      Field("query", \.query, Codec<String>.phrase.optional, required: true, "In the engine's own language."),
      Field("equals", \.equals, Codec<String>.scalar.optional, "The only value of the only row."),
      Field("rows", \.rows, Codec<Int>.integer(0...Int(Int32.max)).optional, "How many rows."),
      Field("empty", \.empty, Codec<Bool>.isTrue.optional, "`true`: no row."),
      Field("matches", \.matches, Codec<String>.regularExpression.optional, "A regular expression found in the rows."),
    ])

  var check: Release.Check? {
    guard let name, let query else { return nil }
    var expectation: Validator.Expectation?
    if let equals { expectation = .equals(equals) }
    if let rows { expectation = .rows(rows) }
    if empty == true { expectation = .empty }
    if let matches { expectation = .matches(matches) }
    return Release.Check(name: name.value, query: query, expectation: expectation)
  }
}

extension Release {
  /// Reads a release's manifest, against the catalog it is about.
  ///
  /// - Throws: ``CatalogError/invalid(_:)`` with all that is wrong.
  package init(_ file: SourceFile, for catalog: Catalog) throws(CatalogError) {
    var decoding = Decoding(file: file.path, drivers: [:])
    var reader = YAMLReader(file.text)
    let documents = reader.documents().filter { !$0.isNull }
    for problem in reader.problems { decoding.report(problem) }
    var result: Release?
    if let document = documents.first, documents.count == 1 {
      result = Self.read(document, catalog, &decoding)
    } else if reader.problems.isEmpty {
      decoding.report(
        .missing, at: Mark(line: 1, column: 1), "a release is one document, and there are \(documents.count)",
        "write one document of kind Release")
    }
    guard let result, !decoding.diagnostics.contains(where: { $0.severity == .error }) else {
      throw .invalid(decoding.diagnostics)
    }
    self = result
  }

  private static func read(_ document: YAMLNode, _ catalog: Catalog, _ decoding: inout Decoding) -> Release? {
    guard let envelope = Envelope.table.read(document, &decoding) else { return nil }
    if envelope.version != nil, envelope.version != Manifests.apiVersion {
      decoding.report(
        .badVersion, at: document.mark, "this is of another version", "write 'apiVersion: \(Manifests.apiVersion)'")
    }
    if let kind = envelope.kind, kind != "Release" {
      decoding.report(.unknownKind, at: document.mark, "'\(excerpt(kind))' is not a release", "write 'kind: Release'")
    }
    var parts: [Part] = []
    for manifest in envelope.spec?.stores ?? [] {
      guard let part = manifest.part, let mark = manifest.store?.mark else { continue }
      if catalog.store(part.store) == nil {
        decoding.report(
          .dangling, at: mark, "there is no store '\(part.store)'",
          nearest(part.store.text, in: catalog.stores.map(\.name.text)).map { "did you mean '\($0)'?" })
      }
      if parts.contains(where: { $0.store == part.store }) {
        decoding.report(.duplicateName, at: mark, "store '\(part.store)' is there twice", "join the two")
      }
      parts.append(part)
    }
    for name in envelope.spec?.invariants ?? [] where catalog.invariant(name.value) == nil {
      decoding.report(
        .dangling, at: name.mark, "there is no invariant '\(name.value)'",
        nearest(name.value.text, in: catalog.invariants.map(\.name.text)).map { "did you mean '\($0)'?" })
    }
    return Release(
      name: envelope.name?.name ?? "", stores: parts, invariants: envelope.spec?.invariants?.map(\.value))
  }

  /// The document around it; a release's name is a version, and may hold dots.
  private struct Envelope: Sendable {
    var version: String?
    var kind: String?
    var name: Naming?
    var spec: ReleaseManifest?

    struct Naming: Sendable {
      var name: String?
      static let table = Table(
        "Metadata", "What the release is called.", initial: { Naming() },
        fields: [Field("name", \.name, Codec<String>.scalar.optional, required: true, "Such as `2026.11.2`.")])
    }

    static let table = Table(
      "Document", "A release.", initial: { Envelope() },
      fields: [
        Field("apiVersion", \.version, Codec<String>.text.optional, required: true, "The version."),
        Field("kind", \.kind, Codec<String>.text.optional, required: true, "`Release`."),
        Field("metadata", \.name, Naming.table.codec.optional, required: true, "Its name."),
        Field("spec", \.spec, ReleaseManifest.table.codec.optional, required: true, "What it does."),
      ])
  }
}
