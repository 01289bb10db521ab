import Core
import StateKit
import Testing

@testable import Workflow

@Suite("Schedule")
struct ScheduleTests {
  private func spec(_ steps: [StepSpec], onFailure: RunSpec.FailureResponse = .stop) -> RunSpec {
    RunSpec(
      id: "r", kind: "test", title: "", catalogDigest: Digest.of(""), steps: steps, onFailure: onFailure,
      createdAt: Timestamp(seconds: 0))
  }

  private func step(
    _ id: StepID, after: Set<StepID> = [], priority: Int = 0, resource: String? = nil
  ) -> StepSpec {
    StepSpec(id: id, kind: "k", title: "", dependsOn: after, priority: priority, resource: resource)
  }

  private func schedule(
    _ spec: RunSpec, records: [StepID: StepRecord] = [:], limits: [String: Int] = [:], parallelism: Int = 8
  ) -> RunSchedule {
    RunSchedule(spec, records: records, limits: limits, parallelism: parallelism)
  }

  @Test func `the highest priority starts first, then the order of the plan`() {
    let plan = spec([step("a"), step("b", priority: 5), step("c", priority: 5), step("d", priority: 9)])
    var schedule = schedule(plan, parallelism: 2)
    #expect(schedule.began() == [.start("d"), .start("b")])
    #expect(schedule.succeeded("b") == [.start("c")])
    #expect(schedule.succeeded("d") == [.start("a")])
    #expect(schedule.outcome == nil)
    _ = schedule.succeeded("a")
    _ = schedule.succeeded("c")
    #expect(schedule.outcome == .succeeded)
  }

  @Test func `a full resource lets others pass`() {
    let plan = spec([
      step("a", priority: 3, resource: "copy"), step("b", priority: 2, resource: "copy"), step("c", resource: "cpu"),
    ])
    var schedule = schedule(plan, limits: ["copy": 1])
    #expect(schedule.began() == [.start("a"), .start("c")])
    #expect(schedule.succeeded("a") == [.start("b")])
  }

  @Test func `of those that share a resource the one most waits for comes first`() {
    let plan = spec([
      step("a", priority: 1, resource: "copy"), step("b", priority: 9), step("c", priority: 5, resource: "copy"),
      step("d", priority: 3, resource: "copy"), step("e", priority: 4, resource: "other"),
    ])
    var schedule = schedule(plan)
    _ = schedule.began()
    #expect(schedule.ranks == ["c": 0, "d": 1, "a": 2, "e": 0])
    _ = schedule.succeeded("c")
    #expect(schedule.ranks == ["d": 0, "a": 1, "e": 0])
  }

  @Test func `a step waits for success of all it depends on`() {
    var schedule = schedule(spec([step("a"), step("b"), step("c", after: ["a", "b"])]))
    #expect(schedule.began() == [.start("a"), .start("b")])
    #expect(schedule.succeeded("a") == [])
    #expect(schedule.succeeded("b") == [.start("c")])
  }

  @Test func `what depends on a failure is skipped, the rest goes on`() {
    let report = Report("T", "broke")
    var schedule = schedule(
      spec([step("a"), step("b", after: ["a"]), step("c", after: ["b"]), step("d"), step("e", after: ["d"])]))
    _ = schedule.began()
    #expect(schedule.failed("a", report, retryAfter: nil) == [.skip("b", because: "a"), .skip("c", because: "a")])
    #expect(schedule.outcome == nil)
    #expect(schedule.succeeded("d") == [.start("e")])
    _ = schedule.succeeded("e")
    #expect(schedule.outcome == .failed("a", report))
  }

  @Test func `nothing new starts when all will be undone`() {
    let report = Report("T", "broke")
    var schedule = schedule(spec([step("a"), step("b"), step("c", after: ["b"])], onFailure: .rollback))
    _ = schedule.began()
    _ = schedule.failed("a", report, retryAfter: nil)
    #expect(schedule.succeeded("b") == [])
    #expect(schedule.outcome == .failed("a", report))
  }

  @Test func `a pause frees the place`() {
    let plan = spec([step("a", priority: 1, resource: "copy"), step("b", resource: "copy")])
    var schedule = schedule(plan, limits: ["copy": 1])
    #expect(schedule.began() == [.start("a")])
    let report = Report("T", "later", retry: .afterBackoff)
    #expect(schedule.failed("a", report, retryAfter: .seconds(1)) == [.wait("a", .seconds(1)), .start("b")])
    #expect(schedule.woke("a") == [])
    #expect(schedule.succeeded("b") == [.start("a")])
    #expect(schedule.woke("a") == [])
  }

  @Test func `a run taken up goes on from its records`() {
    var done = StepRecord(id: "a")
    done.state = .succeeded
    var interrupted = StepRecord(id: "b")
    interrupted.state = .intended
    var failed = StepRecord(id: "c")
    (failed.state, failed.failure) = (.failed, Report("T", "broke"))
    let plan = spec([step("a"), step("b", after: ["a"]), step("c"), step("d", after: ["c"]), step("e", after: ["d"])])
    var schedule = schedule(plan, records: ["a": done, "b": interrupted, "c": failed])
    // The crash came before the skips were on record.
    #expect(schedule.began() == [.skip("d", because: "c"), .skip("e", because: "c"), .start("b")])
  }

  /// For any graph and any order of events: limits hold, no step starts before its dependencies succeeded or twice at
  /// once, everything is started or skipped, and the schedule ends.
  @Test(arguments: 0..<400 as Range<UInt64>)
  func `keeps its promises whatever happens`(_ seed: UInt64) throws {
    let randomness = SeededRandomness(seed: seed)
    let ids = (0..<(1 + randomness.below(15))).map { StepID(unchecked: "s\($0)") }
    let plan = spec(
      ids.indices.map { index in
        step(
          ids[index], after: Set(ids[..<index].filter { _ in randomness.chance(0.25) }), priority: randomness.below(4),
          resource: [nil, "copy", "cpu"][randomness.below(3)])
      }, onFailure: randomness.chance(0.5) ? .rollback : .stop)
    let limits = ["copy": 1 + randomness.below(2)]
    let parallelism = 1 + randomness.below(4)
    var schedule = schedule(plan, limits: limits, parallelism: parallelism)

    var running: Set<StepID> = []
    var sleeping: Set<StepID> = []
    var succeeded: Set<StepID> = []
    var failed: Set<StepID> = []
    var skipped: Set<StepID> = []
    func take(_ actions: [RunSchedule.Action]) throws {
      for action in actions {
        switch action {
        case .start(let id):
          let spec = try #require(plan.step(id))
          #expect(spec.dependsOn.isSubset(of: succeeded))
          #expect(running.insert(id).inserted)
          #expect(!succeeded.contains(id) && !failed.contains(id) && !sleeping.contains(id) && !skipped.contains(id))
        case .wait(let id, _): #expect(sleeping.insert(id).inserted)
        case .skip(let id, let cause):
          #expect(failed.contains(cause))
          #expect(skipped.insert(id).inserted)
        }
      }
      #expect(running.count <= parallelism)
      #expect(running.count { plan.step($0)?.resource == "copy" } <= limits["copy"] ?? 0)
    }
    try take(schedule.began())
    var events = 0
    while schedule.outcome == nil {
      events += 1
      try #require(events < 1000)
      let candidates = running.union(sleeping).sorted()
      try #require(!candidates.isEmpty, "the schedule neither ends nor waits")
      let id = candidates[randomness.below(candidates.count)]
      if sleeping.remove(id) != nil {
        try take(schedule.woke(id))
      } else {
        running.remove(id)
        switch randomness.below(10) {
        case 0:
          failed.insert(id)
          try take(schedule.failed(id, Report("T", "broke"), retryAfter: nil))
        case 1, 2:
          // After a failure that undoes everything there is no second try.
          let actions = schedule.failed(id, Report("T", "later"), retryAfter: .seconds(1))
          if !actions.contains(.wait(id, .seconds(1))) { failed.insert(id) }
          try take(actions)
        default:
          succeeded.insert(id)
          try take(schedule.succeeded(id))
        }
      }
    }
    #expect(running.isEmpty && sleeping.isEmpty)
    if failed.isEmpty {
      #expect(schedule.outcome == .succeeded)
      #expect(succeeded == Set(ids))
    } else if plan.onFailure == .stop {
      #expect(succeeded.union(failed).union(skipped) == Set(ids))
    }
  }
}
