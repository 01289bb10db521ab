import Core
import StateKit
import Testing

/// The sample run, with `ledger-db` to itself.
private func exclusiveSpec(_ id: RunID, stores: Set<StoreName> = ["ledger-db"]) -> RunSpec {
  var spec = sampleSpec(id)
  spec.exclusiveStores = stores.sorted()
  return spec
}

extension JournalPromise {
  func storesHaveOneRun(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal { $0 == "dead" }
    try await journal.create(exclusiveSpec("recovery-a"))
    // Its process may die: it is unfinished all the same.
    let dead = try await journal.claim("recovery-a", as: "dead", for: .seconds(15))
    try await journal.setState(.running, under: dead)
    let taken = JournalError.storesTaken(["ledger-db"], by: "recovery-a")
    await #expect(throws: taken) { try await journal.create(exclusiveSpec("recovery-b")) }
    await #expect(throws: JournalError.unknownRun("recovery-b")) { try await journal.load("recovery-b") }
    try await journal.create(exclusiveSpec("recovery-c", stores: ["web-db"]))
    #expect(try await journal.create(exclusiveSpec("recovery-a")).state == .running, "the same run is no other")
    let heir = try await journal.claim("recovery-a", as: "heir", for: .seconds(15))
    try await journal.setState(.succeeded, under: heir)
    // Settled, but somebody is about to do something with it: to roll it back, say.
    await #expect(throws: taken) { try await journal.create(exclusiveSpec("recovery-b")) }
    try await journal.release(heir)
    try await journal.create(exclusiveSpec("recovery-b"))
    let newer = try await journal.claim("recovery-b", as: "x", for: .seconds(15))
    await #expect(throws: JournalError.storesTaken(["ledger-db"], by: "recovery-b")) {
      try await journal.claim("recovery-a", as: "y", for: .seconds(15))
    }
    try await journal.setState(.running, under: newer)
    try await journal.release(newer)
    // Interrupted: giving up what the older one kept may be what it takes to go on.
    fixture.time.elapse(.seconds(16))
    _ = try await journal.claim("recovery-a", as: "y", for: .seconds(15))
  }

  func readersKeepRunsOut(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal { $0 == "dead" }
    let first = try await journal.reserve(["ledger-db", "files"], as: "reader", for: .seconds(30))
    let second = try await journal.reserve(["ledger-db"], as: "other", for: .seconds(30))
    #expect(first.number != second.number && first.stores == ["files", "ledger-db"])
    try await journal.release(second)
    let read = JournalError.storesRead(["ledger-db"], by: "reader", until: first.expiresAt)
    await #expect(throws: read) { try await journal.create(exclusiveSpec("recovery-a")) }
    #expect(try await journal.list(RunFilter()).isEmpty, "nothing was written down")
    fixture.time.elapse(.seconds(20))
    let renewed = try await journal.renew(first)
    #expect(renewed.expiresAt == fixture.time.now() + .seconds(30))
    fixture.time.elapse(.seconds(20))
    await #expect(throws: JournalError.self) { try await journal.create(exclusiveSpec("recovery-a")) }
    // Not renewed: it lapses, and once somebody has acted on that it can't come back.
    fixture.time.elapse(.seconds(10))
    try await journal.create(exclusiveSpec("recovery-a"))
    await #expect(throws: JournalError.storesLost(["files", "ledger-db"])) { try await journal.renew(renewed) }
    try await journal.release(renewed)
    // Who goes on with a run is kept out likewise, unless the reader is dead.
    fixture.time.elapse(StoreUse.startPeriod)
    _ = try await journal.reserve(["ledger-db"], as: "dead", for: .seconds(1000))
    let lease = try await journal.claim("recovery-a", as: "a", for: .seconds(15))
    try await journal.release(lease)
    let reader = try await journal.reserve(["ledger-db"], as: "reader", for: .seconds(30))
    await #expect(throws: JournalError.self) { try await journal.claim("recovery-a", as: "a", for: .seconds(15)) }
    try await journal.release(reader)
    _ = try await journal.claim("recovery-a", as: "a", for: .seconds(15))
    let trail = try await journal.auditTrail(after: 0, run: nil, limit: 100)
    #expect(trail.count { $0.action == "stores.reserved" } == 4)
    try AuditChain.verify(trail)
  }

  func runsKeepReadersOut(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    let taken = JournalError.storesTaken(["ledger-db"], by: "recovery-a")
    func refused(_ what: Comment) async {
      await #expect(throws: taken, what) { try await journal.reserve(["ledger-db"], as: "r", for: .seconds(30)) }
    }
    func allowed() async throws {
      try await journal.release(journal.reserve(["ledger-db"], as: "r", for: .seconds(30)))
    }
    try await journal.create(exclusiveSpec("recovery-a"))
    await refused("it was written down a moment ago")
    try await journal.release(journal.reserve(["web-db"], as: "r", for: .seconds(30)))
    fixture.time.elapse(StoreUse.startPeriod)
    try await allowed()
    let lease = try await journal.claim("recovery-a", as: "a", for: .seconds(15))
    await refused("it is held")
    try await journal.setState(.running, under: lease)
    try await journal.release(lease)
    try await allowed()
    let again = try await journal.claim("recovery-a", as: "a", for: .seconds(15))
    try await journal.recordIntent("copy", attempt: 1, under: again)
    fixture.time.elapse(.seconds(1000))
    await refused("it was interrupted half-way, however long ago")
    let heir = try await journal.claim("recovery-a", as: "b", for: .seconds(15))
    try await journal.setState(.rollingBack, under: heir)
    try await journal.recordCompensation("copy", .intended, under: heir)
    try await journal.recordCompensation("copy", .done, under: heir)
    try await journal.setState(.rolledBack, under: heir)
    try await journal.release(heir)
    try await allowed()
  }

  func storesGoToOne(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    for round in 0..<5 {
      let winners = try await withThrowingTaskGroup(of: String?.self) { group in
        for number in 0..<6 {
          let id = RunID(unchecked: "recovery-\(round)-\(number)")
          group.addTask {
            do {
              try await journal.create(exclusiveSpec(id))
              return "run"
            } catch JournalError.storesTaken, JournalError.storesRead {
              return nil
            }
          }
          group.addTask {
            do {
              _ = try await journal.reserve(["ledger-db"], as: "reader", for: .seconds(30))
              return "reader"
            } catch JournalError.storesTaken {
              return nil
            }
          }
        }
        return try await group.reduce(into: [String]()) { if let winner = $1 { $0.append(winner) } }
      }
      #expect(winners == ["run"] || (!winners.isEmpty && Set(winners) == ["reader"]), "\(winners)")
      if winners == ["run"] { return }
      fixture.time.elapse(.seconds(30))
    }
  }
}
