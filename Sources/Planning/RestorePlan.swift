import Catalog
import Core

/// What a step of a restore does. The order of the cases is the order in which a plan mentions them.
package enum RestoreAction: String, Sendable, Codable, CaseIterable, Comparable {
  /// Checks everything that can be checked before anything is touched: credentials, space, versions, the snapshots.
  case precheck
  /// Brings one store back beside the live one.
  case restoreBeside = "restore-beside"
  /// Lets the engine prove what stands beside, and compares it with what was captured.
  case validateBeside = "validate-beside"
  /// The gate: every store stands validated beside. Up to here nothing live was touched.
  case commit
  case stopService = "stop-service"
  /// The gate: every service is down. So no state is swapped while any of them runs, and a rollback, which goes the same
  /// way backwards, starts none before every state is back.
  case quiesce
  case stopStore = "stop-store"
  /// Puts what stands beside in the place of the live state, which is kept.
  case swap
  case startStore = "start-store"
  /// Asks the invariants of all stores in the plan, before any service may write.
  case checkInvariants = "check-invariants"
  case startService = "start-service"
  /// Waits until the service's probes say yes.
  case readyService = "ready-service"
  case validateService = "validate-service"
  /// Records objective against measured, and signs the evidence.
  case record

  /// The action's place in the order of cases.
  package var rank: Int {
    switch self {
    case .precheck: 0
    case .restoreBeside: 1
    case .validateBeside: 2
    case .commit: 3
    case .stopService: 4
    case .quiesce: 5
    case .stopStore: 6
    case .swap: 7
    case .startStore: 8
    case .checkInvariants: 9
    case .startService: 10
    case .readyService: 11
    case .validateService: 12
    case .record: 13
    }
  }

  package static func < (a: Self, b: Self) -> Bool { a.rank < b.rank }
}

/// One step, and the gate in front of it.
package struct PlannedStep: Sendable, Equatable, Codable {
  /// Such as `swap/ledger-db`; unique in the plan and the same in every plan.
  package var id: String
  package var action: RestoreAction
  package var service: ServiceName?
  package var store: StoreName?
  /// All of these must have succeeded; sorted.
  package var dependsOn: [String]
  /// 0 for the first; each step is in the earliest wave its gates allow.
  package var wave: Int
  /// 1 for the step to begin first among those that may: what most predicted time hangs on.
  package var priority: Int
  /// `nil`: never measured.
  package var predictedSeconds: Double?
  /// Where the prediction is from: `median of 5 runs`, `no history yet`.
  package var basis: String
}

/// How a system, or part of it, comes back: steps, gates, predictions; and why not, where it can't.
package struct RestorePlan: Sendable, Equatable, Codable {
  /// Derived from everything in it, so the same plan has the same name.
  package var id: String
  package var catalogDigest: Digest
  package var pointID: String
  package var pointTime: Timestamp
  /// Sorted.
  package var services: [ServiceName]
  package var stores: [StoreName]
  /// Services that are not in the plan and depend on one that is: they lose it while it is away. Sorted.
  package var disturbed: [ServiceName]
  /// The invariants that are asked: those all of whose stores are in the plan. Sorted.
  package var invariants: [CheckName]
  /// Sorted by wave, then action, then name. Empty if there are refusals.
  package var steps: [PlannedStep]
  package var criticalPath: CriticalPath
  package var predictions: [ServicePrediction]
  /// Anything here, and the plan must not be run.
  package var refusals: [PlanNote]
  package var warnings: [PlanNote]

  package var isRunnable: Bool { refusals.isEmpty && !steps.isEmpty }
}

/// The chain of steps that the whole restore's predicted time hangs on.
package struct CriticalPath: Sendable, Equatable, Codable {
  package var steps: [String]
  /// The sum of what is predicted.
  package var seconds: Double
  /// Steps of it without history, counted as 0.
  package var unknownSteps: Int
}

/// Whether a service is back in time.
package struct ServicePrediction: Sendable, Equatable, Codable {
  package enum Verdict: String, Sendable, Codable {
    case met, missed
    /// A step it waits for was never measured, and what was measured fits.
    case unknown
    /// It has no objective.
    case none
  }

  package var service: ServiceName
  /// From the start of the restore until its validators have passed, within the plan's limits; steps without
  /// history count as 0.
  package var seconds: Double
  /// Every step it waits for has history.
  package var isComplete: Bool
  package var rtoSeconds: Double?
  package var verdict: Verdict

  package init(service: ServiceName, seconds: Double, isComplete: Bool, rtoSeconds: Double?, verdict: Verdict) {
    (self.service, self.seconds, self.isComplete) = (service, seconds, isComplete)
    (self.rtoSeconds, self.verdict) = (rtoSeconds, verdict)
  }
}

/// Something about a plan, with the way out.
package struct PlanNote: Sendable, Equatable, Codable {
  /// `PLAN-1xx` refuses, `PLAN-2xx` warns.
  package var code: String
  package var message: String
  package var remedy: String?

  package init(_ code: String, _ message: String, remedy: String? = nil) {
    (self.code, self.message, self.remedy) = (code, message, remedy)
  }
}

extension PlanNote: CustomStringConvertible {
  package var description: String { "\(code): \(message)" + (remedy.map { " (\($0))" } ?? "") }
}

/// Why a plan must not be run.
package enum PlanError: Failure {
  case refused([PlanNote])

  package var report: Report {
    switch self {
    case .refused(let notes):
      if notes.count == 1, let only = notes.first {
        let report = Report(only.code, only.message).state("nothing was touched")
        return only.remedy.map(report.remedy) ?? report
      }
      return Report(
        "PLAN-100",
        "the plan is refused for \(notes.count) reasons: " + notes.map(\.description).joined(separator: "; ")
      )
      .state("nothing was touched")
    }
  }
}
