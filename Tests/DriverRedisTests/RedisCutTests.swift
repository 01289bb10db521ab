import Core
import DriverContract
import DriverKit
import Foundation
import IO
import TestSupport
import Testing

@testable import DriverRedis

/// What a cut through a busy server holds.
@Suite("Redis: the cut") struct RedisCutTests {
  @Test("pipelines, transactions and scripts are in the cut whole or not at all", .timeLimit(.minutes(10)))
  func transactionsAreWhole() async throws {
    try await RedisFixture.with { fixture in
      try await fixture.commands([["MSET", "a", "500", "b", "500", "x", "0", "y", "0"]])
      let script =
        "redis.call('INCR', 'x') redis.call('SELECT', 2) redis.call('INCR', 'far') "
        + "redis.call('SELECT', 0) redis.call('INCR', 'y')"
      let captured = try await withThrowingTaskGroup(of: Void.self) { group in
        for writer in 0..<3 {
          group.addTask {
            while !Task.isCancelled {
              switch writer {
              case 0:
                try await fixture.commands(
                  (0..<20).flatMap { _ in [["MULTI"], ["INCRBY", "a", "-1"], ["INCRBY", "b", "1"], ["EXEC"]] })
              case 1: try await fixture.commands((0..<20).map { _ in ["EVAL", script, "0"] })
              default:
                try await fixture.commands(
                  (0..<100).map { _ in ["RPUSH", "list", "v"] } + [["LTRIM", "list", "-50", "-1"]])
              }
            }
          }
        }
        try await Task.sleep(for: .milliseconds(200))
        let captured = try await fixture.capture(
          prepared: { try await Task.sleep(for: .milliseconds(200)) },
          marked: { try await Task.sleep(for: .milliseconds(50)) },
          released: { try await Task.sleep(for: .milliseconds(200)) })
        group.cancelAll()
        while let result = await group.nextResult() { _ = try? result.get() }
        return captured
      }
      try #require(captured.result.facts["commands"].flatMap { Int($0) } ?? 0 > 100, "the stream was busy")
      try await fixture.restore(captured)
      let a = try await fixture.integer("GET", "a"), b = try await fixture.integer("GET", "b")
      #expect(a + b == 1000 && b > 500)
      let x = try await fixture.integer("GET", "x"), y = try await fixture.integer("GET", "y")
      let far = try await fixture.integer("GET", "far", database: 2)
      #expect(x == y && x == far && x > 0)
    }
  }

  @Test("expiries are absolute, and keys whose time ran out meanwhile still compare", .timeLimit(.minutes(10)))
  func expiringKeys() async throws {
    try await RedisFixture.with { fixture in
      let later = Int64(SystemTime().now().nanoseconds / 1_000_000) + 600_000
      // Keys whose time is over stay where they are until somebody looks, as they do for a while on any server.
      try await fixture.commands([
        ["DEBUG", "SET-ACTIVE-EXPIRE", "0"], ["SET", "stays", "1"], ["SET", "later", "1", "PXAT", String(later)],
        ["SET", "before", "x", "PX", "1"], ["SET", "soon", "x", "PX", "300"],
      ])
      let captured = try await fixture.capture(prepared: {
        try await fixture.commands([
          ["SET", "soon-too", "x", "PX", "200"], ["PEXPIRE", "stays", "700000"], ["PERSIST", "stays"],
        ])
      })
      let part = try #require(captured.result.contentDigest?.parts["db0"])
      #expect(String(part.count) == captured.result.facts["db0.keys"])
      #expect(part.count == 5)
      try await Task.sleep(for: .milliseconds(300))
      try await fixture.restore(captured)
      #expect(try await fixture.integer("PEXPIRETIME", "later") == later)
      #expect(try await fixture.integer("PTTL", "stays") == -1)
      #expect(try await fixture.integer("EXISTS", "soon", "soon-too", "before") == 0)
    }
  }

  @Test("every type, database and function, and a value of 48 MiB", .timeLimit(.minutes(10)))
  func everyKindOfContent() async throws {
    try await RedisFixture.with { fixture in
      var commands: [[String]] = [
        ["HSET", "hash"] + (0..<2000).flatMap { ["f\($0)", "v\($0)"] }, ["SADD", "set"] + (0..<2000).map { "m\($0)" },
        ["ZADD", "zset"] + (0..<500).flatMap { ["\(Double($0) / 7)", "z\($0)"] },
        ["RPUSH", "list"] + (0..<3000).map { "e\($0)" },
        ["SETBIT", "bits", "100000", "1"], ["PFADD", "hll", "a", "b", "c"], ["XADD", "stream", "1-1", "f", "v"],
        ["XADD", "stream", "2-1", "f", "v"], ["XGROUP", "CREATE", "stream", "group", "0"],
        ["XREADGROUP", "GROUP", "group", "someone", "COUNT", "1", "STREAMS", "stream", ">"],
        ["FUNCTION", "LOAD", "#!lua name=lib\nredis.register_function('f', function() return 1 end)"],
      ]
      for database in 1..<16 { commands += [["SELECT", String(database)], ["SET", "in \(database)", "x\r\n$5"]] }
      try await fixture.commands(commands)
      let big = String(repeating: "0123456789abcdef", count: 3 << 20)
      let captured = try await fixture.capture(prepared: {
        try await fixture.commands([["SET", "big-in-the-stream", big], ["SELECT", "9"], ["HSET", "h", "f", "2"]])
      })
      let digest = try #require(captured.result.contentDigest)
      #expect(digest.parts.count == 17)
      try await fixture.restore(captured)
      #expect(try await fixture.integer("STRLEN", "big-in-the-stream") == Int64(big.utf8.count))
      #expect(try await fixture.integer("XLEN", "stream") == 2)
      #expect(try await fixture.integer("FCALL", "f", "0") == 1)
      #expect(try await fixture.integer("EXISTS", "in 15", database: 15) == 1)
      #expect(try await fixture.capture().result.contentDigest == digest)

      // What the digest must tell apart, though the values are the same.
      for change in [["EXPIREAT", "bits", "4000000000"], ["XACK", "stream", "group", "1-1"], ["FUNCTION", "FLUSH"]] {
        let before = try await fixture.capture().result.contentDigest
        try await fixture.commands([change])
        #expect(try await fixture.capture().result.contentDigest != before, "\(change)")
      }
    }
  }

  @Test(
    "a snapshot through a file and one without, append-only or not", .timeLimit(.minutes(10)),
    arguments: [
      (true, true), (true, false), (false, true), (false, false),
    ])
  func kindsOfSynchronisation(isDiskless: Bool, appendOnly: Bool) async throws {
    var settings = RedisServer.Settings()
    settings.isDiskless = isDiskless
    settings.appendOnly = appendOnly
    try await RedisFixture.with(settings) { fixture in
      try await fixture.commands((0..<500).map { ["SET", "k\($0)", String(repeating: "v", count: $0)] })
      let captured = try await fixture.capture(prepared: {
        try await fixture.commands([["SET", "late", "1", "EX", "1000"]])
      })
      try await fixture.commands([["FLUSHALL"]])
      try await fixture.restore(captured)
      #expect(try await fixture.integer("DBSIZE") == 501)
      let names = try Files.names(in: fixture.server.dataDirectory).map(\.lossyText).filter { !$0.hasPrefix(".") }
      #expect(names == (appendOnly ? ["appendonlydir", "dump.rdb"] : ["dump.rdb"]))
    }
  }

  @Test("the master's own pings move the offset and nothing else", .timeLimit(.minutes(10)))
  func pings() async throws {
    var settings = RedisServer.Settings()
    settings.more = ["repl-ping-replica-period 1"]
    try await RedisFixture.with(settings) { fixture in
      try await fixture.commands([["SET", "k", "v"]])
      let captured = try await fixture.capture(
        prepared: { try await Task.sleep(for: .milliseconds(1200)) },
        marked: { try await Task.sleep(for: .milliseconds(1300)) })
      let increment = try #require(captured.tree.entries["appendonlydir/appendonly.aof.1.incr.aof"])
      #expect(!String(decoding: increment.content, as: UTF8.self).contains("PING"))
      let facts = try Facts(captured.result.facts)
      let streamed = try #require(facts.increment?.offset) - #require(facts.base?.offset)
      #expect(streamed > Int64(increment.content.count), "there were pings to drop")
      try await fixture.restore(captured)
      #expect(try await fixture.integer("DBSIZE") == 1)
    }
  }

  @Test("someone else ends the pause: release() says so", .timeLimit(.minutes(10)))
  func unpausedByAnother() async throws {
    try await RedisFixture.with { fixture in
      let scratch = try TemporaryDirectory("scratch")
      let session = try await fixture.driver(.usual).capture(CaptureContext(sink: MemoryTree(), scratch: scratch.path))
      try await session.prepare()
      try await session.hold(limit: .seconds(60))
      _ = try await session.mark()
      try await fixture.commands([["CLIENT", "UNPAUSE"], ["SET", "k", "v"]])
      let wasHeld = await session.release()
      await session.close()
      #expect(!wasHeld)
    }
  }

  @Test("the exit door: stock redis-server loads the captured files", .timeLimit(.minutes(10)))
  func exitDoor() async throws {
    try await RedisFixture.with { fixture in
      try await fixture.commands([["SET", "k", "in the snapshot"]])
      let captured = try await fixture.capture(prepared: {
        try await fixture.commands([["SET", "l", "in the stream"]])
      })
      let place = try TemporaryDirectory("exit")
      try await captured.tree.materialise(TreePath(), at: place.file("data"), progress: { _ in })
      try await clients.run {
        let check = try OwnProcess.run(["redis-check-aof", place.file("data/appendonlydir/appendonly.aof.manifest")])
        try promise(check.code == 0, check.output)
        let server = try OwnProcess.start([
          "redis-server", "--appendonly", "yes", "--dir", place.file("data"), "--port", "0", "--unixsocket",
          place.file("s"),
        ])
        defer {
          server.kill()
          _ = server.wait()
        }
        for _ in 0..<500 {
          usleep(10_000)
          let result = try OwnProcess.run(["redis-cli", "-s", place.file("s"), "MGET", "k", "l"])
          if result.output == "in the snapshot\nin the stream" { return }
        }
        throw ContractBroken("redis-server does not show the captured state")
      }
    }
  }
}
