import Core
import Testing

@testable import Runbooks

@Suite("Drawings")
struct DrawingTests {
  /// Graphs of all kinds, circles and long names too, by seed.
  static func drawing(_ seed: UInt64) -> Drawing {
    let random = SeededRandomness(seed: seed)
    let count = 1 + random.below(40)
    let nodes = (0..<count).map { number in
      Drawing.Node(
        "n\(number)",
        [String(repeating: ["w", "M", "漢", "é", "i"][random.below(5)], count: 1 + random.below(60)), "line"].prefix(
          1 + random.below(2)
        ).map { $0 }, Drawing.Kind.allCases[random.below(Drawing.Kind.allCases.count)])
    }
    let edges = (0..<random.below(count * 2 + 1)).map { _ in
      Drawing.Edge("n\(random.below(count))", "n\(random.below(count))", isDashed: random.below(2) == 0)
    }
    return Drawing(name: "x", title: "x", nodes: nodes, edges: edges)
  }

  @Test(arguments: Array(UInt64(1)...150))
  func `no box is on another, no arrow goes through one, and no text leaves its own`(_ seed: UInt64) {
    let drawing = Self.drawing(seed)
    let layout = Layout(drawing)
    #expect(layout.boxes.count == drawing.nodes.count && layout.arrows.count == drawing.edges.count)
    for (index, box) in layout.boxes.enumerated() {
      #expect(box.x >= 0 && box.y >= 0 && box.x + box.width <= layout.width && box.y + box.height <= layout.height)
      for line in box.lines { #expect(Layout.measure(line) + 8 <= box.width) }
      #expect(Double(box.lines.count) * Layout.lineHeight <= box.height)
      for other in layout.boxes[(index + 1)...] {
        let isApart =
          box.x + box.width + 4 <= other.x || other.x + other.width + 4 <= box.x || box.y + box.height + 4 <= other.y
          || other.y + other.height + 4 <= box.y
        #expect(isApart, "seed \(seed): \(box) \(other)")
      }
    }
    for arrow in layout.arrows {
      let edge = drawing.edges[arrow.edge]
      let ends = Set(drawing.nodes.indices.filter { [edge.from, edge.to].contains(drawing.nodes[$0].id) })
      for (a, b) in zip(arrow.points, arrow.points.dropFirst()) {
        #expect(a.y <= b.y, "every piece goes down")
        for box in layout.boxes where !ends.contains(box.node) {
          #expect(!Self.crosses(a, b, box), "seed \(seed): an arrow through \(box)")
        }
      }
    }
  }

  /// Of a curve from `a` down to `b`, as it is drawn, in thirty pieces.
  private static func crosses(_ a: Layout.Point, _ b: Layout.Point, _ box: Layout.Box) -> Bool {
    (0...30).contains { number in
      let t = Double(number) / 30
      let middle = (a.y + b.y) / 2
      let y = pow3(1 - t) * a.y + 3 * t * (1 - t) * (1 - t) * middle + 3 * t * t * (1 - t) * middle + pow3(t) * b.y
      let x = pow3(1 - t) * a.x + 3 * t * (1 - t) * (1 - t) * a.x + 3 * t * t * (1 - t) * b.x + pow3(t) * b.x
      return x > box.x && x < box.x + box.width && y > box.y && y < box.y + box.height
    }
  }

  private static func pow3(_ value: Double) -> Double { value * value * value }

  @Test func `what is needed stands above who needs it`() throws {
    let drawing = Diagrams(Example.facts()).dependencies()
    let layout = Layout(drawing)
    let place = { (name: String) in layout.boxes.first { drawing.nodes[$0.node].id == name }?.y ?? 0 }
    #expect(place("ledger") < place("web"))
    #expect(Mermaid.text(drawing).contains("n0 --> n1"))
  }

  @Test func `copies of copies are drawn`() {
    let text = Mermaid.text(Diagrams(Example.facts()).replication())
    for word in ["ledger-db", "its log", "local:/srv/backup", "local:/mnt/backup", "every 5m"] {
      #expect(text.contains(word), "\(word)")
    }
  }
}
