import Core
import DriverKit
import IO
import StateKit
import Telemetry

/// What the steps of a restore need from the wiring; one per run, the same again after a crash.
package protocol RestoreEnvironment: Sendable {
  func driver(of store: StoreName) throws(RecoveryError) -> any DataStoreDriver

  /// The store's copy in the chosen point.
  func copy(of store: StoreName) async throws(RecoveryError) -> StoreCopy

  var runner: any ServiceRunner { get }

  /// - Returns: `nil` for a service that somebody else starts.
  func unit(of service: ServiceName) throws(RecoveryError) -> ServiceUnit?

  /// Ready checks of a service, its own unit or not.
  func readiness(of service: ServiceName) async throws(RecoveryError) -> [ReadyEvidence]

  /// Runs the service's validators against what is live.
  func validate(_ service: ServiceName) async -> [CheckOutcome]

  /// Runs every invariant that can be asked now, against what is live.
  func invariants() async -> [CheckOutcome]
}

/// A store's copy, ready to be read.
package struct StoreCopy: Sendable {
  package var source: any TreeSource
  package var capture: CaptureResult
  /// The log to go on with; `nil` ends at the copy's mark.
  package var replay: LogReplay?

  package init(source: any TreeSource, capture: CaptureResult) { (self.source, self.capture) = (source, capture) }

  /// - Parameter open: Called when the copy is first read, if it ever is.
  package init(capture: CaptureResult, open: @escaping @Sendable () async throws(AnyFailure) -> any TreeSource) {
    self.init(source: LazySource(open: open), capture: capture)
  }
}

/// What became of one check, whatever kind it was.
package struct CheckOutcome: Sendable, Equatable, Codable {
  package enum Verdict: String, Sendable, Codable {
    case passed, failed, warned
    /// Never counts as passed.
    case couldNotCheck = "could-not-check"
  }

  package var name: String
  package var verdict: Verdict
  /// One line: what held, or what didn't.
  package var summary: String
  /// How many rows, keys or files break the rule, exactly.
  package var violations: Int64
  /// Counts and examples.
  package var detail: JSONValue

  package init(
    name: String, verdict: Verdict, summary: String, violations: Int64 = 0, detail: JSONValue = .null
  ) {
    (self.name, self.verdict, self.summary) = (name, verdict, summary)
    (self.violations, self.detail) = (violations, detail)
  }

  var isBad: Bool { verdict == .failed || verdict == .couldNotCheck }
}

extension [CheckOutcome] {
  /// - Throws: ``RecoveryError/validationFailed(_:_:)`` unless every check passed, or failed as a mere warning.
  func requirePassed(_ what: String) throws(RecoveryError) {
    guard allSatisfy({ !$0.isBad }) else { throw .validationFailed(what, self) }
  }
}

extension RestoreEnvironment {
  /// - Parameter run: Names the workspace beside the live state, so that a second try finds it.
  func request(_ store: StoreName, in context: StepContext) async throws(RecoveryError) -> RestoreRequest {
    let copy = try await copy(of: store)
    let progress = context.progress
    let total = copy.capture.sizeBytes
    var request = RestoreRequest(id: context.run.text, source: copy.source, capture: copy.capture) { done in
      progress(.init("restore", doneBytes: done, totalBytes: total))
    }
    if let replay = copy.replay {
      request.replay = replay
      // What was recorded at the mark says nothing about a later moment.
      request.capture.contentDigest = nil
    }
    return request
  }

  /// Calls a driver, and says which store it was when that fails.
  func with<T: Sendable>(
    _ store: StoreName, _ body: (any DataStoreDriver) async throws(DriverError) -> T
  ) async throws(RecoveryError) -> T {
    let driver = try driver(of: store)
    do throws(DriverError) { return try await body(driver) } catch {
      if case .cancelled = error { throw .cancelled }
      throw .store(store, error.report)
    }
  }
}
