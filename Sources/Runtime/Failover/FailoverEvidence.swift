import Catalog
import Core
import Failover
import IO
import StateKit
import Synchronization

extension FailoverLogEntry {
  static let decided = "failover.decided"
  static let named = "failover.named"

  static func subject(_ policy: PolicyName) -> String { "failover/\(policy)" }

  /// What goes on record of it: the rules, what they came to, and the digests of all it was made of.
  func details(_ line: Digest) -> JSONValue {
    let last = decisions.last
    var details: [String: JSONValue] = [
      "observer": .string(facts.observer.text), "rules": .array(decisions.map { .string($0.rule.rawValue) }),
      "state": .string(last?.next.state.rawValue ?? before.state.rawValue), "line": .string(line.hex),
      "reasons": .array(decisions.flatMap(\.reasons).prefix(32).map { .string($0.description) }),
    ]
    if let digest = try? CanonicalJSON.digest(facts) { details["facts"] = .string(digest.hex) }
    // A decision that ends a failover has forgotten it.
    let standing = decisions.last { $0.next.epoch != nil }?.next ?? last?.next ?? before
    if let id { details["id"] = .string(id) }
    if let epoch = standing.epoch { details["epoch"] = .integer(epoch.value) }
    if let subject = standing.subject { details["subject"] = .string(subject.text) }
    if let target = standing.target { details["target"] = .string(target.text) }
    if let position = standing.position { details["position"] = .string("\(position)") }
    if let order = standing.order {
      details["order"] = ["kind": .string(order.kind.rawValue), "by": .string(order.by)]
    }
    return .object(details)
  }
}

/// Puts what an agent decides, and whom the lease store names, into the journal and from there into the evidence log.
///
/// Nothing waits for it: a decision is in the agent's own record first, and what isn't on record yet when an agent ends is
/// put there when it runs again.
package final class FailoverEvidence: Sendable {
  private let policy: PolicyName
  private let member: MemberName
  private let journal: any RunJournal
  private let host: Machine
  private let waiting = Mutex<[AuditDraft]>([])

  package init(_ policy: PolicyName, _ member: MemberName, journal: any RunJournal, host: Machine) {
    (self.policy, self.member, self.journal, self.host) = (policy, member, journal, host)
  }

  private var actor: String { "agent/\(member)" }

  private func add(_ action: String, _ details: JSONValue) {
    let draft = AuditDraft(
      actor: actor, action: action, subject: FailoverLogEntry.subject(policy), details: details)
    waiting.withLock { $0.append(draft) }
  }

  /// - Parameter line: As it is in the agent's record.
  func decided(_ entry: FailoverLogEntry, _ line: [UInt8]) {
    add(FailoverLogEntry.decided, entry.details(Digest.of(line)))
  }

  /// Whom the lease store names, once for each epoch.
  func named(_ record: PrimaryRecord) {
    guard let value = try? CanonicalJSON.decode(JSONValue.self, from: CanonicalJSON.encode(record)) else { return }
    add(FailoverLogEntry.named, value)
  }

  /// Writes down what comes, until its task is cancelled.
  ///
  /// - Parameter record: The agent's own, from which is caught up.
  package func run(catchingUpWith record: String) async throws {
    var complaint = ""
    do { try await catchUp(record) } catch { host.log("\(member): \(AnyFailure(error).report.summary)") }
    while true {
      try await host.time.sleep(for: .milliseconds(500))
      do throws(JournalError) {
        if try await write() { await EvidenceLog(host: host, journal: journal).publishOrWarn() }
        complaint = ""
      } catch {
        let text = "decisions can't be put on record yet: \(error.report.summary)"
        if text != complaint { host.log("\(member): \(text)") }
        complaint = text
      }
    }
  }

  /// - Returns: Whether there was anything.
  private func write() async throws(JournalError) -> Bool {
    var wrote = false
    while let draft = waiting.withLock({ $0.first }) {
      try await journal.append(draft, under: nil)
      waiting.withLock { _ = $0.removeFirst() }
      wrote = true
    }
    return wrote
  }

  /// Those of the newest thousand that never got there.
  private func catchUp(_ path: String) async throws {
    let lines = try await host.pool.run { () throws(SystemFailure) -> [[UInt8]] in
      guard Files.exists(path) else { return [] }
      return try Files.read(path, limitBytes: 1 << 30).split(separator: 10).suffix(1000).map { Array($0) + [10] }
    }
    guard !lines.isEmpty else { return }
    var known: Set<String> = []
    var after: Int64 = 0
    while true {
      let page = try await journal.auditTrail(after: after, run: nil, limit: 2048)
      guard let last = page.last else { break }
      after = last.sequence
      for entry in page where entry.action == FailoverLogEntry.decided {
        if let line = entry.details["line"]?.string { known.insert(line) }
      }
    }
    var missing: [AuditDraft] = []
    for line in lines where !known.contains(Digest.of(line).hex) {
      // A line that was torn when the machine failed was never a decision that anything followed from.
      guard let entry = try? CanonicalJSON.decode(FailoverLogEntry.self, from: line.dropLast()) else { continue }
      missing.append(
        AuditDraft(
          actor: actor, action: FailoverLogEntry.decided, subject: FailoverLogEntry.subject(policy),
          details: entry.details(Digest.of(line))))
    }
    let found = missing
    waiting.withLock { $0 = found + $0 }
  }
}

/// Orders of people, on record before they are left in the lease store.
package enum FailoverOrders {
  package static func leave(
    _ order: FailoverOrder, for policy: FailoverPolicy, in store: any LeaseStore, host: Machine,
    journal: any RunJournal
  ) async throws {
    var details: [String: JSONValue] = [
      "order": .string(order.id), "kind": .string(order.kind.rawValue), "by": .string(order.by),
    ]
    if let target = order.target { details["target"] = .string(target.text) }
    let found = JSONValue.object(details)
    try await RecordedAct.carryOut(
      .failover, FailoverLogEntry.subject(policy.name), details: found, host: host, journal: journal
    ) { _ in
      try await store.order(try CanonicalJSON.encode(order), on: SeatName(unchecked: policy.name.text))
      return ((), found)
    }
  }
}

extension RunKind {
  static let failover: RunKind = "failover"
}
