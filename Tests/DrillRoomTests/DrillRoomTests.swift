import Catalog
import Core
import Drills
import IO
import Runtime
import TestSupport
import Testing

/// Drills on a bank of real engines, which goes on running beside.
@Suite("Drills", .serialized) struct DrillRoomTests {
  @Test(.timeLimit(.minutes(4))) func `the whole bank comes back, away from the bank`() async throws {
    let drills = DrillBank.document("whole", "  level: system")
    try await DrillBank.with(engines: false, basePort: 18_300, drills: drills) { bank in
      try await bank.point()
      let record = try await bank.runner.run(DrillRunner.Request(bank.drill("whole")))
      #expect(record.verdict == .passed, "\(record)")
      #expect(record.results.count == 5 && record.results.allSatisfy(\.isBack))
      #expect(record.attempts.count >= 5 && record.attempts.allSatisfy { !$0.isReached })
      print(record)
    }
  }
}
