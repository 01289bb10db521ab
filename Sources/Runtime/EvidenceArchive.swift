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

  private var keyPath: String { host.path("keys/evidence.key") }
  private var publicKeyPath: String { host.path("keys/evidence.pub") }

  /// The key others verify with; made at first use.
  package func publicKey() async throws(AnyFailure) -> EvidencePublicKey { try await signer().publicKey }

  private func signer() async throws(AnyFailure) -> EvidenceSigner {
    let (keyPath, publicKeyPath, keys, randomness) = (keyPath, publicKeyPath, host.path("keys"), host.randomness)
    do {
      return try await host.pool.run {
        if Files.exists(keyPath) {
          return try EvidenceSigner(privateKeyFile: Secret(try Files.read(keyPath, limitBytes: 1 << 16)))
        }
        let signer = try EvidenceSigner.create(randomness: randomness)
        try Files.createDirectory(keys, mode: 0o700)
        try Files.replace(publicKeyPath, with: Array(signer.publicKey.text.utf8), mode: 0o644)
        try Files.replace(keyPath, with: signer.privateKeyFile.withBytes { Array($0) }, mode: 0o600)
        return signer
      }
    } catch {
      throw AnyFailure(error)
    }
  }

  /// Records a settled restore: what was asked, from what, what was done and checked, and how long it took.
  ///
  /// - Returns: The file. A later record of the same run (a rollback, say) is a file of its own.
  func record(
    _ run: RunRecord, _ input: RestoreInput, _ measured: [ServiceMeasurement], in system: ManagedSystem
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
        kind: "point", subject: input.point.id.text,
        body: [
          "time": .string(input.point.time.description), "mode": .string(input.point.mode.rawValue),
          "pauseNanoseconds": .integer(input.point.pauseNanoseconds),
          "remarks": .array(input.point.remarks.map { .string($0) }),
          "rejected": .array(input.rejected.map { ["id": .string($0.id), "why": .string($0.why)] }),
        ])
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
        try builder.add(
          kind: "copy", subject: store.text,
          body: [
            "snapshot": .string(part.snapshot), "driver": .string(part.driver.text),
            "position": .string(part.capture.position.description), "version": .string(part.capture.version),
            "bytes": .integer(part.capture.sizeBytes),
            "contentDigest": .string(try part.capture.contentDigest.map { try CanonicalJSON.digest($0).hex } ?? "none"),
          ])
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
      let bytes = try builder.sealed(run: run.spec.id.text, by: try await signer()).encoded()
      let path = host.path("evidence/\(run.spec.id)-\(run.state.rawValue).json")
      try await host.pool.run { () throws(SystemFailure) in
        try Files.createDirectory(Files.parent(of: path), mode: 0o700)
        try Files.replace(path, with: bytes, mode: 0o644)
      }
      return path
    } catch {
      throw AnyFailure(error)
    }
  }
}
