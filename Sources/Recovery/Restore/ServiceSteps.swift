import Core
import StateKit

/// The step most others of one service share: its name.
package struct ServiceInput: Codable, Sendable {
  package var service: ServiceName
  package init(_ service: ServiceName) { self.service = service }
}

/// Stops a service. Undone by starting it, if it ran before the run.
package struct StopService: Step {
  package static let kind: StepKind = "recovery.stop-service.v1"
  package static let retry = RetryPolicy.exponential(first: .seconds(1), attempts: 3)

  let environment: any RestoreEnvironment
  let precheck: StepID

  package init(_ environment: any RestoreEnvironment, precheck: StepID) {
    (self.environment, self.precheck) = (environment, precheck)
  }

  package func probe(_ input: ServiceInput, in context: StepContext) async throws -> Done? { nil }

  package func run(_ input: ServiceInput, in context: StepContext) async throws -> Done {
    if let unit = try environment.unit(of: input.service) { try await environment.runner.stop(unit) }
    return Done()
  }

  package func verify(_ output: Done, of input: ServiceInput, in context: StepContext) async throws {
    guard let unit = try environment.unit(of: input.service) else { return }
    if let sign = try await environment.signOfLife(of: unit) {
      throw StepError.verificationFailed(context.step, sign)
    }
  }

  package func compensate(_ input: ServiceInput, output: Done?, in context: StepContext) async throws {
    let before = try context.output(of: precheck, as: Precheck.Output.self)
    guard before.running.contains(input.service), let unit = try environment.unit(of: input.service),
      !unit.start.arguments.isEmpty
    else { return }
    _ = try await environment.runner.start(unit)
    // Who needs it starts next; and a service that worked before and doesn't now is not back. One that didn't work
    // before is as it was.
    guard before.ready?.contains(input.service) == true else { return }
    _ = try await environment.readiness(of: input.service)
  }
}

extension RestoreEnvironment {
  /// - Returns: How it shows that the service runs, as the end of a sentence; `nil` if it doesn't, or nothing can tell.
  fileprivate func signOfLife(of unit: ServiceUnit) async throws(ServiceError) -> String? {
    switch try await runner.status(unit) {
    case .running(let pid): return "process \(pid) still runs"
    case .notRunning: return nil
    case .unknown:
      // Its command said "stopped", and its process is not ours to look at: but whoever answers at its door lives.
      // Other checks may ask about anything, such as a store that serves still.
      for check in unit.ready {
        switch check.probe {
        case .tcp, .http: break
        case .exec, .sql: continue
        }
        do throws(ServiceError) {
          try await runner.evaluate(check, of: unit.name)
          return "its check '\(check.name)' still passes"
        } catch {
          if error == .cancelled { throw error }
        }
      }
      return nil
    }
  }
}

/// The gate between the last stop and the first swap: looks once more that no service runs.
package struct Quiesce: Step {
  package static let kind: StepKind = "recovery.quiesce.v1"
  package static let retry = RetryPolicy.exponential(first: .seconds(1), attempts: 3)

  package struct Input: Codable, Sendable {
    package var services: [ServiceName]
    package init(services: [ServiceName]) { self.services = services }
  }

  let environment: any RestoreEnvironment

  package init(_ environment: any RestoreEnvironment) { self.environment = environment }

  package func probe(_ input: Input, in context: StepContext) async throws -> Done? { nil }

  package func run(_ input: Input, in context: StepContext) async throws -> Done {
    try await context.confirmLease()
    for service in input.services {
      guard let unit = try environment.unit(of: service) else { continue }
      if let sign = try await environment.signOfLife(of: unit) {
        throw StepError.verificationFailed(context.step, "\(service) runs again: \(sign)")
      }
    }
    return Done()
  }

  package func verify(_ output: Done, of input: Input, in context: StepContext) async throws {}
}

/// Starts a service on restored state. Undone by stopping it.
package struct StartService: Step {
  package static let kind: StepKind = "recovery.start-service.v1"
  package static let retry = RetryPolicy.exponential(first: .seconds(1), attempts: 3)

  package struct Output: Codable, Sendable {
    /// `nil` for a service that somebody else starts.
    package var start: ServiceStart?
  }

  let environment: any RestoreEnvironment

  package init(_ environment: any RestoreEnvironment) { self.environment = environment }

  package func probe(_ input: ServiceInput, in context: StepContext) async throws -> Output? { nil }

  package func run(_ input: ServiceInput, in context: StepContext) async throws -> Output {
    guard let unit = try environment.unit(of: input.service), !unit.start.arguments.isEmpty else {
      return Output(start: nil)
    }
    return Output(start: try await environment.runner.start(unit))
  }

  package func verify(_ output: Output, of input: ServiceInput, in context: StepContext) async throws {
    guard output.start != nil, let unit = try environment.unit(of: input.service), unit.mode == .daemon else { return }
    if case .notRunning = try await environment.runner.status(unit) {
      throw StepError.verificationFailed(context.step, "the service is not running")
    }
  }

  package func compensate(_ input: ServiceInput, output: Output?, in context: StepContext) async throws {
    if let unit = try environment.unit(of: input.service) { try await environment.runner.stop(unit) }
  }
}

/// The gate behind which everyone waits who needs this service.
package struct AwaitReady: Step {
  package static let kind: StepKind = "recovery.ready.v1"
  package static let retry = RetryPolicy.once

  package struct Output: Codable, Sendable {
    package var evidence: [ReadyEvidence]
  }

  let environment: any RestoreEnvironment

  package init(_ environment: any RestoreEnvironment) { self.environment = environment }

  package func probe(_ input: ServiceInput, in context: StepContext) async throws -> Output? { nil }

  package func run(_ input: ServiceInput, in context: StepContext) async throws -> Output {
    let evidence = try await environment.readiness(of: input.service)
    for gate in evidence where gate.attempt > 1 {
      context.log("\(input.service): \(gate.check) passed at try \(gate.attempt)")
    }
    return Output(evidence: evidence)
  }

  package func verify(_ output: Output, of input: ServiceInput, in context: StepContext) async throws {}
}

/// Runs a service's own validators.
package struct ValidateService: Step {
  package static let kind: StepKind = "recovery.validate.v1"
  package static let retry = RetryPolicy.exponential(first: .milliseconds(500), attempts: 2)

  package struct Output: Codable, Sendable {
    package var checks: [CheckOutcome]
  }

  let environment: any RestoreEnvironment

  package init(_ environment: any RestoreEnvironment) { self.environment = environment }

  package func probe(_ input: ServiceInput, in context: StepContext) async throws -> Output? { nil }

  package func run(_ input: ServiceInput, in context: StepContext) async throws -> Output {
    let checks = await environment.validate(input.service)
    try checks.requirePassed(input.service.text)
    return Output(checks: checks)
  }

  package func verify(_ output: Output, of input: ServiceInput, in context: StepContext) async throws {}
}

/// Every step of a restore, for the engine's registry.
package func restoreSteps(_ environment: any RestoreEnvironment, precheck: StepID) -> [any StepHandler] {
  [
    Precheck(environment).handler, CommitGate().handler, RestoreBeside(environment).handler,
    CompareBeside(environment).handler,
    StopService(environment, precheck: precheck).handler, Quiesce(environment).handler,
    StopStore(environment, precheck: precheck).handler,
    SwapStore(environment).handler, StartStore(environment).handler, CheckInvariants(environment).handler,
    StartService(environment).handler, AwaitReady(environment).handler, ValidateService(environment).handler,
  ]
}
