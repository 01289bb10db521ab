import Catalog
import Core
import Failover
import Foundation
import IO
import StateKit
import Web

/// Moves a policy's followers after it, from beside the primary that serves; what is decided is ``FailoverGroup``'s.
package struct GroupConductor: Sendable {
  private let settings: FailoverAgentSettings
  private let group: FailoverGroup
  private let followers: [FailoverPolicy]
  private let store: any LeaseStore
  private let web: any WebTransport
  private let host: Machine

  /// - Returns: `nil` for a policy nobody follows.
  package init?(
    _ settings: FailoverAgentSettings, followers: [FailoverPolicy], store: any LeaseStore, web: any WebTransport,
    host: Machine
  ) {
    guard let group = settings.policy.group else { return nil }
    (self.settings, self.group, self.followers) = (settings, group, followers)
    (self.store, self.web, self.host) = (store, web, host)
  }

  package func run(_ agent: FailoverAgent) async throws {
    var standing = GroupStanding()
    var lastRule: GroupRule?
    while true {
      if await agent.serves {
        let facts = await facts(await agent.status())
        let decision = group.decide(standing, facts, of: settings.policy.name)
        if decision.rule != lastRule { await record(standing, facts, decision) }
        (standing, lastRule) = (decision.next, decision.rule)
        if let order = decision.order { await leave(order) }
      } else {
        // Whoever serves goes on: from what is the case, not from what was meant here.
        (standing, lastRule) = (GroupStanding(), nil)
      }
      try await host.time.sleep(for: .seconds(1))
    }
  }

  private func facts(_ own: FailoverFacts) async -> GroupFacts {
    let record = own.store?.record
    let engine = own.member(settings.name)?.report?.engine
    let place = settings.policy.members.first { $0.name == record?.primary }?.place
    var found: [GroupFacts.Follower] = []
    for name in group.followers {
      guard let follower = followers.first(where: { $0.name == name }) else { continue }
      let view = try? await store.view(SeatName(unchecked: name.text))
      let record = view?.record.flatMap { try? CanonicalJSON.decode(PrimaryRecord.self, from: $0) }
      let primary = follower.members.first { $0.name == record?.primary }
      let serves = if let primary { await self.serves(primary) } else { false }
      found.append(
        GroupFacts.Follower(
          policy: name, record: record, serves: serves ? primary?.name : nil,
          target: follower.members.first { $0.place == place }?.name))
    }
    return GroupFacts(
      atMilliseconds: own.atMilliseconds, leader: record?.primary == settings.name ? record : nil,
      leaderServes: engine?.role == .primary && (engine?.acknowledges ?? false), followers: found)
  }

  private func serves(_ member: FailoverPolicy.Member) async -> Bool {
    var request = WebRequest(.get, member.agent + "/primary")
    (request.timeLimit, request.responseLimitBytes) = (.seconds(2), 4096)
    return (try? await web.send(request))?.status == 200
  }

  private func leave(_ order: GroupOrder) async {
    let order = (
      seat: SeatName(unchecked: order.policy.text),
      order: FailoverOrder(
        id: order.id, kind: .switchover, target: order.target, by: "the group of \(settings.policy.name)")
    )
    do {
      // One that a person left since stays.
      let view = try await store.view(order.seat)
      let known = view.order.flatMap { try? CanonicalJSON.decode(FailoverOrder.self, from: $0) }
      if known?.id != order.order.id { try await store.order(try CanonicalJSON.encode(order.order), on: order.seat) }
    } catch { host.log("\(settings.name): \(order.order.id): \(AnyFailure(error).report.summary)") }
  }

  private func record(_ before: GroupStanding, _ facts: GroupFacts, _ decision: GroupDecision) async {
    let why = decision.reasons.map(\.description).joined(separator: "; ")
    host.log("\(settings.name): \(decision.rule.rawValue): \(decision.rule.says)\(why.isEmpty ? "" : " (\(why))")")
    let entry = GroupLogEntry(
      at: host.time.now(), leader: settings.policy.name, group: group, before: before, facts: facts, decision: decision)
    let path = "\(settings.directory)/\(settings.policy.name)-\(settings.name).group"
    do {
      let line = try CanonicalJSON.encode(entry) + [10]
      try await host.pool.run {
        let file = try File(path, O_WRONLY | O_CREAT | O_APPEND, mode: 0o600)
        try line.withUnsafeBytes { try file.write($0) }
      }
    } catch { host.log("\(settings.name): the decision can't be written down: \(AnyFailure(error).report.summary)") }
  }
}
