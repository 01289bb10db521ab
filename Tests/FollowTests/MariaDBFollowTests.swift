import Core
import Foundation
import IO
import TestSupport
import Testing

/// How often what chance has a part in is tried: `SALVOR_LOG_RUNS`.
private let runs = ProcessInfo.processInfo.environment["SALVOR_LOG_RUNS"].flatMap { Int($0) }

@Suite("Following MariaDB", .serialized) struct MariaDBFollowTests {
  @Test(.timeLimit(.minutes(5)))
  func `server and follower killed, the disk gone: two seconds are lost at most`() async throws {
    try await MariaDBFollowSite.with { site in
      // With 60s here it must fail.
      try await site.follow("--within", ProcessInfo.processInfo.environment["SALVOR_LOG_WITHIN"] ?? "2s")
      try await site.salvor("backup", "-q").succeeded()
      try site.startWriting()
      let load = try PipedProcess([
        "bash", "-c",
        """
        mariadb --no-defaults --user=root --socket=\(site.server.socket) --delimiter=// 2>&1 <<'END'
        CREATE TABLE shop.load_a (n INT PRIMARY KEY, b LONGTEXT)//
        BEGIN NOT ATOMIC DECLARE i INT DEFAULT 0; WHILE TRUE DO
        REPLACE INTO shop.load_a VALUES (i % 50, REPEAT(MD5(i), 50)); SET i = i + 1; END WHILE; END//
        END
        """,
      ])
      try await Task.sleep(for: .seconds(8))
      site.follower?.kill()
      try await site.loseServer()
      try await site.endWriting()
      load.kill()
      #expect(!String(decoding: load.output, as: UTF8.self).contains("ERROR 1064"))
      let acknowledged = site.acknowledged
      try #require(acknowledged.count > 60)
      let standing = try await site.json("rpo").array?.first
      #expect(standing?["state"]?.string == "followed", "\(String(describing: standing))")
      try await site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      let found = try await site.numbers()
      #expect(found == Array(1...Int64(found.count)), "what came back has no hole in it")
      let last = try #require(acknowledged.last)
      let lost = acknowledged.first { $0.number > Int64(found.count) }.map { last.seconds - $0.seconds } ?? 0
      #expect(lost <= 2, "\(lost) seconds of acknowledged work: \(found.count) of \(last.number)")
      #expect(found.count > 20)
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `where commits wait for the follower none is lost`() async throws {
    for round in 1...(runs ?? 2) {
      try await MariaDBFollowSite.with(
        settings: ["rpl-semi-sync-master-enabled=0", "rpl-semi-sync-master-timeout=600000"], options: ", semiSync: true"
      ) { site in
        try await site.follow("--within", "100ms")
        try await site.salvor("backup", "-q").succeeded()
        try await site.server.sql(
          "SET GLOBAL rpl_semi_sync_master_wait_point = AFTER_SYNC", "SET GLOBAL rpl_semi_sync_master_enabled = 1")
        try await site.until("commits wait") {
          try await site.server.sql("SHOW STATUS LIKE 'Rpl_semi_sync_master_clients'").filter { !$0.isNewline }
            .hasSuffix("1")
        }
        try site.startWriting()
        try await site.until("work is done") { site.acknowledged.count >= 20 }
        let status = try await site.server.sql("SHOW STATUS LIKE 'Rpl_semi_sync_master_yes_tx'")
        #expect(status.split(separator: "\t").last.flatMap { Int($0.filter(\.isNumber)) } ?? 0 >= 19, "\(status)")
        try await Task.sleep(for: .milliseconds(Int.random(in: 0...1500)))
        site.follower?.kill()
        // Who waits now waits until the end.
        try await Task.sleep(for: .milliseconds(Int.random(in: 0...300)))
        try await site.loseServer()
        try await site.endWriting()
        let acknowledged = site.acknowledged
        try await site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
        let found = Set(try await site.numbers())
        let lost = acknowledged.filter { !found.contains($0.number) }
        #expect(lost.isEmpty, "round \(round): \(lost.count) of \(acknowledged.count)")
      }
    }
  }

  /// Commits that wait hold the lock that the server's own words about its log need.
  @Test(.timeLimit(.minutes(10)))
  func `writers that wait go on when somebody follows again`() async throws {
    try await MariaDBFollowSite.with(
      settings: ["rpl-semi-sync-master-timeout=600000"], options: ", semiSync: true"
    ) { site in
      try await site.follow("--within", "100ms")
      try await site.server.sql("SET GLOBAL rpl_semi_sync_master_enabled = 1")
      let writers = try (1...4).map { _ in
        try PipedProcess([
          "bash", "-c",
          """
          while echo 'INSERT INTO shop.history (stamp) VALUES (1);'; do sleep 0.002; done \\
          | mariadb --no-defaults --user=root --socket=\(site.server.socket) 2>&1
          """,
        ])
      }
      defer { for writer in writers { writer.kill() } }
      func rows() async throws -> Int { try await site.numbers().count }
      try await site.until("work is done") { try await rows() >= 20 }
      site.follower?.kill()
      var before = -1
      try await site.until("all of them wait") {
        let now = try await rows()
        defer { before = now }
        try await Task.sleep(for: .seconds(1))
        return now == before
      }
      try await site.follow("--within", "100ms")
      try await site.until("they go on") { try await rows() > before + 40 }
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `restarts of both, and new files, leave no gap`() async throws {
    try await MariaDBFollowSite.with { site in
      try await site.follow()
      try await site.salvor("backup", "-q").succeeded()
      try await site.insert(100)
      // The follower dies in the middle; what it had not written, it gets again.
      site.follower?.kill()
      try await site.insert(100)
      try await site.server.sql("FLUSH BINARY LOGS")
      try await site.insert(100)
      try await site.follow()
      // The server dies, and comes back on its own disk.
      try await site.killServer()
      try await site.server.start()
      try await site.insert(100)
      try await site.settle()
      // It is restarted as it should be, while nobody follows.
      #expect(site.stopFollowing() == 0, "\(site.follower?.errors ?? "")")
      try await site.server.stop()
      try await site.server.start()
      try await site.server.sql("FLUSH BINARY LOGS", "FLUSH BINARY LOGS")
      try await site.insert(100)
      try await site.follow()
      try await site.settle()
      #expect(site.stopFollowing() == 0, "\(site.follower?.errors ?? "")")
      let timeline = try await site.json("timeline", "shop-db")
      #expect(timeline["gaps"]?.array?.isEmpty == true, "\(timeline)")
      let rows = try await site.numbers().count
      #expect(rows == 500)
      // The files are the server's, but for the bit that says they are in use.
      #expect(try await site.compareFiles().count >= 6)
      try await site.loseServer()
      try await site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      #expect(try await site.numbers().count == 500)
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `log that the server threw away is a gap with a name, and a new copy leads on`() async throws {
    try await MariaDBFollowSite.with { site in
      try await site.follow()
      try await site.salvor("backup", "-q").succeeded()
      try await site.insert(10)
      try await site.settle()
      #expect(site.stopFollowing() == 0)
      try await site.insert(10)
      try await site.server.sql("FLUSH BINARY LOGS")
      try await site.insert(10)
      try await site.server.sql("FLUSH BINARY LOGS")
      try await site.until("the server removed its files") {
        let newest = try await site.position().file
        try await site.server.sql("PURGE BINARY LOGS TO '\(newest)'")
        return try await site.server.sql("SHOW BINARY LOGS").split(separator: "\n").count == 1
      }
      try await site.follow()
      try await site.settle()
      #expect(site.follower?.errors.contains("a gap in the log") == true, "\(site.follower?.errors ?? "")")
      let broken = try await site.json("timeline", "shop-db")
      let gap = try #require(broken["gaps"]?.array?.first, "\(broken)")
      #expect(gap["why"]?.string?.contains("Could not find") == true, "\(gap)")
      #expect(broken["unbased"]?.array?.count == 1, "nothing leads to what came after the gap: \(broken)")
      #expect(try await site.json("rpo").array?.first?["state"]?.string == "needs-copy")
      try await site.salvor("backup", "-q").succeeded()
      try await site.insert(7)
      try await site.settle()
      let mended = try await site.json("timeline", "shop-db")
      #expect(mended["unbased"]?.array?.isEmpty == true && mended["gaps"]?.array?.count == 1, "\(mended)")
      try await site.loseServer()
      _ = site.stopFollowing()
      try await site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      #expect(try await site.numbers().count == 37)
    }
  }

  /// Names are given again, and offsets fit: only what is in the files tells them apart.
  @Test(.timeLimit(.minutes(5)))
  func `a log that was begun anew under the same names is another log`() async throws {
    try await MariaDBFollowSite.with { site in
      try await site.follow()
      try await site.salvor("backup", "-q").succeeded()
      try await site.insert(5)
      try await site.settle()
      #expect(site.stopFollowing() == 0)
      let before = try await site.position()
      try await site.server.sql("RESET MASTER")
      try await site.until("the new file is as long") {
        try await site.insert(5)
        return try await site.position().offset > before.offset
      }
      #expect(try await site.position().file == before.file)
      try await site.follow()
      try await site.settle()
      let broken = try await site.json("timeline", "shop-db")
      #expect(broken["gaps"]?.array?.first?["why"]?.string?.contains("another file") == true, "\(broken)")
      #expect(try await site.json("rpo").array?.first?["state"]?.string == "needs-copy", "the copy is of the old log")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a store that may not be followed is given up with a reason`() async throws {
    try await MariaDBFollowSite.with { site in
      try await site.server.sql("REVOKE REPLICATION SLAVE ON *.* FROM '\(MariaDBServer.user)'@'localhost'")
      let ran = try await site.salvor("follow")
      #expect(ran.status == 1 && ran.errors.contains("DRIVER-203"), "\(ran)")
    }
  }

  @Test(.timeLimit(.minutes(15)))
  func `any moment, any position and any transaction comes back as the history says it was`() async throws {
    try await MariaDBFollowSite.with { site in
      try await site.follow("--idle", "1s")
      try await site.salvor("backup", "-q").succeeded()
      // A second that is asked for below is not the copy's own: half of that was before it.
      try await Task.sleep(for: .seconds(1))
      var history: [(rows: Int, position: String, gtid: String, second: Int64)] = []
      for number in 1...20 {
        try await site.insert(1)
        if number % 7 == 0 { try await site.server.sql("FLUSH BINARY LOGS") }
        let place = try await site.position()
        let gtid = try await site.server.sql("SELECT @@GLOBAL.gtid_binlog_pos").filter { !$0.isNewline }
        let second = try await site.server.sql("SELECT stamp FROM shop.history WHERE n = \(number)")
        history.append(
          (number, "\(place.file):\(place.offset)", gtid, try #require(Int64(second.filter(\.isNumber)))))
        try await Task.sleep(for: .milliseconds(300))
      }
      try await site.settle()
      // After the last commit the log leads on in time, though nothing happens.
      try await Task.sleep(for: .seconds(4))
      #expect(site.stopFollowing() == 0)
      func comesBack(_ words: [String], rows: Int) async throws {
        try await site.salvor(["restore", "shop", "--yes", "-q"] + words).succeeded()
        #expect(try await site.numbers().count == rows, "\(words)")
        // The next one is to find the live place as it was.
        try await site.salvor("run", "release", "latest", "--yes").succeeded()
      }
      for _ in 1...(runs ?? 3) {
        let a = try #require(history.randomElement())
        try await comesBack(["--position", a.position], rows: a.rows)
        let b = try #require(history.randomElement())
        let time = Timestamp(seconds: b.second, nanoseconds: 500_000_000).format(fractionDigits: 3)
        try await comesBack(["--to", time], rows: history.filter { $0.second <= b.second }.count)
        let c = try #require(history.randomElement())
        try await comesBack(["--gtid", c.gtid], rows: c.rows)
      }
      try await comesBack(["--newest"], rows: 20)
      let late = try await site.salvor("restore", "shop", "--to", "2099-01-01T00:00:00Z", "--yes", "-q")
      #expect(late.status != 0 && late.errors.contains("LOG-103"), "\(late)")
      let nowhere = try await site.salvor("restore", "shop", "--xid", "0-1-999999", "--yes", "-q")
      #expect(nowhere.status != 0 && nowhere.output.contains("0-1-999999"), "\(nowhere)")
    }
  }
}
