import Core
import FailoverRig
import IO
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

/// Real servers and agents, each on a host of its own.
@Suite("Failovers of PostgreSQL on hosts of their own", .serialized) struct FailoverRoomTests {
  private func carryOut(_ faults: [RoomFault], seed: UInt64, mode: FailoverRoom.Mode = .zeroLoss) async throws
    -> ScheduleRun.Result
  {
    let program = try CommandRun.product("salvor")
    let result = try await BlockingPool.shared.run {
      try ScheduleRun.carryOut(FailoverSchedule(seed: seed, mode: mode, faults: faults), program: program)
    }
    if let logs = result.logs { print("logs are in \(logs)") }
    return result
  }

  @Test(.timeLimit(.minutes(10)))
  func `what a killed primary acknowledged is with the next, and a switchover loses nothing either`() async throws {
    let program = try CommandRun.product("salvor")
    try await BlockingPool.shared.run {
      var options = FailoverRoom.Options(program: program)
      options.seed = 11
      let room = try FailoverRoom(options)
      defer { room.close() }
      let clients = RigClients(
        [room.proxied("p1"), room.proxied("p2"), room.direct("d1", from: 0)], on: room.network["client"], seed: 11)
      try room.waitUntil("there is load") { clients.history.count > 300 }
      let time = SystemTime()
      let moment = time.monotonicNanoseconds()
      room.network.signal(SIGKILL, "postgres", on: "a")
      func next(_ after: Int64, but name: String) -> Operation? {
        clients.acknowledged(after: after).first {
          $0.client.hasPrefix("p") && $0.server != room.network[name].address
        }
      }
      try room.waitUntil("another acknowledges through the proxy") { next(moment, but: "a") != nil }
      let first = try #require(next(moment, but: "a"))
      print("kill -9 of the primary to the first acknowledged write: \(Duration.nanoseconds(first.end - moment).brief)")
      let second = try room.waitUntilWhole()
      #expect(second != "a")
      // In good order, to the one that was the primary before.
      let ordered = time.monotonicNanoseconds()
      try room.switchOver(to: "a")
      try room.waitUntil("it acknowledges through the proxy") { next(ordered, but: second) != nil }
      #expect(try room.waitUntilWhole() == "a")
      let verdict = HistoryChecker(.zeroLoss, money: RigClients.money).check(clients.end(), final: try room.final("a"))
      #expect(verdict.findings.isEmpty)
      #expect(verdict.epochs == 3)
      #expect(room.replayDifferences() == [])
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `service moves although a standby has been away for long, and that one counts again when it is back`()
    async throws
  {
    let program = try CommandRun.product("salvor")
    try await BlockingPool.shared.run {
      var options = FailoverRoom.Options(program: program)
      options.seed = 31
      options.budgets.absence = .seconds(2)
      let room = try FailoverRoom(options)
      defer { room.close() }
      let clients = RigClients([room.proxied("p1"), room.proxied("p2")], on: room.network["client"], seed: 31)
      try room.waitUntil("there is load") { clients.history.count > 100 }
      room.network.signal(SIGKILL, "salvor", on: "c")
      room.network.signal(SIGKILL, "postgres", on: "c")
      try room.waitUntil("c no longer counts") { room.agentLog("a").contains { $0.contains("V-021") } }
      let moment = SystemTime().monotonicNanoseconds()
      room.network.signal(SIGKILL, "postgres", on: "a")
      try room.waitUntil("b is told to serve") { room.isPrimary("b") }
      try room.startAgent("c")
      try room.waitUntil("b acknowledges") {
        clients.firstAcknowledged(begunAfter: moment, butBy: room.network["a"].address)?.server
          == room.network["b"].address
      }
      #expect(try room.waitUntilWhole() == "b")
      try room.waitUntil("both count again") {
        let names = try? room.ask("SHOW synchronous_standby_names", on: "b").first?.first
        return names == #"ANY 1 ("a", "c")"#
      }
      let verdict = HistoryChecker(.zeroLoss, money: RigClients.money).check(clients.end(), final: try room.final("b"))
      #expect(verdict.findings.isEmpty)
      #expect(room.replayDifferences() == [])
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a primary that stood still longer than the lease acknowledges nothing when it goes on`() async throws {
    let result = try await carryOut(
      [RoomFault(.freeze([.postgres, .agent], on: .primary), after: 300, for: 8000)], seed: 12)
    #expect(result.problems == [])
    #expect(result.verdict.findings.isEmpty)
    #expect(result.failovers == 1)
  }

  @Test(.timeLimit(.minutes(10)))
  func `a primary that is cut off comes back as a standby`() async throws {
    let result = try await carryOut([RoomFault(.isolate(.primary), after: 300, for: 8000)], seed: 13)
    #expect(result.problems == [])
    #expect(result.verdict.findings.isEmpty)
    #expect(result.failovers == 1)
  }

  /// Some of those that `scripts/torture failover` carries out by the hundred: these two have broken a promise before.
  @Test(.timeLimit(.minutes(10)), arguments: [3026 as UInt64, 3033])
  func `what chance makes of a seed breaks no promise`(_ seed: UInt64) async throws {
    let schedule = FailoverSchedule(seed: seed, mode: .bounded)
    let program = try CommandRun.product("salvor")
    let result = try await BlockingPool.shared.run { try ScheduleRun.carryOut(schedule, program: program) }
    if let logs = result.logs { print("logs are in \(logs)") }
    #expect(result.problems == [], "\(result.done)")
    #expect(result.verdict.findings.isEmpty, "\(result.done)")
    #expect(result.verdict.acknowledged > 100)
  }

  @Test(
    "Without a protection, real servers show what it is for", .timeLimit(.minutes(10)),
    arguments: [FailoverControl.mostComplete, .fenceQuorum, .selfStop])
  func control(_ control: FailoverControl) async throws {
    let program = try CommandRun.product("salvor")
    let result = try await BlockingPool.shared.run {
      try control.run(seed: 21, program: program, withProtections: false)
    }
    #expect(control.isRed(result), "\(result.verdict.findings) \(result.problems)")
    if let logs = result.logs { try Files.removeTree(logs) }
  }
}
