import Core
import StateKit
import Testing

extension JournalPromise {
  func claimGrowsFence(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    try await journal.create(sampleSpec())
    var last = Fence.none
    for round in 0..<5 {
      let lease = try await journal.claim("recovery-0001", as: Holder("h\(round)"), for: .seconds(15))
      #expect(lease.fence > last)
      last = lease.fence
      if round.isMultiple(of: 2) {
        try await journal.release(lease)
      } else {
        fixture.time.elapse(.seconds(15))
      }
    }
    let head = try await journal.load("recovery-0001").head
    #expect(head.fence == last)
  }

  func claimIsExclusive(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    try await journal.create(sampleSpec())
    let lease = try await journal.claim("recovery-0001", as: "a", for: .seconds(15))
    #expect(lease.expiresAt == fixture.time.now() + .seconds(15))
    for holder: Holder in ["b", "a"] {
      await #expect(throws: JournalError.leaseHeld("recovery-0001", by: "a", until: lease.expiresAt)) {
        try await journal.claim("recovery-0001", as: holder, for: .seconds(15))
      }
    }
    fixture.time.elapse(.nanoseconds(14_999_999_999))
    await #expect(throws: JournalError.self) { try await journal.claim("recovery-0001", as: "b", for: .seconds(15)) }
    fixture.time.elapse(.nanoseconds(1))
    #expect(try await journal.claim("recovery-0001", as: "b", for: .seconds(15)).fence > lease.fence)
  }

  func deadHolderGivesWay(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal { $0 == "dead" }
    try await journal.create(sampleSpec())
    let dead = try await journal.claim("recovery-0001", as: "dead", for: .seconds(1000))
    let heir = try await journal.claim("recovery-0001", as: "heir", for: .seconds(1000))
    #expect(heir.fence > dead.fence)
    await #expect(throws: JournalError.self) { try await journal.claim("recovery-0001", as: "c", for: .seconds(1)) }
  }

  func releaseFreesAtOnce(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    let lease = try await begun(journal)
    try await journal.release(lease)
    await #expect(throws: JournalError.fenced(lease.run, presented: lease.fence, current: lease.fence)) {
      try await journal.recordIntent("copy", attempt: 1, under: lease)
    }
    await #expect(throws: JournalError.self) { try await journal.renew(lease) }
    #expect(try await journal.claim(lease.run, as: "b", for: .seconds(15)).fence > lease.fence)
  }

  func concurrentClaimsHaveOneWinner(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    try await journal.create(sampleSpec())
    for round in 0..<5 {
      let winners = try await withThrowingTaskGroup(of: Lease?.self) { group in
        for contender in 0..<12 {
          group.addTask {
            do {
              return try await journal.claim("recovery-0001", as: Holder("\(round)-\(contender)"), for: .seconds(15))
            } catch JournalError.leaseHeld {
              return nil
            }
          }
        }
        return try await group.reduce(into: [Lease]()) { if let lease = $1 { $0.append(lease) } }
      }
      #expect(winners.count == 1)
      #expect(winners.first?.fence == Fence(Int64(round) + 1))
      fixture.time.elapse(.seconds(15))
    }
  }

  func lowerFenceIsRefused(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    let zombie = try await begun(journal)
    try await journal.recordIntent("copy", attempt: 1, under: zombie)
    fixture.time.elapse(.seconds(15))
    let current = try await journal.claim(zombie.run, as: "b", for: .seconds(15))
    var forged = zombie
    forged.fence = Fence(current.fence.value + 1)
    var impostor = current
    impostor.holder = "a"
    let before = try await everything(journal, zombie.run)
    let changes: [JournalWrite] = [
      .intent("copy", attempt: 2), .outcome("copy", .succeeded(.null, sampleMeasurement())),
      .outcome("copy", .failed(sampleFailure)), .outcome("check", .skipped(reason: "no")),
      .compensation("copy", .intended), .state(.succeeded, because: nil), .state(.running, because: nil), .reopen,
      .release,
    ]
    for lease in [zombie, forged, impostor] {
      for change in changes {
        await #expect(throws: JournalError.fenced(zombie.run, presented: lease.fence, current: current.fence)) {
          try await journal.write(change, under: lease)
        }
      }
      await #expect(throws: JournalError.fenced(zombie.run, presented: lease.fence, current: current.fence)) {
        try await journal.renew(lease)
      }
    }
    let after = try await everything(journal, zombie.run)
    #expect(after.0 == before.0)
    #expect(after.1 == before.1)
    try await journal.recordIntent("copy", attempt: 2, under: current)
  }

  func renewalKeepsClaim(_ fixture: JournalFixture) async throws {
    let journal = try await fixture.journal()
    var lease = try await begun(journal)
    for _ in 0..<3 {
      fixture.time.elapse(.seconds(10))
      lease = try await journal.renew(lease)
      #expect(lease.expiresAt == fixture.time.now() + .seconds(15))
    }
    await #expect(throws: JournalError.self) { try await journal.claim(lease.run, as: "b", for: .seconds(15)) }
    fixture.time.elapse(.seconds(100))
    lease = try await journal.renew(lease)
    await #expect(throws: JournalError.self) { try await journal.claim(lease.run, as: "b", for: .seconds(15)) }
    fixture.time.elapse(.seconds(15))
    let other = try await journal.claim(lease.run, as: "b", for: .seconds(15))
    await #expect(throws: JournalError.fenced(lease.run, presented: lease.fence, current: other.fence)) {
      try await journal.renew(lease)
    }
  }
}
