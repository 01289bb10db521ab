import Core
import IO
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

@Suite("Following what PostgreSQL archives", .serialized) struct ArchiveFollowTests {
  @Test(.timeLimit(.minutes(10)))
  func `what the server was told is archived outlives server, follower and disk`() async throws {
    try await FollowSite.with(archiving: true) { site in
      try await site.archive()
      try site.startWriting()
      // A capture waits for no segment; following begins with the first that is whole.
      try await site.until("work is done") { site.acknowledged.count >= 20 }
      try await site.server.sql("SELECT pg_switch_wal()")
      try await site.follow()
      try await site.salvor("backup", "-q").succeeded()
      var kept = 0
      for _ in 1...4 {
        let before = site.acknowledged.count
        let segment = try await site.server.sql("SELECT pg_walfile_name(pg_switch_wal())")
        try await site.until("\(segment) is archived") {
          try await site.server.sql("SELECT last_archived_wal >= '\(segment)' FROM pg_stat_archiver") == "t"
        }
        kept = before
      }
      site.follower?.kill()
      try site.loseServer()
      try await site.endWriting()
      try #require(kept > 20)
      try await site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      let found = try await site.numbers()
      #expect(found == Array(1...Int64(found.count)), "what came back has no hole in it")
      #expect(found.count >= kept, "\(found.count) of \(kept)")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `while the repository is away the server gives nothing up, and afterwards all of it is taken at once`()
    async throws
  {
    try await FollowSite.with(archiving: true) { site in
      try await site.archive()
      try await site.server.sql("INSERT INTO history DEFAULT VALUES", "SELECT pg_switch_wal()")
      try await site.follow()
      try await site.salvor("backup", "-q").succeeded()
      try await site.settle()
      try await site.until("the server knows") { try await site.archivedCount() > 0 }
      let (place, away) = (site.home.file("vault"), site.home.file("away"))
      try Files.rename(place, to: away)
      let before = try await site.server.sql("SELECT pg_walfile_name(pg_switch_wal())")
      for _ in 1...12 {
        try await site.server.sql("INSERT INTO history SELECT FROM generate_series(1, 50)", "SELECT pg_switch_wal()")
      }
      try await Task.sleep(for: .seconds(3))
      let last = try await site.server.sql("SELECT last_archived_wal FROM pg_stat_archiver")
      #expect(last <= before, "\(last) can't be durable")
      try Files.rename(away, to: place)
      try await site.settle()
      let count = try await site.server.sql("SELECT pg_walfile_name(pg_switch_wal())")
      try await site.until("everything is archived") {
        try await site.server.sql("SELECT last_archived_wal >= '\(count)' FROM pg_stat_archiver") == "t"
      }
      // Answers that nobody waits for any more go.
      try await site.until("the directory is tidy") {
        try Files.names(in: try #require(site.archived).file("shop-db")).count <= 2
      }
      #expect(site.stopFollowing() == 0, "\(site.follower?.errors ?? "")")
      try site.loseServer()
      try await site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      #expect(try await site.server.sql("SELECT count(*) FROM history") == "601")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `restarts of both, and a new timeline, leave no gap, and any moment comes back`() async throws {
    try await FollowSite.with(archiving: true) { site in
      try await site.archive()
      try await site.server.sql("SELECT pg_switch_wal()")
      try await site.follow()
      try await site.salvor("backup", "-q").succeeded()
      try await site.server.sql("INSERT INTO history SELECT FROM generate_series(1, 100)")
      site.follower?.kill()
      try await site.server.sql("INSERT INTO history SELECT FROM generate_series(1, 100)", "SELECT pg_switch_wal()")
      try await site.follow()
      try site.killServer()
      try await site.server.start()
      try await site.server.sql("INSERT INTO history SELECT FROM generate_series(1, 100)")
      let moment = try await site.server.sql(
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
      try await Task.sleep(for: .milliseconds(50))
      try await site.server.sql("INSERT INTO history SELECT FROM generate_series(1, 7)")
      try await site.settle()
      // It is promoted: a new timeline, which begins in the middle of a segment.
      try await site.server.sql("INSERT INTO history SELECT FROM generate_series(1, 13)")
      try await site.server.stop()
      try Files.replace(site.server.data + "/standby.signal", with: [])
      if let owner = PostgreSQLServer.owner { chown(site.server.data + "/standby.signal", owner.userID, owner.groupID) }
      try await site.server.start()
      try await site.server.sql("SELECT pg_promote()")
      try await site.server.sql("INSERT INTO history SELECT FROM generate_series(1, 80)")
      #expect(try await site.server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())").hasPrefix("00000002"))
      try await site.settle()
      try await site.until("the history is archived too") {
        let waiting = try Files.names(in: site.server.data + "/pg_wal/archive_status").map(\.lossyText)
        return !waiting.contains { $0.hasSuffix(".ready") }
      }
      #expect(site.stopFollowing() == 0, "\(site.follower?.errors ?? "")")
      let timeline = try await site.json("timeline", "shop-db")
      #expect(timeline["gaps"]?.array?.isEmpty == true, "\(timeline)")
      try site.loseServer()
      try await site.salvor("restore", "shop", "--to", moment, "--yes", "-q").succeeded()
      #expect(try await site.server.sql("SELECT count(*) FROM history") == "300")
      try await site.salvor("run", "release", "latest", "--yes").succeeded()
      try site.loseServer()
      try await site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      #expect(try await site.server.sql("SELECT count(*) FROM history") == "400")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `log that the server threw away is a gap with a name`() async throws {
    try await FollowSite.with(archiving: true) { site in
      try await site.archive()
      try await site.server.sql("INSERT INTO history DEFAULT VALUES", "SELECT pg_switch_wal()")
      try await site.follow()
      try await site.settle()
      #expect(site.stopFollowing() == 0)
      // Somebody has it thrown away.
      try await site.server.sql("ALTER SYSTEM SET archive_command = '/bin/true'", "SELECT pg_reload_conf()")
      for _ in 1...3 {
        try await site.server.sql("INSERT INTO history DEFAULT VALUES", "SELECT pg_switch_wal()")
      }
      try await site.until("the queue is empty") {
        let waiting = try Files.names(in: site.server.data + "/pg_wal/archive_status").map(\.lossyText)
        return !waiting.contains { $0.hasSuffix(".ready") }
      }
      // Two checkpoints: the one before the last needs its log.
      for _ in 1...3 {
        try await site.server.sql("INSERT INTO history DEFAULT VALUES", "SELECT pg_switch_wal()", "CHECKPOINT")
      }
      try await site.archive()
      try await site.server.sql("INSERT INTO history DEFAULT VALUES", "SELECT pg_switch_wal()")
      try await site.follow()
      #expect(site.follower?.errors.contains("any more") == true, "\(site.follower?.errors ?? "")")
      try await site.salvor("backup", "-q").succeeded()
      try await site.server.sql("INSERT INTO history DEFAULT VALUES")
      try await site.settle()
      #expect(site.stopFollowing() == 0)
      let timeline = try await site.json("timeline", "shop-db")
      #expect(timeline["gaps"]?.array?.count == 1, "\(timeline)")
      try site.loseServer()
      try await site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      #expect(try await site.server.sql("SELECT count(*) FROM history") == "9")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a directory that is another store's, or that others may write to, answers nobody`() async throws {
    try await FollowSite.with(archiving: true) { site in
      let place = try #require(site.archived).file("shop-db")
      try await site.server.sql("SELECT pg_switch_wal()")
      try Files.createDirectory(place, mode: 0o755)
      chmod(place, 0o777)
      let open = try await site.salvor("follow")
      #expect(open.status == 1 && open.errors.contains("nobody else writes"), "\(open.errors)")
      chmod(place, 0o755)
      try Files.replace("\(place)/salvor-archive", with: Array("other-db 7\n".utf8), mode: 0o644)
      let others = try await site.salvor("follow")
      #expect(others.status == 1 && others.errors.contains("another store's"), "\(others.errors)")
      try Files.removeTree(place)
      // An answer of an earlier process is none: nobody knows what repository it meant.
      try await site.archive()
      try Files.createDirectory(place, mode: 0o755)
      let segment = try await site.server.sql("SELECT pg_walfile_name(pg_switch_wal())")
      try Files.replace("\(place)/0000000100000000000000FF", with: [], mode: 0o644)
      try await site.follow()
      #expect(!Files.exists("\(place)/0000000100000000000000FF"), "\(segment)")
    }
  }
}
