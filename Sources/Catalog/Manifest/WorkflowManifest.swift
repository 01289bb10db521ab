import Core

struct WorkflowManifest: Sendable {
  var description: String?
  var effects: LoadWorkflow.Effects?
  var secrets: [String: SecretReference] = [:]
  var data: String?
  var steps: [WorkflowStepManifest] = []
  var load = LoadWorkflow.Load(
    rate: nil, users: 1, duration: nil, iterations: nil, warmUp: .zero, ramp: .zero)
  var bounds = LoadWorkflow.Bounds(latencies: [:], failedPerMillion: 0)

  static let table = Table(
    "Workflow", "What users do, in steps, at a rate: a check that services work while they are worked with.",
    initial: { WorkflowManifest() },
    fields: [
      Field("description", \.description, Codec<String>.phrase.optional, "What it is, for people."),
      Field(
        "effects", \.effects, Codec<LoadWorkflow.Effects>.word.optional, required: true,
        "What it leaves behind; one that writes is refused on a live system without consent."),
      Field(
        "secrets", \.secrets, Codec<SecretReference>.secret.dictionary,
        "What templates call `{{secret.…}}`, by reference."),
      Field(
        "data", \.data, Codec<String>.path.optional,
        "A file of JSON objects, one on each line, taken in turn; templates call its members `{{data.…}}`."),
      Field(
        "steps", \.steps, WorkflowStepManifest.table.codec.list, required: true,
        "Gone through one after the other; the first that fails ends the run through."),
      Field("load", \.load, loadTable.codec, default: "once", "How hard, and how long."),
      Field(
        "expect", \.bounds, boundsTable.codec, default: "`{errors: 0%}`",
        "What must hold of all runs through it that counted."),
    ])

  static let loadTable = Table(
    "Load", "How hard, and how long.",
    initial: {
      LoadWorkflow.Load(rate: nil, users: 0, duration: nil, iterations: nil, warmUp: .zero, ramp: .zero)
    },
    finish: { load, node, decoding in
      if load.users == 0 { load.users = load.rate == nil ? 1 : 64 }
      if load.duration == nil, load.iterations == nil { load.iterations = load.rate == nil ? load.users : 1 }
    },
    fields: [
      Field(
        "rate", \.rate, LoadWorkflow.Rate.codec.optional, default: "as fast as users are done",
        "How many begin, such as `20/s` or `90/m`, however long those before them take."),
      Field(
        "users", \.users, .integer(1...10_000), default: "`1`, or `64` with a rate",
        "How many there are at one moment at most."),
      Field("for", \.duration, Codec<Duration>.positiveDuration.optional, "How long it goes on after the warm-up."),
      Field(
        "iterations", \.iterations, Codec<Int>.integer(1...100_000_000).optional,
        default: "without `for`, one for each user", "How often it is gone through at most."),
      Field("warmUp", \.warmUp, .duration, default: "`0s`", "What begins in it doesn't count."),
      Field("ramp", \.ramp, .duration, default: "`0s`", "How long the rate grows, from nothing."),
    ])

  static let boundsTable = Table(
    "LoadBounds", "What must hold of all that counted; times are from the moment a run through was due until its end.",
    initial: { LoadWorkflow.Bounds(latencies: [:], failedPerMillion: 0) },
    fields: LoadWorkflow.Bounds.Percentile.allCases.map { percentile in
      Field(
        percentile.rawValue, \LoadWorkflow.Bounds.latencies[limit: percentile],
        Codec<Duration>.positiveDuration.optional,
        percentile == .max ? "The slowest." : "Of all, this share is at least as fast.")
    } + [
      Field("errors", \.failedPerMillion, .share, default: "`0%`", "The share of failures that is accepted.")
    ])
}

extension [LoadWorkflow.Bounds.Percentile: Duration] {
  fileprivate subscript(limit percentile: Key) -> Value? {
    get { self[percentile] }
    set { self[percentile] = newValue }
  }
}

extension LoadWorkflow.Rate {
  static let codec = Codec<LoadWorkflow.Rate>(.formatted("rate", pattern: "^[0-9]+(/[smh])?$")) { node, decoding in
    guard let text = Codec<String>.scalar.read(node, &decoding) else { return nil }
    guard let rate = LoadWorkflow.Rate(text) else {
      decoding.report(.badValue, at: node.mark, "'\(excerpt(text))' is not a rate", "write it as 20/s, 90/m or 1000/h")
      return nil
    }
    return rate
  }
}

extension Codec where Value == Int {
  /// `5%`, in millionths.
  static let share = Codec(.formatted("share", pattern: "^[0-9.]+%$")) { node, decoding in
    guard let text = Codec<String>.scalar.read(node, &decoding) else { return nil }
    guard text.hasSuffix("%"), let value = Double(text.dropLast()), (0...1_000_000).contains(value) else {
      decoding.report(.badValue, at: node.mark, "'\(excerpt(text))' is not a share", "write it as 5% or 0.1%")
      return nil
    }
    return Int((value * 10_000).rounded())
  }
}

struct WorkflowStepManifest: Sendable {
  var name: Located<CheckName>?
  var http: RequestManifest?
  var exec: Command?
  var timeout: Duration = .seconds(10)
  var captures: [String: String] = [:]
  var status: Int?
  var headers: [String: LoadWorkflow.Match] = [:]
  var values: [String: LoadWorkflow.Match] = [:]
  var equals: String?
  var matches: String?
  var mark = Mark.start

  static let table = Table(
    "WorkflowStep", "One request or command, and what its answer must be.", initial: { WorkflowStepManifest() },
    choices: [.exactlyOne("http", "exec"), .atMostOne("equals", "matches")],
    finish: { record, node, decoding in record.check(node.mark, &decoding) },
    fields: [
      Field("name", \.name, Codec<CheckName>.name.located.optional, required: true, "Unique within the workflow."),
      Field("http", \.http, RequestManifest.codec.optional, "A request."),
      Field("exec", \.exec, Codec<Command>.command.optional, "A command; its arguments are templates."),
      Field("timeout", \.timeout, .positiveDuration, default: "`10s`", "After this it has failed."),
      Field(
        "capture", \.captures, Codec<String>.scalar.dictionary,
        "Names for later steps, each with the JSON pointer to its value in the answer; `\"\"` is the whole answer."),
      Field(
        "status", \.status, Codec<Int>.integer(0...599).optional, default: "any of 200 to 299; `0` for `exec`",
        "The response's status, the command's exit status."),
      Field(
        "headers", \.headers, LoadWorkflow.Match.codec.dictionary, "What headers of the response must be, by name."),
      Field(
        "json", \.values, LoadWorkflow.Match.codec.dictionary, "What the answer must hold, by JSON pointer."),
      Field("equals", \.equals, Codec<String>.scalar.optional, "The whole answer, without blanks at its ends."),
      Field(
        "matches", \.matches, Codec<String>.regularExpression.optional, "A regular expression found in the answer."),
    ])

  private mutating func check(_ mark: Mark, _ decoding: inout Decoding) {
    self.mark = mark
    if exec != nil, !headers.isEmpty {
      decoding.report(.exclusive, at: mark, "a command's answer has no headers", "use status, json, equals or matches")
    }
    for pointer in Array(captures.values) + values.keys where !pointer.isEmpty && !pointer.hasPrefix("/") {
      decoding.report(
        .badValue, at: mark, "'\(excerpt(pointer))' is not a JSON pointer",
        "write it as /account/balance; \"\" is everything")
    }
    for name in captures.keys.sorted() where !TemplateText.isName(name) {
      decoding.report(
        .badName, at: mark, "nothing can be captured as '\(excerpt(name))'",
        "use letters, digits, '-' and '_', and none of number, uuid, int, hex and pick")
    }
  }

  /// `nil` where what is there makes no step, which has been reported.
  var step: LoadWorkflow.Step? {
    let action: LoadWorkflow.Action
    if let http, let url = http.url {
      action = .http(
        LoadWorkflow.Request(
          method: http.method ?? (http.body != nil || http.json != nil ? .post : .get), url: url, headers: http.headers,
          body: http.json ?? http.body, isJSON: http.json != nil))
    } else if let exec {
      action = .exec(exec)
    } else {
      return nil
    }
    guard let name else { return nil }
    var expectations: [LoadWorkflow.Expectation] = []
    if let status { expectations.append(.status(status)) }
    for (name, match) in headers.sorted(by: { $0.key < $1.key }) {
      expectations.append(.header(name.lowercased(), match))
    }
    for (pointer, match) in values.sorted(by: { $0.key < $1.key }) {
      expectations.append(.value(pointer: pointer, match))
    }
    if let equals { expectations.append(.text(.equals(equals))) }
    if let matches { expectations.append(.text(.matches(matches))) }
    return LoadWorkflow.Step(
      name: name.value, action: action, timeout: timeout, captures: captures, expectations: expectations)
  }
}

extension LoadWorkflow.Match {
  struct Manifest: Sendable {
    var equals: String?
    var matches: String?

    static let table = Table(
      "Match", "What a value must be.", initial: { Manifest() }, choices: [.exactlyOne("equals", "matches")],
      fields: [
        Field("equals", \.equals, Codec<String>.scalar.optional, "This, as text."),
        Field("matches", \.matches, Codec<String>.regularExpression.optional, "A regular expression found in it."),
      ])
  }

  static let codec = Codec<LoadWorkflow.Match>(.either([.scalar, .record(Manifest.table.shape)])) { node, decoding in
    if case .mapping = node.content {
      guard let manifest = Manifest.table.read(node, &decoding) else { return nil }
      return manifest.equals.map { .equals($0) } ?? manifest.matches.map { .matches($0) }
    }
    return Codec<String>.scalar.read(node, &decoding).map { .equals($0) }
  }
}

struct RequestManifest: Sendable {
  var method: LoadWorkflow.Request.Method?
  var url: String?
  var headers: [String: String] = [:]
  var body: String?
  var json: String?

  static let table = Table(
    "Request", "One HTTP request; all its texts may hold `{{…}}`.", initial: { RequestManifest() },
    choices: [.atMostOne("body", "json")],
    fields: [
      Field(
        "method", \.method, Codec<LoadWorkflow.Request.Method>.word.optional, default: "`GET`, or `POST` with a body",
        "How it asks."),
      Field(
        "url", \.url, Codec<String>.filledURL.optional, required: true, "The address; what is filled in is escaped."),
      Field("headers", \.headers, Codec<String>.scalar.dictionary, "Headers to send."),
      Field("body", \.body, Codec<String>.text.optional, "What to send, as it is."),
      Field(
        "json", \.json, Codec<String>.text.optional,
        "JSON to send, as text: `'{\"to\": \"{{data.to}}\"}'`; what is filled in is escaped."),
    ])

  /// The address alone, or all of it.
  static let codec = Codec<RequestManifest>(.either([Codec<String>.filledURL.shape, .record(table.shape)])) {
    node, decoding in
    if case .mapping = node.content { return table.read(node, &decoding) }
    return Codec<String>.filledURL.read(node, &decoding).map { RequestManifest(url: $0) }
  }
}

extension Codec where Value == String {
  /// An address with places to fill in, which may hold blanks; none of them before the path.
  fileprivate static let filledURL = Codec(httpURL.shape) { node, decoding in
    guard let text = phrase.read(node, &decoding) else { return nil }
    let plain = text.replacing(/\{\{[^}]*\}\}/, with: "x")
    let fixed = text.firstRange(of: "{{").map { text[..<$0.lowerBound].count { $0 == "/" } >= 3 } ?? true
    guard fixed else {
      decoding.report(
        .badValue, at: node.mark, "whom it asks can't be filled in", "write scheme, host and port as they are")
      return nil
    }
    return httpURL.read(YAMLNode(content: .scalar(plain, isPlain: false), mark: node.mark), &decoding).map { _ in text }
  }
}
