import Core

/// A query to one of the service's stores; which, is settled once all stores are known.
struct QueryManifest: Sendable {
  var store: Located<StoreName>?
  var query: String?
  var mark = Mark.start

  static let table = Table(
    "Query", "A read-only query to one of the service's stores.", initial: { QueryManifest() },
    fields: [
      Field(
        "store", \.store, Codec<StoreName>.name.located.optional, default: "the only one the service has",
        "The store it is put to."),
      Field("query", \.query, Codec<String>.phrase.optional, required: true, "In the engine's own language."),
    ])

  /// The query alone, or with its store.
  static let codec = Codec<QueryManifest>(.either([.text, .record(table.shape)])) { node, decoding in
    if case .mapping = node.content {
      guard var manifest = table.read(node, &decoding) else { return nil }
      manifest.mark = node.mark
      return manifest
    }
    return Codec<String>.phrase.read(node, &decoding).map { QueryManifest(store: nil, query: $0, mark: node.mark) }
  }
}

/// What `tcp:` says.
struct Endpoint: Sendable {
  var host: String
  var port: UInt16

  static let codec = Codec<Endpoint>(.formatted("host:port", pattern: "^.+:[0-9]+$")) { node, decoding in
    guard let text = Codec<String>.phrase.read(node, &decoding) else { return nil }
    guard let endpoint = Endpoint(text) else {
      decoding.report(
        .badValue, at: node.mark, "'\(excerpt(text))' is not host:port", "write it as 127.0.0.1:5432 or [::1]:5432")
      return nil
    }
    return endpoint
  }

  init?(_ text: String) {
    guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]), port > 0 else {
      return nil
    }
    var host = text[..<colon]
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = host.dropFirst().dropLast()
    } else if host.contains(":") {
      return nil
    }
    guard !host.isEmpty, !host.contains(where: \.isWhitespace) else { return nil }
    (self.host, self.port) = (String(host), port)
  }
}

/// What `http:` says: the address alone, or with the status that is right.
struct PageManifest: Sendable {
  var url: String?
  var status = 200

  static let table = Table(
    "Page", "An address, and what it answers.", initial: { PageManifest() },
    fields: [
      Field("url", \.url, Codec<String>.httpURL.optional, required: true, "The address; it is asked with GET."),
      Field("status", \.status, .integer(100...599), default: "`200`", "The status that is right."),
    ])

  static let codec = Codec<PageManifest>(.either([Codec<String>.httpURL.shape, .record(table.shape)])) {
    node, decoding in
    if case .mapping = node.content { return table.read(node, &decoding) }
    return Codec<String>.httpURL.read(node, &decoding).map { PageManifest(url: $0) }
  }
}

struct ProbeManifest: Sendable {
  var exec: Command?
  var tcp: Endpoint?
  var http: PageManifest?
  var sql: QueryManifest?
  var timeout: Duration = .seconds(5)
  var interval: Duration = .milliseconds(500)
  var retries = 60

  static let table = Table(
    "Probe", "A question asked until the answer is yes.", initial: { ProbeManifest() },
    choices: [.exactlyOne("exec", "tcp", "http", "sql")],
    fields: [
      Field("exec", \.exec, Codec<Command>.command.optional, "A command; exit status 0 is yes."),
      Field("tcp", \.tcp, Endpoint.codec.optional, "An address that accepts a connection."),
      Field("http", \.http, PageManifest.codec.optional, "An address that answers with the right status."),
      Field("sql", \.sql, QueryManifest.codec.optional, "A query that runs."),
      Field("timeout", \.timeout, .positiveDuration, default: "`5s`", "How long one try may take."),
      Field("interval", \.interval, .positiveDuration, default: "`500ms`", "The pause between two tries."),
      Field("retries", \.retries, .integer(0...100_000), default: "`60`", "Tries after the first."),
    ])
}

struct ValidatorManifest: Sendable {
  var name: Located<CheckName>?
  var sql: QueryManifest?
  var exec: Command?
  var http: String?
  var workflow: Located<WorkflowName>?
  var equals: String?
  var rows: Int?
  var empty: Bool?
  var status: Int?
  var matches: String?
  var timeout: Duration = .seconds(60)

  static let table = Table(
    "Validator", "A check that must pass for the service to count as restored.", initial: { ValidatorManifest() },
    choices: [
      .exactlyOne("sql", "exec", "http", "workflow"), .atMostOne("equals", "rows", "empty", "status", "matches"),
    ],
    finish: { record, node, decoding in record.check(at: node.mark, &decoding) },
    fields: [
      Field("name", \.name, Codec<CheckName>.name.located.optional, required: true, "Unique within the service."),
      Field("sql", \.sql, QueryManifest.codec.optional, "A query."),
      Field("exec", \.exec, Codec<Command>.command.optional, "A command."),
      Field("http", \.http, Codec<String>.httpURL.optional, "An address, asked with GET."),
      Field(
        "workflow", \.workflow, Codec<WorkflowName>.name.located.optional,
        "A workflow, gone through at its own load; what it expects must hold."),
      Field(
        "equals", \.equals, Codec<String>.scalar.optional,
        "The only value of the only row; of a command or a page, the output without blanks at its ends."),
      Field("rows", \.rows, Codec<Int>.integer(0...Int(Int32.max)).optional, "How many rows; `sql` only."),
      Field("empty", \.empty, Codec<Bool>.isTrue.optional, "`true`: no row, no output."),
      Field(
        "status", \.status, Codec<Int>.integer(0...599).optional, default: "`0` for `exec`, `200` for `http`",
        "The exit status, the response's status; not for `sql`."),
      Field(
        "matches", \.matches, Codec<String>.regularExpression.optional, "A regular expression found in the output."),
      Field("timeout", \.timeout, .positiveDuration, default: "`60s`", "How long it may take."),
    ])

  /// `nil` where nothing sensible was given, which has been reported.
  var expectation: Validator.Expectation? {
    if let equals { return .equals(equals) }
    if let rows { return .rows(rows) }
    if empty == true { return .empty }
    if let status { return .status(status) }
    if let matches { return .matches(matches) }
    if exec != nil || workflow != nil { return .status(0) }
    return http != nil ? .status(200) : nil
  }

  private func check(at mark: Mark, _ decoding: inout Decoding) {
    if sql != nil, expectation == nil {
      decoding.report(
        .missing, at: mark, "the validator does not say what the query must give", "add equals, rows, empty or matches")
    } else if sql != nil, status != nil {
      decoding.report(.exclusive, at: mark, "a query has no status", "use equals, rows, empty or matches")
    } else if workflow != nil, equals ?? matches != nil || rows != nil || empty != nil || status != nil {
      decoding.report(.exclusive, at: mark, "a workflow says itself what it expects", "leave it out here")
    } else if sql == nil, rows != nil {
      decoding.report(.exclusive, at: mark, "only a query has rows", "use equals, empty, status or matches")
    }
  }
}

extension Codec where Value == Bool {
  /// `true`, for fields that mean nothing when false.
  static let isTrue = Codec(.boolean) { node, decoding in
    guard let value = boolean.read(node, &decoding) else { return nil }
    guard value else {
      decoding.report(.badValue, at: node.mark, "only true means something here", "leave the field out")
      return nil
    }
    return true
  }
}

extension Codec where Value == String {
  static let regularExpression = Codec(.formatted("regular expression", pattern: nil)) { node, decoding in
    guard let text = phrase.read(node, &decoding) else { return nil }
    // The limits keep a hostile pattern from costing more than it is worth.
    guard text.utf8.count <= 1000, text.count(where: { $0 == "(" || $0 == "[" }) <= 50, (try? Regex(text)) != nil else {
      decoding.report(
        .badValue, at: node.mark, "'\(excerpt(text))' is not a regular expression",
        "quote what has a meaning of its own with \\")
      return nil
    }
    return text
  }
}
