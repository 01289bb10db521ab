import Core
import Foundation
import IO
import TestSupport
import Testing

@testable import DriverRedis

/// How often what chance has a part in is tried: `SALVOR_LOG_RUNS`.
private let runs = ProcessInfo.processInfo.environment["SALVOR_LOG_RUNS"].flatMap { Int($0) }

@Suite("Following Redis", .serialized) struct RedisFollowTests {
  @Test(.timeLimit(.minutes(5)))
  func `server and follower killed, the disk gone: two seconds are lost at most`() async throws {
    try await RedisSite.with { it in
      // With 60s here it must fail.
      try await it.site.follow("--within", ProcessInfo.processInfo.environment["SALVOR_LOG_WITHIN"] ?? "2s")
      try await it.site.salvor("backup", "-q").succeeded()
      try it.startWriting()
      try await Task.sleep(for: .seconds(6))
      it.site.killFollower()
      try await it.loseServer()
      it.endWriting()
      let acknowledged = it.acknowledged
      try #require(acknowledged.count > 300)
      let standing = try await it.site.json("rpo").array?.first
      #expect(standing?["state"]?.string == "followed", "\(String(describing: standing))")
      try await it.site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      let found = try await it.count()
      #expect(try await it.command("GET", "counter").text == "\(found)", "a transaction came back whole or not at all")
      let last = try #require(acknowledged.last)
      let lost = acknowledged.first { $0.number > Int64(found) }.map { last.seconds - $0.seconds } ?? 0
      #expect(lost <= 2, "\(lost) seconds of acknowledged work: \(found) of \(last.number)")
      #expect(found > 100)
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `what WAIT was answered for is not lost`() async throws {
    for round in 1...(runs ?? 2) {
      try await RedisSite.with { it in
        try await it.site.follow("--within", "100ms")
        try await it.site.salvor("backup", "-q").succeeded()
        try it.startWriting(waits: true)
        try await it.site.until("work is done") { it.acknowledged.count >= 10 }
        try await Task.sleep(for: .milliseconds(Int.random(in: 0...1500)))
        it.site.killFollower()
        try await it.loseServer()
        it.endWriting()
        let acknowledged = it.acknowledged
        try await it.site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
        let found = try await it.count()
        #expect(Int64(found) >= acknowledged.last?.number ?? 0, "round \(round): \(found) of \(acknowledged.count)")
      }
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `restarts of the follower, a clean one of the server, and a failover leave no gap`() async throws {
    var settings = RedisServer.Settings()
    settings.appendOnly = false
    try await RedisSite.with(settings) { it in
      try await it.site.follow()
      try await it.site.salvor("backup", "-q").succeeded()
      for _ in 1...100 { try await it.command("RPUSH", "history", "x") }
      // The follower dies in the middle; what it had not written, it gets again.
      it.site.killFollower()
      for _ in 1...100 { try await it.command("RPUSH", "history", "x") }
      try await it.site.follow()
      try await it.settle()
      // The server saves itself and comes back: it has a new id, and knows the old one.
      await it.stopServer()
      try await it.startServer()
      for _ in 1...100 { try await it.command("RPUSH", "history", "x") }
      try await it.settle()
      // Another server takes its place.
      let other = try await BlockingPool.shared.run { [settings] in try RedisServer(settings) }
      defer { other.stop(SIGKILL) }
      _ = try await RedisSite.commands([["REPLICAOF", "127.0.0.1", "\(it.server.port)"]], port: other.port)
      try await it.site.until("the replica is there") {
        let info = Info(try await RedisSite.commands([["INFO", "replication"]], port: other.port)[0].text ?? "")
        return info["master_link_status"] == "up"
      }
      for _ in 1...100 { try await it.command("RPUSH", "history", "x") }
      _ = try await it.commands([["SET", "settled", "yes"], ["WAIT", "2", "20000"]])
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
      await it.killServer()
      _ = try await RedisSite.commands([["REPLICAOF", "NO", "ONE"]], port: other.port)
      for _ in 1...100 { _ = try await RedisSite.commands([["RPUSH", "history", "x"]], port: other.port) }
      try it.site.declare(RedisSite.store(other))
      try await it.site.follow()
      _ = try await RedisSite.commands([["SET", "settled", "yes"], ["WAIT", "1", "20000"]], port: other.port)
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
      let timeline = try await it.site.json("timeline", "shop-log")
      #expect(timeline["gaps"]?.array?.isEmpty == true, "\(timeline)")
      await BlockingPool.shared.run { other.stop(SIGKILL) }
      try await it.site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      let count = try await RedisSite.commands([["LLEN", "history"]], port: other.port)[0]
      #expect(count == .integer(500))
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `a follower that is killed again and again under load misses nothing`() async throws {
    try await RedisSite.with { it in
      try await it.site.follow()
      try await it.site.salvor("backup", "-q").succeeded()
      try it.startWriting()
      for _ in 1...(runs ?? 4) {
        try await Task.sleep(for: .milliseconds(Int.random(in: 200...2500)))
        it.site.killFollower()
        try await it.site.follow()
      }
      it.stopWriting()
      let last = try #require(it.acknowledged.last)
      try await it.settle()
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
      let timeline = try await it.site.json("timeline", "shop-log")
      #expect(timeline["gaps"]?.array?.isEmpty == true, "\(timeline)")
      try await it.loseServer()
      try await it.site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      #expect(Int64(try await it.count()) == last.number)
      #expect(try await it.command("GET", "counter").text == "\(last.number)")
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `a log begins with the newest copy, where the server still has what came since`() async throws {
    try await RedisSite.with { it in
      try await it.site.salvor("backup", "-q").succeeded()
      for _ in 1...5 { try await it.command("RPUSH", "history", "x") }
      try await it.site.follow()
      try await it.settle()
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
      #expect(try await it.site.json("rpo").array?.first?["state"]?.string == "followed")
      try await it.loseServer()
      try await it.site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      #expect(try await it.count() == 5)
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `a backlog that was overrun is a gap with a name, and a new copy leads on`() async throws {
    var settings = RedisServer.Settings()
    settings.more = ["repl-backlog-size 16kb"]
    try await RedisSite.with(settings) { it in
      try await it.site.follow()
      try await it.site.salvor("backup", "-q").succeeded()
      for _ in 1...100 { try await it.command("RPUSH", "history", "x") }
      try await it.settle()
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
      for _ in 1...100 { try await it.command("RPUSH", "history", String(repeating: "y", count: 1000)) }
      try await it.site.follow()
      try await it.settle()
      #expect(it.site.said.contains("a gap in the log"), "\(it.site.said)")
      let broken = try await it.site.json("timeline", "shop-log")
      let gap = try #require(broken["gaps"]?.array?.first, "\(broken)")
      #expect(gap["why"]?.string?.contains("backlog begins at offset") == true, "\(gap)")
      #expect(broken["unbased"]?.array?.count == 1, "nothing leads to what came after the gap: \(broken)")
      #expect(try await it.site.json("rpo").array?.first?["state"]?.string == "needs-copy")
      let beyond = try await it.site.salvor(
        "restore", "shop", "--lsn", "\(try await it.offset())", "--yes", "-q")
      #expect(beyond.status != 0 && beyond.errors.contains("LOG-103"), "\(beyond)")
      try await it.site.salvor("backup", "-q").succeeded()
      for _ in 1...7 { try await it.command("RPUSH", "history", "x") }
      try await it.settle()
      let mended = try await it.site.json("timeline", "shop-log")
      #expect(mended["unbased"]?.array?.isEmpty == true && mended["gaps"]?.array?.count == 1, "\(mended)")
      try await it.loseServer()
      it.site.stopFollowing()
      try await it.site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      #expect(try await it.count() == 207)
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `a server that comes back without its replication id leaves a gap`() async throws {
    try await RedisSite.with { it in
      try await it.site.follow()
      try await it.site.salvor("backup", "-q").succeeded()
      try await it.command("RPUSH", "history", "x")
      try await it.settle()
      await it.killServer()
      try await it.startServer()
      try await it.command("RPUSH", "history", "x")
      try await it.site.until("the gap is told") { it.site.said.contains("a gap in the log") }
      let timeline = try await it.site.json("timeline", "shop-log")
      let gap = try #require(timeline["gaps"]?.array?.first, "\(timeline)")
      #expect(gap["why"]?.string?.contains("history of its own") == true, "\(gap)")
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `a server that may not be followed is given up with a reason, and one is followed by one`() async throws {
    var settings = RedisServer.Settings()
    settings.more = ["user salvor on >secret resetkeys resetchannels -@all +ping +info +psync +replconf"]
    try await RedisSite.with(settings) { it in
      try Files.replace(it.site.home.file("secret"), with: Array("secret".utf8))
      let more = ", user: salvor, password: \"file:\(it.site.home.file("secret"))\""
      try it.site.declare(RedisSite.store(it.server, more))
      let ran = try await it.site.salvor("follow")
      #expect(ran.status == 1 && ran.errors.contains("DRIVER-203"), "\(ran)")
      try await it.command("ACL", "SETUSER", "salvor", "+time", "+publish", "&salvor:*")
      try await it.site.follow()
      let info = Info(try await it.command("INFO", "replication").text ?? "")
      #expect(RedisFollower.places(of: "salvor-shop-log", info).count == 1, "\(info)")
      let second = try PipedProcess(
        [try CommandRun.product("salvor"), "follow"], in: it.site.home.path,
        environment: ["SALVOR_STATE": it.site.home.file("state"), "SALVOR_CATALOG": it.site.home.file("salvor.yaml")])
      try await it.site.until("the second stands back") { second.errors.contains("another process follows it") }
      it.site.killFollower()
      try await it.command("SET", "more", "work")
      try await it.site.until("the second takes over") { second.errors.contains("durable to") }
      second.kill()
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `any moment and any position comes back as the history says it was`() async throws {
    try await RedisSite.with { it in
      try await it.site.follow("--idle", "1s")
      try await it.site.salvor("backup", "-q").succeeded()
      try await it.commands([
        ["SET", "brief", "x", "PX", "300"], ["SET", "long", "x"], ["EXPIRE", "long", "86400"], ["SET", "gone", "x"],
        ["DEL", "gone"],
      ])
      var history: [(rows: Int, offset: Int64, time: Timestamp)] = []
      for number in 1...20 {
        try await it.commands([["SELECT", "\(number % 3)"], ["SET", "here", "\(number)"]])
        try await it.command("RPUSH", "history", "x")
        let replies = try await it.commands([["INFO", "replication"], ["TIME"]])
        history.append(
          (
            number, Info(replies[0].text ?? "").integer("master_repl_offset") ?? 0,
            try #require(RedisFollower.time(replies[1]))
          ))
        // The stream is told the time ten times a second.
        try await Task.sleep(for: .milliseconds(250))
      }
      try await it.settle()
      // After the last command the log leads on in time, though nothing happens.
      try await Task.sleep(for: .seconds(4))
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
      let timeline = try await it.site.json("timeline", "shop-log")
      for _ in 1...(runs ?? 7) {
        let a = try #require(history.randomElement())
        try await it.site.restore("--lsn", "\(a.offset)")
        #expect(try await it.count() == a.rows, "offset \(a.offset): \(timeline)")
        let b = try #require(history.randomElement())
        // Exactly then it may not be told yet; never is anything later in it.
        try await it.site.restore("--to", "\(b.time)")
        let found = try await it.count()
        #expect(found == b.rows || found == b.rows - 1, "exactly \(b.time)")
        try await it.site.restore("--to", "\(b.time + .milliseconds(200))")
        #expect(try await it.count() == b.rows, "after \(b.time)")
        let database = b.rows % 3
        let here = try await it.commands([["SELECT", "\(database)"], ["GET", "here"]])[1].text
        #expect(here == "\(b.rows)", "database \(database)")
        let keys = try await it.commands([["EXISTS", "brief", "gone"], ["TTL", "long"]])
        #expect(keys[0] == .integer(0), "an expiry is a moment, not a span")
        #expect(keys[1].text.flatMap { Int($0) } ?? 0 > 80_000)
      }
      try await it.site.restore("--newest")
      #expect(try await it.count() == 20)
      let late = try await it.site.salvor("restore", "shop", "--to", "2099-01-01T00:00:00Z", "--yes", "-q")
      #expect(late.status != 0 && late.errors.contains("LOG-103"), "\(late)")
      let named = try await it.site.salvor("restore", "shop", "--to-name", "closing", "--yes", "-q")
      #expect(named.status != 0 && (named.output + named.errors).contains("neither names"), "\(named)")
    }
  }
}
