import Core

/// Where a drawing's boxes and arrows are: in layers, each arrow pointing down where there is no circle, no box on another
/// and no arrow across a box.
///
/// Arrows over several layers get a place of their own in each. O(*layers* · *n* log *n*).
package struct Layout: Sendable, Equatable {
  package struct Box: Sendable, Equatable {
    package var node: Int
    package var x: Double
    package var y: Double
    package var width: Double
    package var height: Double
    package var lines: [String]
  }

  package struct Point: Sendable, Equatable {
    package var x: Double
    package var y: Double
  }

  package struct Arrow: Sendable, Equatable {
    package var edge: Int
    /// Top to bottom: pairs of ends of pieces, each piece between two layers or through one.
    package var points: [Point]
    /// The arrow points at the first point: it goes back up.
    package var isReversed: Bool
  }

  package private(set) var boxes: [Box] = []
  package private(set) var arrows: [Arrow] = []
  package private(set) var width = 0.0
  package private(set) var height = 0.0

  static let fontSize = 13.0
  static let lineHeight = 18.0
  private static let padding = 12.0
  private static let gapX = 22.0
  private static let gapY = 46.0
  private static let margin = 16.0
  private static let longestLine = 40

  /// One place in a layer: a node's, or of an arrow that passes.
  private struct Slot {
    var node: Int?
    var width: Double
    var height: Double
    var x = 0.0
    var up: [Int] = []
    var down: [Int] = []
  }

  package init(_ drawing: Drawing) {
    let nodes = drawing.nodes
    guard !nodes.isEmpty else { return }
    let numbers = Dictionary(nodes.indices.map { (nodes[$0].id, $0) }, uniquingKeysWith: { first, _ in first })
    let ends = drawing.edges.map { (numbers[$0.from] ?? 0, numbers[$0.to] ?? 0) }
    let isBack = Self.backEdges(nodes.count, ends)
    let down = zip(ends, isBack).map { $1 ? ($0.1, $0.0) : $0 }
    let ranks = Self.ranks(nodes.count, down)
    var slots: [Slot] = nodes.map { node in
      let lines = Self.lines(of: node)
      return Slot(
        node: 0, width: (lines.map(Self.measure).max() ?? 0) + 2 * Self.padding,
        height: Double(max(1, lines.count)) * Self.lineHeight + Self.padding)
    }
    for index in slots.indices { slots[index].node = index }
    var layers = [[Int]](repeating: [], count: (ranks.max() ?? 0) + 1)
    for index in nodes.indices { layers[ranks[index]].append(index) }
    // The chain of slots each arrow goes through, from top to bottom.
    var chains: [[Int]] = []
    for (from, to) in down {
      var chain = [from]
      for rank in (ranks[from] + 1)..<max(ranks[from] + 1, ranks[to]) {
        slots.append(Slot(node: nil, width: 10, height: 0))
        layers[rank].append(slots.count - 1)
        chain.append(slots.count - 1)
      }
      chain.append(to)
      for (a, b) in zip(chain, chain.dropFirst()) {
        slots[a].down.append(b)
        slots[b].up.append(a)
      }
      chains.append(chain)
    }
    Self.order(&layers, slots)
    Self.place(layers, &slots)
    finish(drawing, layers, slots, chains, isBack)
  }

  // MARK: Text

  /// How wide text can be at most: a letter of a fixed pitch is 0.6 of its size, one of East Asia or a picture a whole one.
  static func measure(_ text: String) -> Double {
    text.unicodeScalars.reduce(0) { $0 + ($1.value < 0x250 ? 0.64 : 1.25) * fontSize }
  }

  static func lines(of node: Drawing.Node) -> [String] {
    node.lines.map { text in
      let line = OneLine.of(text)
      return line.count <= longestLine ? line : line.prefix(longestLine - 1) + "…"
    }
  }

  // MARK: Layers

  /// Edges that close a circle, walked from the first node on.
  private static func backEdges(_ count: Int, _ ends: [(Int, Int)]) -> [Bool] {
    var outgoing = [[Int]](repeating: [], count: count)
    for (index, end) in ends.enumerated() { outgoing[end.0].append(index) }
    var isBack = [Bool](repeating: false, count: ends.count)
    // 0 unseen, 1 on the way, 2 done.
    var state = [Int](repeating: 0, count: count)
    for root in 0..<count where state[root] == 0 {
      var stack = [(node: root, next: 0)]
      state[root] = 1
      while let top = stack.last {
        guard top.next < outgoing[top.node].count else {
          state[top.node] = 2
          stack.removeLast()
          continue
        }
        stack[stack.count - 1].next += 1
        let edge = outgoing[top.node][top.next]
        let target = ends[edge].1
        if state[target] == 1 { isBack[edge] = true }
        if state[target] == 0 {
          state[target] = 1
          stack.append((target, 0))
        }
      }
    }
    return isBack
  }

  /// Each node below everything that points at it.
  private static func ranks(_ count: Int, _ ends: [(Int, Int)]) -> [Int] {
    var users = [[Int]](repeating: [], count: count)
    var open = [Int](repeating: 0, count: count)
    for (from, to) in ends {
      users[from].append(to)
      open[to] += 1
    }
    var ranks = [Int](repeating: 0, count: count)
    var ready = (0..<count).filter { open[$0] == 0 }
    while let node = ready.popLast() {
      for user in users[node] {
        ranks[user] = max(ranks[user], ranks[node] + 1)
        open[user] -= 1
        if open[user] == 0 { ready.append(user) }
      }
    }
    return ranks
  }

  /// Puts neighbours of one layer where their own neighbours are, some times down and up.
  private static func order(_ layers: inout [[Int]], _ slots: [Slot]) {
    var place = [Double](repeating: 0, count: slots.count)
    func note(_ layer: [Int]) { for (index, slot) in layer.enumerated() { place[slot] = Double(index) } }
    for layer in layers { note(layer) }
    for sweep in 0..<12 {
      let isDown = sweep.isMultiple(of: 2)
      for index in isDown ? Array(layers.indices) : layers.indices.reversed() {
        let keys = layers[index].map { slot -> Double in
          let others = isDown ? slots[slot].up : slots[slot].down
          return others.isEmpty ? place[slot] : others.reduce(0) { $0 + place[$1] } / Double(others.count)
        }
        layers[index] = layers[index].indices.sorted { (keys[$0], $0) < (keys[$1], $1) }.map { layers[index][$0] }
        note(layers[index])
      }
    }
  }

  /// Centres, each as near to its neighbours' as the order allows.
  private static func place(_ layers: [[Int]], _ slots: inout [Slot]) {
    for layer in layers {
      var x = 0.0
      for slot in layer {
        slots[slot].x = x + slots[slot].width / 2
        x += slots[slot].width + gapX
      }
    }
    for sweep in 0..<16 {
      let isDown = sweep.isMultiple(of: 2)
      for index in isDown ? Array(layers.indices) : layers.indices.reversed() {
        let layer = layers[index]
        let wanted = layer.map { slot -> Double in
          let others = isDown ? slots[slot].up : slots[slot].down
          return others.isEmpty ? slots[slot].x : others.reduce(0) { $0 + slots[$1].x } / Double(others.count)
        }
        var (edge, off) = (-Double.infinity, 0.0)
        for (slot, wish) in zip(layer, wanted) {
          slots[slot].x = max(wish, edge + slots[slot].width / 2)
          edge = slots[slot].x + slots[slot].width / 2 + gapX
          off += slots[slot].x - wish
        }
        for slot in layer { slots[slot].x -= off / Double(layer.count) }
      }
    }
  }

  private mutating func finish(
    _ drawing: Drawing, _ layers: [[Int]], _ slots: [Slot], _ chains: [[Int]], _ isBack: [Bool]
  ) {
    let left = slots.map { $0.x - $0.width / 2 }.min() ?? 0
    func x(_ slot: Int) -> Double { Self.rounded(slots[slot].x - left + Self.margin) }
    var (top, tops, bottoms) = (Self.margin, [Double](repeating: 0, count: slots.count), slots.map { _ in 0.0 })
    for layer in layers {
      let height = layer.map { slots[$0].height }.max() ?? 0
      for slot in layer {
        // What passes goes through the whole layer; a lower box stands in the middle.
        let inset = slots[slot].node == nil ? 0 : (height - slots[slot].height) / 2
        (tops[slot], bottoms[slot]) = (top + inset, top + height - inset)
      }
      top += height + Self.gapY
    }
    for (index, node) in drawing.nodes.enumerated() {
      boxes.append(
        Box(
          node: index, x: Self.rounded(x(index) - slots[index].width / 2), y: tops[index],
          width: Self.rounded(slots[index].width), height: slots[index].height, lines: Self.lines(of: node)))
    }
    for (edge, chain) in chains.enumerated() {
      var points: [Point] = []
      for (position, slot) in chain.enumerated() {
        if position > 0 { points.append(Point(x: x(slot), y: tops[slot])) }
        if position < chain.count - 1 { points.append(Point(x: x(slot), y: bottoms[slot])) }
      }
      arrows.append(Arrow(edge: edge, points: points, isReversed: isBack[edge]))
    }
    width = Self.rounded((boxes.map { $0.x + $0.width }.max() ?? 0) + Self.margin)
    width = max(width, Self.rounded((arrows.flatMap(\.points).map(\.x).max() ?? 0) + Self.margin))
    height = top - Self.gapY + Self.margin
  }

  /// To a tenth: the same on every machine.
  private static func rounded(_ value: Double) -> Double { (value * 10).rounded() / 10 }
}
