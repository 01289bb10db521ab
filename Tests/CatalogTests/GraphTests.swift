import Core
import Testing

@testable import Catalog

@Suite("The dependency graph")
struct GraphTests {
  private let diamond: CatalogGraph

  init() throws {
    let text =
      repository + service("d", "{dependsOn: [b, c], stores: [{name: d-files, files: {path: /d}}]}")
      + service("b", "{dependsOn: [a], tier: high}") + service("c", "{dependsOn: [a]}")
      + service(
        "a", "{stores: [{name: a-db, redis: {port: 1}}, {name: a-files, files: {path: /a}, dependsOn: [a-db]}]}")
    diamond = CatalogGraph(try resolve(text).get())
  }

  @Test func `waves, dependents and the critical path`() {
    #expect(diamond.waves == [["a"], ["b", "c"], ["d"]])
    #expect(diamond.dependents(of: "a") == ["b", "c"])
    #expect(diamond.allDependents(of: "a") == ["b", "c", "d"])
    #expect(diamond.allDependencies(of: "d") == ["a", "b", "c"])
    #expect(diamond.criticalPath() == ["a", "b", "d"])
    #expect(diamond.criticalPath { $0.name == "c" ? 9 : 1 } == ["a", "c", "d"])
    #expect(diamond.dependents(of: "nobody") == [])
  }

  @Test func `the tree shows each service in full once`() {
    #expect(
      diamond.render(.tree) == """
        d (normal)
        │  ◦ d-files [files, group all]
        ├─ b (high)
        │  └─ a (normal)
        │        ◦ a-db [redis, group all]
        │        ◦ a-files [files, group all]
        └─ c (normal)
           └─ a (normal)

        """)
  }

  @Test func `dot, mermaid and JSON name every service, store, group and edge`() throws {
    let dot = diamond.render(.dot)
    #expect(
      dot.contains("\"service/d\" -> \"service/b\"") && dot.contains("cluster_all")
        && dot.contains("\"store/a-files\" -> \"store/a-db\""))
    let mermaid = diamond.render(.mermaid)
    #expect(mermaid.contains("s3 --> s1") && mermaid.contains("subgraph g0[\"all\"]") && mermaid.contains("d1 --> d0"))
    let json = try CanonicalJSON.decode(JSONValue.self, from: Array(diamond.render(.json).utf8))
    #expect(json["services"]?.array?.count == 4)
    #expect(json["services"]?.array?[3]["wave"]?.integer == 2)
    #expect(json["stores"]?.array?[0]["group"]?.string == "all")
    #expect(json["criticalPath"]?.array == ["a", "b", "d"])
  }

  @Test(arguments: 1...40)
  func `circles are found exactly where there are some`(_ seed: Int) {
    let randomness = SeededRandomness(seed: UInt64(seed))
    let count = 2 + randomness.below(8)
    var needs = [[Int]](repeating: [], count: count)
    for _ in 0..<randomness.below(12) { needs[randomness.below(count)].append(randomness.below(count)) }
    // A node on a circle is one that can be reached from itself.
    func reaches(_ from: Int, _ to: Int) -> Bool {
      var seen: Set<Int> = []
      var open = needs[from]
      while let next = open.popLast() { if seen.insert(next).inserted { open += needs[next] } }
      return seen.contains(to)
    }
    let onCircle = (0..<count).filter { reaches($0, $0) }
    let graph = Digraph(needs)
    let circles = graph.circles()
    #expect((graph.waves() == nil) == !onCircle.isEmpty)
    #expect(circles.isEmpty == onCircle.isEmpty)
    for circle in circles {
      for (index, node) in circle.enumerated() { #expect(needs[node].contains(circle[(index + 1) % circle.count])) }
      #expect(Set(circle).count == circle.count)
    }
    if let waves = graph.waves() {
      for node in 0..<count { #expect(waves[node] == (needs[node].map { waves[$0] + 1 }.max() ?? 0)) }
    }
  }
}
