import Core

struct RolloutManifest: Sendable {
  var description: String?
  var route: Located<CheckName>?
  var from: Located<MemberName>?
  var to: Located<MemberName>?
  var ready: [ProbeManifest] = []
  var warm: Rollout.Warmth?
  var prime: Command?
  var steps = [1, 5, 25, 50, 100]
  var dwell: Duration = .seconds(60)
  var interval: Duration = .seconds(1)
  var watch = Rollout.Bounds(errorsPerMillion: nil, latency: nil, requests: 20)
  var queries: [Rollout.Query] = []
  var patience: Duration = .seconds(60)
  var keep: Duration = .seconds(600)
  var flags: Rollout.Flags?

  static let table = Table(
    "Rollout", "A new side of a service that takes over step by step, and goes back by itself if it must.",
    initial: { RolloutManifest() },
    finish: { record, node, decoding in
      if record.steps.last != 100 || zip(record.steps, record.steps.dropFirst()).contains(where: { $0 >= $1 }) {
        decoding.report(
          .badValue, at: node.mark, "'steps' doesn't ascend to 100", "write it as [1, 5, 25, 50, 100]")
      }
      if let from = record.from, let to = record.to, from.value == to.value {
        decoding.report(.badValue, at: to.mark, "'from' and 'to' are the same side", "name the new side in 'to'")
      }
      if record.ready.isEmpty {
        decoding.report(
          .missing, at: node.mark, "nothing says whether the new side is ready", "add 'ready: [{http: …}]'")
      }
    },
    fields: [
      Field("description", \.description, Codec<String>.phrase.optional, "What it is, for people."),
      Field("route", \.route, Codec<CheckName>.name.located.optional, required: true, "The TrafficRoute."),
      Field("from", \.from, Codec<MemberName>.name.located.optional, required: true, "The side that serves."),
      Field("to", \.to, Codec<MemberName>.name.located.optional, required: true, "The side that shall serve."),
      Field(
        "ready", \.ready, ProbeManifest.table.codec.list, required: true,
        "All must pass before the new side gets anything, and at every look after."),
      Field("warm", \.warm, WarmthManifest.codec.optional, "Requests made of the new side before anybody else's."),
      Field("prime", \.prime, Codec<Command>.command.optional, "Fills the new side's caches; it must end with 0."),
      Field(
        "steps", \.steps, Codec<Int>.integer(1...100).list, default: "`[1, 5, 25, 50, 100]`", "Percent of what is new."),
      Field("dwell", \.dwell, .positiveDuration, default: "`60s`", "How long each step is watched."),
      Field("interval", \.interval, .positiveDuration, default: "`1s`", "How often it is looked at."),
      Field("watch", \.watch, BoundsManifest.codec, "What the router's own counters must say of the new side."),
      Field("queries", \.queries, PrometheusManifest.codec.list, "Numbers that Prometheus is asked for."),
      Field(
        "patience", \.patience, .positiveDuration, default: "`60s`",
        "How long what is needed to judge may be missing; then it goes back."),
      Field(
        "keep", \.keep, .duration, default: "`10m`", "How long the old side is kept for a return, after the last step."),
      Field("flags", \.flags, RolloutFlagsManifest.codec.optional, "Flags that decide, and flags that are recorded."),
    ])
}

private struct WarmthManifest: Sendable {
  var requests: [String] = []
  var times = 10

  static let table = Table(
    "Warmth", "Requests made of the new side before anybody else's.", initial: { WarmthManifest() },
    fields: [
      Field("requests", \.requests, Codec<String>.httpURL.list, required: true, "Addresses on the new side itself."),
      Field("times", \.times, .integer(1...100_000), default: "`10`", "How often each is asked."),
    ])

  static let codec = Codec<Rollout.Warmth>(.record(table.shape)) { node, decoding in
    table.read(node, &decoding).map { Rollout.Warmth(requests: $0.requests, times: $0.times) }
  }
}

private struct BoundsManifest: Sendable {
  var errors: Int?
  var latency: Duration?
  var requests = 20

  static let table = Table(
    "Bounds", "What the router's own counters must say of the new side.", initial: { BoundsManifest() },
    fields: [
      Field("errors", \.errors, Codec<Int>.share.optional, "The share of requests that may fail: `1%`."),
      Field("latency", \.latency, Codec<Duration>.positiveDuration.optional, "How long answers may take, on average."),
      Field("requests", \.requests, .integer(1...1_000_000_000), default: "`20`", "Fewer than these say nothing."),
    ])

  static let codec = Codec<Rollout.Bounds>(.record(table.shape)) { node, decoding in
    table.read(node, &decoding).map {
      Rollout.Bounds(errorsPerMillion: $0.errors, latency: $0.latency, requests: $0.requests)
    }
  }
}

private struct PrometheusManifest: Sendable {
  var name: CheckName?
  var url: String?
  var query: String?
  var least: Metric.Decimal?
  var most: Metric.Decimal?

  static let table = Table(
    "PrometheusQuery", "A number that Prometheus is asked for, and what it may be.", initial: { PrometheusManifest() },
    finish: { record, node, decoding in
      if record.least == nil, record.most == nil {
        decoding.report(.missing, at: node.mark, "nothing says what the number may be", "add 'most' or 'least'")
      }
    },
    fields: [
      Field("name", \.name, Codec<CheckName>.name.optional, required: true, "What it is called in records."),
      Field("prometheus", \.url, Codec<String>.httpURL.optional, required: true, "Where Prometheus answers."),
      Field("query", \.query, Codec<String>.phrase.optional, required: true, "Gives one number."),
      Field("least", \.least, Metric.Decimal.codec.optional, "It must not be below."),
      Field("most", \.most, Metric.Decimal.codec.optional, "It must not be above."),
    ])

  static let codec = Codec<Rollout.Query>(.record(table.shape)) { node, decoding in
    guard let read = table.read(node, &decoding), let name = read.name, let url = read.url, let query = read.query
    else { return nil }
    return Rollout.Query(name: name, url: url, query: query, least: read.least, most: read.most)
  }
}

private struct RolloutFlagsManifest: Sendable {
  var source: String?
  var allow: String?
  var record: [String] = []
  var credential: SecretReference?

  static let table = Table(
    "RolloutFlags", "Flags that decide, and flags that are recorded.", initial: { RolloutFlagsManifest() },
    fields: [
      Field(
        "source", \.source, Codec<String>.phrase.optional, required: true,
        "A file's path, or `http://host:port` of an OFREP service."),
      Field(
        "allow", \.allow, Codec<String>.phrase.optional,
        "On: it may go on. Anything else, or nothing that can be found out: it goes back."),
      Field("record", \.record, Codec<String>.phrase.list, "Their values go on record with every decision."),
      Field("credential", \.credential, Codec<SecretReference>.secret.optional, "The token an OFREP service wants."),
    ])

  static let codec = Codec<Rollout.Flags>(.record(table.shape)) { node, decoding in
    guard let read = table.read(node, &decoding), let source = read.source else { return nil }
    return Rollout.Flags(source: source, allow: read.allow, record: read.record, credential: read.credential)
  }
}

extension Resolver {
  mutating func rollout(_ declared: Declared<RolloutManifest>) -> Rollout? {
    let spec = declared.spec
    guard let route = spec.route, let from = spec.from, let to = spec.to else { return nil }
    guard let target = manifests.routes.first(where: { $0.name.value == route.value.text }) else {
      dangling("route", route.value.text, route.mark, declared.file, among: manifests.routes.map(\.name.value).sorted())
      return nil
    }
    for side in [from, to] where target.spec.backends[side.value.text] == nil {
      dangling(
        "backend of route \(route.value)", side.value.text, side.mark, declared.file,
        among: target.spec.backends.keys.sorted())
    }
    if spec.ready.contains(where: { $0.sql != nil }) {
      report(
        .badValue, declared.file, declared.name.mark, "'ready' of a rollout can't ask a store",
        "ask the new side itself: exec, tcp or http")
    }
    if target.spec.pgbouncer != nil, spec.steps != [100] {
      report(
        .badValue, declared.file, route.mark, "PgBouncer doesn't divide traffic", "write 'steps: [100]'")
    }
    return Rollout(
      name: PolicyName(unchecked: declared.name.value), description: spec.description, route: route.value,
      from: from.value, to: to.value, ready: spec.ready.compactMap { standaloneProbe($0) }, warm: spec.warm,
      prime: spec.prime, steps: spec.steps, dwell: spec.dwell, interval: spec.interval, watch: spec.watch,
      queries: spec.queries, patience: spec.patience, keep: spec.keep, flags: spec.flags)
  }

  /// A question about no service in particular; SQL is asked of a store, which a side of a route has none of its own.
  private func standaloneProbe(_ manifest: ProbeManifest) -> Probe? {
    let question: Probe.Question
    if let exec = manifest.exec {
      question = .exec(exec)
    } else if let tcp = manifest.tcp {
      question = .tcp(host: tcp.host, port: tcp.port)
    } else if let http = manifest.http, let url = http.url {
      question = .http(url: url, status: http.status)
    } else {
      return nil
    }
    return Probe(question, timeout: manifest.timeout, interval: manifest.interval, retries: manifest.retries)
  }
}
