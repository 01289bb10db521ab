import Benchmarks
import Console
import Core
import TestSupport
import Testing

@Suite("Benchmarks, tiny, so that they never rot")
struct BenchmarkTests {
  @Test(arguments: ["catalog", "vault", "index", "points", "postgres", "drills", "makespan", "failover"])
  func `it runs and has figures`(_ name: String) async throws {
    let directory = try TemporaryDirectory("bench")
    let benchmark = try #require(BenchmarkRegistry.all.first { $0.name == name })
    let rows = try await BenchmarkRunner.run(benchmark, scale: .tiny, below: directory.path)
    #expect(!rows.isEmpty)
    for row in rows { #expect(row.value.isFinite, "\(row)") }
    #expect(rows.contains { $0.value > 0 })
  }

  @Test func `names are unique, and all are tried above`() {
    #expect(
      BenchmarkRegistry.all.map { $0.name }
        == ["catalog", "vault", "index", "points", "postgres", "drills", "makespan", "failover"])
  }

  /// The first of those of the bench, which are the same every time.
  @Test func `simulated restores are near the quickest there can be, and not without ranks`() async throws {
    let rows = try await BenchmarkRunner.run(
      try #require(BenchmarkRegistry.all.first { $0.name == "makespan" }), scale: .full,
      options: ["graphs": "60", "real": "0"])
    let worst = try #require(rows.first { $0.bar != nil })
    #expect(worst.value >= 1 && worst.holds == true, "\(worst)")
    let alike = try #require(rows.first { $0.name.contains("all copies get the same") })
    #expect(alike.value > 1.1, "\(alike)")
  }

  @Test func `a bar holds on its own side only`() throws {
    let rows = [
      BenchmarkRow("a", 2, "s", bar: .atMost(1)), BenchmarkRow("b", 2, "×", bar: .atLeast(1)), BenchmarkRow("c", 2, ""),
    ]
    #expect(rows.map(\.holds) == [false, true, nil])
    let json = String(decoding: try BenchmarkReport.json(rows), as: UTF8.self)
    #expect(json.contains("\"rows\""))
    #expect(json.contains("\"holds\""))
    let lines = BenchmarkReport.lines(rows, .plain)
    #expect(lines.count == 4)
    #expect(lines[1].hasSuffix("NO"))
    #expect(lines[2].hasSuffix("yes"))
  }
}
