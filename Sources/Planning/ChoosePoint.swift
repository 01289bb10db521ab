import Core

/// The point to go back to, and why the newer ones were not taken.
package struct PointChoice: Sendable, Equatable, Codable {
  package struct Rejection: Sendable, Equatable, Codable {
    package var point: String
    package var time: Timestamp
    /// Every reason there is.
    package var reasons: [String]
  }

  /// `nil`: there is none that will do.
  package var point: PointFacts?
  /// Newest first; points older than the chosen one are not looked at.
  package var rejected: [Rejection]

  /// - Throws: ``PlanError/refused(_:)`` that names what was wrong with each.
  package func get() throws(PlanError) -> PointFacts {
    if let point { return point }
    let why = rejected.prefix(5).map { "\($0.point): \($0.reasons.joined(separator: ", "))" }.joined(separator: "; ")
    throw .refused([
      PlanNote(
        "PLAN-110", rejected.isEmpty ? "there is no recovery point" : "no recovery point will do: \(why)",
        remedy: "take one (`salvor backup`), verify an existing one (`salvor verify`), or name a point yourself")
    ])
  }
}

/// The newest consistent, verified point at or before `time` that holds all of `stores`.
///
/// Pure. O(*n* log *n* + *n·s*) in points and stores.
///
/// - Parameter time: `nil` for the newest of all.
package func choosePoint(
  _ points: some Sequence<PointFacts>, at time: Timestamp? = nil, stores: some Collection<StoreName>
) -> PointChoice {
  var rejected: [PointChoice.Rejection] = []
  for point in points.sorted(by: { ($0.time, $0.id) > ($1.time, $1.id) }) {
    let reasons = reasonsAgainst(point, at: time, stores: stores)
    if reasons.isEmpty { return PointChoice(point: point, rejected: rejected) }
    rejected.append(.init(point: point.id, time: point.time, reasons: reasons))
  }
  return PointChoice(point: nil, rejected: rejected)
}

private func reasonsAgainst(
  _ point: PointFacts, at time: Timestamp?, stores: some Collection<StoreName>
) -> [String] {
  var reasons: [String] = []
  if let time, point.time > time { reasons.append("later than \(time)") }
  if point.mode == .fuzzy, stores.count > 1 { reasons.append("fuzzy: its stores stand at different moments") }
  if !point.isVerified { reasons.append("never verified") }
  for store in stores.sorted() {
    switch point.stores[store]?.state ?? .missing {
    case .held: break
    case .outside(let why): if stores.count > 1 { reasons.append("store '\(store)' is outside the cut: \(why)") }
    case .missing: reasons.append("store '\(store)' is missing")
    case .unreachable(let why): reasons.append("store '\(store)' can't be brought there: \(why)")
    case .corrupt(let why): reasons.append("store '\(store)' is damaged: \(why)")
    }
  }
  return reasons
}
