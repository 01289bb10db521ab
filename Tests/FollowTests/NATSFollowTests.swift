import Core
import Foundation
import IO
import TestSupport
import Testing

@testable import DriverNATS

/// How often what chance has a part in is tried: `SALVOR_LOG_RUNS`.
private let runs = ProcessInfo.processInfo.environment["SALVOR_LOG_RUNS"].flatMap { Int($0) }

@Suite("Following NATS", .serialized) struct NATSFollowTests {
  @Test(.timeLimit(.minutes(10)))
  func `server and follower killed, the disk gone: two seconds are lost at most`() async throws {
    try await NATSSite.with { it in
      // With 60s here it must fail.
      try await it.site.follow("--within", ProcessInfo.processInfo.environment["SALVOR_LOG_WITHIN"] ?? "2s")
      try await it.site.salvor("backup", "-q").succeeded()
      try it.startWriting()
      try await Task.sleep(for: .seconds(6))
      it.site.killFollower()
      let before = try await it.lines()
      try await it.loseServer()
      it.endWriting()
      let acknowledged = it.acknowledged
      try #require(acknowledged.count > 300)
      let standing = try await it.site.json("rpo").array?.first
      #expect(standing?["state"]?.string == "followed", "\(String(describing: standing))")
      try await it.site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      let found = try await it.lines()
      #expect(found == Array(before.prefix(found.count)), "numbers, times, subjects and content are those that were")
      let last = try #require(acknowledged.last)
      let lost = acknowledged.first { $0.number > Int64(found.count) }.map { last.seconds - $0.seconds } ?? 0
      #expect(lost <= 2, "\(lost) seconds of acknowledged work: \(found.count) of \(last.number)")
      #expect(found.count > 100)
      let next = try await it.publish("s.more", "more")
      #expect(next == Int64(found.count) + 1, "numbers go on")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a follower that is killed again and again under load misses nothing`() async throws {
    try await NATSSite.with { it in
      try await it.site.follow()
      try await it.site.salvor("backup", "-q").succeeded()
      try it.startWriting()
      for _ in 1...(runs ?? 3) {
        try await Task.sleep(for: .milliseconds(Int.random(in: 200...2500)))
        it.site.killFollower()
        try await it.site.follow()
      }
      it.stopWriting()
      // The server too comes back with what it had.
      await it.killServer()
      try await it.startServer()
      try await it.publish("s.end", "end")
      try await it.settle()
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
      let timeline = try await it.site.json("timeline", "shop-log")
      #expect(timeline["gaps"]?.array?.isEmpty == true, "\(timeline)")
      let before = try await it.lines()
      try await it.loseServer()
      try await it.site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      #expect(try await it.lines() == before)
    }
  }
}
