import Catalog
import Core
import DriverKit
import StateKit

/// All that one agent knows at one moment: what a decision is made of, and can be made of again.
///
/// Whole numbers only, so that a file of them reads back to the same decision on any machine.
package struct FailoverFacts: Sendable, Equatable, Codable {
  package var observer: MemberName
  /// On the observer's clock that never steps.
  package var atMilliseconds: Int64
  /// Its wall clock, for windows people wrote down.
  package var now: Timestamp
  /// How much later than planned it looked: reason to doubt its own eyes.
  package var lateMilliseconds: Int64
  /// `nil` while the lease store has never answered.
  package var store: StoreFacts?
  /// In the order of the policy.
  package var members: [MemberFacts]
  package var witnesses: [WitnessFacts]
  /// What checks found, here and beside the members; `nil` if the policy has none.
  package var signals: [SignalFact]?
  /// What the context's file says: the release, values of flags, a deployment. `nil` if there is none, or it can't be read.
  package var context: [String: String]?
  /// Seconds east of Greenwich, of the zones that the policy's freezes name.
  package var zones: [String: Int]?
  /// What routers said to whoever conducts; `nil` where there are none.
  package var traffic: [TrafficFacts]?

  package init(
    observer: MemberName, atMilliseconds: Int64, now: Timestamp, lateMilliseconds: Int64, store: StoreFacts?,
    members: [MemberFacts], witnesses: [WitnessFacts]
  ) {
    (self.observer, self.atMilliseconds, self.now) = (observer, atMilliseconds, now)
    (self.lateMilliseconds, self.store, self.members, self.witnesses) = (lateMilliseconds, store, members, witnesses)
  }

  package func member(_ name: MemberName?) -> MemberFacts? { members.first { $0.name == name } }
}

/// What the lease store said last.
package struct StoreFacts: Sendable, Equatable, Codable {
  package var ageMilliseconds: Int64
  /// `nil`: nobody has ever been recorded.
  package var record: PrimaryRecord?
  /// How long this observer has known the record's epoch: it is at least so old. `nil` counts for no time at all.
  package var recordAgeMilliseconds: Int64?
  package var conductor: Conductor?
  package var order: FailoverOrder?

  package init(
    ageMilliseconds: Int64, record: PrimaryRecord?, recordAgeMilliseconds: Int64?, conductor: Conductor?,
    order: FailoverOrder?
  ) {
    (self.ageMilliseconds, self.record, self.recordAgeMilliseconds) = (ageMilliseconds, record, recordAgeMilliseconds)
    (self.conductor, self.order) = (conductor, order)
  }

  package struct Conductor: Sendable, Equatable, Codable {
    package var holder: Holder
    package var epoch: Fence
    package var isMine: Bool

    package init(holder: Holder, epoch: Fence, isMine: Bool) {
      (self.holder, self.epoch, self.isMine) = (holder, epoch, isMine)
    }
  }
}

/// Who serves, as the lease store holds it; written only by who conducts, under its fence.
package struct PrimaryRecord: Sendable, Equatable, Codable {
  package var epoch: Fence
  package var primary: MemberName
  package var previous: MemberName?
  /// The position that was chosen, for whoever asks later what was kept.
  package var position: EnginePosition?
  /// The order it fulfilled.
  package var order: String?
  /// Why this member: the rule that chose it, and the facts' digest. ``FailoverLog`` has the rest.
  package var decision: String?
  /// Standbys of whom `W` hold every commit, as the primary's agent has written since; `nil`: all others.
  package var voters: [MemberName]?

  package init(
    epoch: Fence, primary: MemberName, previous: MemberName? = nil, position: EnginePosition? = nil,
    order: String? = nil, decision: String? = nil, voters: [MemberName]? = nil
  ) {
    (self.epoch, self.primary, self.previous) = (epoch, primary, previous)
    (self.position, self.order, self.decision, self.voters) = (position, order, decision, voters)
  }
}

/// What an operator asks for, as the lease store holds it until another takes its place.
package struct FailoverOrder: Sendable, Equatable, Codable {
  package enum Kind: String, Sendable, Codable, CaseIterable {
    case pause, resume, approve, switchover
    /// Goes on with what can be reached, and loses what can't: named by who orders it, never by itself.
    case breakGlass = "break-glass"
  }

  package var id: String
  package var kind: Kind
  /// Who shall serve; for an approval, of whom it is about.
  package var target: MemberName?
  package var by: String

  package init(id: String, kind: Kind, target: MemberName? = nil, by: String) {
    (self.id, self.kind, self.target, self.by) = (id, kind, target, by)
  }
}

/// What an observer makes of its looks at the primary.
package enum Verdict: String, Sendable, Codable {
  case up, suspect, down
  /// It doubts itself, or hasn't looked long enough. Counts for nothing.
  case unknown
}

/// What an agent tells who asks.
package struct AgentReport: Sendable, Equatable, Codable {
  package var member: MemberName
  /// The highest epoch it has obeyed; on its disk before it says so.
  package var promised: Fence
  /// Under that epoch it follows nobody and serves nobody; its position stands still.
  package var isDetached: Bool
  /// `nil` of a witness, or if the engine can't be asked.
  package var engine: EngineFacts?
  /// Of the recorded primary.
  package var verdict: Verdict
  /// The primary that is meant.
  package var of: MemberName?
  /// What checks beside it found about its own host; `nil` if there are none.
  package var signals: [SignalFact]?

  package init(
    member: MemberName, promised: Fence, isDetached: Bool, engine: EngineFacts?, verdict: Verdict, of: MemberName?
  ) {
    (self.member, self.promised, self.isDetached) = (member, promised, isDetached)
    (self.engine, self.verdict, self.of) = (engine, verdict, of)
  }
}

package struct MemberFacts: Sendable, Equatable, Codable {
  package var name: MemberName
  package var sight: Sight?
  /// How long it has looked like this.
  package var forMilliseconds: Int64
  package var suspicionThousandths: Int?
  /// How long the suspicion has been above the threshold.
  package var suspectedMilliseconds: Int64?
  package var report: AgentReport?
  package var reportAgeMilliseconds: Int64?
  /// How long the observer's own engine, a primary, has had it attached, or hasn't.
  package var attachedMilliseconds: Int64?
  package var absentMilliseconds: Int64?

  package init(
    name: MemberName, sight: Sight? = nil, forMilliseconds: Int64 = 0, suspicionThousandths: Int? = nil,
    suspectedMilliseconds: Int64? = nil, report: AgentReport? = nil, reportAgeMilliseconds: Int64? = nil
  ) {
    (self.name, self.sight, self.forMilliseconds) = (name, sight, forMilliseconds)
    (self.suspicionThousandths, self.suspectedMilliseconds) = (suspicionThousandths, suspectedMilliseconds)
    (self.report, self.reportAgeMilliseconds) = (report, reportAgeMilliseconds)
  }
}

package struct WitnessFacts: Sendable, Equatable, Codable {
  package var name: MemberName
  package var report: AgentReport?
  package var reportAgeMilliseconds: Int64?

  package init(name: MemberName, report: AgentReport? = nil, reportAgeMilliseconds: Int64? = nil) {
    (self.name, self.report, self.reportAgeMilliseconds) = (name, report, reportAgeMilliseconds)
  }
}
