import Catalog
import Core
import Governance
import IO
import Planning
import Recovery
import StateKit

/// Writes the signed record of each run, and keeps the key it is signed with.
package struct EvidenceArchive: Sendable {
  private let host: Machine

  package init(host: Machine) { self.host = host }

  /// The key others verify records with; made at first use.
  package func publicKey() async throws(AnyFailure) -> EvidencePublicKey { try await signer().publicKey }

  private func signer() async throws(AnyFailure) -> EvidenceSigner {
    let host = host
    do { return try await host.pool.run { try EvidenceKeyring(host: host).own().classic } } catch {
      throw AnyFailure(error)
    }
  }

  /// Puts a record into its file, the manifests beside it, and on the audit chain that it was written.
  private func file(
    _ builder: EvidenceBuilder, run: RunID, state: RunState, manifests: [String: [UInt8]], journal: any RunJournal
  ) async throws -> String {
    var builder = builder
    for (path, bytes) in manifests.sorted(by: { $0.key < $1.key }) {
      try builder.add(
        kind: "manifest", subject: path,
        body: ["sha256": .string(Digest.of(bytes).hex), "bytes": .integer(Int64(bytes.count))])
    }
    let evidence = try builder.sealed(run: run.text, by: try await signer())
    let bytes = try evidence.encoded()
    let name = "\(run)-\(state.rawValue).json"
    let path = host.path("evidence/\(name)")
    let manifestPath = host.path("evidence/manifests")
    try await host.pool.run { () throws(SystemFailure) in
      try Files.createDirectory(Files.parent(of: path), mode: 0o700)
      try Files.createDirectory(manifestPath, mode: 0o700)
      for bytes in manifests.values {
        let place = "\(manifestPath)/\(Digest.of(bytes).hex)"
        if try !Files.isThere(place) { try Files.replace(place, with: bytes) }
      }
      try Files.replace(path, with: bytes, mode: 0o644)
    }
    _ = try await journal.append(
      AuditDraft(
        run: run, actor: Holder.thisProcess.text, action: "evidence.written", subject: run.text,
        details: [
          "document": .string(Digest.of(bytes).hex), "file": .string(name), "root": .string(evidence.root.hex),
          "records": .integer(Int64(evidence.records.count)), "key": .string(evidence.publicKey.id),
        ]), under: nil)
    return path
  }

  /// Records a point that was taken: of what, how good, and which copies it consists of.
  func record(
    _ point: RecoveryPoint, of act: RecordedAct, in system: ManagedSystem, journal: any RunJournal
  ) async throws(AnyFailure) -> String {
    do {
      var builder = EvidenceBuilder()
      try builder.add(
        kind: "run", subject: act.run.text,
        body: [
          "title": .string("back up \(point.group)"), "state": "succeeded", "failure": .null,
          "catalogDigest": .string(point.catalogDigest.hex), "host": .string(host.name),
          "requestedAt": .string(act.startedAt.description),
        ])
      try builder.add(kind: "point", subject: point.id.text, body: point.evidence(rejected: []))
      for (store, part) in point.stores.sorted(by: { $0.key < $1.key }) {
        try builder.add(kind: "copy", subject: store.text, body: try part.evidence)
      }
      var manifests: [String: [UInt8]] = [:]
      for (path, bytes) in system.loaded.travelling { manifests[path.description] = bytes }
      return try await file(builder, run: act.run, state: .succeeded, manifests: manifests, journal: journal)
    } catch {
      throw AnyFailure(error)
    }
  }

  /// Records a settled restore: what was asked, from what, what was done and checked, and how long it took.
  ///
  /// - Returns: The file. A later record of the same run (a rollback, say) is a file of its own.
  func record(
    _ run: RunRecord, _ input: RestoreInput, _ measured: [ServiceMeasurement], in system: ManagedSystem,
    journal: any RunJournal
  ) async throws(AnyFailure) -> String {
    do {
      var builder = EvidenceBuilder()
      try builder.add(
        kind: "run", subject: run.spec.id.text,
        body: [
          "title": .string(run.spec.title), "state": .string(run.state.rawValue),
          "failure": run.head.failure.map { .string($0.description) } ?? .null,
          "catalogDigest": .string(run.spec.catalogDigest.hex), "planId": .string(input.plan.id),
          "requestedAt": .string(input.requestedAt.description), "host": .string(host.name),
          "fence": .integer(run.head.fence.value),
        ])
      try builder.add(
        kind: "point", subject: input.point.id.text, body: input.point.evidence(rejected: input.rejected))
      for forward in input.forwards {
        try builder.add(
          kind: "log", subject: forward.store.text,
          body: [
            "from": .string(forward.from.description), "through": .string(forward.through.description),
            "target": try JSONValue(encoding: forward.target),
            "time": forward.time.map { .string($0.description) } ?? .null,
          ])
      }
      for store in input.plan.stores {
        guard let part = input.point.stores[store] else { continue }
        try builder.add(kind: "copy", subject: store.text, body: try part.evidence)
      }
      for step in run.spec.steps {
        let known = run.steps[step.id]
        try builder.add(
          kind: "step", subject: step.id.text,
          body: [
            "state": .string((known?.state ?? .pending).rawValue), "attempts": .integer(Int64(known?.attempt ?? 0)),
            "nanoseconds": known?.measurement.map { .integer($0.duration.wholeNanoseconds) } ?? .null,
            "finishedAt": known?.measurement.map { .string($0.finishedAt.description) } ?? .null,
            "failure": known?.failure.map { .string($0.description) } ?? .null,
          ])
      }
      for comparison in run.comparisons {
        try builder.add(
          kind: "comparison", subject: comparison.store.text,
          body: [
            "verdict": .string(comparison.isCompared ? "equal" : "not-compared"),
            "scheme": comparison.scheme.map { .string($0) } ?? .null, "parts": .integer(Int64(comparison.parts)),
            "rows": .integer(comparison.rows),
          ])
      }
      for check in run.checks {
        try builder.add(
          kind: "check", subject: check.name,
          body: [
            "verdict": .string(check.verdict.rawValue), "summary": .string(check.summary),
            "violations": .integer(check.violations),
          ])
      }
      for service in measured {
        func milliseconds(_ seconds: Double?) -> JSONValue {
          seconds.map { .integer(Int64(($0 * 1000).rounded())) } ?? .null
        }
        try builder.add(
          kind: "service", subject: service.service.text,
          body: [
            "rpoMilliseconds": milliseconds(service.rpoSeconds),
            "rpoObjectiveMilliseconds": milliseconds(service.rpoObjectiveSeconds),
            "rpoVerdict": .string(service.rpoVerdict.rawValue), "rtoMilliseconds": milliseconds(service.rtoSeconds),
            "rtoObjectiveMilliseconds": milliseconds(service.rtoObjectiveSeconds),
            "rtoVerdict": .string(service.rtoVerdict.rawValue),
          ])
      }
      return try await file(
        builder, run: run.spec.id, state: run.state, manifests: input.catalogFiles.mapValues { Array($0.utf8) },
        journal: journal)
    } catch {
      throw AnyFailure(error)
    }
  }
}

extension RecoveryPoint {
  fileprivate func evidence(rejected: [RejectedPoint]) -> JSONValue {
    [
      "time": .string(time.description), "mode": .string(mode.rawValue), "pauseNanoseconds": .integer(pauseNanoseconds),
      "remarks": .array(remarks.map { .string($0) }),
      "rejected": .array(rejected.map { ["id": .string($0.id), "why": .string($0.why)] }),
    ]
  }
}

extension StorePoint {
  fileprivate var evidence: JSONValue {
    get throws {
      [
        "snapshot": .string(snapshot), "driver": .string(driver.text),
        "position": .string(capture.position.description), "version": .string(capture.version),
        "bytes": .integer(capture.sizeBytes),
        "contentDigest": .string(try capture.contentDigest.map { try CanonicalJSON.digest($0).hex } ?? "none"),
      ]
    }
  }
}
