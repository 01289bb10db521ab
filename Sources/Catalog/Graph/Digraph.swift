/// A directed graph of numbered nodes; an edge leads to what must come first.
package struct Digraph: Sendable {
  /// By node: what it waits for.
  package let needs: [[Int]]

  package init(_ needs: [[Int]]) { self.needs = needs }

  /// Strongly connected components, each after the ones it needs, by Tarjan's algorithm without recursion.
  ///
  /// Source: R. Tarjan, "Depth-first search and linear graph algorithms", 1972. O(*n* + *m*).
  package func components() -> [[Int]] {
    var index = [Int](repeating: -1, count: needs.count)
    var low = index
    var isOnStack = [Bool](repeating: false, count: needs.count)
    var stack: [Int] = []
    var result: [[Int]] = []
    var counter = 0
    var work: [(node: Int, next: Int)] = []
    for root in needs.indices where index[root] < 0 {
      work.append((root, 0))
      while let (node, next) = work.last {
        if next == 0 {
          (index[node], low[node]) = (counter, counter)
          counter += 1
          stack.append(node)
          isOnStack[node] = true
        }
        if next < needs[node].count {
          work[work.count - 1].next += 1
          let target = needs[node][next]
          if index[target] < 0 {
            work.append((target, 0))
          } else if isOnStack[target] {
            low[node] = min(low[node], index[target])
          }
          continue
        }
        work.removeLast()
        if let parent = work.last?.node { low[parent] = min(low[parent], low[node]) }
        guard low[node] == index[node] else { continue }
        var component: [Int] = []
        while let member = stack.popLast() {
          isOnStack[member] = false
          component.append(member)
          if member == node { break }
        }
        result.append(component.sorted())
      }
    }
    return result
  }

  /// For each component that is a circle, a shortest circle through its first node, in the direction of `needs`.
  package func circles() -> [[Int]] {
    var result: [[Int]] = []
    for component in components() {
      let first = component[0]
      if component.count == 1 {
        if needs[first].contains(first) { result.append([first]) }
        continue
      }
      let members = Set(component)
      var cameFrom: [Int: Int] = [:]
      var queue = [first]
      var position = 0
      search: while position < queue.count {
        let node = queue[position]
        position += 1
        for target in needs[node] where members.contains(target) {
          if target == first {
            var path = [node]
            while let last = path.last, last != first, let before = cameFrom[last] { path.append(before) }
            result.append(path.reversed())
            break search
          }
          if cameFrom[target] == nil {
            cameFrom[target] = node
            queue.append(target)
          }
        }
      }
    }
    return result.sorted { $0.lexicographicallyPrecedes($1) }
  }

  /// The wave of each node: 0 for one that needs nothing, else one more than the latest it needs.
  ///
  /// - Returns: `nil` if there is a circle.
  package func waves() -> [Int]? {
    var wave = [Int](repeating: 0, count: needs.count)
    for component in components() {
      let node = component[0]
      guard component.count == 1, !needs[node].contains(node) else { return nil }
      for target in needs[node] { wave[node] = max(wave[node], wave[target] + 1) }
    }
    return wave
  }
}
