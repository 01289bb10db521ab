import Core

/// What a store may do, and a repository may rely on.
package enum StoreProperty: String, Sendable, CaseIterable, Codable {
  /// What was put is read as soon as the put returned.
  case readAfterWrite = "read-after-write"
  /// And listed.
  case listAfterWrite = "list-after-write"
  case rangeReads = "range-reads"
  /// What was deleted is gone, for readers and lists alike.
  case delete
  /// Of several who make one object at the same time one wins, and the others are told.
  case atomicCreate = "atomic-create"
  /// The server itself refuses to replace what is there.
  case conditionalWrite = "conditional-write"
  /// What is replaced can still be read.
  case versions
  /// What is locked can't be deleted before its time.
  case objectLock = "object-lock"
}

/// What came of trying a property out.
package struct StoreFinding: Hashable, Sendable, Codable {
  package enum Verdict: String, Sendable, CaseIterable, Codable {
    /// Tried, and it held.
    case verified
    /// The store says so, and the trial did not bear it out.
    case claimed
    case absent
  }

  package var property: StoreProperty
  package var verdict: Verdict
  /// What was seen; for people.
  package var detail: String

  package init(_ property: StoreProperty, _ verdict: Verdict, _ detail: String) {
    (self.property, self.verdict, self.detail) = (property, verdict, detail)
  }
}

package struct ConformanceReport: Hashable, Sendable, Codable {
  package var location: String
  /// One for each property, in their order.
  package var findings: [StoreFinding]
  /// What could not be removed again.
  package var leftBehind: [String]
}

/// A store with properties that can only be tried in its own terms.
package protocol ExaminableStore: ObjectStore {
  /// Tries conditional writes, versions and locks on objects of its own, and removes them again.
  ///
  /// Takes some seconds if locks hold: until they run out.
  func examine(_ randomness: any Randomness) async throws(StoreError) -> [StoreFinding]
}
