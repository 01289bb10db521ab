import Catalog
import Core
import Planning
import Recovery
import StateKit
import Validation

/// What a restore's run was asked for, kept in the journal with everything a resume needs.
package struct RestoreInput: Sendable, Codable {
  package var plan: RestorePlan
  package var point: RecoveryPoint
  package var repository: RepositoryName
  /// The catalog as it was when the plan was made: a resume on another day carries out the same plan.
  package var catalogFiles: [String: String]
  package var rejected: [RejectedPoint]
  package var failedAt: Timestamp?
  package var requestedAt: Timestamp
  /// Where the log is to lead to beyond the point; `nil` ends at the point.
  package var forward: LogForward?
  /// How stores come to the point that it only marks; `nil` as empty.
  package var along: [LogForward]?
  /// How many stores may be copied at the same time, if the caller has a say in it.
  package var copies: Int?
  /// What metrics were; `nil` where there are none.
  package var metrics: MetricContext?

  package var forwards: [LogForward] { (along ?? []) + (forward.map { [$0] } ?? []) }

  /// The moment that is come back to.
  package var targetTime: Timestamp { forward?.time ?? point.time }
}

extension RestorePlan {
  var commitGate: StepID? { steps.first { $0.action == .commit }.flatMap { StepID($0.id) } }

  /// The plan as a durable run.
  ///
  /// Its id is derived from the plan and the moment it was asked for: restoring the same point again later is
  /// another run, resuming is not.
  package func run(_ input: RestoreInput, at now: Timestamp) throws(AnyFailure) -> RunSpec {
    do {
      let id = try RunID.derived(.recovery, from: ["plan": input.plan.id, "at": input.requestedAt.description])
      let last = steps.map(\.priority).max() ?? 0
      let kept = Set(steps.filter { $0.action != .record }.map(\.id))
      let specs = try steps.filter { $0.action != .record }.map { step in
        StepSpec(
          id: try StepID(checked: step.id), kind: step.action.stepKind, title: step.title,
          input: try step.input(in: self),
          dependsOn: Set(try step.dependsOn.filter { kept.contains($0) }.map { try StepID(checked: $0) }),
          priority: last - step.priority, resource: step.action.resource, service: step.service, store: step.store,
          compensates: step.action.isUndone)
      }
      return RunSpec(
        id: id, kind: .recovery,
        title: "restore \(services.map(\.text).joined(separator: ", ")) to \(pointTime.format(fractionDigits: 3))",
        catalogDigest: catalogDigest, input: try JSONValue(encoding: input), steps: specs, onFailure: .rollback,
        exclusiveStores: Set(stores), createdAt: now)
    } catch {
      throw AnyFailure(error)
    }
  }
}

extension StepID {
  init(checked text: String) throws {
    guard let value = StepID(text) else { throw StepError.badValue("plan", "'\(text)' can't be a step's id") }
    self = value
  }
}

extension RestoreAction {
  /// The handler that carries the action out.
  var stepKind: StepKind {
    switch self {
    case .precheck: Precheck.kind
    case .restoreBeside: RestoreBeside.kind
    case .validateBeside: CompareBeside.kind
    case .commit: CommitGate.kind
    case .stopService: StopService.kind
    case .quiesce: Quiesce.kind
    case .stopStore: StopStore.kind
    case .swap: SwapStore.kind
    case .startStore: StartStore.kind
    case .checkInvariants: CheckInvariants.kind
    case .startService: StartService.kind
    case .readyService: AwaitReady.kind
    case .validateService: ValidateService.kind
    case .record: "recovery.record.v1"
    }
  }

  /// The limit an action counts against.
  package var resource: String? {
    switch self {
    case .restoreBeside, .validateBeside: "copy"
    default: nil
    }
  }

  /// Whether a rollback has something to put back.
  var isUndone: Bool {
    switch self {
    case .stopService, .stopStore, .swap, .startStore, .startService: true
    default: false
    }
  }

  init?(kind: StepKind) {
    guard let action = Self.allCases.first(where: { $0.stepKind == kind }) else { return nil }
    self = action
  }
}

extension PlannedStep {
  var title: String {
    switch (service, store) {
    case (_, let store?): "\(action.rawValue) \(store)"
    case (let service?, nil): "\(action.rawValue) \(service)"
    case (nil, nil): action.rawValue
    }
  }

  func input(in plan: RestorePlan) throws -> JSONValue {
    switch action {
    case .precheck: try JSONValue(encoding: Precheck.Input(stores: plan.stores, services: plan.services))
    case .checkInvariants: try JSONValue(encoding: CheckInvariants.Input())
    case .quiesce: try JSONValue(encoding: Quiesce.Input(services: plan.services))
    case .commit, .record: try JSONValue(encoding: Done())
    default:
      if let store {
        try JSONValue(encoding: StoreInput(store))
      } else if let service {
        try JSONValue(encoding: ServiceInput(service))
      } else {
        throw StepError.badValue(action.stepKind, "step \(id) names neither a store nor a service")
      }
    }
  }
}
