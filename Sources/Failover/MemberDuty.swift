import Catalog
import Core
import DriverKit
import StateKit

/// What an agent does about its own engine, whoever conducts.
package enum MemberDuty: Sendable, Equatable, Codable {
  /// At once, and not in good order: it may acknowledge what nobody else has.
  case stop(DutyRule)
  /// As it was.
  case start(DutyRule)
  /// Let no commit be acknowledged before enough standbys have it; or let it again.
  case hold(Bool, DutyRule)
  case promote(Fence, DutyRule)
  case follow(MemberName, Fence, DutyRule)
  /// Brought back from another history: what it has that the primary hasn't is copied aside first.
  case rejoin(MemberName, Fence, DutyRule)

  package var rule: DutyRule {
    switch self {
    case .stop(let rule), .start(let rule), .hold(_, let rule), .promote(_, let rule), .follow(_, _, let rule),
      .rejoin(_, _, let rule):
      rule
    }
  }
}

package enum DutyRule: String, Sendable, Codable, CaseIterable {
  case recordNamesAnother = "D-010"
  case trustRanOut = "D-011"
  case lagNearBound = "D-012"
  case lagIsSmall = "D-013"
  case standsStill = "D-014"
  case leftToItself = "D-020"
  case recordNamesMe = "D-021"
  case recordMoved = "D-022"
  case otherHistory = "D-023"
  case fencedAndStopped = "D-024"
  case followsInVain = "D-025"

  package var says: String {
    switch self {
    case .recordNamesAnother: "the record names another primary, so this one ends at once"
    case .trustRanOut: "neither the lease store nor enough standbys have been heard of for too long"
    case .standsStill: "it gives no answer, and what it acknowledges when it goes on may lie beyond the bound"
    case .lagNearBound: "standbys are further behind than half the bound: no commit is acknowledged before they have it"
    case .lagIsSmall: "standbys are close again"
    case .leftToItself: "the engine ended, and nobody has failed over in the time the policy leaves"
    case .recordNamesMe: "the record names this member, and it doesn't serve yet"
    case .recordMoved: "the record names another primary than the one this member follows"
    case .otherHistory: "the engine is stopped and must follow the recorded primary"
    case .followsInVain:
      "it follows the recorded primary, which doesn't count it, and has got nothing from it for too long"
    case .fencedAndStopped: "detached and stopped: started again so that its position can be read"
    }
  }
}

/// What an agent must still know after its machine failed; written before anything is done or said because of it.
package struct AgentMemory: Sendable, Equatable, Codable {
  /// Nothing of a lower epoch is obeyed.
  package var promised: Fence = .none
  /// Detached under that epoch, and not told since whom to follow.
  package var isFenced = false

  package init() {}
}

extension FailoverPolicy {
  /// What an agent owes its own engine; pure, like ``decide(_:_:with:)``.
  package func duty(
    _ memory: AgentMemory, _ engine: EngineFacts, _ facts: FailoverFacts, with protections: Protections = .all
  ) -> MemberDuty? {
    guard consent != .off, !isInMaintenance, let store = facts.store, let record = store.record else { return nil }
    let isMine = record.primary == facts.observer
    let isCurrent = record.epoch >= memory.promised
    if engine.role == .primary {
      if protections.contains(.selfStop) {
        if !isMine, isCurrent { return .stop(.recordNamesAnother) }
        if store.ageMilliseconds > budgets.trust.wholeMilliseconds, engine.attached.count < max(1, acknowledgements) {
          return .stop(.trustRanOut)
        }
        if isBounded, let duty = gate(engine, memory) { return duty }
      }
      if isMine, isCurrent, memory.promised < record.epoch || memory.isFenced {
        return .promote(record.epoch, .recordNamesMe)
      }
      return nil
    }
    if engine.role == .stopped, memory.isFenced, !isCurrent { return .start(.fencedAndStopped) }
    // Who conducts now says what becomes of us.
    if let conductor = store.conductor, conductor.epoch > record.epoch { return nil }
    let isKnown = store.ageMilliseconds <= signals.freshness.wholeMilliseconds
    if isMine {
      guard isCurrent, isKnown else { return nil }
      if engine.role == .standby { return .promote(record.epoch, .recordNamesMe) }
      guard healing.response(to: .process).restart == .auto else { return nil }
      let patience = healing.restartFirst > .zero ? 0 : budgets.restart.wholeMilliseconds
      return engine.forMilliseconds >= patience ? .start(.leftToItself) : nil
    }
    guard isCurrent else { return nil }
    if engine.role == .stopped { return .rejoin(record.primary, record.epoch, .otherHistory) }
    if engine.following != record.primary || memory.promised < record.epoch || memory.isFenced {
      return .follow(record.primary, record.epoch, .recordMoved)
    }
    return nil
  }

  /// Whether a primary that gives no answer must be ended before it goes on: nobody could hold it back in time, and what it
  /// acknowledged before it stood still would be further back than the bound.
  ///
  /// - Parameter silence: How many milliseconds it has given no answer, while whoever asks it was on time.
  package func mustEnd(_ engine: EngineFacts, silentFor silence: Int64) -> Bool {
    guard consent != .off, !isInMaintenance, isBounded, engine.role == .primary, !engine.isHeld, let bound = lossBound
    else { return false }
    return (engine.lagMilliseconds ?? 0) + silence > bound.duration.wholeMilliseconds * 3 / 4
  }

  private func gate(_ engine: EngineFacts, _ memory: AgentMemory) -> MemberDuty? {
    guard let bound = lossBound, let lag = engine.lagMilliseconds else { return nil }
    let limit = bound.duration.wholeMilliseconds
    let bytes = engine.lagBytes ?? 0
    if !engine.isHeld, memory.isFenced || lag > limit / 2 || bytes > bound.bytes / 2 {
      return .hold(true, .lagNearBound)
    }
    if engine.isHeld, !memory.isFenced, lag < limit / 4, bytes < bound.bytes / 4 { return .hold(false, .lagIsSmall) }
    return nil
  }
}
