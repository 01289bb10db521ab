import Core
import Failover
import IO
import ReplicatedEngineContract
import Runtime
import TestSupport
import Testing

@Suite("Failovers are practised", .serialized) struct PractiseTests {
  @Test(.timeLimit(.minutes(10))) func `a killed primary, and service is back where it was`() async throws {
    let room = try await AgentRoom<RedisTrio>.open(practice: #"{"kind": "failover", "within": "20s"}"#)
    do {
      try await room.until("a primary") { await room.primary() == "a" }
      for number in 0..<20 { #expect(try await room.trio.write("key-\(number)", on: "a")) }
      let run = try await room.practise("--yes", "--", "true")
      #expect(run.status == 0, "\(run.output)\(run.errors)")
      let result = try #require(try CanonicalJSON.decode([PracticeResult].self, from: Array(run.output.utf8)).first)
      #expect(result.outcome == .passed && result.rule == .isBack)
      #expect(result.moves.map(\.isKill) == [true, false])
      #expect(result.moves.allSatisfy { $0.silenceMilliseconds > 0 && $0.milliseconds >= $0.silenceMilliseconds })
      #expect(try #require(result.probe).attempts > 0)
      try await room.until("service where it was") { await room.primary() == "a" }
      #expect(try await room.trio.keys(on: "a").count == 20)

      // It is on record, and isn't due again.
      let listed = try await CommandRun([
        try CommandRun.product("salvor"), "failover", "practised", "-o", "json", "--state", room.stateDirectory,
      ])
      #expect(listed.output.contains(result.id), "\(listed.output)\(listed.errors)")
      let again = try await room.practise("--due")
      #expect(again.status == 1 && again.errors.contains("FAILOVER-122"), "\(again.errors)")
      let unserved = try await room.practise("--kind", "switchover", "--stay", "--", "false")
      #expect(unserved.status == 4 && unserved.output.contains("never"), "\(unserved.output)\(unserved.errors)")
      try await room.replayAll()
    } catch {
      await room.close()
      throw error
    }
    await room.close()
  }

  @Test(.timeLimit(.minutes(10))) func `a real failure in the middle ends the practice, and not the service`()
    async throws
  {
    let room = try await AgentRoom<PostgreSQLTrio>.open(practice: #"{"schedule": "every 7d"}"#)
    do {
      try await room.until("a primary") { await room.primary() == "a" }
      try await room.until("a write") { try await room.trio.write("before", on: "a") }
      let refused = try await room.practise("--kind", "failover", "--yes")
      #expect(refused.status == 1 && refused.errors.contains("FAILOVER-121"), "\(refused.errors)")

      async let practised = room.practise("--due")
      try await room.until("service elsewhere") { await room.primary() == "b" }
      try await room.trio.crash("b")
      let run = try await practised
      #expect(run.status == 6, "\(run.output)\(run.errors)")
      let result = try #require(try CanonicalJSON.decode([PracticeResult].self, from: Array(run.output.utf8)).first)
      #expect(result.outcome == .aborted, "\(result)")
      var next: MemberName = "b"
      try await room.until("another primary") {
        next = await room.primary() ?? "b"
        return next != "b"
      }
      try await room.until("a write") { try await room.trio.write("after", on: next) }
      #expect(try await room.trio.keys(on: next).isSuperset(of: ["before", "after"]))
      let due = try await room.practise("--due")
      #expect(due.status == 0 && due.errors.contains("not due before"), "\(due.errors)")
      try await room.replayAll()
    } catch {
      await room.close()
      throw error
    }
    await room.close()
  }
}

extension AgentRoom {
  func practise(_ more: String...) async throws -> CommandRun {
    let words = more.split(separator: "--", maxSplits: 1, omittingEmptySubsequences: false)
    let program = try CommandRun.product("salvor")
    return try await CommandRun(
      [
        program, "failover", "practise", "--policy", policyFile, "--lease", leases, "--secret", "env:AGENTS", "-o",
        "json",
        "--state", stateDirectory,
      ] + words[0] + (words.count > 1 ? ["--"] + words[1] : []),
      environment: ["AGENTS": "shown-to-each-other"])
  }
}
