import Catalog
import Core
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
  /// How long this observer has known the record's epoch; `nil` if it was there when the observer came.
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

  package init(
    epoch: Fence, primary: MemberName, previous: MemberName? = nil, position: EnginePosition? = nil,
    order: String? = nil, decision: String? = nil
  ) {
    (self.epoch, self.primary, self.previous) = (epoch, primary, previous)
    (self.position, self.order, self.decision) = (position, order, decision)
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

/// How far a log reaches: whose log first, then how much of it.
package struct EnginePosition: Sendable, Equatable, Codable, Comparable, CustomStringConvertible {
  /// Of the last record there is: PostgreSQL's timeline. Grows with every promotion.
  package var lineage: Int64
  package var offset: Int64

  package init(lineage: Int64, offset: Int64) { (self.lineage, self.offset) = (lineage, offset) }

  package static func < (a: Self, b: Self) -> Bool { (a.lineage, a.offset) < (b.lineage, b.offset) }

  package var description: String {
    "\(lineage)/\(String(offset >> 32, radix: 16).uppercased())/\(String(offset & 0xffff_ffff, radix: 16).uppercased())"
  }
}

/// What one look at an engine over the network found.
package enum Sight: String, Sendable, Codable {
  /// It takes writes.
  case serves
  /// It answers, and takes none.
  case answers
  /// Its host answered that nobody listens.
  case refused
  /// No answer.
  case silent
}

/// What an observer makes of its looks at the primary.
package enum Verdict: String, Sendable, Codable {
  case up, suspect, down
  /// It doubts itself, or hasn't looked long enough. Counts for nothing.
  case unknown
}

package struct EngineFacts: Sendable, Equatable, Codable {
  package enum Role: String, Sendable, Codable { case primary, standby, stopped }

  package var role: Role
  /// How long it has had this role.
  package var forMilliseconds: Int64
  /// What it has flushed. `nil` if that can't be known, such as of a stopped engine.
  package var position: EnginePosition?
  /// Whom it was told to follow; `nil` once detached.
  package var following: MemberName?
  /// Bytes or a sign of life came from there a moment ago.
  package var isStreaming: Bool
  /// How long ago that was; of a standby that follows.
  package var heardMilliseconds: Int64?
  /// Standbys that confirmed something a moment ago; of a primary.
  package var attached: [MemberName]
  /// It acknowledges nothing, on our word.
  package var isHeld: Bool
  /// A commit was acknowledged a moment ago; of a primary.
  package var acknowledges: Bool
  /// Age of the oldest commit that too few standbys have confirmed; of a primary whose loss is bounded.
  package var lagMilliseconds: Int64?
  package var lagBytes: Int64?

  package init(
    role: Role, forMilliseconds: Int64 = 0, position: EnginePosition? = nil, following: MemberName? = nil,
    isStreaming: Bool = false, heardMilliseconds: Int64? = nil, attached: [MemberName] = [], isHeld: Bool = false, acknowledges: Bool = false,
    lagMilliseconds: Int64? = nil, lagBytes: Int64? = nil
  ) {
    (self.role, self.forMilliseconds, self.position) = (role, forMilliseconds, position)
    (self.following, self.isStreaming, self.heardMilliseconds) = (following, isStreaming, heardMilliseconds)
    (self.attached, self.isHeld, self.acknowledges) = (attached, isHeld, acknowledges)
    (self.lagMilliseconds, self.lagBytes) = (lagMilliseconds, lagBytes)
  }
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
