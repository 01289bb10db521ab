import Core
import ReplicatedEngineContract
import TestSupport
import Testing

@Suite("Agents move service between real servers", .serialized) struct AgentTests {
  @Test(.timeLimit(.minutes(10))) func `three Redis servers, and the primary is killed`() async throws {
    try await killed(RedisTrio.self)
  }

  @Test(.timeLimit(.minutes(10))) func `three MariaDB servers, and the primary is killed`() async throws {
    try await killed(MariaDBTrio.self)
  }

  @Test(.timeLimit(.minutes(10))) func `three PostgreSQL servers, and the primary is killed`() async throws {
    try await killed(PostgreSQLTrio.self)
  }

  /// While somebody writes, the primary is killed: another serves, all that was acknowledged is there, and the old one
  /// comes back by itself as a follower.
  private func killed<Trio: AgentTrio>(_: Trio.Type) async throws {
    let room = try await AgentRoom<Trio>.open()
    do {
      try await room.until("a primary") { await room.primary() == "a" }
      var acknowledged: Set<String> = []
      for number in 0..<20 where try await room.trio.write("before-\(number)", on: "a") {
        acknowledged.insert("before-\(number)")
      }
      #expect(acknowledged.count == 20)
      async let trickle = room.trickle(on: "a")
      try await room.until("a write under way") { try await room.trio.keys(on: "b").contains { $0.hasPrefix("load-") } }
      try await room.trio.crash("a")
      acknowledged.formUnion(await trickle)

      var next: MemberName = "a"
      try await room.until("another primary") {
        next = await room.primary() ?? "a"
        return next != "a"
      }
      try await room.until("an acknowledged write") { try await room.trio.write("after", on: next) }
      acknowledged.insert("after")
      let kept = try await room.trio.keys(on: next)
      #expect(acknowledged.subtracting(kept).isEmpty, "nothing acknowledged is lost")
      try await room.until("the old primary's return") {
        ((try? await room.trio.keys(on: "a")) ?? []).isSuperset(of: acknowledged)
      }
      #expect(try await !room.trio.write("stray", on: "a"), "it is a follower")
      try await room.replayAll()
    } catch {
      await room.close()
      throw error
    }
    await room.close()
  }
}

extension AgentRoom {
  /// Writes until the server is gone.
  ///
  /// - Returns: What was acknowledged.
  func trickle(on member: MemberName) async -> Set<String> {
    var acknowledged: Set<String> = []
    for number in 0..<10_000 {
      guard let isAcknowledged = try? await trio.write("load-\(number)", on: member), isAcknowledged else { break }
      acknowledged.insert("load-\(number)")
    }
    return acknowledged
  }
}
