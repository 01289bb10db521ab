import Core
import StateKit

/// A run of three steps in a row: `copy`, `check`, `swap`.
package func sampleSpec(
  _ id: RunID = "recovery-0001", kind: RunKind = .recovery, title: String = "bring the bank back",
  createdAt: Timestamp = Timestamp(seconds: 1_800_000_000)
) -> RunSpec {
  RunSpec(
    id: id, kind: kind, title: title, catalogDigest: Digest.of("catalog"), input: ["point": "p1"],
    steps: [
      StepSpec(
        id: "copy", kind: "test.copy.v1", title: "copy", input: ["bytes": 10], resource: "copy", service: "ledger",
        store: "ledger-db", compensates: true),
      StepSpec(id: "check", kind: "test.check.v1", title: "check", dependsOn: ["copy"], store: "ledger-db"),
      StepSpec(id: "swap", kind: "test.swap.v1", title: "swap", dependsOn: ["copy", "check"], compensates: true),
    ], onFailure: .rollback, createdAt: createdAt)
}

package func sampleMeasurement(_ nanoseconds: Int64 = 5, bytes: Int64? = nil, foundDone: Bool = false) -> Measurement {
  Measurement(
    startedAt: Timestamp(seconds: 1_800_000_000), finishedAt: Timestamp(seconds: 1_800_000_001),
    startedMonotonicNanoseconds: 100, finishedMonotonicNanoseconds: 100 + nanoseconds, bytes: bytes,
    wasFoundDone: foundDone)
}

package let sampleFailure = Report("TEST-1", "it broke", retry: .never)

/// A run that is claimed and running.
func begun(_ journal: any RunJournal, _ spec: RunSpec = sampleSpec()) async throws -> Lease {
  try await journal.create(spec)
  let lease = try await journal.claim(spec.id, as: "a", for: .seconds(15))
  try await journal.setState(.running, under: lease)
  return lease
}

/// All that must not change when a write is refused.
func everything(_ journal: any RunJournal, _ run: RunID) async throws -> (RunRecord, [AuditEntry]) {
  (try await journal.load(run), try await journal.auditTrail(after: 0, run: nil, limit: 10_000))
}
