import Core
import DriverKit
import ReplicatedEngineContract
import Testing

/// A former primary is started before it is known who serves, and then told to follow: it asks for what it doesn't have,
/// and not for what it wrote itself.
@Suite("Former primaries of MariaDB", .serialized) struct MariaDBReturnTests {
  @Test(.timeLimit(.minutes(10))) func `one that wrote nothing alone goes on where it stood`() async throws {
    try await comesBack { trio in
      try await trio.untilKeys("c", beating: "a") { $0.count == 3 }
      try await trio.untilKeys("b", beating: "a") { $0.count == 3 }
    }
  }

  @Test(.timeLimit(.minutes(10))) func `one that has what nobody else has begins anew`() async throws {
    try await comesBack { trio in
      try await trio.untilKeys("c", beating: "a") { $0.count == 3 }
      try await trio.untilKeys("b", beating: "a") { $0.count == 3 }
      try await trio.engine("b").detach()
      try await trio.engine("c").detach()
      _ = try await trio.write("alone", on: "a")
    }
  }

  private func comesBack(after prepare: (MariaDBTrio) async throws -> Void) async throws {
    let trio = try await MariaDBTrio.start(isBounded: false)
    do {
      for number in 0..<3 { #expect(try await trio.write("early-\(number)", on: "a")) }
      try await prepare(trio)
      try await trio.crash("a")
      try await trio.engine("b").detach()
      try await trio.engine("c").detach()
      try await trio.engine("c").promote()
      try await trio.engine("b").follow("c")
      _ = try await trio.facts("c", beating: "c") { $0.attached == ["b"] && $0.acknowledges }
      for number in 0..<3 { #expect(try await trio.write("late-\(number)", on: "c")) }

      try await trio.engine("a").start(detached: true)
      try await trio.engine("a").follow("c")
      _ = try await trio.facts("a", beating: "c") { $0.following == "c" && $0.isStreaming }
      try await trio.untilKeys("a", beating: "c") {
        $0 == ["early-0", "early-1", "early-2", "late-0", "late-1", "late-2"]
      }
    } catch {
      await trio.end()
      throw error
    }
    await trio.end()
  }

  @Test(.timeLimit(.minutes(10))) func `one that receives and can't apply it doesn't count as following`() async throws
  {
    let trio = try await MariaDBTrio.start(isBounded: false)
    do {
      #expect(try await trio.write("first", on: "a"))
      try await trio.untilKeys("b", beating: "a") { $0 == ["first"] }
      _ = try await trio.facts("b", beating: "a") { $0.isStreaming }
      // Somebody took the table away there; the next write can't be applied.
      try await trio.servers["b"]!.sql("SET SESSION sql_log_bin = 0", "DROP TABLE shop.keys")
      #expect(try await trio.write("second", on: "a"))
      let facts = try await trio.facts("b", beating: "a") { !$0.isStreaming }
      #expect(facts.following == "a")
    } catch {
      await trio.end()
      throw error
    }
    await trio.end()
  }
}
