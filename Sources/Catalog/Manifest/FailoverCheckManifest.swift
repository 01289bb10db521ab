import Core

struct FailoverCheckManifest: Sendable {
  var name: CheckName?
  var tcp: String?
  var http: String?
  var status = 200
  var beat: Bool?
  var lag: Lag?
  var prometheus: String?
  var query: String?
  var pressure: FailoverCheck.Resource?
  var diskUsed: String?
  var readOnly: String?
  var run: Command?
  var failure: FailureClass?
  var most: Int64?
  var least: Int64?
  var dwell = Duration.seconds(5)
  var interval = Duration.seconds(1)
  var freshness = Duration.seconds(10)
  var patience = Duration.seconds(2)
  var weight = 0
  var asks: FailoverCheck.Question?

  enum Lag: String, Sendable, CaseIterable { case bytes, seconds }

  static let table = Table(
    "FailoverCheck", "One more thing agents ask; what it found is a fact with an age, and counts by its weight.",
    initial: { FailoverCheckManifest() },
    choices: [
      .exactlyOne("tcp", "http", "beat", "lag", "prometheus", "pressure", "diskUsed", "readOnly", "run")
    ],
    finish: { record, node, decoding in record.finish(node, &decoding) },
    fields: [
      Field("name", \.name, Codec<CheckName>.name.optional, required: true, "Unique in the policy."),
      Field(
        "tcp", \.tcp, Codec<String>.primaryOrAddress.optional,
        "Seconds until a connection stands; `primary`, or `host:port`. None in time is a failure."),
      Field(
        "http", \.http, Codec<String>.httpURL.optional,
        "Seconds until the answer; `{host}` is the primary's. Another status is a failure."),
      Field("status", \.status, .integer(100...599), default: "`200`", "The status that is right."),
      Field(
        "beat", \.beat, Codec<Bool>.isTrue.optional,
        "`true`: seconds since the primary last had a write acknowledged that its agent made."),
      Field(
        "lag", \.lag, Codec<Lag>.word.optional,
        "How far behind the least complete of the standbys is that acknowledgements wait for."),
      Field(
        "prometheus", \.prometheus, Codec<String>.httpURL.optional, "A Prometheus server's address; with `query`."),
      Field("query", \.query, Codec<String>.phrase.optional, "Gives one number."),
      Field(
        "pressure", \.pressure, Codec<FailoverCheck.Resource>.word.optional,
        "Percent of the last ten seconds in which something on the member's host waited for it."),
      Field("diskUsed", \.diskUsed, Codec<String>.path.optional, "Percent of the file system this lies in."),
      Field(
        "readOnly", \.readOnly, Codec<String>.path.optional, "Whether the file system this lies in takes no writes."),
      Field("run", \.run, Codec<Command>.command.optional, "A program beside the member that prints one number."),
      Field(
        "failure", \.failure, Codec<FailureClass>.word.optional,
        default: "`disk`, `lag` or `overload`, by what is asked", "What it points at."),
      Field("most", \.most, Codec<Int64>.thousandths.optional, "More is too much."),
      Field("least", \.least, Codec<Int64>.thousandths.optional, "Less is too little."),
      Field("dwell", \.dwell, .duration, default: "`5s`", "How long it must have been so."),
      Field("interval", \.interval, .positiveDuration, default: "`1s`", "How often it is asked."),
      Field(
        "freshness", \.freshness, .positiveDuration, default: "`10s`", "How old an answer may be before it is none."),
      Field("patience", \.patience, .positiveDuration, default: "`2s`", "How long an answer may take."),
      Field(
        "weight", \.weight, .integer(0...100), default: "`0`: recorded, and moves nothing",
        "100 together are as good as an engine that is down."),
    ])

  private mutating func finish(_ node: YAMLNode, _ decoding: inout Decoding) {
    if let tcp { asks = .tcp(tcp == "primary" ? nil : tcp) }
    if let http { asks = .http(http, status: status) }
    if beat == true { asks = .beat }
    if let lag { asks = lag == .bytes ? .lagBytes : .lagSeconds }
    if let pressure { asks = .pressure(pressure) }
    if let diskUsed { asks = .diskUsed(diskUsed) }
    if let readOnly { asks = .readOnly(readOnly) }
    if let run { asks = .command(run) }
    if let prometheus {
      if let query {
        asks = .prometheus(prometheus, query: query)
      } else {
        decoding.report(.missing, at: node.mark, "nothing is asked of the Prometheus server", "add 'query'")
      }
    } else if query != nil {
      decoding.report(.missing, at: node.mark, "'query' is asked of nobody", "add 'prometheus': the server's address")
    }
  }

  var check: FailoverCheck? {
    guard let name, let asks else { return nil }
    return FailoverCheck(
      name: name, asks: asks, failure: failure, most: most, least: least, dwell: dwell, interval: interval,
      freshness: freshness, patience: patience, weight: weight)
  }
}

extension Codec where Value == Int64 {
  /// A decimal number, kept in thousandths.
  static let thousandths = Codec<Int64>(.scalar) { node, decoding in
    guard let text = Codec<String>.scalar.read(node, &decoding) else { return nil }
    guard let value = Double(text), value.isFinite, abs(value) < 1e15 else {
      decoding.report(.badValue, at: node.mark, "'\(excerpt(text))' is not a number", "write it as 0 or 12.5")
      return nil
    }
    return Int64((value * 1000).rounded())
  }
}

extension Codec where Value == Int {
  static func thousandths(_ range: ClosedRange<Int>) -> Codec {
    Codec(.scalar) { node, decoding in
      guard let value = Codec<Int64>.thousandths.read(node, &decoding) else { return nil }
      guard value >= Int64(range.lowerBound) * 1000, value <= Int64(range.upperBound) * 1000 else {
        decoding.report(
          .badValue, at: node.mark, "this is not in \(range.lowerBound) to \(range.upperBound)",
          "choose a number in there")
        return nil
      }
      return Int(value)
    }
  }
}

extension Codec where Value == String {
  static let hostPort = Codec(.formatted("host:port", pattern: "^\\S+:[0-9]+$")) { node, decoding in
    guard let text = phrase.read(node, &decoding) else { return nil }
    let port = text.split(separator: ":").last.flatMap { Int($0) } ?? 0
    guard let colon = text.lastIndex(of: ":"), colon != text.startIndex, (1...65_535).contains(port),
      !text.contains(where: \.isWhitespace), !text.contains("/")
    else {
      decoding.report(
        .badValue, at: node.mark, "'\(excerpt(text))' is not an address", "write it as host:port, such as 10.0.0.1:5432"
      )
      return nil
    }
    return text
  }

  static let primaryOrAddress = Codec(.formatted("`primary`, or host:port", pattern: nil)) { node, decoding in
    if case .scalar("primary", _) = node.content { return "primary" }
    return hostPort.read(node, &decoding)
  }

  static let timeZone = Codec(.formatted("time zone", pattern: "^[A-Za-z][A-Za-z0-9_+/-]*$")) { node, decoding in
    guard let text = phrase.read(node, &decoding) else { return nil }
    let allowed = text.utf8.allSatisfy {
      (65...90).contains($0) || (97...122).contains($0) || (48...57).contains($0) || [95, 43, 47, 45].contains($0)
    }
    guard allowed, text.utf8.first.map({ $0 >= 65 }) ?? false, text.utf8.count <= 64 else {
      decoding.report(.badValue, at: node.mark, "'\(excerpt(text))' is not a time zone", "write it as Europe/Berlin")
      return nil
    }
    return text
  }
}
