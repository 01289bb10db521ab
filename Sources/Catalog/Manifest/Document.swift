import Core

/// What every document says about itself.
struct Metadata: Sendable {
  var name: Located<String>?
  var labels: [String: String] = [:]

  static let table = Table(
    "Metadata", "What a document is called.", initial: { Metadata() },
    fields: [
      Field(
        "name", \.name, Codec<ServiceName>.name.map(\.text).located.optional, required: true, "Unique among its kind."),
      Field("labels", \.labels, Codec<String>.scalar.dictionary, "Words of your own, for selecting and for reports."),
    ])
}

/// One declared thing: its name, where it stands, and what it says.
struct Declared<Spec: Sendable>: Sendable {
  var name: Located<String>
  var labels: [String: String]
  var file: String
  var spec: Spec
}

/// Every document of every file, sorted by kind.
struct Manifests: Sendable {
  static let apiVersion = "salvor.dev/v1"

  var services: [Declared<ServiceManifest>] = []
  var repositories: [Declared<RepositoryManifest>] = []
  var policies: [Declared<PolicyManifest>] = []
  var groups: [Declared<GroupManifest>] = []
  var invariants: [Declared<InvariantManifest>] = []
  var drills: [Declared<DrillManifest>] = []
  var workflows: [Declared<WorkflowManifest>] = []
  var metrics: [Declared<MetricManifest>] = []
  var domains: [Declared<DomainManifest>] = []
  var reconciliations: [Declared<ReconciliationManifest>] = []
  var failovers: [Declared<FailoverManifest>] = []
  var routes: [Declared<TrafficRouteManifest>] = []
  var rollouts: [Declared<RolloutManifest>] = []
  var diagnostics: [Diagnostic] = []

  /// The kinds there are: name, fields, and where a document of it goes.
  static let kinds: [Kind] = [
    Kind(ServiceManifest.table, \.services),
    Kind(RepositoryManifest.table, \.repositories),
    Kind(GroupManifest.table, \.groups),
    Kind(PolicyManifest.table, \.policies),
    Kind(InvariantManifest.table, \.invariants),
    Kind(DrillManifest.table, \.drills),
    Kind(WorkflowManifest.table, \.workflows),
    Kind(MetricManifest.table, \.metrics),
    Kind(DomainManifest.table, \.domains),
    Kind(ReconciliationManifest.table, \.reconciliations),
    Kind(FailoverManifest.table, \.failovers),
    Kind(TrafficRouteManifest.table, \.routes),
    Kind(RolloutManifest.table, \.rollouts),
  ]

  struct Kind: Sendable {
    let shape: RecordShape
    let read: @Sendable (YAMLNode, Located<String>, [String: String], inout Manifests, inout Decoding) -> Void

    init<Spec: Sendable>(_ table: Table<Spec>, _ path: any WritableKeyPath<Manifests, [Declared<Spec>]> & Sendable) {
      shape = table.shape
      read = { node, name, labels, manifests, decoding in
        guard let spec = table.read(node, &decoding) else { return }
        manifests[keyPath: path].append(Declared(name: name, labels: labels, file: decoding.file, spec: spec))
      }
    }
  }

  /// Reads every document; whatever is wrong is in `diagnostics`, and the rest is there.
  init(_ files: [SourceFile], drivers: [DriverName: [OptionSchema]]) {
    for file in files {
      var decoding = Decoding(file: file.path, drivers: drivers)
      var reader = YAMLReader(file.text)
      for document in reader.documents() where !document.isNull { read(document, &decoding) }
      for problem in reader.problems { decoding.report(problem) }
      diagnostics += decoding.diagnostics
    }
  }

  private mutating func read(_ document: YAMLNode, _ decoding: inout Decoding) {
    guard case .mapping(let members) = document.content else {
      decoding.wrongType(document, expected: "a document with apiVersion, kind, metadata and spec")
      return
    }
    func member(_ key: String) -> YAMLNode? { members.first { $0.key == key }?.value }
    for member in members where !["apiVersion", "kind", "metadata", "spec"].contains(member.key) {
      let guess = nearest(member.key, in: ["apiVersion", "kind", "metadata", "spec"]).map { "did you mean '\($0)'?" }
      decoding.report(
        .unknownField, at: member.keyMark, "a document has no field '\(excerpt(member.key))'",
        guess ?? "it has apiVersion, kind, metadata and spec")
    }
    checkVersion(member("apiVersion"), document.mark, &decoding)
    guard let kind = kind(member("kind"), document.mark, &decoding) else { return }
    guard let metadataNode = member("metadata"), !metadataNode.isNull else {
      decoding.report(.missing, at: document.mark, "'metadata' is missing", "add 'metadata: {name: …}'")
      return
    }
    guard let metadata = Metadata.table.read(metadataNode, &decoding) else { return }
    let spec = member("spec") ?? YAMLNode(content: .mapping([]), mark: document.mark)
    let empty = spec.isNull ? YAMLNode(content: .mapping([]), mark: spec.mark) : spec
    if let name = metadata.name {
      kind.read(empty, name, metadata.labels, &self, &decoding)
    } else {
      // Read all the same, for what else is wrong with it.
      var aside = self
      kind.read(empty, Located("", at: metadataNode.mark), [:], &aside, &decoding)
    }
  }

  private func checkVersion(_ node: YAMLNode?, _ mark: Mark, _ decoding: inout Decoding) {
    guard let node, case .scalar(let text, _) = node.content, !node.isNull else {
      decoding.report(
        .badVersion, at: node?.mark ?? mark, "'apiVersion' is missing", "add 'apiVersion: \(Self.apiVersion)'")
      return
    }
    if text != Self.apiVersion {
      decoding.report(
        .badVersion, at: node.mark, "'\(excerpt(text))' is no version this program knows",
        "write 'apiVersion: \(Self.apiVersion)', or use a newer Salvor")
    }
  }

  private func kind(_ node: YAMLNode?, _ mark: Mark, _ decoding: inout Decoding) -> Kind? {
    let names = Self.kinds.map(\.shape.name)
    guard let node, case .scalar(let text, _) = node.content, !node.isNull else {
      decoding.report(
        .unknownKind, at: node?.mark ?? mark, "'kind' is missing", "add one of \(names.joined(separator: ", "))")
      return nil
    }
    if let kind = Self.kinds.first(where: { $0.shape.name == text }) { return kind }
    decoding.report(
      .unknownKind, at: node.mark, "there is no kind '\(excerpt(text))'",
      nearest(text, in: names).map { "did you mean '\($0)'?" } ?? "there is \(names.joined(separator: ", "))")
    return nil
  }
}

extension Decoding {
  mutating func report(_ problem: YAMLProblem) {
    let code: DiagnosticCode =
      switch problem.kind {
      case .syntax: .syntax
      case .limit: .limit
      case .duplicateKey: .duplicateKey
      case .unsupported: .unsupportedYAML
      }
    report(code, at: problem.mark, problem.message, problem.remedy)
  }
}
