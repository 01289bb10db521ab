import Catalog
import Core
import DriverKit

/// What a command answered.
package struct CommandAnswer: Sendable, Equatable {
  /// The exit status; 128 and more for a signal.
  package var status: Int
  /// Standard output.
  package var output: String

  package init(status: Int, output: String) { (self.status, self.output) = (status, output) }
}

/// What a page answered.
package struct PageAnswer: Sendable, Equatable {
  package var status: Int
  package var body: String

  package init(status: Int, body: String) { (self.status, self.body) = (status, body) }
}

/// What going through a workflow came to.
package struct WorkflowAnswer: Sendable, Equatable {
  /// How many runs counted.
  package var examined: Int64
  /// What was expected and did not hold.
  package var broken: [String]
  /// One line with the figures.
  package var summary: String
  /// It was not gone through, for it would have left something behind where that is not welcome; nobody knows what it would
  /// have come to.
  package var isRefused = false

  package init(examined: Int64, broken: [String], summary: String) {
    (self.examined, self.broken, self.summary) = (examined, broken, summary)
  }
}

/// What checks act on, lent by the wiring, so that this act knows no adapter.
///
/// None of these may take an unknown for an answer: whatever can't be found out is thrown, and becomes
/// ``CheckResult/couldNotCheck(_:)``.
package struct CheckPorts: Sendable {
  package var time: any Timekeeper
  package var driver: @Sendable (StoreName) throws -> any DataStoreDriver
  /// Runs a command to its end, within its own timeout.
  package var execute: @Sendable (Command) async throws -> CommandAnswer
  /// Asks with GET.
  package var get: @Sendable (_ url: String, _ timeout: Duration) async throws -> PageAnswer
  /// Goes through a workflow at its own load.
  package var workflow: @Sendable (WorkflowName) async throws -> WorkflowAnswer

  package init(
    time: any Timekeeper, driver: @escaping @Sendable (StoreName) throws -> any DataStoreDriver,
    execute: @escaping @Sendable (Command) async throws -> CommandAnswer,
    get: @escaping @Sendable (_ url: String, _ timeout: Duration) async throws -> PageAnswer,
    workflow: @escaping @Sendable (WorkflowName) async throws -> WorkflowAnswer = {
      throw CheckError.notAnswerable("nobody here goes through workflow '\($0)'")
    }
  ) {
    (self.time, self.driver, self.execute, self.get) = (time, driver, execute, get)
    self.workflow = workflow
  }
}

/// Carries out the checks a catalog declares, against what is live.
///
/// Nothing is thrown: every check that was asked for gets a report, in the order asked for. Checks run one after
/// another; the memory they take is that of the two largest answers compared.
package struct CheckRunner: Sendable {
  let ports: CheckPorts
  /// How many examples a report carries of each kind of violation.
  let exampleLimit: Int
  /// The most rows one query may answer with; an answer with more is "could not check".
  let rowLimit: Int
  /// How long an invariant's query may take.
  let invariantTimeout: Duration

  package init(
    _ ports: CheckPorts, exampleLimit: Int = 10, rowLimit: Int = 10_000_000, invariantTimeout: Duration = .seconds(300)
  ) {
    self.ports = ports
    self.exampleLimit = max(0, exampleLimit)
    self.rowLimit = max(1, rowLimit)
    self.invariantTimeout = invariantTimeout
  }

  /// What a check came to, and how much it looked at.
  struct Finished {
    var outcome: CheckResult
    var examined: Int64 = 0
  }

  /// Times `body`, and turns whatever it throws into "could not check".
  func report(
    _ kind: CheckReport.Kind, _ name: CheckName, of subject: String, severity: Invariant.Severity = .error,
    _ body: () async throws -> Finished
  ) async -> CheckReport {
    let at = ports.time.now()
    let start = ports.time.monotonicNanoseconds()
    var finished: Finished
    do {
      finished = try await body()
      if case .failed(let violations) = finished.outcome, violations.isEmpty {
        finished.outcome = .couldNotCheck(CheckError.notAnswerable("the check failed and can't say why").report)
      }
    } catch {
      finished = Finished(outcome: .couldNotCheck(AnyFailure(error).report))
    }
    return CheckReport(
      kind: kind, name: name.text, subject: subject, severity: severity, outcome: finished.outcome,
      examined: finished.examined, at: at, durationNanoseconds: ports.time.monotonicNanoseconds() - start)
  }

  /// All rows of a query, or none.
  func rows(_ query: StoreQuery, timeout: Duration) async throws -> QueryResult {
    let driver = try ports.driver(query.store)
    let limit = QueryLimit(rows: rowLimit, timeout: timeout)
    let result = try await ports.time.withTimeLimit(timeout) { try await driver.query(query.query, limit: limit) }
    guard !result.isTruncated else { throw CheckError.truncated(query.store, rows: rowLimit) }
    return result
  }
}
