import Core

/// Something to be put on record.
package struct AuditDraft: Sendable, Equatable {
  package var run: RunID?
  /// Who did it: a person, a policy, a process.
  package var actor: String
  /// What happened, such as `run.created`, `step.succeeded`.
  package var action: String
  /// What it was done to.
  package var subject: String
  package var details: JSONValue

  package init(run: RunID? = nil, actor: String, action: String, subject: String, details: JSONValue = .null) {
    (self.run, self.actor, self.action, self.subject, self.details) = (run, actor, action, subject, details)
  }
}

/// One line of the record. Each holds the digest of the one before, so that none can be changed or taken out unseen.
package struct AuditEntry: Sendable, Equatable, Codable {
  /// From 1, without holes.
  package var sequence: Int64
  package var at: Timestamp
  package var run: RunID?
  package var actor: String
  package var action: String
  package var subject: String
  package var details: JSONValue
  package var previous: Digest
  /// Covers all of the above.
  package var digest: Digest

  /// The entry that follows `last`; the first follows ``AuditChain/root``.
  package init(_ draft: AuditDraft, after last: (sequence: Int64, digest: Digest)?, at now: Timestamp)
    throws(JournalError)
  {
    sequence = (last?.sequence ?? 0) + 1
    at = now
    (run, actor, action, subject, details) = (draft.run, draft.actor, draft.action, draft.subject, draft.details)
    previous = last?.digest ?? AuditChain.root
    digest = AuditChain.root
    digest = try computedDigest
  }

  /// What ``digest`` must be.
  package var computedDigest: Digest {
    get throws(JournalError) {
      var copy = self
      copy.digest = AuditChain.root
      do { return try CanonicalJSON.digest(copy) } catch {
        throw .corrupt("audit entry \(sequence) can't be written as JSON: \(error)")
      }
    }
  }
}

package enum AuditChain {
  /// What the first entry follows.
  package static let root = Digest.of("salvor audit chain v1")

  /// Checks that `entries` follow one another and `last`. O(*n*).
  ///
  /// A chain that was cut at its end still verifies: compare its last digest with one kept elsewhere.
  package static func verify(
    _ entries: some Sequence<AuditEntry>, after last: (sequence: Int64, digest: Digest)? = nil
  ) throws(JournalError) {
    var (sequence, digest) = last ?? (0, root)
    for entry in entries {
      guard entry.sequence == sequence + 1 else {
        throw .corrupt("audit entry \(sequence + 1) is missing")
      }
      guard entry.previous == digest else {
        throw .corrupt("audit entry \(entry.sequence) does not follow entry \(sequence)")
      }
      guard try entry.computedDigest == entry.digest else {
        throw .corrupt("audit entry \(entry.sequence) was changed")
      }
      (sequence, digest) = (entry.sequence, entry.digest)
    }
  }
}
