import Core

struct MetricManifest: Sendable {
  var description: String?
  var store: Located<StoreName>?
  var query: String?
  var unit: String?
  var least: Metric.Decimal?
  var most: Metric.Decimal?
  var change: Int?
  var trend: TrendManifest?

  static let table = Table(
    "Metric",
    "A number that says whether business is as it should be: asked when a point is taken, and after a restore.",
    initial: { MetricManifest() },
    finish: { record, node, decoding in
      if let least = record.least, let most = record.most, least.value > most.value {
        decoding.report(
          .badValue, at: node.mark, "no number is at least \(least.text) and at most \(most.text)", "swap them")
      }
    },
    fields: [
      Field("description", \.description, Codec<String>.phrase.optional, "What it is, for people."),
      Field("store", \.store, Codec<StoreName>.name.located.optional, required: true, "Whom to ask."),
      Field("query", \.query, Codec<String>.phrase.optional, required: true, "Gives one row with one number."),
      Field("unit", \.unit, Codec<String>.phrase.optional, "What it counts: `EUR`, `orders`."),
      Field("least", \.least, Metric.Decimal.codec.optional, "It must not be below."),
      Field("most", \.most, Metric.Decimal.codec.optional, "It must not be above."),
      Field(
        "change", \.change, Codec<Int>.share.optional,
        "By how much it may differ from its value at the point that was restored."),
      Field("trend", \.trend, TrendManifest.table.codec.optional, "How it may differ from points before."),
    ])
}

struct TrendManifest: Sendable {
  var points = 7
  var change = 0

  static let table = Table(
    "Trend", "How a number may differ from what it was in points before.", initial: { TrendManifest() },
    fields: [
      Field("points", \.points, .integer(2...1000), default: "`7`", "Of how many points the median is taken."),
      Field("change", \.change, .share, required: true, "By how much it may differ from that."),
    ])
}

extension Metric.Decimal {
  static let codec = Codec<Metric.Decimal>(.scalar) { node, decoding in
    guard let text = Codec<String>.scalar.read(node, &decoding) else { return nil }
    guard let value = Metric.Decimal(text) else {
      decoding.report(.badValue, at: node.mark, "'\(excerpt(text))' is not a number", "write it as 0 or 1250.75")
      return nil
    }
    return value
  }
}

/// Which versions of a store's schema a service works with.
struct SchemaGateManifest: Sendable {
  var source: QueryManifest?
  var accepts: [String] = []

  static let table = Table(
    "SchemaGate", "Which versions of a store's schema the service works with; any other is not brought back.",
    initial: { SchemaGateManifest() },
    finish: { record, node, decoding in record.source?.mark = node.mark },
    fields: [
      Field(
        "store", \.store, Codec<StoreName>.name.located.optional, default: "the only one the service has",
        "The store it is about."),
      Field(
        "query", \.query, Codec<String>.phrase.optional, required: true, "Gives one row with one value: the version."),
      Field("accepts", \.accepts, Codec<String>.scalar.list, required: true, "The versions that are right."),
    ])

  var store: Located<StoreName>? {
    get { source?.store }
    set { source = QueryManifest(store: newValue, query: source?.query) }
  }

  var query: String? {
    get { source?.query }
    set { source = QueryManifest(store: source?.store, query: newValue) }
  }
}
