import Core
import StateKit
import Testing

extension JournalPromise {
  func historyIsMeasured(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    for number in 1...3 {
      let lease = try await begun(journal, sampleSpec(RunID(unchecked: "recovery-\(number)")))
      try await journal.recordIntent("copy", attempt: 1, under: lease)
      let measured = sampleMeasurement(Int64(number), bytes: 10)
      try await journal.recordOutcome("copy", .succeeded(.null, measured), under: lease)
      try await journal.recordOutcome("copy", .succeeded(.null, measured), under: lease)
      try await journal.recordOutcome("check", .succeeded(.null, sampleMeasurement(foundDone: true)), under: lease)
      try await journal.recordIntent("swap", attempt: 1, under: lease)
      try await journal.recordOutcome("swap", .succeeded(.null, sampleMeasurement(50)), under: lease)
    }
    let copies = try await journal.history(HistoryFilter(kind: "test.copy.v1"))
    #expect(copies.map(\.measurement.duration) == [.nanoseconds(3), .nanoseconds(2), .nanoseconds(1)])
    #expect(copies.map(\.run) == ["recovery-3", "recovery-2", "recovery-1"])
    #expect(copies.first?.service == "ledger")
    #expect(copies.first?.store == "ledger-db")
    #expect(copies.first?.measurement.bytes == 10)
    #expect(try await journal.history(HistoryFilter(kind: "test.check.v1")).isEmpty)
    #expect(try await journal.history(HistoryFilter(service: "ledger", store: "ledger-db", limit: 2)).count == 2)
    #expect(try await journal.history(HistoryFilter(store: "other")).isEmpty)
    #expect(try await journal.history(HistoryFilter()).count == 6)
  }

  func listIsNewestFirst(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    #expect(try await journal.list(RunFilter()).isEmpty)
    for number in 1...4 {
      let kind: RunKind = number.isMultiple(of: 2) ? .drill : .recovery
      try await journal.create(sampleSpec(RunID(unchecked: "r-\(number)"), kind: kind, title: "number \(number)"))
      fixture.time.elapse(.seconds(1))
    }
    let lease = try await journal.claim("r-2", as: "a", for: .seconds(15))
    try await journal.setState(.running, under: lease)
    #expect(try await journal.list(RunFilter()).map(\.id) == ["r-4", "r-3", "r-2", "r-1"])
    #expect(try await journal.list(RunFilter(limit: 2)).map(\.title) == ["number 4", "number 3"])
    #expect(try await journal.list(RunFilter(kinds: [.drill])).map(\.id) == ["r-4", "r-2"])
    #expect(try await journal.list(RunFilter(kinds: [.drill], states: [.running])).map(\.id) == ["r-2"])
    #expect(try await journal.list(RunFilter(states: [.running])).first?.head.fence == lease.fence)
    #expect(try await journal.list(RunFilter(states: [])).isEmpty)
  }

  func auditIsChained(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    let lease = try await begun(journal)
    try await journal.recordIntent("copy", attempt: 1, under: lease)
    try await journal.recordOutcome("copy", .succeeded(["rows": 3], sampleMeasurement()), under: lease)
    let note = try await journal.append(
      AuditDraft(actor: "ada", action: "approved", subject: "plan", details: ["ratio": .number(0.5), "n": 1]),
      under: nil)
    try await journal.setState(.failed, because: sampleFailure, under: lease)
    try await journal.release(lease)
    let trail = try await journal.auditTrail(after: 0, run: nil, limit: 100)
    #expect(
      trail.map(\.action) == [
        "run.created", "run.claimed", "run.running", "step.intended", "step.succeeded", "approved", "run.failed",
        "run.released-lease",
      ])
    #expect(trail.map(\.sequence) == Array(1...8))
    try AuditChain.verify(trail)
    #expect(trail[5] == note)
    #expect(trail[4].details["outputDigest"]?.string == (try CanonicalJSON.digest(["rows": 3] as JSONValue)).hex)
    let later = try await journal.auditTrail(after: 3, run: lease.run, limit: 3)
    #expect(later.map(\.action) == ["step.intended", "step.succeeded", "run.failed"])
    for index in trail.indices {
      var forged = trail
      forged[index].actor = "mallory"
      #expect(throws: JournalError.self) { try AuditChain.verify(forged) }
      var cut = trail
      cut.remove(at: index)
      if index < trail.count - 1 { #expect(throws: JournalError.self) { try AuditChain.verify(cut) } }
    }
  }

  func appendNeedsNewestFence(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    let lease = try await begun(journal)
    let draft = AuditDraft(run: lease.run, actor: "a", action: "noted", subject: "x")
    try await journal.append(draft, under: lease)
    try await journal.release(lease)
    await #expect(throws: JournalError.self) { try await journal.append(draft, under: lease) }
    #expect(
      try await journal.auditTrail(after: 0, run: lease.run, limit: 100).filter { $0.action == "noted" }.count == 1)
  }
}
