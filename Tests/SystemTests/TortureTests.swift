import Core
import IO
import TestSupport
import Testing

/// A small part of what `scripts/torture` does by hand.
@Suite("Torture", .serialized)
struct TortureTests {
  private func points(_ arguments: [String]) async throws -> (run: CommandRun, outcome: JSONValue) {
    let program = try CommandRun.product("salvor-torture")
    let run = try await CommandRun([program, "points", "--json", "--calm", "1"] + arguments)
    return (run, try CanonicalJSON.decode(JSONValue.self, from: Array(run.output.utf8)))
  }

  @Test(.timeLimit(.minutes(5))) func `points taken at full load are whole`() async throws {
    let (run, outcome) = try await points(["--runs", "4"])
    #expect(run.status == 0, "\(run.errors)")
    let points = try #require(outcome["points"]?.array)
    #expect(points.count == 4)
    for point in points {
      #expect(point["mode"]?.string == "barrier")
      #expect(point["compared"]?.array?.count ?? 0 >= 3, "contents are compared, not only invariants: \(point)")
      let checks = try #require(point["checks"]?.array)
      #expect(!checks.isEmpty && checks.allSatisfy { $0["verdict"]?.string == "passed" })
    }
    #expect(
      outcome["loads"]?.array?.first?["acknowledged"]?.integer ?? 0 > 100, "a load that does nothing proves nothing")
  }

  @Test(.timeLimit(.minutes(5))) func `points along logs at full load are whole`() async throws {
    let (run, outcome) = try await points(["--runs", "5", "--every", "500", "--restore", "2"])
    #expect(run.status == 0, "\(run.errors)")
    #expect(outcome["pauses"]?.array?.count == 5)
    let points = try #require(outcome["points"]?.array)
    #expect(points.count == 2)
    for point in points {
      #expect(point["mode"]?.string == "barrier")
      let checks = try #require(point["checks"]?.array)
      #expect(!checks.isEmpty && checks.allSatisfy { $0["verdict"]?.string == "passed" })
    }
    #expect(
      outcome["loads"]?.array?.first?["acknowledged"]?.integer ?? 0 > 100, "a load that does nothing proves nothing")
  }

  @Test(.timeLimit(.minutes(5))) func `points along logs taken without holding are found broken`() async throws {
    let (run, outcome) = try await points(["--runs", "6", "--every", "500", "--no-hold"])
    #expect(run.status == 0, "\(run.errors)")
    let points = try #require(outcome["points"]?.array)
    #expect(points.contains { $0["checks"]?.array?.contains { $0["verdict"]?.string == "failed" } ?? false })
  }

  /// The negative control: without the hold the same checks must find broken points.
  @Test(.timeLimit(.minutes(5))) func `points taken without holding are found broken`() async throws {
    let (run, outcome) = try await points(["--runs", "8", "--no-hold"])
    #expect(run.status == 0, "\(run.errors)")
    let points = try #require(outcome["points"]?.array)
    #expect(points.contains { $0["checks"]?.array?.contains { $0["verdict"]?.string == "failed" } ?? false })
  }
}
