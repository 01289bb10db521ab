import Catalog
import Core

/// One drill as it was carried out: what was asked, from what, what was found, and how long it took.
package struct DrillRecord: Sendable, Equatable, Codable {
  package static let format = "salvor.dev/drill/v1"

  package enum Verdict: String, Sendable, Codable {
    /// Everything asked for came back, was checked, and every check passed.
    case passed
    case failed
    /// Nobody can say: it was not begun, not isolated, or not finished. Never a pass.
    case couldNotRun = "could-not-run"
    /// Stopped, by a real incident or a person.
    case aborted
  }

  /// Seconds from one end to the next.
  package struct Times: Sendable, Equatable, Codable {
    /// Until it is known what can be come back to, every byte of it read.
    package var detect: Double?
    /// Until there is a plan.
    package var decide: Double?
    /// Until copies that are only reached over a network lay here; part of `restore`.
    package var fetch: Double?
    /// Until every store serves again.
    package var restore: Double?
    /// What checks took.
    package var validate: Double?
    /// From the stores' serving until the last service said it is ready.
    package var serve: Double?

    package init(
      detect: Double? = nil, decide: Double? = nil, restore: Double? = nil, validate: Double? = nil,
      serve: Double? = nil
    ) {
      (self.detect, self.decide, self.restore) = (detect, decide, restore)
      (self.validate, self.serve) = (validate, serve)
    }

    /// As people say it, in order.
    package var named: [(name: String, seconds: Double?)] {
      [
        ("detect", detect), ("decide", decide), ("fetch", fetch), ("restore", restore), ("validate", validate),
        ("serve", serve),
      ]
    }
  }

  package struct ServiceResult: Sendable, Equatable, Codable {
    package var service: ServiceName
    package var isBack: Bool
    package var rpoSeconds: Double?
    package var rpoObjectiveSeconds: Double?
    package var rtoSeconds: Double?
    package var rtoObjectiveSeconds: Double?
    /// What the plan said before, from earlier runs; `nil` if a step it waits for was never measured.
    package var predictedSeconds: Double?

    package init(service: ServiceName, isBack: Bool) { (self.service, self.isBack) = (service, isBack) }

    package var missesObjective: Bool {
      func missed(_ measured: Double?, _ objective: Double?) -> Bool {
        guard let measured, let objective else { return false }
        return measured > objective
      }
      return missed(rpoSeconds, rpoObjectiveSeconds) || missed(rtoSeconds, rtoObjectiveSeconds)
    }
  }

  package struct StepTime: Sendable, Equatable, Codable {
    package var step: String
    package var service: ServiceName?
    package var store: StoreName?
    package var seconds: Double
    package var bytes: Int64?

    package init(step: String, service: ServiceName?, store: StoreName?, seconds: Double, bytes: Int64?) {
      (self.step, self.service, self.store) = (step, service, store)
      (self.seconds, self.bytes) = (seconds, bytes)
    }
  }

  /// A door of production's that the drill tried, from inside.
  package struct Attempt: Sendable, Equatable, Codable {
    package var door: String
    /// What came of it; `connected` is the one thing it must not be.
    package var result: String
    package var isReached: Bool

    package init(door: String, result: String, isReached: Bool) {
      (self.door, self.result, self.isReached) = (door, result, isReached)
    }
  }

  package struct Point: Sendable, Equatable, Codable {
    package var id: String
    package var time: Timestamp
    package var choice: Drill.Choice
    /// Chance is drawn from it, so that the choice can be made again.
    package var seed: UInt64
    /// How many there were to choose from.
    package var candidates: Int

    package init(id: String, time: Timestamp, choice: Drill.Choice, seed: UInt64, candidates: Int) {
      (self.id, self.time, self.choice, self.seed, self.candidates) = (id, time, choice, seed, candidates)
    }
  }

  package var format = DrillRecord.format
  package var id: String
  package var drill: DrillName
  package var level: Drill.Level
  package var catalogDigest: Digest
  package var host: String
  package var services: [ServiceName]
  package var stores: [StoreName]
  package var startedAt: Timestamp
  package var finishedAt: Timestamp
  package var point: Point?
  /// What was broken on purpose; `nil` is an honest drill.
  package var control: Control?
  package var verdict: Verdict
  package var findings: [DrillFinding]
  package var times = Times()
  package var results: [ServiceResult] = []
  package var steps: [StepTime] = []
  /// How many checks were made, and stores compared with what was recorded at their mark.
  package var checks = 0
  package var compared = 0
  /// Stores of which nothing was recorded to compare with.
  package var notCompared: [StoreName] = []
  /// What going through workflows came to, one line each; `nil` as empty.
  package var workflows: [String]?
  package var attempts: [Attempt] = []
  /// How long a pass is evidence.
  package var provesNanoseconds: Int64

  /// A fault that was planted, and whether Salvor noticed.
  package struct Control: Sendable, Equatable, Codable {
    package enum Outcome: String, Sendable, Codable {
      /// Red, for the fault's own reason.
      case caught
      /// Green under a planted fault.
      case missed
      /// Red, for something else: nobody knows whether the fault would have been seen.
      case otherReason = "other-reason"
      /// There was nothing to break. Says nothing.
      case notApplicable = "not-applicable"
    }

    package var fault: Drill.FaultKind
    package var store: StoreName?
    package var service: ServiceName?
    /// What was done, in so many words.
    package var planted: String
    package var outcome: Outcome

    package init(
      fault: Drill.FaultKind, store: StoreName?, service: ServiceName?, planted: String, outcome: Outcome
    ) {
      (self.fault, self.store, self.service) = (fault, store, service)
      (self.planted, self.outcome) = (planted, outcome)
    }
  }

  package init(
    id: String, drill: Drill, catalogDigest: Digest, host: String, startedAt: Timestamp, verdict: Verdict = .couldNotRun
  ) {
    (self.id, self.drill, level) = (id, drill.name, drill.level)
    (self.catalogDigest, self.host) = (catalogDigest, host)
    (services, stores) = (drill.services, drill.stores)
    (self.startedAt, finishedAt) = (startedAt, startedAt)
    (self.verdict, findings) = (verdict, [])
    provesNanoseconds = drill.proves.wholeNanoseconds
  }

  /// Until when a pass is evidence.
  package var provesUntil: Timestamp { finishedAt + .nanoseconds(provesNanoseconds) }

  package var seconds: Double { max(0, (finishedAt - startedAt).seconds) }
}

/// Something a drill found wrong.
package struct DrillFinding: Sendable, Equatable, Codable {
  /// Where the drill was.
  package enum Stage: String, Sendable, Codable {
    case isolate, open, clock, read, plan, restore, validate, objective
  }

  package var stage: Stage
  /// As in `docs/operating/errors.md`.
  package var code: String
  package var summary: String
  /// Those it is about, as far as that is known.
  package var stores: [StoreName]

  package init(_ stage: Stage, _ report: Report, stores: [StoreName] = []) {
    (self.stage, code, summary, self.stores) = (stage, report.code, report.summary, stores)
  }
}
