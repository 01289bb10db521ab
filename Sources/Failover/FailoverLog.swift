import Catalog
import Core

/// One decision as it was made: all it was made of, and what came of it. A line of canonical JSON each.
package struct FailoverLogEntry: Sendable, Equatable, Codable {
  package var at: Timestamp
  package var policy: FailoverPolicy
  package var before: FailoverStanding
  package var facts: FailoverFacts
  package var decisions: [FailoverDecision]

  package init(
    at: Timestamp, policy: FailoverPolicy, before: FailoverStanding, facts: FailoverFacts,
    decisions: [FailoverDecision]
  ) {
    (self.at, self.policy, self.before, self.facts, self.decisions) = (at, policy, before, facts, decisions)
  }

  /// What a person calls the failover it belongs to.
  package var id: String? { decisions.compactMap(\.next.id).last ?? before.id }

  /// The same question, answered again: from this entry alone.
  package func replayed() -> [FailoverDecision] { policy.decide(before, facts) }

  package func line() throws -> [UInt8] { try CanonicalJSON.encode(self) + [10] }

  /// - Throws: For a line that is no entry.
  package static func entries(_ bytes: [UInt8]) throws -> [FailoverLogEntry] {
    try bytes.split(separator: 10).map { try CanonicalJSON.decode(FailoverLogEntry.self, from: $0) }
  }
}
