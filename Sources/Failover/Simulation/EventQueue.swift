/// Events by time, and those of one time in the order they were made.
struct EventQueue {
  private var heap: [(time: Int64, sequence: Int64, slot: Int)] = []
  private var sequence: Int64 = 0

  mutating func push(_ time: Int64, _ slot: Int) {
    sequence += 1
    heap.append((time, sequence, slot))
    var child = heap.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      guard isBefore(child, parent) else { break }
      heap.swapAt(child, parent)
      child = parent
    }
  }

  mutating func pop() -> (Int64, Int)? {
    guard let first = heap.first else { return nil }
    let last = heap.removeLast()
    if !heap.isEmpty {
      heap[0] = last
      var parent = 0
      while true {
        var child = parent * 2 + 1
        guard child < heap.count else { break }
        if child + 1 < heap.count, isBefore(child + 1, child) { child += 1 }
        guard isBefore(child, parent) else { break }
        heap.swapAt(child, parent)
        parent = child
      }
    }
    return (first.time, first.slot)
  }

  private func isBefore(_ a: Int, _ b: Int) -> Bool {
    (heap[a].time, heap[a].sequence) < (heap[b].time, heap[b].sequence)
  }
}
