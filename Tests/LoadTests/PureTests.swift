import Catalog
import Core
import Load
import Testing

@Suite("Histograms") struct HistogramTests {
  @Test func `every percentile is within one percent of the exact one`() {
    for seed in 0..<200 as Range<UInt64> {
      let random = SeededRandomness(seed: seed)
      let values = (0..<(1 + random.below(3000))).map { _ -> Int64 in
        // Every length from nanoseconds to days, and many of one length.
        Int64(random.next() >> UInt64(16 + random.below(47)))
      }
      var histogram = Histogram()
      for value in values { histogram.add(value) }
      let sorted = values.sorted()
      for quantile in [0, 0.001, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 1] {
        let rank = max(1, Int((quantile * Double(sorted.count)).rounded(.up)))
        let exact = sorted[rank - 1]
        let found = histogram.value(at: quantile) ?? -1
        #expect(
          abs(Double(found - exact)) <= 0.01 * Double(exact), "seed \(seed), \(quantile): \(found), exactly \(exact)")
      }
      #expect(
        histogram.least == sorted.first && histogram.greatest == sorted.last && histogram.count == Int64(sorted.count))
    }
  }

  @Test func `parts add up to the whole`() {
    let random = SeededRandomness(seed: 5)
    var whole = Histogram()
    var parts = [Histogram(), Histogram(), Histogram()]
    for number in 0..<10_000 {
      let value = Int64(random.next() >> UInt64(20 + random.below(40)))
      whole.add(value)
      parts[number % 3].add(value)
    }
    var sum = Histogram()
    for part in parts { sum.add(part) }
    for quantile in stride(from: 0.0, through: 1, by: 0.01) {
      #expect(sum.value(at: quantile) == whole.value(at: quantile))
    }
    #expect(Histogram().value(at: 0.5) == nil && sum.count == whole.count)
  }
}

@Suite("Schedules") struct ScheduleTests {
  private func load(_ text: String) throws -> LoadWorkflow.Load { try workflow(load: text).load }

  @Test func `a rate is even, and ends`() throws {
    let load = try load("{rate: 20/s, for: 2s, warmUp: 1s}")
    let schedule = Schedule(load, rate: try #require(load.rate))
    #expect((0..<3).map { schedule.due($0) } == [.zero, .milliseconds(50), .milliseconds(100)])
    #expect(schedule.due(59) != nil && schedule.due(60) == nil, "three seconds with the warm-up")
  }

  @Test func `a ramp begins with nothing and loses half`() throws {
    let load = try load("{rate: 100/s, for: 4s, ramp: 2s}")
    let schedule = Schedule(load, rate: try #require(load.rate))
    let due = (0..<1000).compactMap { schedule.due($0)?.seconds }
    #expect(due.count == 300, "\(due.count)")
    for (earlier, later) in zip(due, due.dropFirst()) { #expect(earlier <= later) }
    #expect(due.count { $0 < 1 } == 25, "a quarter of what comes in the ramp comes in its first half")
    #expect(due.count { (2..<3).contains($0) } == 100)
  }

  @Test func `iterations end it too`() throws {
    let load = try load("{rate: 60/m, iterations: 3}")
    let schedule = Schedule(load, rate: try #require(load.rate))
    #expect(schedule.due(2) == .seconds(2) && schedule.due(3) == nil)
  }
}

@Suite("Templates") struct TemplateTests {
  private func values(_ number: Int = 3, seed: UInt64 = 1) -> TemplateValues {
    var values = TemplateValues(number: number, seed: seed)
    values.captures = ["name": "a/b \"c\"\n", "id": "7"]
    values.data = ["iban": .string("DE1"), "many": .integer(12)]
    values.secrets = ["token": Secret("s3cret")]
    return values
  }

  @Test func `what is filled in is written as its place wants it`() throws {
    func filled(_ text: String, _ place: TemplateText.Place) throws -> String {
      try TemplateText(text).filled(values(), in: place)
    }
    #expect(try filled("http://x/{{name}}?{{number}}", .address) == "http://x/a%2Fb%20%22c%22%0A?3")
    #expect(try filled("{\"a\": \"{{name}}\"}", .json) == "{\"a\": \"a/b \\\"c\\\"\\n\"}")
    #expect(try filled("Bearer {{ secret.token }}", .header) == "Bearer s3cret")
    #expect(try filled("{{data.iban}}-{{data.many}}", .plain) == "DE1-12")
    #expect(throws: LoadError.self, "two headers in one") { try filled("{{name}}", .header) }
    #expect(throws: LoadError.self) { try filled("{{data.gone}}", .plain) }
  }

  @Test func `chance is the seed's and the run's, and nothing else's`() throws {
    let template = try TemplateText("{{int 1 1000000}} {{hex 9}} {{uuid}} {{pick a b c}}")
    let text = try template.filled(values(), in: .plain)
    #expect(try template.filled(values(), in: .plain) == text)
    #expect(try template.filled(values(4), in: .plain) != text)
    #expect(try template.filled(values(seed: 2), in: .plain) != text)
    #expect(
      text.wholeMatch(of: /\d+ [0-9a-f]{9} [0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12} [abc]/)
        != nil)
  }

  @Test(arguments: [
    "{{", "{{}}", "{{int 2 1}}", "{{int 1}}", "{{hex 0}}", "{{a b}}", "{{1a}}", "{{data.}}", "{{uuid 1}}",
  ])
  func `what can't be filled in is refused`(_ text: String) {
    #expect(throws: TemplateText.Problem.self) { try TemplateText(text) }
  }

  @Test func `a pointer leads where RFC 6901 says`() throws {
    let document: JSONValue = [
      "foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, "k\"l": 6, " ": 7, "m~n": 8,
    ]
    let expected: [String: JSONValue?] = [
      "": document, "/foo": ["bar", "baz"], "/foo/0": "bar", "/": 0, "/a~1b": 1, "/c%d": 2, "/e^f": 3, "/g|h": 4,
      "/i\\j": 5, "/k\"l": 6, "/ ": 7, "/m~0n": 8, "/foo/2": nil, "/foo/01": nil, "/foo/-": nil, "/gone": nil,
      "foo": nil,
      "/foo/0/1": nil,
    ]
    for (pointer, value) in expected { #expect(document.value(at: pointer) == value, "\(pointer)") }
  }
}

/// A workflow of one step, as a catalog would have it.
func workflow(
  steps: String = "[{name: one, http: \"http://127.0.0.1:1/\"}]", load: String = "{}", expect: String = "{}",
  effects: String = "reads", more: String = ""
) throws -> LoadWorkflow {
  let text = """
    apiVersion: salvor.dev/v1
    kind: Workflow
    metadata: {name: w}
    spec:
      effects: \(effects)
      steps: \(steps)
      load: \(load)
      expect: \(expect)
      \(more)
    ---
    \(CatalogReference.smallest.replacing("shop-files\n      files: {path: /srv/shop}", with: "x\n      none: {}"))
    """
  let catalog = try Catalog.resolve([SourceFile(path: "w.yaml", text: text)], drivers: ["none": []]).get()
  return try #require(catalog.workflows.first)
}
