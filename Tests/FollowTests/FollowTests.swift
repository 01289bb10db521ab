import Core
import Foundation
import IO
import TestSupport
import Testing

/// How often what chance has a part in is tried: `SALVOR_LOG_RUNS`.
private let runs = ProcessInfo.processInfo.environment["SALVOR_LOG_RUNS"].flatMap { Int($0) }

@Suite("Following PostgreSQL", .serialized) struct FollowTests {
  @Test(.timeLimit(.minutes(5)))
  func `server and follower killed, the disk gone: two seconds are lost at most`() async throws {
    try await FollowSite.with { site in
      // With 60s here it must fail.
      try await site.follow("--within", ProcessInfo.processInfo.environment["SALVOR_LOG_WITHIN"] ?? "2s")
      try await site.salvor("backup", "-q").succeeded()
      try site.startWriting()
      let load = try PipedProcess(
        [
          "bash", "-c",
          "pgbench -i -s 2 -q \"$0\" && pgbench -c 2 -T 60 -n \"$0\"",
          "host=127.0.0.1 port=\(site.server.port) user=\(PostgreSQLServer.user) dbname=postgres",
        ],
        environment: [
          "PGPASSWORD": PostgreSQLServer.password,
          "PATH": Files.parent(of: try PostgreSQLServer.program("pgbench")) + ":/usr/local/bin:/usr/bin:/bin",
        ])
      try await Task.sleep(for: .seconds(8))
      site.follower?.kill()
      try site.loseServer()
      try await site.endWriting()
      load.kill()
      let acknowledged = site.acknowledged
      try #require(acknowledged.count > 300)
      let standing = try await site.json("rpo").array?.first
      #expect(standing?["state"]?.string == "followed", "\(String(describing: standing))")
      try await site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      let found = try await site.numbers()
      #expect(found == Array(1...Int64(found.count)), "what came back has no hole in it")
      let last = try #require(acknowledged.last)
      let lost = acknowledged.first { $0.number > Int64(found.count) }.map { last.seconds - $0.seconds } ?? 0
      #expect(lost <= 2, "\(lost) seconds of acknowledged work: \(found.count) of \(last.number)")
      #expect(found.count > 100)
    }
  }

  @Test(.timeLimit(.minutes(60)))
  func `where commits wait for the follower none is lost`() async throws {
    for round in 1...(runs ?? 2) {
      try await FollowSite.with { site in
        try await site.follow("--within", "100ms")
        try await site.salvor("backup", "-q").succeeded()
        try await site.server.sql(
          "ALTER SYSTEM SET synchronous_standby_names = 'salvor_shop_db'", "SELECT pg_reload_conf()")
        try await site.until("commits wait") {
          try await site.server.sql(
            "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'salvor_shop_db'")
            == "sync"
        }
        try site.startWriting()
        try await site.until("work is done") { site.acknowledged.count >= 20 }
        try await Task.sleep(for: .milliseconds(Int.random(in: 0...1500)))
        site.follower?.kill()
        try site.loseServer()
        try await site.endWriting()
        let acknowledged = site.acknowledged
        try await site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
        let found = Set(try await site.numbers())
        let lost = acknowledged.filter { !found.contains($0.number) }
        #expect(lost.isEmpty, "round \(round): \(lost.count) of \(acknowledged.count)")
      }
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `restarts of both, and a new timeline, leave no gap`() async throws {
    try await FollowSite.with { site in
      try await site.follow()
      try await site.salvor("backup", "-q").succeeded()
      try await site.server.sql("INSERT INTO history SELECT FROM generate_series(1, 100)")
      // The follower dies in the middle; what it had not written, it gets again.
      site.follower?.kill()
      try await site.server.sql("INSERT INTO history SELECT FROM generate_series(1, 100)", "SELECT pg_switch_wal()")
      try await site.follow()
      // The server dies, and comes back on its own disk.
      try site.killServer()
      try await site.server.start()
      try await site.server.sql("INSERT INTO history SELECT FROM generate_series(1, 100)")
      try await site.settle()
      // It is promoted: a new timeline.
      try await site.server.stop()
      try Files.replace(site.server.data + "/standby.signal", with: [])
      if let owner = PostgreSQLServer.owner { chown(site.server.data + "/standby.signal", owner.userID, owner.groupID) }
      try await site.server.start()
      try await site.server.sql("SELECT pg_promote()")
      try await site.server.sql("INSERT INTO history SELECT FROM generate_series(1, 100)")
      #expect(try await site.server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())").hasPrefix("00000002"))
      try await site.settle()
      #expect(site.stopFollowing() == 0, "\(site.follower?.errors ?? "")")
      let timeline = try await site.json("timeline", "shop-db")
      #expect(timeline["gaps"]?.array?.isEmpty == true, "\(timeline)")
      try site.loseServer()
      try await site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      #expect(try await site.server.sql("SELECT count(*) FROM history") == "400")
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `log that the server threw away is a gap with a name, and a new copy leads on`() async throws {
    try await FollowSite.with { site in
      try await site.follow()
      try await site.salvor("backup", "-q").succeeded()
      try await site.server.sql("INSERT INTO history SELECT FROM generate_series(1, 100)")
      try await site.settle()
      #expect(site.stopFollowing() == 0)
      try await site.server.sql("SELECT pg_drop_replication_slot('salvor_shop_db')")
      for _ in 1...3 {
        try await site.server.sql(
          "INSERT INTO history SELECT FROM generate_series(1, 20000)", "SELECT pg_switch_wal()", "CHECKPOINT")
      }
      try await site.follow()
      try await site.settle()
      #expect(site.follower?.errors.contains("a gap in the log") == true, "\(site.follower?.errors ?? "")")
      let broken = try await site.json("timeline", "shop-db")
      let gap = try #require(broken["gaps"]?.array?.first, "\(broken)")
      #expect(gap["why"]?.string?.contains("removed") == true, "\(gap)")
      #expect(broken["unbased"]?.array?.count == 1, "nothing leads to what came after the gap: \(broken)")
      #expect(try await site.json("rpo").array?.first?["state"]?.string == "needs-copy")
      try await site.salvor("backup", "-q").succeeded()
      try await site.server.sql("INSERT INTO history SELECT FROM generate_series(1, 7)")
      try await site.settle()
      let mended = try await site.json("timeline", "shop-db")
      #expect(mended["unbased"]?.array?.isEmpty == true && mended["gaps"]?.array?.count == 1, "\(mended)")
      try site.loseServer()
      _ = site.stopFollowing()
      try await site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      #expect(try await site.server.sql("SELECT count(*) FROM history") == "60107")
      // From before the gap nothing leads beyond it.
      let first = try #require(mended["reaches"]?.array?.first)
      #expect(
        first["toTime"]?.string.flatMap { Timestamp($0) } ?? Timestamp(seconds: 0)
          < gap["beforeTime"]?.string.flatMap { Timestamp($0) } ?? .init(seconds: 0), "\(mended)")
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `a server that was brought back to an earlier state and went on past the end is noticed`() async throws {
    try await FollowSite.with { site in
      try await site.follow()
      try await site.salvor("backup", "-q").succeeded()
      try await site.server.stop()
      let earlier = site.home.file("earlier")
      _ = try await CommandRun(["cp", "-a", site.server.data, earlier]).succeeded()
      try await site.server.start()
      try await site.server.sql("INSERT INTO history SELECT FROM generate_series(1, 100)")
      try await site.settle()
      #expect(site.stopFollowing() == 0)
      // As a virtual machine is that is set back: the same cluster, the same timeline.
      try site.loseServer()
      _ = try await CommandRun(["cp", "-a", earlier, site.server.data]).succeeded()
      try await site.server.start()
      try await site.server.sql("INSERT INTO history (filler) SELECT 'another' FROM generate_series(1, 5000)")
      try await site.follow()
      try await site.until("a gap is named") {
        site.follower?.errors.contains("brought back to an earlier state") == true
      }
      try await site.settle()
      let timeline = try await site.json("timeline", "shop-db")
      #expect(timeline["gaps"]?.array?.count == 1 && timeline["unbased"]?.array?.count == 1, "\(timeline)")
      #expect(site.stopFollowing() == 0)
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `a repository that is away for a while is waited for, and nothing is missing`() async throws {
    try await FollowSite.with { site in
      try await site.follow()
      try await site.salvor("backup", "-q").succeeded()
      try site.startWriting()
      try await site.until("work is done") { site.acknowledged.count >= 50 }
      let (vault, away) = (site.home.file("vault"), site.home.file("away"))
      try #require(rename(vault, away) == 0)
      try await site.until("it is told") { site.follower?.errors.contains("warning") == true }
      let before = site.acknowledged.count
      try await site.until("work goes on") { site.acknowledged.count >= before + 200 }
      #expect(site.follower?.isRunning == true, "\(site.follower?.errors ?? "")")
      try #require(rename(away, vault) == 0)
      try await site.settle()
      #expect(site.stopFollowing() == 0, "\(site.follower?.errors ?? "")")
      let timeline = try await site.json("timeline", "shop-db")
      #expect(timeline["gaps"]?.array?.isEmpty == true && timeline["unbased"]?.array?.isEmpty == true, "\(timeline)")
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `a prune has its turn while the log is followed, and leaves no gap`() async throws {
    try await FollowSite.with { site in
      try await site.follow()
      try await site.salvor("backup", "-q").succeeded()
      try site.startWriting()
      try await site.salvor("backup", "-q").succeeded()
      try await site.vault("forget", "--keep-last", "1", "--prune", "--max-unused", "0").succeeded()
      try await site.vault("check", "--read-data").succeeded()
      try await site.until("work goes on") { site.acknowledged.count >= 200 }
      try await site.settle()
      #expect(site.follower?.errors.contains("standing back") == true, "\(site.follower?.errors ?? "")")
      #expect(site.stopFollowing() == 0)
      let timeline = try await site.json("timeline", "shop-db")
      #expect(timeline["gaps"]?.array?.isEmpty == true && timeline["reaches"]?.array?.count == 1, "\(timeline)")
      let acknowledged = site.acknowledged.count
      try site.loseServer()
      try await site.endWriting()
      try await site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      #expect(try await site.numbers().count >= acknowledged - 200)
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `a store that may not be followed is given up with a reason`() async throws {
    try await FollowSite.with { site in
      try Files.replace(site.server.passwordFile, with: Array("wrong\n".utf8))
      let ran = try await site.salvor("follow")
      #expect(ran.status == 1 && ran.errors.contains("DRIVER-202"), "\(ran)")
    }
  }

  private static let moment = """
    SELECT pg_current_wal_insert_lsn(),
    to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    """

  @Test(.timeLimit(.minutes(10)))
  func `any moment and any position comes back as the history says it was`() async throws {
    try await FollowSite.with { site in
      try await site.follow("--idle", "1s")
      try await site.salvor("backup", "-q").succeeded()
      var history: [(rows: Int, lsn: String, time: String)] = []
      for number in 1...25 {
        try await site.server.sql("INSERT INTO history DEFAULT VALUES")
        let fields = try await site.server.sql(Self.moment).split(separator: "|").map(String.init)
        history.append((number, fields[0], fields[1]))
      }
      try await site.server.sql("SELECT pg_create_restore_point('closing')", "INSERT INTO history DEFAULT VALUES")
      let last = try await site.server.sql(Self.moment).split(separator: "|").map(String.init)
      try await site.settle()
      // After the last commit the log leads on in time, though nothing happens.
      try await Task.sleep(for: .seconds(4))
      #expect(site.stopFollowing() == 0)
      func comesBack(_ words: [String], rows: Int) async throws {
        let ran = try await CommandRun(
          [try CommandRun.product("salvor"), "restore", "shop", "--yes", "-q"] + words, in: site.home.path,
          environment: ["SALVOR_STATE": site.home.file("state"), "SALVOR_CATALOG": site.home.file("salvor.yaml")])
        try ran.succeeded()
        #expect(try await site.server.sql("SELECT count(*) FROM history") == "\(rows)", "\(words)")
        // The next one is to find the live place as it was.
        try await site.salvor("run", "release", "latest", "--yes").succeeded()
      }
      for _ in 1...(runs ?? 2) {
        let a = try #require(history.randomElement())
        try await comesBack(["--lsn", a.lsn], rows: a.rows)
        let b = try #require(history.randomElement())
        try await comesBack(["--to", b.time], rows: b.rows)
      }
      try await comesBack(["--to-name", "closing"], rows: 25)
      try await comesBack(["--to", last[1]], rows: 26)
      try await comesBack(["--newest"], rows: 26)
      let late = try await site.salvor("restore", "shop", "--to", "2099-01-01T00:00:00Z", "--yes", "-q")
      #expect(late.status != 0 && late.errors.contains("LOG-103"), "\(late)")
    }
  }
}
