import Core
import DriverContract
import DriverKit
import Foundation
import IO
import TestSupport
import Testing

@testable import DriverRedis

/// What a started server holds is what was restored, and what is told to be held was held.
@Suite("Redis: live") struct RedisLiveTests {
  private func isCorrupt(_ error: DriverError) -> Bool { if case .corrupt = error { true } else { false } }

  @Test(
    "a server that does not load what was restored is found out", .timeLimit(.minutes(10)), arguments: [false, true])
  func notLoaded(_ inStartCommand: Bool) async throws {
    let place = try TemporaryDirectory("included")
    let included = place.file("more.conf")
    try Files.replace(included, with: [])
    var settings = RedisServer.Settings()
    settings.appendOnly = false
    settings.more = ["include \(included)"]
    try await RedisFixture.with(settings) { fixture in
      for number in Int64(1)...20 { try await fixture.write(number, payload: Payload.of(number)) }
      var options: [String: JSONValue] = [:]
      if inStartCommand {
        options["start"] = .array(
          ["redis-server", fixture.server.configFile, "--appendonly", "yes"].map { .string($0) })
      }
      let driver = try fixture.driver(options)
      let captured = try await fixture.capture(driver)
      // Where the driver does not look: the server then loads append-only files, of which there are none.
      if !inStartCommand { try Files.replace(included, with: Array("appendonly yes\n".utf8)) }
      _ = try await driver.restoreBeside(captured.request())
      try await driver.stop()
      try await driver.swapIn(captured.request())
      try await expectFailure("an empty server", isCorrupt) { try await driver.start() }
      // A second look is no way around it.
      try await expectFailure("still an empty server", isCorrupt) { try await driver.start() }
      try await driver.stop()
      try await driver.swapOut(captured.request())
      if !inStartCommand { try Files.replace(included, with: []) }
      if !inStartCommand { try await driver.start() }
    }
  }

  @Test("keys whose time has passed are not missed, and later starts compare nothing", .timeLimit(.minutes(10)))
  func expiredSince() async throws {
    try await RedisFixture.with { fixture in
      for number in Int64(1)...20 { try await fixture.write(number, payload: Payload.of(number)) }
      for number in 1...10 { try await fixture.command("SET", "brief:\(number)", "x", "PX", "1500", database: 3) }
      try await fixture.command("SET", "lasting", "x", "EX", "3600", database: 3)
      let captured = try await fixture.capture()
      try await SystemTime().sleep(for: .seconds(2))
      try await fixture.restore(captured)
      #expect(try await fixture.integer("DBSIZE") == 20)
      try await fixture.command("DEL", "record:1", "record:2")
      let driver = try fixture.driver(.usual)
      try await driver.stop()
      try await driver.start()
      #expect(try await fixture.integer("DBSIZE") == 18)
    }
  }

  @Test("a server that became a replica after it was asked is not told to be held", .timeLimit(.minutes(10)))
  func notHeld() async throws {
    try await RedisFixture.with { primary in
      try await RedisFixture.with { fixture in
        try await fixture.write(1, payload: Payload.of(1))
        let driver = try fixture.driver(.usual)
        guard case .held = try await driver.traits().hold else {
          Issue.record("a primary can be held")
          return
        }
        let scratch = try TemporaryDirectory("scratch")
        let session = try await driver.capture(CaptureContext(sink: MemoryTree(), scratch: scratch.path))
        try await fixture.command("REPLICAOF", "127.0.0.1", "\(primary.server.port)")
        while try await !fixture.commands([["INFO", "replication"]])[0].text!.contains("master_link_status:up") {
          try await SystemTime().sleep(for: .milliseconds(20))
        }
        do {
          try await session.prepare()
          try await session.hold(limit: .seconds(60))
          _ = try await session.mark()
          let wasHeld = await session.release()
          #expect(!wasHeld)
        } catch {
          await session.close()
          throw error
        }
        await session.close()
      }
    }
  }

  @Test("a mark without a hold is counted by nobody", .timeLimit(.minutes(10))) func unheldMark() async throws {
    try await RedisFixture.with { fixture in
      try await fixture.write(1, payload: Payload.of(1))
      let scratch = try TemporaryDirectory("scratch")
      let session = try await fixture.driver(.usual).capture(CaptureContext(sink: MemoryTree(), scratch: scratch.path))
      do {
        try await session.prepare()
        _ = try await session.mark()
        let result = try await session.finish()
        #expect(result.facts["counted"] == nil, "what was counted beside writers is not what is at the mark")
      } catch {
        await session.close()
        throw error
      }
      await session.close()
    }
  }
}
