import Catalog
import Core
import StateKit

/// What the leader's agent knows of its group at one moment.
package struct GroupFacts: Sendable, Equatable, Codable {
  package var atMilliseconds: Int64
  /// The leader's record, and whether its primary serves and acknowledges under it.
  package var leader: PrimaryRecord?
  package var leaderServes: Bool
  /// In the order of the group.
  package var followers: [Follower]

  package struct Follower: Sendable, Equatable, Codable {
    package var policy: PolicyName
    /// `nil`: its lease store hasn't answered, or nobody is recorded.
    package var record: PrimaryRecord?
    /// Whose agent says that clients belong there; `nil`: none does, or none answers.
    package var serves: MemberName?
    /// Its member at the leader's place; `nil`: it has none there.
    package var target: MemberName?

    package init(policy: PolicyName, record: PrimaryRecord?, serves: MemberName?, target: MemberName?) {
      (self.policy, self.record, self.serves, self.target) = (policy, record, serves, target)
    }
  }

  package init(atMilliseconds: Int64, leader: PrimaryRecord?, leaderServes: Bool, followers: [Follower]) {
    (self.atMilliseconds, self.leader, self.leaderServes) = (atMilliseconds, leader, leaderServes)
    self.followers = followers
  }
}

/// Where a group stands, between two looks.
package struct GroupStanding: Sendable, Equatable, Codable {
  package enum State: String, Sendable, Codable, CaseIterable {
    /// All are where they belong, or nobody knows where that is.
    case together
    /// One after another is moved.
    case moving
    /// One didn't come to serve, and those that had moved go back.
    case returning
    /// It is left as it is until the leader moves again.
    case stopped
  }

  package var state: State
  /// The leader's epoch this is about.
  package var epoch: Fence?
  /// Whose turn it is.
  package var turn: PolicyName?
  package var sinceMilliseconds: Int64
  package var moved: [Move] = []
  package var failed: [PolicyName] = []

  package struct Move: Sendable, Equatable, Codable {
    package var policy: PolicyName
    package var from: MemberName
  }

  package init(_ state: State = .together, sinceMilliseconds: Int64 = 0) {
    (self.state, self.sinceMilliseconds) = (state, sinceMilliseconds)
  }
}

/// An order to a follower; left again and again it is the same order.
package struct GroupOrder: Sendable, Equatable, Codable {
  package var policy: PolicyName
  package var target: MemberName
  package var id: String
}

package enum GroupRule: String, Sendable, Codable, CaseIterable {
  case together = "G-010"
  case leaderUnknown = "G-011"
  case moves = "G-020"
  case awaits = "G-021"
  case arrived = "G-022"
  case notKnown = "G-023"
  case finished = "G-030"
  case stops = "G-040"
  case goesOn = "G-041"
  case goesBack = "G-042"
  case isBack = "G-043"
  case left = "G-044"

  package var says: String {
    switch self {
    case .together: "all serve where the leader does"
    case .leaderUnknown: "the leader doesn't serve yet, so nobody follows"
    case .moves: "the next one is moved to the leader's place"
    case .awaits: "it has been told, and doesn't serve there yet"
    case .arrived: "it serves there; the next one's turn"
    case .notKnown: "where it serves isn't known, so nothing is moved"
    case .finished: "all that could be moved were"
    case .stops: "one didn't come to serve; the rest stays where it is"
    case .goesOn: "one didn't come to serve; the next one's turn"
    case .goesBack: "one didn't come to serve; those that moved go back, the last one first"
    case .isBack: "it serves again where it did"
    case .left: "left as it is until the leader moves again"
    }
  }
}

package struct GroupDecision: Sendable, Equatable, Codable {
  package var next: GroupStanding
  package var rule: GroupRule
  package var order: GroupOrder?
  package var reasons: [FailoverReason] = []
}

extension FailoverGroup {
  /// What follows from what is known; pure. At most one follower is moved at a time, and none before the one before it serves.
  package func decide(_ standing: GroupStanding, _ facts: GroupFacts, of leader: PolicyName) -> GroupDecision {
    guard let record = facts.leader, facts.leaderServes else {
      return GroupDecision(next: standing, rule: .leaderUnknown)
    }
    var standing = standing
    if standing.epoch != record.epoch {
      standing = GroupStanding(sinceMilliseconds: facts.atMilliseconds)
      standing.epoch = record.epoch
    }
    switch standing.state {
    case .stopped: return GroupDecision(next: standing, rule: .left)
    case .returning: return back(standing, facts, leader)
    case .together, .moving: return on(standing, facts, leader)
    }
  }

  private func on(_ standing: GroupStanding, _ facts: GroupFacts, _ leader: PolicyName) -> GroupDecision {
    var standing = standing
    for follower in facts.followers where !standing.failed.contains(follower.policy) {
      if let target = follower.target, follower.record?.primary == target, follower.serves == target {
        guard standing.turn == follower.policy else { continue }
        standing.turn = nil
        return GroupDecision(next: standing, rule: .arrived, reasons: [FailoverReason("\(follower.policy)", target)])
      }
      return move(follower, standing, facts, leader)
    }
    (standing.turn, standing.state) = (nil, standing.failed.isEmpty ? .together : .stopped)
    return GroupDecision(next: standing, rule: standing.failed.isEmpty ? .together : .finished)
  }

  private func move(
    _ follower: GroupFacts.Follower, _ before: GroupStanding, _ facts: GroupFacts, _ leader: PolicyName
  ) -> GroupDecision {
    var standing = before
    guard let target = follower.target else {
      return failed(follower.policy, "it has no member there", standing, facts)
    }
    let id = "group-\(leader)-\(facts.leader?.epoch ?? .none)-\(follower.policy)"
    if standing.turn != follower.policy {
      (standing.state, standing.turn) = (.moving, follower.policy)
      standing.sinceMilliseconds = facts.atMilliseconds
    }
    let isLate = facts.atMilliseconds - standing.sinceMilliseconds > patience.wholeMilliseconds
    guard let record = follower.record else {
      return isLate
        ? failed(follower.policy, "nobody says where it serves", standing, facts)
        : GroupDecision(next: standing, rule: .notKnown, reasons: [FailoverReason("\(follower.policy)")])
    }
    if record.order == id, record.primary != target {
      return failed(follower.policy, "it was told, and stayed at \(record.primary)", standing, facts)
    }
    if isLate { return failed(follower.policy, "it doesn't serve there in time", standing, facts) }
    if record.primary == target {
      return GroupDecision(next: standing, rule: .awaits, reasons: [FailoverReason("\(follower.policy)", target)])
    }
    let isNew = !standing.moved.contains { $0.policy == follower.policy }
    if isNew { standing.moved.append(.init(policy: follower.policy, from: record.primary)) }
    return GroupDecision(
      next: standing, rule: isNew ? .moves : .awaits,
      order: GroupOrder(policy: follower.policy, target: target, id: id),
      reasons: [FailoverReason("\(follower.policy)", target)])
  }

  private func failed(
    _ policy: PolicyName, _ why: String, _ before: GroupStanding, _ facts: GroupFacts
  ) -> GroupDecision {
    var standing = before
    standing.failed.append(policy)
    (standing.turn, standing.sinceMilliseconds) = (nil, facts.atMilliseconds)
    let reasons = [FailoverReason("\(policy): \(why)")]
    switch onFailure {
    case .stop:
      standing.state = .stopped
      return GroupDecision(next: standing, rule: .stops, reasons: reasons)
    case .goOn: return GroupDecision(next: standing, rule: .goesOn, reasons: reasons)
    case .goBack:
      standing.state = .returning
      return GroupDecision(next: standing, rule: .goesBack, reasons: reasons)
    }
  }

  private func back(_ before: GroupStanding, _ facts: GroupFacts, _ leader: PolicyName) -> GroupDecision {
    var standing = before
    guard let last = standing.moved.last else {
      standing.state = .stopped
      return GroupDecision(next: standing, rule: .finished)
    }
    let follower = facts.followers.first { $0.policy == last.policy }
    if follower?.record?.primary == last.from, follower?.serves == last.from {
      standing.moved.removeLast()
      (standing.turn, standing.sinceMilliseconds) = (nil, facts.atMilliseconds)
      return GroupDecision(next: standing, rule: .isBack, reasons: [FailoverReason("\(last.policy)", last.from)])
    }
    if standing.turn != last.policy {
      (standing.turn, standing.sinceMilliseconds) = (last.policy, facts.atMilliseconds)
    }
    if facts.atMilliseconds - standing.sinceMilliseconds > patience.wholeMilliseconds {
      standing.state = .stopped
      return GroupDecision(
        next: standing, rule: .stops, reasons: [FailoverReason("\(last.policy): it doesn't go back in time")])
    }
    guard follower?.record != nil else {
      return GroupDecision(next: standing, rule: .notKnown, reasons: [FailoverReason("\(last.policy)")])
    }
    return GroupDecision(
      next: standing, rule: .awaits,
      order: GroupOrder(
        policy: last.policy, target: last.from,
        id: "group-\(leader)-\(facts.leader?.epoch ?? .none)-\(last.policy)-back"),
      reasons: [FailoverReason("\(last.policy)", last.from)])
  }
}

/// One decision about a group as it was made; a line of canonical JSON each.
package struct GroupLogEntry: Sendable, Equatable, Codable {
  package var at: Timestamp
  package var leader: PolicyName
  package var group: FailoverGroup
  package var before: GroupStanding
  package var facts: GroupFacts
  package var decision: GroupDecision

  package init(
    at: Timestamp, leader: PolicyName, group: FailoverGroup, before: GroupStanding, facts: GroupFacts,
    decision: GroupDecision
  ) {
    (self.at, self.leader, self.group, self.before) = (at, leader, group, before)
    (self.facts, self.decision) = (facts, decision)
  }

  package func replayed() -> GroupDecision { group.decide(before, facts, of: leader) }
}
