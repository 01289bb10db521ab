import Catalog
import Core
import DriverKit
import Testing
import Validation

@Suite("Metrics, and reports of releases and comparisons")
struct MetricTests {
  private func metric(_ more: String) throws -> Metric {
    let text = """
      apiVersion: salvor.dev/v1
      kind: Metric
      metadata: {name: m}
      spec: {store: x, query: q\(more)}
      ---
      \(CatalogReference.smallest.replacing("shop-files\n      files: {path: /srv/shop}", with: "x\n      none: {}"))
      """
    let catalog = try Catalog.resolve([SourceFile(path: "m.yaml", text: text)], drivers: ["none": []]).get()
    return try #require(catalog.metrics.first)
  }

  @Test func `bounds, change and trend each break by themselves`() throws {
    let bounded = try metric(", least: 10, most: 20.5")
    #expect(
      bounded.broken("10", recorded: nil, history: []).isEmpty
        && bounded.broken("20.50", recorded: nil, history: []).isEmpty)
    #expect(bounded.broken("9.99", recorded: nil, history: []) == ["it is 9.99, below 10"])
    #expect(bounded.broken("21", recorded: nil, history: []) == ["it is 21, above 20.5"])
    #expect(
      bounded.broken("NaN", recorded: nil, history: []).count == 1
        && bounded.broken("x", recorded: nil, history: []).count == 1)
    let close = try metric(", change: 5%")
    #expect(
      close.broken("105", recorded: "100", history: []).isEmpty
        && close.broken("-95", recorded: "-100", history: []).isEmpty)
    #expect(close.broken("105.1", recorded: "100", history: []).count == 1)
    #expect(close.broken("94", recorded: nil, history: []).isEmpty, "nothing was recorded to differ from")
    let still = try metric(", change: 0%")
    #expect(still.broken("9007199254740993", recorded: "9007199254740993", history: []).isEmpty)
    #expect(still.broken("8", recorded: "7", history: []).count == 1)
    let trend = try metric(", trend: {points: 3, change: 10%}")
    #expect(
      trend.broken("111", recorded: nil, history: ["1000", "90", "100", "110"]).count == 1, "the last three count")
    #expect(trend.broken("110", recorded: nil, history: ["1000", "90", "100", "110"]).isEmpty)
    #expect(trend.broken("500", recorded: nil, history: ["100", "100"]).isEmpty, "two are no trend")
  }

  @Test func `a metric is asked, and says what it was`() async throws {
    var context = MetricContext()
    (context.recorded, context.before) = (["m": "101"], ["m": "90"])
    let asked = try metric(", unit: EUR, change: 1%")
    let runner = CheckRunner(
      CheckPorts(
        time: SystemTime(), driver: { _ in ListedAnswers(["q": [["100"]]]) },
        execute: { _ in CommandAnswer(status: 0, output: "") }, get: { _, _ in PageAnswer(status: 200, body: "") }))
    let report = await runner.check(asked, context)
    #expect(report.verdict == .passed && report.value == "100")
    #expect(report.summary == "it is 100 EUR; 101 when the point was taken; 90 before the restore", "\(report.summary)")
    context.recorded = ["m": "102"]
    #expect(await runner.check(asked, context).verdict == .failed)
    let gate = SchemaGate(source: StoreQuery(store: "x", query: "q"), accepts: ["99", "100"])
    #expect(await runner.check(gate, of: "shop").verdict == .passed)
    let other = await runner.check(SchemaGate(source: gate.source, accepts: ["99"]), of: "shop")
    #expect(other.verdict == .failed && other.summary == "shop works with schema version 99 of x, and it is 100")
  }

  @Test func `nothing a server says gets out of its place in a JUnit report`() {
    let hostile = "]]></failure><x a=\"&'\u{0}\u{1b}[31m\u{ffff}\n\">"
    var report = CompatReport(
      release: hostile, point: "p", pointTime: Timestamp(seconds: 0), startedAt: Timestamp(seconds: 0))
    var store = CompatReport.Store("books")
    store.cases = [
      .init("migration", hostile, .failed, nanoseconds: 1_234_000_000, message: hostile, file: hostile, line: 3),
      .init("check", "b", .skipped, message: hostile), .init("check", "c", .passed),
    ]
    report.stores = [store]
    let xml = report.junit
    #expect(xml.count { $0 == "<" } == xml.count { $0 == ">" })
    #expect(!xml.contains("<x") && !xml.unicodeScalars.contains { $0.value < 32 && $0 != "\n" })
    #expect(xml.contains("tests=\"3\" failures=\"1\" errors=\"0\" skipped=\"1\" time=\"1.234\""))
    #expect(!report.isCompatible)
    store.cases.removeFirst()
    report.stores = [store]
    #expect(report.isCompatible)
    store.cases = [.init("check", "b", .skipped)]
    report.stores = [store]
    #expect(!report.isCompatible, "nothing was shown")
  }

  @Test func `a comparison is as bad as its worst store`() throws {
    func digest(_ parts: [String: String], scheme: String = "s") -> ContentDigest {
      ContentDigest(scheme: scheme, parts: parts.mapValues { .init(digest: $0, count: 1) })
    }
    func store(_ a: [String: String], _ b: [String: String], _ schema: ([String: String], [String: String])) throws
      -> CompareReport.Store
    {
      var store = CompareReport.Store(
        "x", mark: .comparing("x", captured: digest(a), restored: digest(a), at: Timestamp(seconds: 0)))
      try store.compare(digest(a), StoreSchema(parts: schema.0), with: digest(b), StoreSchema(parts: schema.1))
      return store
    }
    let plain = (["t": "1"], ["t": "1"])
    #expect(try store(["t": "1", "schema": "1"], ["t": "1", "schema": "2"], plain).verdict == .same)
    #expect(try store(["t": "1"], ["t": "2"], plain).verdict == .changed)
    #expect(try store(["t": "1"], [:], plain).verdict == .different)
    #expect(try store(["t": "1"], ["t": "1", "u": "1"], plain).verdict == .different)
    #expect(try store(["t": "1"], ["t": "1"], (["t": "1"], ["t": "2"])).verdict == .different)
    var unlike = CompareReport.Store(
      "x", mark: .comparing("x", captured: nil, restored: nil, at: Timestamp(seconds: 0)))
    #expect(unlike.verdict == .couldNotCompare)
    #expect(throws: CheckError.self) { try unlike.compare(digest([:]), nil, with: digest([:], scheme: "other"), nil) }
  }
}
