import Core

/// The page `docs/reference/catalog.md`, made from the tables the decoder reads by.
package enum CatalogReference {
  package static func text() -> String {
    var lines = introduction
    for kind in Manifests.kinds { lines += section(kind.shape, level: "##") }
    var done = Set(Manifests.kinds.map(\.shape.name))
    lines += ["## Parts", ""]
    var open = Manifests.kinds.flatMap { parts(of: $0.shape) }
    while !open.isEmpty {
      let part = open.removeFirst()
      guard done.insert(part.name).inserted else { continue }
      lines += section(part, level: "###")
      open += parts(of: part)
    }
    lines += ["## Messages", "", "| code | severity | meaning |", "|---|---|---|"]
    lines += DiagnosticCode.allCases.map { "| \($0.rawValue) | \($0.severity.rawValue) | \($0.help) |" }
    return lines.joined(separator: "\n") + "\n"
  }

  /// A catalog that is complete and fits on one screen; a test resolves it.
  package static let smallest = """
    apiVersion: salvor.dev/v1
    kind: Repository
    metadata: {name: main}
    spec: {location: local:/srv/backup, password: file:/etc/salvor/password}
    ---
    apiVersion: salvor.dev/v1
    kind: Service
    metadata: {name: shop}
    spec:
      objectives: {rpo: 15m, rto: 10m}
      stores:
        - name: shop-files
          files: {path: /srv/shop}
    """

  private static let introduction = [
    "# The catalog", "",
    "<!-- Made from the tables the decoder reads by; `Tests/CatalogTests/ReferenceTests` says how to renew it. -->", "",
    "A catalog is a folder of YAML files, each with any number of documents, in any order. Every document has",
    "`apiVersion: \(Manifests.apiVersion)`, a `kind`, `metadata` with a `name`, and a `spec`. What a document means does not",
    "depend on its file, its place or its comments, and so the catalog's digest doesn't either.", "",
    "The smallest useful one:", "", "```yaml", smallest, "```", "",
    "- One repository is everybody's; with several, stores and policies name theirs.",
    "- Without any `ConsistencyGroup`, all stores are in one called `all`: everything is held together.",
    "  As soon as one group is declared, stores in none are captured on their own.",
    "- A secret is always a reference: `file:/path`, `env:NAME` or `command:program arguments`.",
    "- Commands are run without a shell; `[sh, -c, \"…\"]` runs one.",
    "- Durations have a unit: `500ms`, `30s`, `15m`, `1h30m`, `2d`.",
    "- YAML's anchors, aliases and `<<` work inside a document. Files up to 64 MiB, 64 levels deep.",
    "- `catalog.schema.json` beside this page lets editors complete and check manifests.", "",
  ]

  private static func section(_ shape: RecordShape, level: String) -> [String] {
    var lines = [
      "\(level) \(shape.name)", "", shape.help, "", "| field | what it holds | default | meaning |",
      "|---|---|---|---|",
    ]
    for field in shape.fields {
      let fallback = field.isRequired ? "**required**" : field.fallback ?? ""
      lines.append("| `\(field.name)` | \(linked(field.shape)) | \(fallback) | \(field.help) |")
    }
    if shape.takesDriverKeys {
      lines.append("| *driver's name* | mapping, see the driver | | Short for `driver` and `options`. |")
    }
    for choice in shape.choices {
      let list = choice.fields.map { "`\($0)`" }.joined(separator: ", ")
      lines += ["", choice.isRequired ? "Exactly one of \(list)." : "At most one of \(list)."]
    }
    return lines + [""]
  }

  private static func linked(_ shape: Shape) -> String {
    switch shape {
    case .record(let record): "[\(record.name)](#\(record.name.lowercased()))"
    case .list(let element): "list of \(linked(element))"
    case .map(let element): "mapping of names to \(linked(element))"
    case .either(let shapes): shapes.map(linked).joined(separator: " or ")
    default: shape.title
    }
  }

  private static func parts(of shape: RecordShape) -> [RecordShape] { shape.fields.flatMap { parts(of: $0.shape) } }

  private static func parts(of shape: Shape) -> [RecordShape] {
    switch shape {
    case .record(let record): [record]
    case .list(let element), .map(let element): parts(of: element)
    case .either(let shapes): shapes.flatMap(parts)
    default: []
    }
  }
}
