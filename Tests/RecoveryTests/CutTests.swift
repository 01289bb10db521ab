import Core
import DriverKit
import Recovery
import Synchronization
import Testing

/// The order of calls across a group, on sessions that write down what is asked of them.
@Suite struct CutTests {
  @Test(arguments: 0..<20 as Range<UInt64>)
  func `every hold comes before any mark, and every mark before any release`(_ seed: UInt64) async throws {
    let world = World(seed: seed, stores: ["a", "b", "c", "d"])
    let outcome = try await world.cut(budget: .seconds(1)).take()
    let calls = world.calls
    let lastHold = try #require(calls.lastIndex { $0.hasSuffix("held") })
    let firstMark = try #require(calls.firstIndex { $0.hasSuffix("mark") })
    let lastMark = try #require(calls.lastIndex { $0.hasSuffix("marked") })
    let firstRelease = try #require(calls.firstIndex { $0.hasSuffix("release") })
    #expect(lastHold < firstMark)
    #expect(lastMark < firstRelease)
    #expect(outcome.mode == .barrier)
    #expect(outcome.marks.count == 4)
    #expect(outcome.remarks.isEmpty)
  }

  @Test func `one store that can't be held releases all, and no point is made`() async throws {
    let world = World(seed: 1, stores: ["a", "b", "c"], failing: ["b"])
    await #expect(throws: RecoveryError.self) { try await world.cut(budget: .seconds(1)).take() }
    #expect(Set(world.calls.filter { $0.hasSuffix("release") }) == ["a release", "b release", "c release"])
    #expect(!world.calls.contains { $0.hasSuffix("mark") }, "nothing is marked once a hold has failed")
  }

  @Test func `holds that together take longer than the budget are given up`() async throws {
    let world = World(seed: 2, stores: ["a", "b"], holdTakes: .milliseconds(800))
    let error = await #expect(throws: RecoveryError.self) { try await world.cut(budget: .milliseconds(500)).take() }
    #expect(error?.report.code == "POINT-101")
    #expect(world.calls.filter { $0.hasSuffix("release") }.count == 2)
  }

  @Test func `a hold that lapsed before its release makes the point fuzzy, in so many words`() async throws {
    let world = World(seed: 3, stores: ["a", "b"], lapsing: ["b"])
    let outcome = try await world.cut(budget: .seconds(1)).take()
    #expect(outcome.mode == .fuzzy)
    #expect(outcome.cuts["a"] == .held)
    guard case .outside(let why) = outcome.cuts["b"] else {
      Issue.record("b should be outside")
      return
    }
    #expect(why.contains("lapsed"))
  }

  @Test func `a store that can't be held is outside the cut, and the point says so`() async throws {
    let world = World(seed: 4, stores: ["a", "files"], outside: ["files"])
    let outcome = try await world.cut(budget: .seconds(1)).take()
    #expect(outcome.mode == .barrier)
    #expect(outcome.remarks == ["files is outside the cut: no lock"])
    #expect(!world.calls.contains("files hold"))
  }

  @Test func `one store that is copied at a moment is in the cut, two are not`() async throws {
    let world = World(seed: 4, stores: ["a", "etcd"], moments: ["etcd"])
    let outcome = try await world.cut(budget: .seconds(1)).take()
    #expect(outcome.mode == .barrier && outcome.remarks.isEmpty)
    #expect(outcome.cuts == ["a": .held, "etcd": .moment])
    #expect(!world.calls.contains("etcd hold"))
    let two = try await World(seed: 4, stores: ["a", "etcd", "other"], moments: ["etcd", "other"])
      .cut(budget: .seconds(1)).take()
    #expect(two.cuts["etcd"]?.isOutside == true && two.cuts["other"]?.isOutside == true)
    #expect(two.remarks.contains { $0.contains("neither is other") }, "\(two.remarks)")
    // Nobody else is held: no moment to be in.
    let alone = try await World(seed: 4, stores: ["etcd", "files"], outside: ["files"], moments: ["etcd"])
      .cut(budget: .seconds(1)).take()
    #expect(alone.mode == .fuzzy && alone.cuts["etcd"]?.isOutside == true)
  }

  @Test func `a failing mark still releases everyone`() async throws {
    let world = World(seed: 5, stores: ["a", "b"], unmarked: ["a"])
    let error = await #expect(throws: RecoveryError.self) { try await world.cut(budget: .seconds(1)).take() }
    #expect(error?.report.code == "POINT-102")
    #expect(world.calls.filter { $0.hasSuffix("release") }.count == 2)
  }

  @Test func `without a hold the point is fuzzy and nobody waits`() async throws {
    let world = World(seed: 6, stores: ["a", "b"])
    let outcome = try await Cut(world.members, policy: .none, time: world.time).take()
    #expect(outcome.mode == .fuzzy)
    #expect(outcome.pause == .zero)
    #expect(!world.calls.contains { $0.hasSuffix("hold") })
  }

  @Test func `the id of a point is derived from what it is`() {
    let marks: [StoreName: LogPosition] = ["a": LogPosition(kind: "lsn", value: "0/1")]
    let time = Timestamp("2026-11-21T08:09:20.5Z")!
    let id = PointID(time: time, group: "bank", catalog: .of("x"), marks: marks)
    #expect(id == PointID(time: time, group: "bank", catalog: .of("x"), marks: marks))
    #expect(id != PointID(time: time, group: "bank", catalog: .of("y"), marks: marks))
    #expect(id.text.hasPrefix("20261121T080920Z-"))
    #expect(PointID(id.text) == id)
    #expect(PointID("../etc") == nil)
  }
}

/// Stores whose sessions take random time and log every call.
private final class World: Sendable {
  let time = YieldingTime()
  let members: [StoreName: Cut.Member]
  private let log: Log

  init(
    seed: UInt64, stores: [StoreName], failing: Set<StoreName> = [], lapsing: Set<StoreName> = [],
    outside: Set<StoreName> = [], moments: Set<StoreName> = [], unmarked: Set<StoreName> = [],
    holdTakes: Duration = .milliseconds(1)
  ) {
    let log = Log()
    let random = SeededRandomness(seed: seed)
    self.log = log
    let time = time
    members = Dictionary(
      uniqueKeysWithValues: stores.map { name in
        let session = LoggingSession(
          name: name, log: log, time: time, yields: random.below(40), fails: failing.contains(name),
          lapses: lapsing.contains(name), unmarked: unmarked.contains(name), holdTakes: holdTakes)
        let support: HoldSupport =
          outside.contains(name)
          ? .outside(why: "no lock") : moments.contains(name) ? .moment(how: "one revision") : .held(how: "test")
        return (name, Cut.Member(session: session, support: support))
      })
  }

  var calls: [String] { log.lines.withLock { $0 } }

  func cut(budget: Duration) -> Cut { Cut(members, policy: .hold(budget: budget), time: time) }
}

private final class Log: Sendable {
  let lines = Mutex<[String]>([])
  func write(_ line: String) { lines.withLock { $0.append(line) } }
}

/// A clock that moves only when a session says so.
private final class YieldingTime: Timekeeper {
  private let elapsed = Mutex<Int64>(0)
  func now() -> Timestamp { Timestamp(seconds: 1_800_000_000) + .nanoseconds(monotonicNanoseconds()) }
  func monotonicNanoseconds() -> Int64 { elapsed.withLock { $0 } }
  func sleep(for duration: Duration) async throws { pass(duration) }
  func pass(_ duration: Duration) { elapsed.withLock { $0 += duration.wholeNanoseconds } }
}

private struct LoggingSession: CaptureSession {
  let name: StoreName
  let log: Log
  let time: YieldingTime
  let yields: Int
  let fails: Bool
  let lapses: Bool
  let unmarked: Bool
  let holdTakes: Duration

  func prepare() async throws(DriverError) {}

  func hold(limit: Duration) async throws(DriverError) {
    log.write("\(name) hold")
    for _ in 0..<yields { await Task.yield() }
    time.pass(holdTakes)
    if fails { throw .holdTimeout(limit) }
    log.write("\(name) held")
  }

  func mark() async throws(DriverError) -> LogPosition {
    log.write("\(name) mark")
    for _ in 0..<yields { await Task.yield() }
    if unmarked { throw .unreachable("gone") }
    log.write("\(name) marked")
    return LogPosition(kind: "lsn", value: "\(name)/1")
  }

  func release() async -> Bool {
    log.write("\(name) release")
    return !lapses
  }

  func finish() async throws(DriverError) -> CaptureResult {
    CaptureResult(version: "1", position: LogPosition(kind: "lsn", value: "\(name)/1"), sizeBytes: 0)
  }

  func close() async {}
}
