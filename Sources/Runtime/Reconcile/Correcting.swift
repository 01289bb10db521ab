import Catalog
import Core
import DriverKit
import Reconciliation
import Recovery
import StateKit
import Subprocess

/// What became of the corrections of one report.
package struct CorrectionOutcome: Sendable, Codable, Equatable {
  package var run: RunID
  package var report: String
  /// Made by this call or an earlier one.
  package var made: Int
  /// Found done, or no longer wrong, when they were looked at again.
  package var settled: Int
  /// Left, for the state was no longer what was seen.
  package var left: [Line]
  package var refused: [Line]
  /// How much was wrong by the same rules, before and after.
  package var before: Int64
  package var after: Int64

  package struct Line: Sendable, Codable, Equatable {
    package var correction: String
    package var key: [String]
    package var why: String
  }
}

extension Reconcile {
  /// Carries out what was proposed for a report, if that is what was reviewed.
  ///
  /// Killed at any moment it goes on where it was: the intent of each correction is on record before it is made, its
  /// outcome after; one with an intent alone is tried again, and does nothing if it was made.
  ///
  /// - Parameter consent: The digest of what was reviewed.
  package func apply(
    _ id: String, consent: String, progress: @escaping @Sendable (String) -> Void = { _ in }
  ) async throws(AnyFailure) -> CorrectionOutcome {
    do {
      let report = try await shelf.report(id)
      guard let proposal = try await shelf.proposal(report.id) else { throw ReconciliationError.notProposed(report.id) }
      guard try proposal.digest().hex == consent, try report.digest().hex == proposal.reportDigest else {
        throw ReconciliationError.otherDigest(consent)
      }
      guard report.isLive else { throw ReconciliationError.notLive(report.source) }
      let lock = try await shelf.lock(report.id)
      defer { withExtendedLifetime(lock) {} }
      let stores = Set(proposal.corrections.map(\.store)).union(report.rules.flatMap { [$0.leftStore, $0.rightStore] })
      let outcome = try await journal.whileReading(stores, time: system.host.time) {
        try await Correcting(reconcile: self, report: report, proposal: proposal, consent: consent).carryOut(progress)
      }
      await EvidenceLog(host: system.host, journal: journal).publishOrWarn()
      return outcome
    } catch { throw AnyFailure(RunsError.of(error)) }
  }
}

/// One application of one proposal.
struct Correcting: Sendable {
  let reconcile: Reconcile
  let report: ReconciliationReport
  let proposal: Proposal
  let consent: String

  private var system: ManagedSystem { reconcile.system }
  private var journal: any RunJournal { reconcile.journal }
  private var subject: String { "reconcile/\(report.id)" }

  /// So many changes share an intent and an outcome on record; a program has both to itself.
  private static let batch = 32

  private struct Effect: Sendable {
    var word: String
    var why: String = ""
  }

  func carryOut(_ progress: @escaping @Sendable (String) -> Void) async throws -> CorrectionOutcome {
    let run = try RunID.derived(.reconcile, from: [report.id, consent])
    var effects = try await earlier(run)
    try await append(
      run, "act.intended",
      [
        "consent": .string(consent), "corrections": .integer(Int64(proposal.corrections.count)),
        "done": .integer(Int64(effects.count)),
      ])
    do {
      let before = try await compare(progress)
      let wrong = Set(try before.findings.map { try CanonicalJSON.digest($0.identity) })
      var rest = proposal.corrections.filter { effects[$0.id] == nil }[...]
      while !rest.isEmpty {
        let batch = Self.batch(of: rest)
        rest = rest.dropFirst(batch.count)
        progress("\(proposal.corrections.count - rest.count) of \(proposal.corrections.count) corrections")
        try await append(run, "correction.intended", ["corrections": .array(batch.map { .string($0.id) })])
        var outcome: [String: JSONValue] = [:]
        for correction in batch {
          let isWrong = wrong.contains(try CanonicalJSON.digest(correction.about))
          let effect = try await make(correction, isWrong: isWrong)
          effects[correction.id] = effect
          outcome[correction.id] = .array([.string(effect.word), .string(effect.why)])
        }
        try await append(run, "correction.finished", .object(outcome))
      }
      let after = try await compare(progress)
      let result = outcome(run, effects, before: before.found, after: after.found)
      try await append(
        run, "act.succeeded",
        [
          "made": .integer(Int64(result.made)), "settled": .integer(Int64(result.settled)),
          "left": .integer(Int64(result.left.count)), "refused": .integer(Int64(result.refused.count)),
          "before": .integer(result.before), "after": .integer(result.after),
        ])
      return result
    } catch {
      let failure = AnyFailure(error)
      try? await append(run, "act.failed", ["report": .string(failure.report.description)])
      if failure.isCancellation { throw failure }
      throw ReconciliationError.unfinished(report.id, failure.report)
    }
  }

  private static func batch(of rest: ArraySlice<Correction>) -> [Correction] {
    func isProgram(_ correction: Correction) -> Bool { if case .run = correction.action { true } else { false } }
    guard let first = rest.first, !isProgram(first) else { return Array(rest.prefix(1)) }
    return Array(rest.prefix(batch).prefix { !isProgram($0) })
  }

  private func append(_ run: RunID, _ action: String, _ details: JSONValue) async throws {
    try await journal.append(
      AuditDraft(run: run, actor: Holder.thisProcess.text, action: action, subject: subject, details: details),
      under: nil)
  }

  /// What earlier tries put on record as made.
  private func earlier(_ run: RunID) async throws -> [String: Effect] {
    var effects: [String: Effect] = [:]
    var sequence: Int64 = 0
    while true {
      let page = try await journal.auditTrail(after: sequence, run: run, limit: 1024)
      guard let last = page.last else { return effects }
      sequence = last.sequence
      for entry in page where entry.action == "correction.finished" {
        for (id, value) in entry.details.object ?? [:] {
          let parts = (value.array ?? []).compactMap(\.string)
          // What was left or refused may be otherwise by now, and is tried again.
          if parts.count == 2, ["made", "settled"].contains(parts[0]) {
            effects[id] = Effect(word: parts[0], why: parts[1])
          }
        }
      }
    }
  }

  /// By the same rules as the report, over everything: before and after are comparable.
  private func compare(_ progress: @escaping @Sendable (String) -> Void) async throws -> ReconciliationReport {
    var request = Reconcile.Request()
    (request.from, request.to) = (report.window?.from, report.window?.to)
    request.limit = .max
    let subjects = try reconcile.subjects(Set(report.rules.map(\.rule.text)))
    return try await reconcile.compareNow(subjects, request, id: report.id, progress)
  }

  private func make(_ correction: Correction, isWrong: Bool) async throws -> Effect {
    switch correction.action {
    case .change(let change):
      guard let corrector = try system.driver(of: correction.store).corrector() else {
        return Effect(word: "refused", why: "this store can't be corrected by its driver")
      }
      switch try await corrector.make(change) {
      case .changed: return Effect(word: "made")
      case .left(let why): return isWrong ? Effect(word: "left", why: why) : Effect(word: "settled")
      case .refused(let why): return Effect(word: "refused", why: why)
      }
    case .run(let command, let input):
      // Whether a program has done its work, only the stores can tell.
      guard isWrong else { return Effect(word: "settled") }
      let answer = try await execute(
        command, system.host.secrets, input: Array((input + "\n").utf8),
        adding: ["SALVOR_CORRECTION": correction.id])
      return answer.status == 0
        ? Effect(word: "made") : Effect(word: "refused", why: "the program ended with status \(answer.status)")
    }
  }

  private func outcome(
    _ run: RunID, _ effects: [String: Effect], before: Int64, after: Int64
  ) -> CorrectionOutcome {
    func lines(_ word: String) -> [CorrectionOutcome.Line] {
      proposal.corrections.compactMap { correction in
        guard let effect = effects[correction.id], effect.word == word else { return nil }
        return .init(correction: correction.id, key: correction.about.key, why: effect.why)
      }
    }
    func count(_ word: String) -> Int { effects.values.count { $0.word == word } }
    return CorrectionOutcome(
      run: run, report: report.id, made: count("made"), settled: count("settled"), left: lines("left"),
      refused: lines("refused"), before: before, after: after)
  }
}
