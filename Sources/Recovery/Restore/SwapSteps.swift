import Core
import DriverKit
import StateKit

/// The gate in the middle: behind it, live state is touched. Nothing to do but to be sure that the run is still ours.
package struct CommitGate: Step {
  package static let kind: StepKind = "recovery.commit.v1"

  package init() {}

  package func probe(_ input: Done, in context: StepContext) async throws -> Done? { nil }

  package func run(_ input: Done, in context: StepContext) async throws -> Done {
    try await context.confirmLease()
    return Done()
  }

  package func verify(_ output: Done, of input: Done, in context: StepContext) async throws {}
}

/// Stops a store's server. Undone by starting it, if it served before the run.
package struct StopStore: Step {
  package static let kind: StepKind = "recovery.stop-store.v1"
  package static let retry = RetryPolicy.exponential(first: .seconds(1), attempts: 3)

  let environment: any RestoreEnvironment
  let precheck: StepID

  package init(_ environment: any RestoreEnvironment, precheck: StepID) {
    (self.environment, self.precheck) = (environment, precheck)
  }

  package func probe(_ input: StoreInput, in context: StepContext) async throws -> Done? { nil }

  package func run(_ input: StoreInput, in context: StepContext) async throws -> Done {
    try await environment.with(input.store) { (driver) async throws(DriverError) in try await driver.stop() }
    return Done()
  }

  package func verify(_ output: Done, of input: StoreInput, in context: StepContext) async throws {}

  package func compensate(_ input: StoreInput, output: Done?, in context: StepContext) async throws {
    let before = try context.output(of: precheck, as: Precheck.Output.self)
    guard before.serving.contains(input.store) else { return }
    try await environment.with(input.store) { (driver) async throws(DriverError) in try await driver.start() }
  }
}

/// Puts the restored state in the place of the live one, which is kept. Undone by swapping back.
package struct SwapStore: Step {
  package static let kind: StepKind = "recovery.swap.v1"
  package static let retry = RetryPolicy.exponential(first: .seconds(1), attempts: 2)

  let environment: any RestoreEnvironment

  package init(_ environment: any RestoreEnvironment) { self.environment = environment }

  package func probe(_ input: StoreInput, in context: StepContext) async throws -> Done? { nil }

  package func run(_ input: StoreInput, in context: StepContext) async throws -> Done {
    let request = try await environment.request(input.store, in: context)
    // Renames can't carry a fence: make sure, right before, that this run is still ours.
    try await context.confirmLease()
    try await environment.with(input.store) { (driver) async throws(DriverError) in try await driver.swapIn(request) }
    return Done()
  }

  package func verify(_ output: Done, of input: StoreInput, in context: StepContext) async throws {}

  package func compensate(_ input: StoreInput, output: Done?, in context: StepContext) async throws {
    var request = try await environment.request(input.store, in: context)
    request.isSwapRecorded = true
    try await context.confirmLease()
    try await environment.with(input.store) { [request] (driver) async throws(DriverError) in
      try await driver.swapOut(request)
    }
  }
}

/// Starts a store's server on the restored state. Undone by stopping it.
package struct StartStore: Step {
  package static let kind: StepKind = "recovery.start-store.v1"
  package static let retry = RetryPolicy.exponential(first: .seconds(1), attempts: 3)

  let environment: any RestoreEnvironment

  package init(_ environment: any RestoreEnvironment) { self.environment = environment }

  package func probe(_ input: StoreInput, in context: StepContext) async throws -> Done? { nil }

  package func run(_ input: StoreInput, in context: StepContext) async throws -> Done {
    try await environment.with(input.store) { (driver) async throws(DriverError) in try await driver.start() }
    return Done()
  }

  package func verify(_ output: Done, of input: StoreInput, in context: StepContext) async throws {
    _ = try await environment.with(input.store) { (driver) async throws(DriverError) in try await driver.traits() }
  }

  package func compensate(_ input: StoreInput, output: Done?, in context: StepContext) async throws {
    try await environment.with(input.store) { (driver) async throws(DriverError) in try await driver.stop() }
  }
}

/// Asks every invariant while the stores serve and no service writes yet.
package struct CheckInvariants: Step {
  package static let kind: StepKind = "recovery.invariants.v1"
  package static let retry = RetryPolicy.once

  package struct Input: Codable, Sendable {
    package init() {}
  }

  package struct Output: Codable, Sendable {
    package var checks: [CheckOutcome]
  }

  let environment: any RestoreEnvironment

  package init(_ environment: any RestoreEnvironment) { self.environment = environment }

  package func probe(_ input: Input, in context: StepContext) async throws -> Output? { nil }

  package func run(_ input: Input, in context: StepContext) async throws -> Output {
    let checks = await environment.invariants()
    try checks.requirePassed("the system")
    return Output(checks: checks)
  }

  package func verify(_ output: Output, of input: Input, in context: StepContext) async throws {}
}
