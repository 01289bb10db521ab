import Catalog
import Core
import IO
import Load
import Recovery
import Runtime
import TestSupport
import Testing

/// Workflows on the bank's real services: live, and in a drill.
@Suite("Workflows in drills", .serialized) struct WorkflowDrillTests {
  private static func workflow(_ port: Int, expect: String) -> String {
    """
    apiVersion: salvor.dev/v1
    kind: Workflow
    metadata: {name: transfer}
    spec:
      effects: writes
      steps:
        - name: transfer
          http:
            url: http://127.0.0.1:\(port)/transfers
            json: '{"from": "a-{{int 1 499}}", "to": "a-{{int 500 999}}", "amount": 7, "customer": "c-{{int 1 9}}"}'
          status: 201
          capture: {id: /id}
          timeout: 30s
        - name: money-is-there
          http: "http://127.0.0.1:\(port)/accounts/a-{{int 1 999}}"
          json: {/balance: {matches: "^[0-9]+$"}}
          timeout: 30s
      load: {users: 6, iterations: 60}
      expect: \(expect)
    ---

    """
  }

  @Test(.timeLimit(.minutes(10)))
  func `transfers under load keep every invariant, and a drill's leave nothing in production`() async throws {
    let port = 18_700
    let documents =
      Self.workflow(port + 4, expect: "{p99: 60s}") + DrillBank.document("whole", "  level: system\n")
    let check = "    - name: transfers-work\n      workflow: transfer\n      timeout: 5m\n"
    try await DrillBank.with(engines: false, basePort: port, drills: documents, check: check) { bank in
      var request = LoadRuns.Request("transfer")
      (request.hasConsent, request.seed) = (true, 3)
      let report = try await LoadRuns(bank.system.catalog, host: bank.system.host).run(request)
      #expect(report.isPassed && report.passed == 60 && report.steps.map(\.passed) == [60, 60], "\(report)")
      let names = Set(bank.system.catalog.invariants.map(\.name))
      let checks = await bank.system.checks.invariants(names)
      #expect(checks.count == names.count && checks.allSatisfy { $0.verdict == .passed }, "\(checks)")
      try await bank.point()

      func transfers() async throws -> String? {
        try await bank.system.driver(of: "accounts-data").query("SELECT count(*) FROM transfers", limit: .init()).rows[
          0][0]
      }
      let before = try await transfers()
      let record = try await bank.runner.run(DrillRunner.Request(bank.drill("whole")))
      #expect(record.verdict == .passed, "\(record.findings)")
      let figures = try #require(record.workflows?.first)
      #expect(figures.hasPrefix("gateway/transfer: 60 runs, 0 % failed, p50 ") && figures.contains("p99"), "\(figures)")
      #expect(try await transfers() == before)

      // On what is live a check doesn't write; it is told, and nobody is rolled back for it.
      let live = await bank.system.checks.validate("gateway").filter { $0.name == "transfers-work" }
      #expect(live.map(\.verdict) == [.warned] && live[0].summary.contains("not gone through"), "\(live)")
      #expect(try await transfers() == before)
    }
  }
}
