import Catalog
import Core
import DriverKit
import StateKit

/// A step towards counting on the standbys that are there, and on no other. See docs/decisions, "Voters are recorded".
///
/// What is recorded always holds those whom the engine waits for. So whoever conducts a failover, and reads the record
/// under its lease, knows of how many members `R` must detach.
package enum VoterStep: Sendable, Equatable {
  /// Commits wait for `W` of these from here on, and for nobody else.
  case acknowledge([MemberName], VoterRule)
  /// Written in place of the record it was made from, under a lease of its own.
  case record(PrimaryRecord, VoterRule)

  package var rule: VoterRule {
    switch self {
    case .acknowledge(_, let rule), .record(_, let rule): rule
    }
  }
}

package enum VoterRule: String, Sendable, Codable, CaseIterable {
  case unrecorded = "V-010"
  case away = "V-020"
  case awayAndCaughtUp = "V-021"
  case back = "V-030"
  case unconfirmed = "V-031"
  case recorded = "V-032"

  package var says: String {
    switch self {
    case .unrecorded: "commits wait for a standby that the record doesn't name"
    case .away: "a standby is away for too long: commits no longer wait for it"
    case .awayAndCaughtUp: "those that are left hold every commit: whoever is away no longer counts in a failover"
    case .back: "a standby is back: it counts in a failover before a commit waits for it"
    case .unconfirmed: "whether the record was changed isn't known: it is written again"
    case .recorded: "commits wait for all that the record names"
    }
  }
}

extension FailoverPolicy {
  /// The standbys of `record`'s primary whose acknowledgement counts: all others, unless it names them.
  package func voters(of record: PrimaryRecord) -> [MemberName] {
    record.voters ?? members.map(\.name).filter { $0 != record.primary }
  }

  /// `R` under `record`: ``fenceQuorum`` of those it names.
  package func fenceQuorum(of record: PrimaryRecord) -> Int { voters(of: record).count - acknowledgements + 1 }

  /// What the recorded primary's agent does about standbys that are away or back; pure, like ``decide(_:_:with:)``.
  ///
  /// - Parameter confirmed: Voters that this agent has written, and knows to be written; `nil` once it has tried again.
  package func voterStep(
    _ memory: AgentMemory, _ engine: EngineFacts, _ facts: FailoverFacts, confirmed: [MemberName]?,
    with protections: Protections = .all
  ) -> VoterStep? {
    guard consent != .off, !isInMaintenance, !isBounded, engine.role == .primary, !engine.isHeld,
      let waiting = engine.voters, let store = facts.store,
      store.ageMilliseconds <= signals.freshness.wholeMilliseconds, store.order?.kind != .pause,
      store.conductor?.isMine ?? true, let record = store.record, record.primary == facts.observer,
      memory.promised == record.epoch, !memory.isFenced
    else { return nil }
    let recorded = voters(of: record)
    // Before anything else: nobody may acknowledge whom a conductor wouldn't ask.
    if !Set(waiting).isSubset(of: recorded), protections.contains(.votersRecorded) {
      let both = recorded.filter(waiting.contains)
      return both.count >= acknowledgements ? .acknowledge(both, .unrecorded) : nil
    }
    let gone = recorded.filter { name in
      (facts.member(name)?.absentMilliseconds ?? 0) >= budgets.absence.wholeMilliseconds
    }
    let stay = recorded.filter { !gone.contains($0) }
    func isEnough(_ names: [MemberName]) -> Bool { names.count(where: engine.attached.contains) >= acknowledgements }
    if !gone.isEmpty, isEnough(stay) {
      let left = waiting.filter(stay.contains)
      // More than the engine waits for now only under a record that nothing on its way can make smaller.
      guard isEnough(left) else {
        return confirmed == recorded ? .acknowledge(stay, .recorded) : .record(record.with(recorded), .unconfirmed)
      }
      if left.count < waiting.count { return .acknowledge(left, .away) }
      guard engine.votersHoldAll == true || !protections.contains(.votersCaughtUp) else { return nil }
      return .record(record.with(left), .awayAndCaughtUp)
    }
    let back = members.map(\.name).filter { name in
      name != record.primary && !recorded.contains(name)
        && (facts.member(name)?.attachedMilliseconds ?? 0) >= signals.dwell.wholeMilliseconds
    }
    if !back.isEmpty {
      let all = members.map(\.name).filter { recorded.contains($0) || back.contains($0) }
      if !protections.contains(.votersRecorded), Set(waiting) != Set(all) { return .acknowledge(all, .back) }
      return .record(record.with(all), .back)
    }
    if Set(waiting) != Set(recorded), gone.isEmpty {
      // A change that was sent and not answered may be written yet; one that is written after it ends that.
      return confirmed == recorded ? .acknowledge(recorded, .recorded) : .record(record.with(recorded), .unconfirmed)
    }
    return nil
  }
}

extension PrimaryRecord {
  fileprivate func with(_ voters: [MemberName]) -> PrimaryRecord {
    var record = self
    record.voters = voters
    return record
  }
}
