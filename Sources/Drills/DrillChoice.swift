import Catalog
import Core

/// A point that a drill may be about.
package struct DrillCandidate: Sendable, Equatable {
  package var id: String
  package var time: Timestamp
  package init(id: String, time: Timestamp) { (self.id, self.time) = (id, time) }
}

/// Picks the point that is practised with. Pure: the same candidates and seed give the same point.
///
/// - Returns: `nil` if there is none, or none within the window.
package func chooseDrillPoint(
  _ candidates: [DrillCandidate], _ choice: Drill.Choice, window: Duration?, now: Timestamp, seed: UInt64
) -> DrillRecord.Point? {
  let sorted = candidates.sorted { ($0.time, $0.id) < ($1.time, $1.id) }
  let chosen: DrillCandidate?
  var count = sorted.count
  switch choice {
  case .latest: chosen = sorted.last
  case .oldest: chosen = sorted.first
  case .random:
    let young = sorted.filter { candidate in window.map { now - candidate.time <= $0 } ?? true }
    count = young.count
    chosen = young.isEmpty ? nil : young[SeededRandomness(seed: seed).below(young.count)]
  }
  return chosen.map {
    DrillRecord.Point(id: $0.id, time: $0.time, choice: choice, seed: seed, candidates: count)
  }
}

extension Drill {
  /// The stores a fault may be planted in, and the one it is: the fault's own, or one by the drill's seed.
  package func target(of fault: Fault, seed: UInt64) -> StoreName? {
    if let store = fault.store { return store }
    guard !stores.isEmpty else { return nil }
    let number = UInt64(FaultKind.allCases.firstIndex(of: fault.kind) ?? 0)
    return stores[SeededRandomness(seed: seed &+ number).below(stores.count)]
  }
}
