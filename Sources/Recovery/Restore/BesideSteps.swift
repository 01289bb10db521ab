import Core
import DriverKit
import StateKit

/// Looks at everything that could stop a restore, before anything is touched, and notes what is running now.
package struct Precheck: Step {
  package static let kind: StepKind = "recovery.precheck.v1"
  package static let retry = RetryPolicy.once

  package struct Input: Codable, Sendable {
    package var stores: [StoreName]
    package var services: [ServiceName]
    package init(stores: [StoreName], services: [ServiceName]) { (self.stores, self.services) = (stores, services) }
  }

  /// What a rollback puts back: who ran, and which stores served, before the run touched anything.
  package struct Output: Codable, Sendable {
    package var running: [ServiceName]
    package var serving: [StoreName]
    /// Of those that ran, the ones whose ready checks passed; `nil` in records of versions that didn't ask.
    package var ready: [ServiceName]?
  }

  let environment: any RestoreEnvironment

  package init(_ environment: any RestoreEnvironment) { self.environment = environment }

  package func probe(_ input: Input, in context: StepContext) async throws -> Output? { nil }

  package func run(_ input: Input, in context: StepContext) async throws -> Output {
    var problems: [Report] = []
    var serving: [StoreName] = []
    for store in input.stores {
      do throws(RecoveryError) {
        let request = try await environment.request(store, in: context)
        let findings = try await environment.with(store) { (driver) async throws(DriverError) in
          try await driver.precheck(request)
        }
        problems += findings.map { $0.report.prefixed("\(store): ") }
      } catch {
        if case .cancelled = error { throw error }
        problems.append(error.report)
      }
      let driver = try environment.driver(of: store)
      do throws(DriverError) {
        _ = try await driver.traits()
        serving.append(store)
      } catch {
        switch error {
        case .cancelled: throw RecoveryError.cancelled
        // It is up, and won't say how it is: after a rollback nobody would know whether to start it.
        case .authenticationFailed, .permissionDenied: problems.append(error.report.prefixed("\(store): "))
        // Nobody listens, or the state is damaged or lost, which is why this restore is run.
        default: break
        }
      }
    }
    var running: [ServiceName] = []
    var ready: [ServiceName] = []
    for service in input.services {
      guard let unit = try environment.unit(of: service) else { continue }
      do throws(ServiceError) {
        let status = try await environment.runner.status(unit)
        if status == .notRunning { continue }
        let isReady = await isReady(unit)
        if isReady { ready.append(service) }
        // Of a service whose process is not ours its checks are all there is to ask.
        if status != .unknown || isReady { running.append(service) }
      } catch {
        problems.append(error.report)
      }
    }
    guard problems.isEmpty else { throw RecoveryError.precheckFailed(problems) }
    return Output(running: running, serving: serving, ready: ready)
  }

  private func isReady(_ unit: ServiceUnit) async -> Bool {
    for check in unit.ready {
      do { try await environment.runner.evaluate(check, of: unit.name) } catch { return false }
    }
    return !unit.ready.isEmpty
  }

  package func verify(_ output: Output, of input: Input, in context: StepContext) async throws {}
}

/// The step most others of one store share: its name.
package struct StoreInput: Codable, Sendable {
  package var store: StoreName
  package init(_ store: StoreName) { self.store = store }
}

/// For steps whose only outcome is that they happened.
package struct Done: Codable, Sendable {
  package init() {}
}

/// Brings a store's copy back beside its live state, at the mark.
package struct RestoreBeside: Step {
  package static let kind: StepKind = "recovery.restore-beside.v1"
  package static let retry = RetryPolicy.exponential(first: .seconds(1), attempts: 3)

  let environment: any RestoreEnvironment

  package init(_ environment: any RestoreEnvironment) { self.environment = environment }

  package func probe(_ input: StoreInput, in context: StepContext) async throws -> RestoredState? { nil }

  package func run(_ input: StoreInput, in context: StepContext) async throws -> RestoredState {
    let request = try await environment.request(input.store, in: context)
    return try await environment.with(input.store) { (driver) async throws(DriverError) in
      try await driver.restoreBeside(request)
    }
  }

  package func verify(_ output: RestoredState, of input: StoreInput, in context: StepContext) async throws {
    let copy = try await environment.copy(of: input.store)
    // Beyond the mark it is the driver that knows how far the log leads.
    guard output.position == copy.capture.position || copy.replay != nil else {
      throw RecoveryError.positionMissed(
        input.store, expected: copy.capture.position.description, found: output.position.description)
    }
  }
}

/// Compares what came back with what was recorded at the mark.
package struct CompareBeside: Step {
  package static let kind: StepKind = "recovery.compare-beside.v1"
  package static let retry = RetryPolicy.exponential(first: .seconds(1), attempts: 2)

  package struct Output: Codable, Sendable {
    /// `false`: nothing was recorded at the mark to compare with. Not a pass; said so in the record.
    package var isCompared: Bool
    package var scheme: String?
    package var parts: Int
    package var rows: Int64
  }

  let environment: any RestoreEnvironment

  package init(_ environment: any RestoreEnvironment) { self.environment = environment }

  package func probe(_ input: StoreInput, in context: StepContext) async throws -> Output? { nil }

  package func run(_ input: StoreInput, in context: StepContext) async throws -> Output {
    let request = try await environment.request(input.store, in: context)
    guard let expected = request.capture.contentDigest else {
      return Output(isCompared: false, scheme: nil, parts: 0, rows: 0)
    }
    let found = try await environment.with(input.store) { (driver) async throws(DriverError) in
      try await driver.digestBeside(request)
    }
    guard let found, found.scheme == expected.scheme else {
      throw RecoveryError.digestDiffers(input.store, parts: ["its scheme (\(found?.scheme ?? "none"))"])
    }
    let differences = found.differences(from: expected)
    guard differences.isEmpty else { throw RecoveryError.digestDiffers(input.store, parts: differences) }
    return Output(
      isCompared: true, scheme: found.scheme, parts: found.parts.count,
      rows: found.parts.values.reduce(0) { $0 + $1.count })
  }

  package func verify(_ output: Output, of input: StoreInput, in context: StepContext) async throws {}
}
