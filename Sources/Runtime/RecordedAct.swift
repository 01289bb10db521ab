import Core
import Governance
import IO
import StateKit

/// Something that is done in one go, and on record: what was about to be done before, what came of it after.
///
/// Runs have steps and are on record by them. What ends without an outcome was interrupted: then there is an intent alone.
struct RecordedAct: Sendable {
  let run: RunID
  let startedAt: Timestamp

  /// Carries `body` out between its two entries.
  ///
  /// - Parameters:
  ///   - subject: Such as `backup/bank`.
  ///   - publishes: Whether the log is brought up to date at the end.
  ///   - body: Returns what goes on record with the success.
  /// - Throws: ``JournalError`` if the intent can't be put on record: nothing was done then. Whatever `body` throws.
  static func carryOut<T: Sendable>(
    _ kind: RunKind, _ subject: String, details: JSONValue, host: Machine, journal: any RunJournal,
    publishes: Bool = true, _ body: (RecordedAct) async throws -> (T, JSONValue)
  ) async throws(AnyFailure) -> T {
    do {
      let holder = Holder.thisProcess
      let now = host.time.now()
      let run = try RunID.derived(
        kind,
        from: [
          subject, now.description, holder.text, "\(host.time.monotonicNanoseconds())",
          Hex.encode(host.randomness.bytes(8)),
        ])
      func append(_ action: String, _ details: JSONValue) async throws(JournalError) {
        try await journal.append(
          AuditDraft(run: run, actor: holder.text, action: action, subject: subject, details: details), under: nil)
      }
      try await append("act.intended", details)
      let act = RecordedAct(run: run, startedAt: now)
      let outcome: Result<(T, JSONValue), any Error>
      do { outcome = .success(try await body(act)) } catch { outcome = .failure(error) }
      switch outcome {
      case .success(let result): try await append("act.succeeded", result.1)
      case .failure(let error):
        // What it failed of matters more than that it could not be put on record.
        try? await append("act.failed", ["report": .string(AnyFailure(error).report.description)])
      }
      if publishes { await EvidenceLog(host: host, journal: journal).publishOrWarn() }
      return try outcome.get().0
    } catch {
      throw AnyFailure(error)
    }
  }
}

extension RunKind {
  static let verify: RunKind = "verify"
  static let point: RunKind = "point"
}
