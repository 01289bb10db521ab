import Core
import DriverContract
import DriverKit
import Foundation
import IO
import TestSupport
import Testing

@testable import DriverRedis

/// What happens when something is in the way.
@Suite("Redis: faults") struct RedisFaultTests {
  @Test(
    "a user with the documented rights can capture; without one of them the error names it", .timeLimit(.minutes(10)))
  func leastRights() async throws {
    var settings = RedisServer.Settings()
    settings.password = "default-secret"
    let rights = "+ping +info +psync +replconf +client|pause +client|unpause +config|get"
    settings.more = [
      "user salvor on >salvor-secret resetkeys resetchannels -@all \(rights)",
      "user reader on >salvor-secret ~* resetchannels -@all +@read -@dangerous +command|info +ping",
      "user halfway on >salvor-secret -@all +ping +info +config|get +replconf",
    ]
    try await RedisFixture.with(settings) { fixture in
      let place = try TemporaryDirectory("secret")
      let secret = place.file("password")
      try Files.replace(secret, with: Array("salvor-secret\n".utf8))
      func driver(_ user: String, _ reference: String) throws -> any DataStoreDriver {
        try fixture.driver(["user": .string(user), "password": .string(reference)])
      }
      let captured = try await fixture.capture(driver("salvor", "file:\(secret)"))
      #expect(captured.result.contentDigest != nil)
      #expect(captured.result.notes.isEmpty)
      let text = try CanonicalJSON.text(captured.result)
      #expect(!text.contains("secret"), "no secret goes with the snapshot")

      let answer = try await driver("reader", "file:\(secret)").query("DBSIZE", limit: QueryLimit())
      #expect(answer.rows == [["0"]])
      try await expectFailure("no right to psync", { if case .permissionDenied = $0 { true } else { false } }) {
        _ = try await fixture.capture(driver("halfway", "file:\(secret)"))
      }
      try await expectFailure("a wrong user", { if case .authenticationFailed = $0 { true } else { false } }) {
        _ = try await driver("nobody", "file:\(secret)").traits()
      }
      let wrong = place.file("wrong")
      try Files.replace(wrong, with: Array("not-it-at-all".utf8))
      try await expectFailure(
        "a wrong password",
        { error in
          if case .authenticationFailed = error { !error.description.contains("not-it-at-all") } else { false }
        }
      ) { _ = try await driver("salvor", "file:\(wrong)").traits() }
      try await expectFailure("no password", { if case .authenticationFailed = $0 { true } else { false } }) {
        _ = try await fixture.driver(.usual).traits()
      }
    }
  }

  @Test("nobody there, or somebody who says nothing", .timeLimit(.minutes(10)))
  func unreachable() async throws {
    let port = try freePort()
    let driver = try RedisDriverFactory.make(
      StoreConfiguration(name: "cache", options: ["port": .integer(Int64(port)), "timeout": "300ms"]), in: .live)
    try await expectFailure("a closed port", { if case .unreachable = $0 { true } else { false } }) {
      _ = try await driver.traits()
    }
    let place = try TemporaryDirectory("mute")
    try await clients.run {
      let mute = try OwnProcess.start([
        "python3", "-c",
        "import socket,time; s=socket.socket(socket.AF_UNIX); s.bind('\(place.file("s"))'); s.listen(5); time.sleep(30)",
      ])
      defer {
        mute.kill()
        _ = mute.wait()
      }
      for _ in 0..<500 where !Files.exists(place.file("s")) { usleep(10_000) }
      usleep(50_000)
      let socket = try Socket.connect(host: place.file("s"), port: 0, patience: .seconds(1))
      let connection = try Connection(socket, patience: .milliseconds(300))
      do {
        _ = try connection.call("PING")
        throw ContractBroken("a mute server answered")
      } catch WireError.silent {}
    }
  }

  @Test(
    "options are checked",
    arguments: [
      ("port", JSONValue.integer(70_000)), ("password", "plain"), ("user", "someone"), ("dataDirectory", "relative"),
      ("timeout", "soon"),
    ])
  func badOptions(option: String, value: JSONValue) {
    #expect {
      _ = try RedisDriverFactory.make(StoreConfiguration(name: "cache", options: [option: value]), in: .live)
    } throws: { error in
      guard case .badOption(_, option, _)? = error as? DriverError else { return false }
      return true
    }
  }

  @Test("the server crashes, or cuts the stream, before the mark has come through", .timeLimit(.minutes(10)))
  func cutStream() async throws {
    try await RedisFixture.with { fixture in
      try await expectFailure("a cut stream", { if case .logGap = $0 { true } else { false } }) {
        _ = try await fixture.capture(prepared: {
          try await fixture.commands([["CLIENT", "KILL", "TYPE", "replica"], ["SET", "after", "the cut"]])
        })
      }
      try await expectFailure("a restarted server", { if case .unreachable = $0 { true } else { false } }) {
        _ = try await fixture.capture(prepared: {
          try await clients.run {
            fixture.server.stop(SIGKILL)
            try fixture.server.start()
          }
        })
      }
      try await expectFailure(
        "a crash",
        { error in
          if case .logGap = error { return true }
          if case .unreachable = error { return true }
          return false
        }
      ) {
        _ = try await fixture.capture(prepared: { await clients.run { fixture.server.stop(SIGKILL) } })
      }
    }
  }

  @Test("truncated, missing and forged files are found before anything is swapped", .timeLimit(.minutes(10)))
  func damagedFiles() async throws {
    try await RedisFixture.with { fixture in
      try await fixture.commands((0..<200).map { ["SET", "k\($0)", "some value"] })
      let captured = try await fixture.capture(prepared: {
        try await fixture.commands((0..<50).map { ["SET", "l\($0)", "some value"] })
      })
      let driver = try fixture.driver(.usual)
      let isDamage: (DriverError) -> Bool = { if case .corrupt = $0 { true } else { false } }
      for file in ["base.rdb", "incr.aof"] {
        let path = TreePath("appendonlydir/appendonly.aof.1.\(file)")
        let changes: [@Sendable ([UInt8]) -> [UInt8]?] = [
          { Array($0.dropLast(7)) }, { $0 + [0] }, { _ in [] }, { _ in nil },
        ]
        for change in changes {
          let damaged = try await captured.tree.changing(path, change)
          try await expectFailure("\(file) damaged", isDamage) {
            _ = try await driver.restoreBeside(captured.request("damaged", from: damaged))
          }
        }
        // Also when whoever did it made the facts agree.
        let forged = try await captured.tree.changing(path) { Array($0.dropLast(7)) }
        var request = captured.request("forged", from: forged)
        let content = try #require(forged.entries[path]).content
        let name = file == "base.rdb" ? "base" : "increment"
        request.capture.facts["\(name).bytes"] = String(content.count)
        request.capture.facts["\(name).sha256"] = Digest.of(content).hex
        try await expectFailure("\(file) forged", isDamage) { _ = try await driver.restoreBeside(request) }
      }
      var request = captured.request("counts")
      request.capture.facts["db0.keys"] = "251"
      try await expectFailure("one key fewer than were counted", isDamage) {
        _ = try await driver.restoreBeside(request)
      }
      request.capture.facts["base.bytes"] = nil
      try await expectFailure("facts are missing", isDamage) { _ = try await driver.restoreBeside(request) }
    }
  }

  @Test(
    "without redis-server on this machine a capture works, and says what was not compared", .timeLimit(.minutes(10)))
  func noBinary() async throws {
    try await RedisFixture.with { fixture in
      let driver = try fixture.driver(["binary": "no-such-redis-server"])
      let captured = try await fixture.capture(driver)
      #expect(captured.result.contentDigest == nil)
      #expect(captured.result.notes.contains { $0.contains("no content digest") })
      #expect(try await !driver.precheck(captured.request()).isEmpty)
    }
  }

  @Test("a replica and its primary: the replica is outside the cut and says why", .timeLimit(.minutes(10)))
  func replica() async throws {
    try await RedisFixture.with { primary in
      try await primary.commands([["SET", "k", "v"]])
      var settings = RedisServer.Settings()
      settings.more = ["replicaof 127.0.0.1 \(primary.server.port)"]
      try await RedisFixture.with(settings) { replica in
        for _ in 0..<500 where try await replica.integer("DBSIZE") != 1 { try await Task.sleep(for: .milliseconds(10)) }
        guard case .outside(let why) = try await replica.driver(.usual).traits().hold else {
          Issue.record("a replica can't be held")
          return
        }
        #expect(why.contains("primary"))
        let captured = try await replica.capture(isHeld: false)
        #expect(captured.result.contentDigest?.parts["db0"]?.count == 1)
      }
    }
  }

  @Test("a query can choose its database and read fields of many hashes", .timeLimit(.minutes(10)))
  func queries() async throws {
    try await RedisFixture.with { fixture in
      try await fixture.commands([
        ["HSET", "session:b", "user", "2", "x", "y"], ["HSET", "session:a", "user", "1"],
        ["HSET", "session:c", "x", "y"],
        ["SET", "session:text", "x"], ["SELECT", "3"], ["SET", "k", "with blank"],
      ])
      let driver = try fixture.driver(.usual)
      let limit = QueryLimit()
      #expect(
        try await driver.query("SCANHASH session:* user", limit: limit).rows
          == [["session:a", "1"], ["session:b", "2"], ["session:c", nil]])
      #expect(try await driver.query("SCANHASH session:* user", limit: QueryLimit(rows: 2)).isTruncated)
      #expect(try await driver.query("DB 3 GET k", limit: limit).rows == [["with blank"]])
      #expect(try await driver.query("GET missing", limit: limit).rows == [[nil]])
      let hash = try await driver.query("hgetall \"session:\\x62\"", limit: limit)
      #expect(hash.columns == ["field", "value"] && hash.rows == [["user", "2"], ["x", "y"]])
      #expect(try await driver.query("OBJECT ENCODING session:text", limit: limit).rows == [["embstr"]])
    }
  }
}
