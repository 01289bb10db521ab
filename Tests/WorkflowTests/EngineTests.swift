import Core
import IO
import JournalMemory
import JournalSQLite
import StateKit
import Synchronization
import Telemetry
import TestSupport
import Testing

@testable import Workflow

#if canImport(Glibc)
  import Glibc
#endif

/// A step whose parts a test writes down.
struct Scripted: StepHandler {
  var kind: StepKind = "test.v1"
  var retry = RetryPolicy(attempts: 3, first: .milliseconds(1))
  var isDone: @Sendable (StepContext) -> JSONValue? = { _ in nil }
  var act: @Sendable (StepContext) async throws -> JSONValue = { _ in .null }
  var check: @Sendable (JSONValue) throws -> Void = { _ in }
  var undo: @Sendable (StepContext, JSONValue?) async throws -> Void = { _, _ in }

  func probe(_ input: JSONValue, in context: StepContext) async throws -> JSONValue? { isDone(context) }
  func run(_ input: JSONValue, in context: StepContext) async throws -> JSONValue { try await act(context) }
  func verify(_ output: JSONValue, of input: JSONValue, in context: StepContext) async throws { try check(output) }
  func compensate(_ input: JSONValue, output: JSONValue?, in context: StepContext) async throws {
    try await undo(context, output)
  }
}

struct Broken: Failure {
  var retry: Report.Retry = .never
  var report: Report { Report("TEST-9", "broken", retry: retry) }
}

final class Lines: Sendable {
  private let lines = Mutex<[String]>([])
  var all: [String] { lines.withLock { $0 } }
  func add(_ line: String) { lines.withLock { $0.append(line) } }
}

@Suite("Engine", .timeLimit(.minutes(10)))
struct EngineTests {
  private let time = SystemTime()

  private func spec(
    _ steps: [(StepID, Set<StepID>)], onFailure: RunSpec.FailureResponse = .stop, compensates: Bool = true
  ) -> RunSpec {
    RunSpec(
      id: "r", kind: "test", title: "test", catalogDigest: Digest.of(""),
      steps: steps.map {
        StepSpec(id: $0.0, kind: "test.v1", title: "", dependsOn: $0.1, compensates: compensates)
      }, onFailure: onFailure, createdAt: Timestamp(seconds: 0))
  }

  private func engine(
    _ handler: Scripted, _ journal: any RunJournal, holder: Holder = "test", period: Duration = .seconds(15),
    observer: @escaping RunObserver = { _ in }
  ) -> RunEngine {
    var options = RunEngine.Options(holder: holder)
    options.leasePeriod = period
    return RunEngine(
      journal: journal, handlers: [handler], time: time, randomness: SeededRandomness(seed: 1), options: options,
      observer: observer)
  }

  @Test func `outputs reach the steps that depend on them, also on a journal in SQLite`() async throws {
    let directory = try TemporaryDirectory("engine")
    let journal = try await SQLiteJournal.open(directory.file("journal.db"), time: time)
    var handler = Scripted()
    handler.act = { context in
      context.progress(Progress("copy", doneBytes: 7, totalBytes: 7))
      if context.step == "a" { return ["n": 20] }
      return ["n": .integer(try context.output(of: "a", as: [String: Int64].self)["n", default: 0] + 1)]
    }
    let events = Lines()
    let record = try await engine(handler, journal) { event in
      if case .stepFinished(_, let step, .succeeded) = event { events.add(step.text) }
      if case .runChanged(_, let state, _) = event { events.add(state.rawValue) }
    }.start(spec([("a", []), ("b", ["a"])]))
    #expect(record.state == .succeeded)
    #expect(record.output(of: "b") == ["n": 21])
    #expect(record.head.holder == nil)
    #expect(events.all == ["running", "a", "b", "succeeded"])
    #expect(try await journal.history(HistoryFilter(kind: "test.v1")).map(\.measurement.bytes) == [7, 7])
    try AuditChain.verify(try await journal.auditTrail(after: 0, run: nil, limit: 100))
    // Once more: nothing happens.
    #expect(try await engine(handler, journal).start(spec([("a", []), ("b", ["a"])])) == record)
  }

  /// What blocks runs on threads that the kernel gives less the less hangs on it.
  @Test func `who shares a resource gets of the processors what hangs on it`() async throws {
    let journal = MemoryJournal(time: time)
    let levels: [StepID: Int] = ["high": 0, "middle": 1, "low": 2]
    let (begun, asked) = (Lines(), Lines())
    var handler = Scripted()
    handler.act = { [time] context in
      begun.add(context.step.text)
      while begun.all.count < 4 { try await time.sleep(for: .milliseconds(5)) }
      // It is told its level as soon as all have begun, not before; and nobody ends before everybody was asked.
      for _ in 0..<4000 where WorkShare.current?.level != levels[context.step] {
        try await time.sleep(for: .milliseconds(5))
      }
      let nice = await BlockingPool.shared.run { getpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0) }
      let level = Int64(WorkShare.current?.level ?? -1)
      asked.add(context.step.text)
      while asked.all.count < 4 { try await time.sleep(for: .milliseconds(5)) }
      return ["nice": .integer(Int64(nice)), "level": .integer(level)]
    }
    func step(_ id: StepID, _ priority: Int, _ resource: String?) -> StepSpec {
      StepSpec(id: id, kind: "test.v1", title: "", priority: priority, resource: resource)
    }
    let spec = RunSpec(
      id: "r", kind: "test", title: "test", catalogDigest: Digest.of(""),
      steps: [step("low", 1, "copy"), step("high", 9, "copy"), step("middle", 5, "copy"), step("none", 0, nil)],
      createdAt: Timestamp(seconds: 0))
    let record = try await engine(handler, journal).start(spec)
    let own = Int64(getpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0))
    for (id, level) in [("high", 0), ("middle", 1), ("low", 2), ("none", -1)] as [(StepID, Int64)] {
      let output = record.output(of: id)
      #expect(output?["level"] == .integer(level), "\(id)")
      #expect(output?["nice"] == .integer(min(19, own + 6 * max(0, level))), "\(id)")
    }
  }

  @Test func `what can pass is tried again, what cannot is not`() async throws {
    for (retry, tries) in [(Report.Retry.afterBackoff, 3), (.never, 1), (.afterChange, 1)] {
      let journal = MemoryJournal(time: time)
      let calls = Lines()
      var handler = Scripted()
      handler.act = { context in
        calls.add("\(context.attempt) \(context.isReplay)")
        throw Broken(retry: retry)
      }
      let record = try await engine(handler, journal).start(spec([("a", []), ("b", ["a"])]))
      #expect(record.state == .failed)
      #expect(record.head.failure == Broken(retry: retry).report)
      #expect(record.steps["b"]?.state == .skipped)
      #expect(calls.all == Array(["1 false", "2 true", "3 true"].prefix(tries)))
    }
  }

  @Test func `an output that fails its check is no success`() async throws {
    let journal = MemoryJournal(time: time)
    var handler = Scripted()
    handler.check = { _ in throw Broken() }
    #expect(try await engine(handler, journal).start(spec([("a", [])])).state == .failed)
    // Found done, but not right.
    var found = handler
    found.isDone = { _ in ["found": true] }
    let other = MemoryJournal(time: time)
    #expect(try await engine(found, other).start(spec([("a", [])])).state == .failed)
  }

  @Test func `a try that takes too long is given up and made again`() async throws {
    var handler = Scripted()
    handler.retry = RetryPolicy(attempts: 2, first: .milliseconds(1), attemptLimit: .milliseconds(50))
    handler.act = { context in
      if context.attempt == 1 { try await context.time.sleep(for: .seconds(30)) }
      return .null
    }
    #expect(try await engine(handler, MemoryJournal(time: time)).start(spec([("a", [])])).state == .succeeded)
  }

  @Test func `a failed run gets another try when it is resumed`() async throws {
    let journal = MemoryJournal(time: time)
    var handler = Scripted()
    handler.act = { context in
      if context.step == "b", context.attempt == 1 { throw Broken() }
      return .null
    }
    let plan = spec([("a", []), ("b", ["a"]), ("c", ["b"])])
    #expect(try await engine(handler, journal).start(plan).state == .failed)
    #expect(try await engine(handler, journal).execute("r").state == .failed)
    let record = try await engine(handler, journal).resume("r")
    #expect(record.state == .succeeded)
    #expect(record.steps["a"]?.attempt == 1)
    #expect(record.steps["b"]?.attempt == 2)
  }

  @Test func `a failure undoes what was done, last first`() async throws {
    let journal = MemoryJournal(time: time)
    let undone = Lines()
    var handler = Scripted()
    handler.act = { context in
      if context.step == "c" { throw Broken() }
      return .string(context.step.text)
    }
    handler.undo = { context, output in undone.add("\(context.step) \(output?.string ?? "-")") }
    let record = try await engine(handler, journal).start(
      spec([("a", []), ("b", ["a"]), ("c", ["b"]), ("d", ["c"])], onFailure: .rollback))
    #expect(record.state == .rolledBack)
    #expect(record.head.failure == Broken().report)
    #expect(undone.all == ["c -", "b b", "a a"])
    #expect(record.steps["d"]?.state == .skipped)
  }

  @Test func `a run that succeeded can be rolled back until it is released`() async throws {
    let journal = MemoryJournal(time: time)
    let undone = Lines()
    var handler = Scripted()
    handler.undo = { context, _ in undone.add(context.step.text) }
    let engine = engine(handler, journal)
    try await engine.start(spec([("a", []), ("b", ["a"])]))
    #expect(try await engine.rollback("r").state == .rolledBack)
    #expect(try await engine.rollback("r").state == .rolledBack)
    #expect(undone.all == ["b", "a"])
    await #expect(throws: RunError.self) { try await engine.settle("r", as: .released) }

    let other = MemoryJournal(time: time)
    let second = self.engine(handler, other)
    try await second.start(spec([("a", [])]))
    #expect(try await second.settle("r", as: .released).state == .released)
    await #expect(throws: RunError.self) { try await second.rollback("r") }
  }

  @Test func `undoing that fails stops, says so, and can be taken up again`() async throws {
    let journal = MemoryJournal(time: time)
    let fails = Mutex(true)
    var handler = Scripted()
    handler.undo = { context, _ in
      if context.step == "a", fails.withLock({ $0 }) { throw Broken() }
    }
    let engine = engine(handler, journal)
    try await engine.start(spec([("a", []), ("b", ["a"])]))
    let stuck = try await engine.rollback("r")
    #expect(stuck.state == .rollbackFailed)
    #expect(stuck.steps["a"]?.state == .compensationFailed)
    #expect(stuck.steps["b"]?.state == .compensated)
    fails.withLock { $0 = false }
    #expect(try await engine.rollback("r").state == .rolledBack)
  }

  @Test func `an interrupted run stands ready to be resumed`() async throws {
    let journal = MemoryJournal(time: time)
    let began = AsyncStream.makeStream(of: Void.self)
    var handler = Scripted()
    handler.act = { context in
      if context.step == "b", context.attempt == 1 {
        began.continuation.yield()
        try await context.time.sleep(for: .seconds(60))
      }
      return .null
    }
    let engine = engine(handler, journal)
    let plan = spec([("a", []), ("b", ["a"])], onFailure: .rollback)
    await withTaskGroup(of: Void.self) { group in
      group.addTask {
        do {
          try await engine.start(plan)
          Issue.record("was not interrupted")
        } catch {
          #expect(AnyFailure(error).report.code == "RUN-101")
        }
      }
      for await _ in began.stream { break }
      group.cancelAll()
    }
    let left = try await journal.load("r")
    #expect(left.state == .running)
    #expect(left.head.holder == nil)
    #expect(left.steps["b"]?.state == .intended)
    #expect(try await engine.execute("r").state == .succeeded)
  }

  @Test func `losing the claim ends every step at once`() async throws {
    let journal = MemoryJournal(time: time) { $0 == "old" }
    let began = AsyncStream.makeStream(of: Void.self)
    let ended = Lines()
    var handler = Scripted()
    handler.act = { context in
      began.continuation.yield()
      do { try await context.time.sleep(for: .seconds(60)) } catch {
        ended.add(context.step.text)
        throw error
      }
      return .null
    }
    let engine = engine(handler, journal, holder: "old", period: .milliseconds(60))
    await withTaskGroup(of: Void.self) { group in
      group.addTask {
        do {
          try await engine.start(spec([("a", []), ("b", [])]))
          Issue.record("went on without a claim")
        } catch {
          #expect(AnyFailure(error).report.code == "JOURNAL-202")
        }
      }
      var count = 0
      for await _ in began.stream {
        count += 1
        if count == 2 { break }
      }
      await #expect(throws: Never.self) { try await journal.claim("r", as: "new", for: .seconds(100)) }
    }
    #expect(Set(ended.all) == ["a", "b"])
    #expect(try await journal.load("r").head.holder == "new")
  }

  @Test func `a run somebody else holds is refused, or waited for`() async throws {
    let journal = MemoryJournal(time: time)
    try await journal.create(spec([("a", [])]))
    let lease = try await journal.claim("r", as: "other", for: .milliseconds(150))
    await #expect(throws: RunError.self) { try await engine(Scripted(), journal).execute("r") }
    var patient = RunEngine.Options(holder: "patient")
    patient.patience = .seconds(20)
    let waiting = RunEngine(
      journal: journal, handlers: [Scripted()], time: time, randomness: SeededRandomness(seed: 1), options: patient)
    let record = try await waiting.execute("r")
    #expect(record.state == .succeeded)
    #expect(record.head.fence > lease.fence)
  }

  @Test func `a kind of step nobody knows fails the run, and names the way out`() async throws {
    let journal = MemoryJournal(time: time)
    var handler = Scripted()
    handler.kind = "other.v1"
    let record = try await engine(handler, journal).start(spec([("a", [])]))
    #expect(record.state == .failed)
    #expect(record.head.failure?.code == "STEP-101")
  }

  @Test func `pauses grow, end at the longest, and leave something to chance`() {
    let policy = RetryPolicy(attempts: 100, first: .seconds(1), factor: 2, longest: .seconds(10), jitter: 0.5)
    let randomness = SeededRandomness(seed: 3)
    let report = Report("T", "later", retry: .afterBackoff)
    for (tries, full) in [(1, 1.0), (2, 2.0), (4, 8.0), (5, 10.0), (99, 10.0)] {
      let pauses = (0..<50).compactMap { _ in policy.pause(after: tries, report, randomness: randomness)?.seconds }
      #expect(pauses.count == 50)
      #expect(pauses.allSatisfy { $0 <= full && $0 >= full * 0.5 })
      #expect(Set(pauses).count > 10)
    }
    #expect(policy.pause(after: 100, report, randomness: randomness) == nil)
    #expect(policy.pause(after: 1, Report("T", "no", retry: .never), randomness: randomness) == nil)
  }
}
