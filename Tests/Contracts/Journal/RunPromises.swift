import Core
import StateKit
import Testing

extension JournalPromise {
  func createIsIdempotent(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    let first = try await journal.create(sampleSpec())
    #expect(first.state == .pending)
    #expect(first.steps.count == 3)
    let lease = try await journal.claim("recovery-0001", as: "a", for: .seconds(15))
    try await journal.setState(.running, under: lease)
    // A second try is planned at another time, and its set of dependencies in another order.
    let again = try await journal.create(sampleSpec(createdAt: Timestamp(seconds: 1_900_000_000)))
    #expect(again.state == .running)
    #expect(again.spec.createdAt == first.spec.createdAt)
    let created = try await journal.auditTrail(after: 0, run: nil, limit: 100).filter { $0.action == "run.created" }
    #expect(created.count == 1)
    #expect(try await journal.load("recovery-0001").spec == sampleSpec())
  }

  func otherPlanIsRefused(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    let first = try await journal.create(sampleSpec())
    var other = sampleSpec()
    other.steps[2].input = ["other": true]
    let (recorded, given) = (try first.spec.digest, try other.digest)
    #expect(recorded != given)
    await #expect(throws: JournalError.specMismatch("recovery-0001", recorded: recorded, given: given)) {
      try await journal.create(other)
    }
    #expect(try await journal.load("recovery-0001") == first)
  }

  func senselessPlanIsRefused(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    var circle = sampleSpec()
    circle.steps[0].dependsOn = ["swap"]
    var twin = sampleSpec()
    twin.steps.append(twin.steps[0])
    var loose = sampleSpec()
    loose.steps[1].dependsOn = ["nowhere"]
    for spec in [circle, twin, loose] {
      do {
        try await journal.create(spec)
        Issue.record("a senseless plan was taken")
      } catch JournalError.badSpec(let run, _) {
        #expect(run == spec.id)
      }
    }
    await #expect(throws: JournalError.unknownRun("recovery-0001")) { try await journal.load("recovery-0001") }
  }

  func unknownRunIsNamed(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    let lease = try await begun(journal)
    await #expect(throws: JournalError.unknownRun("nope")) { try await journal.load("nope") }
    await #expect(throws: JournalError.unknownRun("nope")) {
      try await journal.claim("nope", as: "a", for: .seconds(1))
    }
    await #expect(throws: JournalError.unknownStep(lease.run, "nope")) {
      try await journal.recordIntent("nope", attempt: 1, under: lease)
    }
  }

  func attemptsCountOn(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    let first = try await begun(journal)
    try await journal.recordIntent("copy", attempt: 1, under: first)
    for wrong in [1, 3, 0, -1] {
      await #expect(throws: JournalError.self) { try await journal.recordIntent("copy", attempt: wrong, under: first) }
    }
    fixture.time.elapse(.seconds(60))
    let second = try await journal.claim(first.run, as: "b", for: .seconds(15))
    try await journal.recordIntent("copy", attempt: 2, under: second)
    let record = try #require(try await journal.load(first.run).steps["copy"])
    #expect(record.state == .intended)
    #expect(record.attempt == 2)
    #expect(record.fence == second.fence)
    #expect(record.mayHaveActed)
  }

  func outcomeIsKept(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    let lease = try await begun(journal)
    let outcome = StepOutcome.succeeded(
      ["rows": 3, "name": "é ☃", "list": [1, .number(2.5), .null]], sampleMeasurement(bytes: 9))
    try await journal.recordIntent("copy", attempt: 1, under: lease)
    try await journal.recordOutcome("copy", outcome, under: lease)
    let before = try await everything(journal, lease.run)
    try await journal.recordOutcome("copy", outcome, under: lease)
    let after = try await everything(journal, lease.run)
    #expect(after.0 == before.0)
    #expect(after.1 == before.1)
    let record = try #require(after.0.steps["copy"])
    #expect(record.state == .succeeded)
    #expect(record.output == ["rows": 3, "name": "é ☃", "list": [1, .number(2.5), .null]])
    #expect(record.measurement == sampleMeasurement(bytes: 9))
    // Found done without an intent.
    try await journal.recordOutcome("check", .succeeded(.null, sampleMeasurement(foundDone: true)), under: lease)
    #expect(try await journal.load(lease.run).steps["check"]?.state == .succeeded)
  }

  func otherOutcomeIsRefused(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    let lease = try await begun(journal)
    try await journal.recordIntent("copy", attempt: 1, under: lease)
    try await journal.recordOutcome("copy", .succeeded(["rows": 3], sampleMeasurement()), under: lease)
    let before = try await everything(journal, lease.run)
    for other: StepOutcome in [
      .succeeded(["rows": 4], sampleMeasurement()), .failed(sampleFailure), .skipped(reason: "no"),
    ] {
      await #expect(throws: JournalError.self) { try await journal.recordOutcome("copy", other, under: lease) }
    }
    await #expect(throws: JournalError.self) { try await journal.recordIntent("copy", attempt: 2, under: lease) }
    let after = try await everything(journal, lease.run)
    #expect(after.0 == before.0)
    #expect(after.1 == before.1)
  }

  func skipNeedsInnocence(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    let lease = try await begun(journal)
    try await journal.recordIntent("copy", attempt: 1, under: lease)
    await #expect(throws: JournalError.self) {
      try await journal.recordOutcome("copy", .skipped(reason: "x failed"), under: lease)
    }
    try await journal.recordOutcome("check", .skipped(reason: "x failed"), under: lease)
    #expect(try await journal.load(lease.run).steps["check"]?.skipReason == "x failed")
  }

  func compensationNeedsRollback(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    let lease = try await begun(journal)
    try await journal.recordIntent("copy", attempt: 1, under: lease)
    try await journal.recordOutcome("copy", .succeeded(.null, sampleMeasurement()), under: lease)
    await #expect(throws: JournalError.self) { try await journal.recordCompensation("copy", .intended, under: lease) }
    try await journal.setState(.rollingBack, because: sampleFailure, under: lease)
    await #expect(throws: JournalError.self) { try await journal.recordCompensation("copy", .done, under: lease) }
    await #expect(throws: JournalError.self) { try await journal.recordCompensation("swap", .intended, under: lease) }
    await #expect(throws: JournalError.self) { try await journal.recordIntent("check", attempt: 1, under: lease) }
    try await journal.recordCompensation("copy", .intended, under: lease)
    try await journal.recordCompensation("copy", .intended, under: lease)
    try await journal.recordCompensation("copy", .failed(sampleFailure), under: lease)
    #expect(try await journal.load(lease.run).steps["copy"]?.failure == sampleFailure)
    try await journal.recordCompensation("copy", .intended, under: lease)
    try await journal.recordCompensation("copy", .done, under: lease)
    try await journal.recordCompensation("copy", .done, under: lease)
    #expect(try await journal.load(lease.run).steps["copy"]?.state == .compensated)
  }

  func statesFollowTheMap(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    for from in RunState.allCases {
      for to in RunState.allCases where from != to {
        let spec = sampleSpec(RunID(unchecked: "r-\(from.rawValue.lowercased())-\(to.rawValue.lowercased())"))
        try await journal.create(spec)
        let lease = try await journal.claim(spec.id, as: "a", for: .seconds(15))
        for state in path(to: from) { try await journal.setState(state, under: lease) }
        if from.mayBecome(to) {
          try await journal.setState(to, because: sampleFailure, under: lease)
          let record = try await journal.load(spec.id)
          #expect(record.state == to)
          #expect(record.head.failure == sampleFailure)
        } else {
          await #expect(throws: JournalError.illegalTransition(spec.id, from: from, to: to)) {
            try await journal.setState(to, under: lease)
          }
        }
      }
    }
  }

  private func path(to state: RunState) -> [RunState] {
    switch state {
    case .pending: []
    case .running: [.running]
    case .succeeded, .failed, .rollingBack, .abandoned: [.running, state]
    case .rolledBack, .rollbackFailed: [.running, .rollingBack, state]
    case .released: [.running, .succeeded, .released]
    }
  }

  func reopenWaitsAnew(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    let lease = try await begun(journal)
    await #expect(throws: Never.self) { try await journal.reopen(lease) }
    try await journal.recordIntent("copy", attempt: 1, under: lease)
    try await journal.recordOutcome("copy", .failed(sampleFailure), under: lease)
    try await journal.recordOutcome("check", .skipped(reason: "copy failed"), under: lease)
    try await journal.setState(.failed, because: sampleFailure, under: lease)
    try await journal.reopen(lease)
    let record = try await journal.load(lease.run)
    #expect(record.state == .running)
    #expect(record.head.failure == nil)
    #expect(record.steps["copy"]?.state == .intended)
    #expect(record.steps["copy"]?.mayHaveActed == true)
    #expect(record.steps["check"]?.state == .pending)
    try await journal.recordIntent("copy", attempt: 2, under: lease)
  }
}
