import Catalog
import Core
import DriverKit
import StateKit

/// Where an agent stands with a failover. Every agent has one; only who holds the lease goes beyond `claim`.
package enum FailoverState: String, Sendable, Codable, CaseIterable {
  case steady, suspect, confirmed, consent, claim, fence, choose, record, promote, verify, repoint, shift, observe
  case hold, abort, degraded, rejoin, paused
  case breakGlass = "break-glass"

  /// Something may have been changed already, and only the lease's holder may go on.
  package var isConducting: Bool {
    switch self {
    case .fence, .choose, .record, .promote, .verify, .repoint, .shift, .observe, .hold, .abort, .breakGlass: true
    default: false
    }
  }
}

/// One agent's place in the table, between two looks.
package struct FailoverStanding: Sendable, Equatable, Codable {
  package var state: FailoverState
  package var sinceMilliseconds: Int64
  /// The epoch it acts under, once it has one.
  package var epoch: Fence?
  /// Who served when this began.
  package var subject: MemberName?
  /// The record this began under; another one since means somebody else has acted.
  package var basis: Fence?
  package var target: MemberName?
  package var position: EnginePosition?
  /// The rule that chose it, and the digest of the facts it was chosen from.
  package var choice: String?
  package var order: FailoverOrder?
  /// When enough standbys were detached.
  package var fencedMilliseconds: Int64?

  package init(_ state: FailoverState, sinceMilliseconds: Int64) {
    (self.state, self.sinceMilliseconds) = (state, sinceMilliseconds)
  }

  /// What a person calls this failover by.
  package var id: String? { epoch.map { "failover-\($0)" } }
}

/// What a decision asks to be done. Each can be asked for again and again; done once or ten times is the same.
package enum FailoverAction: Sendable, Equatable, Codable {
  case claim
  case release
  /// Promise this epoch, follow nobody and serve nobody any more; tell the position after that.
  case fence(MemberName, Fence)
  /// Promise this epoch, send what there is, end in good order.
  case stop(MemberName, Fence)
  case record(PrimaryRecord)
  case promote(MemberName, Fence)
  case follow(MemberName, primary: MemberName, Fence)
  /// Traffic goes there, and nowhere else.
  case shift(MemberName, Fence)
}

/// Why not, or not yet. For people it is said in ``text``.
package struct FailoverReason: Sendable, Equatable, Codable, CustomStringConvertible {
  package var member: MemberName?
  package var text: String

  package init(_ text: String, _ member: MemberName? = nil) { (self.text, self.member) = (text, member) }

  package var description: String { member.map { "\($0): \(text)" } ?? text }
}

package struct FailoverCandidate: Sendable, Equatable, Codable {
  package var member: MemberName
  package var position: EnginePosition?
  package var priority: Int
  /// Empty: it can be chosen.
  package var whyNot: [String]
}

/// What follows from a policy, a standing and facts.
package struct FailoverDecision: Sendable, Equatable, Codable {
  package var next: FailoverStanding
  package var rule: FailoverRule
  package var actions: [FailoverAction]
  package var reasons: [FailoverReason]
  package var candidates: [FailoverCandidate]
}

/// Every way from one state to another; there is no other.
package enum FailoverRule: String, Sendable, Codable, CaseIterable {
  case serves = "F-010"
  case fewStandbys = "F-011"
  case allStandbys = "F-012"
  case notFollowing = "F-013"
  case paused = "F-014"
  case resumed = "F-015"
  case suspected = "F-020"
  case stillSuspect = "F-021"
  case seenAgain = "F-022"
  case agreed = "F-023"
  case ailing = "F-024"
  case confirmedAsks = "F-030"
  case consented = "F-031"
  case awaitsConsent = "F-032"
  case ordered = "F-033"
  case unfinished = "F-034"
  case adopted = "F-035"
  case claimed = "F-040"
  case awaitsLease = "F-041"
  case otherConducts = "F-042"
  case leaseLost = "F-043"
  case fenced = "F-050"
  case awaitsFence = "F-051"
  case fenceBudgetSpent = "F-052"
  case primaryIsBack = "F-053"
  case glassBroken = "F-054"
  case chosen = "F-060"
  case noneFit = "F-061"
  case goesBack = "F-062"
  case recorded = "F-070"
  case awaitsRecord = "F-071"
  case promoted = "F-080"
  case awaitsPromotion = "F-081"
  case promotionFailed = "F-082"
  case verified = "F-090"
  case awaitsVerification = "F-091"
  case repointed = "F-100"
  case awaitsStandbys = "F-101"
  case shifted = "F-110"
  case awaitsTraffic = "F-111"
  case observed = "F-120"
  case observing = "F-121"
  case relapsed = "F-122"

  package struct Row: Sendable {
    package var from: Set<FailoverState>
    package var to: Set<FailoverState>
    package var says: String
  }

  package var row: Row {
    let calm: Set<FailoverState> = [.steady, .degraded, .rejoin]
    let conducting = Set(FailoverState.allCases.filter(\.isConducting))
    func row(_ from: Set<FailoverState>, _ to: Set<FailoverState>, _ says: String) -> Row {
      Row(from: from, to: to, says: says)
    }
    return switch self {
    case .serves: row(calm, calm, "the primary serves")
    case .fewStandbys: row(calm, [.degraded], "the primary serves with fewer standbys than it should have")
    case .allStandbys: row(calm, [.steady], "all standbys follow the primary")
    case .notFollowing: row(calm, [.rejoin], "this member doesn't follow the recorded primary, and is brought back")
    case .paused: row(Set(FailoverState.allCases), [.paused], "paused by an operator, by maintenance, or switched off")
    case .resumed: row([.paused], [.steady], "no longer paused")
    case .suspected: row(calm, [.suspect], "this observer suspects the primary")
    case .stillSuspect: row([.suspect], [.suspect], "suspected, and not confirmed")
    case .seenAgain:
      row([.suspect, .confirmed, .consent, .claim], [.steady], "the primary is seen again; nothing was touched")
    case .agreed: row([.suspect], [.confirmed], "enough observers agree, and no peer still sees the primary")
    case .ailing:
      row([.suspect], [.confirmed], "it runs, and enough observers agree by their checks that it can't do its work")
    case .confirmedAsks: row([.confirmed], [.consent], "the failure is confirmed; consent is asked for")
    case .consented: row([.consent], [.claim], "the policy, or a person, consents")
    case .awaitsConsent: row([.consent], [.consent], "consent is missing")
    case .ordered: row(calm.union([.paused, .suspect, .consent]), [.claim], "an operator ordered it")
    case .unfinished: row(calm.union([.suspect]), [.claim], "a failover was begun and not finished; it is finished now")
    case .adopted: row(calm, [.claim], "nobody is recorded, and this member serves with its standbys")
    case .claimed: row([.claim], [.fence, .breakGlass], "the lease is ours: an epoch of our own")
    case .awaitsLease: row([.claim], [.claim], "waiting for the lease store")
    case .otherConducts: row([.claim, .consent], [.steady], "somebody else conducts, or has acted")
    case .leaseLost: row(conducting, [.steady], "the lease is no longer ours; whoever has it goes on")
    case .fenced:
      row(
        [.fence, .hold, .breakGlass], [.choose],
        "enough standbys have detached; the old primary can acknowledge nothing more")
    case .awaitsFence:
      row([.fence, .hold, .breakGlass], [.fence, .hold, .breakGlass], "too few standbys have detached")
    case .fenceBudgetSpent:
      row([.fence], [.hold], "standbys didn't detach in time; nothing can be promised, so nothing is promoted")
    case .primaryIsBack: row([.fence, .hold], [.abort], "the primary is back before it was fenced")
    case .glassBroken: row([.breakGlass], [.choose], "an operator goes on with what can be reached")
    case .chosen: row([.choose], [.record], "the most complete of those that may serve")
    case .noneFit: row([.choose, .hold], [.hold], "the most complete copy may not serve")
    case .goesBack: row([.abort], [.record], "service stays where it was, under a new epoch")
    case .recorded: row([.record], [.promote], "the record names the new primary")
    case .awaitsRecord: row([.record], [.record], "waiting for the record to be written")
    case .promoted: row([.promote], [.verify], "the new primary says that it is one")
    case .awaitsPromotion: row([.promote], [.promote], "waiting for the promotion")
    case .promotionFailed:
      row(
        [.promote, .verify, .repoint, .shift, .hold], [.steady],
        "it didn't come to serve in time; the next epoch decides anew")
    case .verified: row([.verify], [.repoint], "seen as a primary under this epoch")
    case .awaitsVerification: row([.verify], [.verify], "not seen yet")
    case .repointed: row([.repoint], [.shift], "enough standbys follow the new primary")
    case .awaitsStandbys: row([.repoint, .shift], [.repoint, .shift], "too few standbys follow")
    case .shifted: row([.shift], [.observe], "it acknowledges; traffic goes there")
    case .awaitsTraffic: row([.shift], [.shift], "it acknowledges; routers don't show yet that traffic goes there")
    case .observed: row([.observe], [.steady], "watched for as long as the policy says")
    case .observing: row([.observe], [.observe], "being watched")
    case .relapsed: row([.observe], [.steady], "the new primary fails; the next epoch decides")
    }
  }
}
