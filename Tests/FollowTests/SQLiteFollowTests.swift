import Core
import Foundation
import IO
import TestSupport
import Testing

/// How often what chance has a part in is tried: `SALVOR_LOG_RUNS`.
private let runs = ProcessInfo.processInfo.environment["SALVOR_LOG_RUNS"].flatMap { Int($0) }

@Suite("Following SQLite", .serialized) struct SQLiteFollowTests {
  @Test(.timeLimit(.minutes(5)))
  func `writers and follower killed, the files gone: two seconds are lost at most`() async throws {
    try await SQLiteSite.with { it in
      // With 60s here it must fail.
      try await it.site.follow("--within", ProcessInfo.processInfo.environment["SALVOR_LOG_WITHIN"] ?? "2s")
      try await it.site.salvor("backup", "-q").succeeded()
      try it.startWriting()
      // Another process that does all it can to put the WAL away.
      try it.startWriting(more: "PRAGMA busy_timeout=1; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA busy_timeout=20000;")
      try await Task.sleep(for: .seconds(8))
      it.site.killFollower()
      it.killWriters()
      try it.loseDatabase()
      let acknowledged = it.acknowledged
      try #require(acknowledged.count > 300)
      #expect(!it.site.said.contains("a gap in the log"), "\(it.site.said)")
      let standing = try await it.site.json("rpo").array?.first
      #expect(standing?["state"]?.string == "followed", "\(String(describing: standing))")
      try it.makeRoom()
      try await it.site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      let found = try await it.count()
      let last = try #require(acknowledged.last)
      let lost = acknowledged.first { $0.number > Int64(found) }.map { last.seconds - $0.seconds } ?? 0
      #expect(lost <= 2, "\(lost) seconds of acknowledged work: \(found) of \(last.number)")
      #expect(found > 100)
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `the WAL begins anew many times, and nothing is missed`() async throws {
    try await SQLiteSite.with { it in
      try await it.site.follow()
      try await it.site.salvor("backup", "-q").succeeded()
      var rows = 0
      for round in 1...12 {
        // More than the WAL may have before it is to begin anew.
        try await it.run(
          """
          WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 10000)
          INSERT INTO history (filler) SELECT hex(randomblob(200)) FROM c;
          """)
        rows += 10_000
        if round % 3 == 0 { try await it.run("PRAGMA wal_checkpoint(RESTART)") }
        if round == 5 {
          it.site.killFollower()
          try await it.site.follow()
        }
        // Now and then there is a moment in which all is durable.
        try await Task.sleep(for: .milliseconds(round % 2 == 0 ? 2500 : 100))
      }
      try await it.settle()
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
      let timeline = try await it.site.json("timeline", "shop-log")
      #expect(timeline["gaps"]?.array?.isEmpty == true, "\(timeline)")
      let size = try await it.run("PRAGMA wal_checkpoint(PASSIVE)").split(separator: "|").compactMap { Int($0) }
      #expect(size.count > 1 && size[1] < 8000, "the WAL was put away now and then: \(size)")
      try it.loseDatabase()
      try it.makeRoom()
      try await it.site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      #expect(try await it.count() == rows)
      #expect(try await it.run("PRAGMA integrity_check") == "ok\n")
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `a WAL that was put away while nobody followed is a gap with a name, and a new copy leads on`() async throws {
    try await SQLiteSite.with { it in
      try await it.site.follow()
      try await it.site.salvor("backup", "-q").succeeded()
      for _ in 1...5 { try await it.run("INSERT INTO history DEFAULT VALUES") }
      try await it.settle()
      // Stopped and come back to: the WAL is as it was.
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
      try await it.site.follow()
      try await it.run("INSERT INTO history DEFAULT VALUES")
      try await it.settle()
      #expect(try await it.site.json("timeline", "shop-log")["gaps"]?.array?.isEmpty == true)
      let before = try await it.position()
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
      // The last one to leave puts the WAL into the database file.
      for _ in 1...5 { try await it.run("INSERT INTO history DEFAULT VALUES") }
      try await it.site.follow()
      try await it.run("INSERT INTO history DEFAULT VALUES")
      try await it.settle()
      #expect(it.site.said.contains("a gap in the log"), "\(it.site.said)")
      let broken = try await it.site.json("timeline", "shop-log")
      let gap = try #require(broken["gaps"]?.array?.first, "\(broken)")
      #expect(gap["why"]?.string?.contains("while nobody followed") == true, "\(gap)")
      #expect(broken["unbased"]?.array?.count == 1, "nothing leads to what came after the gap: \(broken)")
      #expect(try await it.site.json("rpo").array?.first?["state"]?.string == "needs-copy")
      let beyond = try await it.site.salvor("restore", "shop", "--lsn", try await it.position(), "--yes", "-q")
      #expect(beyond.status != 0 && beyond.errors.contains("LOG-103"), "\(beyond)")
      try await it.site.salvor("backup", "-q").succeeded()
      for _ in 1...7 { try await it.run("INSERT INTO history DEFAULT VALUES") }
      try await it.settle()
      let mended = try await it.site.json("timeline", "shop-log")
      #expect(mended["unbased"]?.array?.isEmpty == true && mended["gaps"]?.array?.count == 1, "\(mended)")
      #expect(it.site.stopFollowing() == 0)
      try await it.site.restore("--newest")
      #expect(try await it.count() == 19)
      try await it.site.restore("--lsn", before)
      #expect(try await it.count() == 6)
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `a database without a WAL is not followed, and one is followed by one`() async throws {
    try await SQLiteSite.with { it in
      try await it.run("PRAGMA journal_mode=DELETE")
      let ran = try await it.site.salvor("follow")
      #expect(ran.status == 1 && ran.errors.contains("journal mode 'delete'"), "\(ran)")
      try await it.run("PRAGMA journal_mode=WAL")
      try await it.site.follow()
      let second = try PipedProcess(
        [try CommandRun.product("salvor"), "follow"], in: it.site.home.path,
        environment: ["SALVOR_STATE": it.site.home.file("state"), "SALVOR_CATALOG": it.site.home.file("salvor.yaml")])
      try await it.site.until("the second stands back") { second.errors.contains("another process follows it") }
      it.site.killFollower()
      try await it.run("INSERT INTO history DEFAULT VALUES")
      try await it.site.until("the second takes over") { second.errors.contains("durable to") }
      second.kill()
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `any moment and any position comes back as the history says it was`() async throws {
    try await SQLiteSite.with { it in
      try await it.site.follow("--idle", "1s")
      try await it.site.salvor("backup", "-q").succeeded()
      var history: [(rows: Int, position: String, time: Timestamp)] = []
      for number in 1...20 {
        try await it.run("INSERT INTO history DEFAULT VALUES")
        history.append((number, try await it.position(), SystemTime().now()))
        // The WAL is looked at twenty times a second.
        try await Task.sleep(for: .milliseconds(300))
      }
      try await it.settle()
      try await Task.sleep(for: .seconds(4))
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
      for _ in 1...(runs ?? 7) {
        let a = try #require(history.randomElement())
        try await it.site.restore("--lsn", a.position)
        #expect(try await it.count() == a.rows, "\(a)")
        let b = try #require(history.randomElement())
        try await it.site.restore("--to", "\(b.time)")
        let found = try await it.count()
        #expect(found == b.rows || found == b.rows - 1, "exactly \(b.time)")
        try await it.site.restore("--to", "\(b.time + .milliseconds(200))")
        #expect(try await it.count() == b.rows, "after \(b.time)")
      }
      try await it.site.restore("--newest")
      #expect(try await it.count() == 20)
      let late = try await it.site.salvor("restore", "shop", "--to", "2099-01-01T00:00:00Z", "--yes", "-q")
      #expect(late.status != 0 && late.errors.contains("LOG-103"), "\(late)")
    }
  }
}
