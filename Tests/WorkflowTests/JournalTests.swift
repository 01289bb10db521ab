import Core
import JournalContract
import JournalMemory
import JournalSQLite
import StateKit
import TestSupport
import Testing

@Suite("Journal in memory")
struct MemoryJournalTests {
  @Test(arguments: JournalPromise.allCases)
  func `keeps the contract`(_ promise: JournalPromise) async throws {
    try await promise.check(JournalFixture { time, isGone in MemoryJournal(time: time, isGone: isGone) })
  }
}

@Suite("Journal in SQLite")
struct SQLiteJournalContractTests {
  @Test(arguments: JournalPromise.allCases)
  func `keeps the contract`(_ promise: JournalPromise) async throws {
    let directory = try TemporaryDirectory("journal")
    try await promise.check(
      JournalFixture { time, isGone in
        try await SQLiteJournal.open(directory.file("journal.db"), time: time, isGone: isGone)
      })
  }
}
