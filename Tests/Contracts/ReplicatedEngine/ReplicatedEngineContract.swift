import Core
import DriverKit
import IO
import TestSupport
import Testing

/// What every engine of failover promises; each case is one test against each engine.
package enum EnginePromise: String, CaseIterable, Sendable {
  case factsAreTrue = "facts are true after each change"
  case detachmentLasts = "what has detached gets nothing more, across a crash too, and its position stands still"
  case nothingConfirmedIsLost = "detach, read positions, promote the most complete: nothing acknowledged is lost"
  case otherHistoryIsKept = "an old primary's own history is copied aside, and it ends as a follower"
  case lonePromotionIsUndone =
    "one that was promoted and that nobody followed ends as a follower, without what it wrote"
  case cascadesDontCount = "one that follows a standby is told apart, and confirms nothing"
  case holds = "what is held acknowledges nothing that too few have"

  package func keep<Trio: ReplicatedTrio>(_: Trio.Type) async throws {
    let trio = try await Trio.start(isBounded: self == .holds)
    do {
      switch self {
      case .factsAreTrue: try await factsAreTrue(trio)
      case .detachmentLasts: try await detachmentLasts(trio)
      case .nothingConfirmedIsLost: try await nothingConfirmedIsLost(trio)
      case .otherHistoryIsKept: try await otherHistoryIsKept(trio)
      case .lonePromotionIsUndone: try await lonePromotionIsUndone(trio)
      case .cascadesDontCount: try await cascadesDontCount(trio)
      case .holds: try await holds(trio)
      }
    } catch {
      await trio.end()
      throw error
    }
    await trio.end()
  }

  private func factsAreTrue<Trio: ReplicatedTrio>(_ trio: Trio) async throws {
    let (a, b, c) = (trio.engine("a"), trio.engine("b"), trio.engine("c"))
    let primary = try await trio.facts("a", beating: "a") { $0.attached.count == 2 && $0.acknowledges }
    #expect(primary.role == .primary && primary.following == nil && Set(primary.attached) == ["b", "c"])
    let standby = try await trio.facts("b", beating: "a") { $0.isStreaming }
    #expect(standby.role == .standby && standby.following == "a" && standby.heardMilliseconds != nil)
    #expect(try #require(standby.position).lineage == primary.position?.lineage)
    #expect(await b.sight(of: "a") == .serves)
    #expect(await a.sight(of: "b") == .answers)

    // A sign of life moves the log on both sides.
    let before = try #require(try await b.facts().position)
    try await a.beat()
    _ = try await trio.facts("b", beating: "a") { $0.position.map { $0 > before } ?? false }

    try await c.stop(inOrder: true)
    let stopped = try await c.facts()
    #expect(stopped.role == .stopped && stopped.position == nil)
    #expect(await a.sight(of: "c") == .refused)
    _ = try await trio.facts("a", beating: "a") { $0.attached == ["b"] }
    try await c.start(detached: false)
    _ = try await trio.facts("c", beating: "a") { $0.following == "a" && $0.isStreaming }

    try await a.stop(inOrder: false)
    #expect(try await a.facts().role == .stopped)
    let alone = try await trio.facts("b", beating: nil) { !$0.isStreaming }
    #expect(alone.role == .standby && alone.following == "a")
    try await a.start(detached: false)
    _ = try await trio.facts("a", beating: "a") { $0.role == .primary && $0.attached.count == 2 && $0.acknowledges }
    // What was stopped in order and is started detached serves nobody, whatever it was.
    try await a.stop(inOrder: true)
    try await a.start(detached: true)
    let detached = try await a.facts()
    #expect(detached.role == .standby && detached.following == nil && !detached.isStreaming)
    #expect(await b.sight(of: "a") == .answers)
  }

  private func detachmentLasts<Trio: ReplicatedTrio>(_ trio: Trio) async throws {
    let (a, b) = (trio.engine("a"), trio.engine("b"))
    try #require(try await trio.write("first", on: "a"))
    _ = try await trio.facts("b", beating: "a") { $0.isStreaming && $0.position != nil }
    try await trio.untilKeys("b", beating: "a") { $0.contains("first") }
    try await b.detach()
    let facts = try await b.facts()
    let position = try #require(facts.position, "detaching keeps the position")
    #expect(facts.role == .standby && facts.following == nil && !facts.isStreaming)
    try #require(try await trio.write("second", on: "a"), "the other standby acknowledges")
    for _ in 0..<5 {
      try await a.beat()
      #expect(try await b.facts().position == position)
    }
    try await b.detach()
    #expect(try await b.facts().position == position)
    #expect(try await trio.keys(on: "b") == ["first"])

    // Neither a crash nor whoever starts it then brings anything back.
    try await trio.crash("b")
    try await trio.restart("b")
    let again = try await trio.facts("b", beating: nil) { $0.role == .standby }
    #expect(again.following == nil && !again.isStreaming)
    #expect(again.position == (Trio.knowsPositionAfterStart ? position : nil))
    try #require(try await trio.write("third", on: "a"))
    #expect(try await trio.keys(on: "b") == ["first"])
    #expect(try await !trio.write("nothing", on: "b"), "a standby takes no writes")

    try await b.follow("a")
    try await b.follow("a")
    _ = try await trio.facts("b", beating: "a") { $0.isStreaming && $0.following == "a" && $0.position != nil }
    try await trio.untilKeys("b", beating: "a") { $0 == ["first", "second", "third"] }
  }

  private func nothingConfirmedIsLost<Trio: ReplicatedTrio>(_ trio: Trio) async throws {
    let (b, c) = (trio.engine("b"), trio.engine("c"))
    var acknowledged: Set<String> = []
    for number in 0..<5 where try await trio.write("both-\(number)", on: "a") { acknowledged.insert("both-\(number)") }
    // One standby is behind: what is acknowledged now is on the other alone.
    try await b.detach()
    for number in 0..<5 where try await trio.write("one-\(number)", on: "a") { acknowledged.insert("one-\(number)") }
    #expect(acknowledged.count == 10)
    try await c.detach()
    #expect(try await !trio.write("none", on: "a"), "nobody is left to acknowledge")

    let positions = (try #require(try await b.facts().position), try #require(try await c.facts().position))
    #expect(positions.0 < positions.1)
    try await c.promote()
    let promoted = try #require(try await c.facts().position)
    #expect(promoted.lineage > positions.1.lineage, "a promotion begins a new lineage")
    #expect(try await c.facts().role == .primary)
    try await c.promote()
    #expect(try await c.facts().position?.lineage == promoted.lineage, "promoting again changes nothing")
    #expect(try await trio.keys(on: "c").isSuperset(of: acknowledged))
    #expect(try await !trio.write("early", on: "c"), "nothing is acknowledged before a standby follows")

    try await b.follow("c")
    _ = try await trio.facts("b", beating: "c") { $0.following == "c" && $0.isStreaming }
    _ = try await trio.facts("c", beating: "c") { $0.attached == ["b"] && $0.acknowledges }
    #expect(try await trio.write("after", on: "c"))
    try await trio.untilKeys("b", beating: "c") { $0.isSuperset(of: acknowledged.union(["after"])) }
    // The old one runs on, unaware, and can do no harm.
    #expect(try await !trio.write("late", on: "a"))
  }

  private func otherHistoryIsKept<Trio: ReplicatedTrio>(_ trio: Trio) async throws {
    let (a, b, c) = (trio.engine("a"), trio.engine("b"), trio.engine("c"))
    try #require(try await trio.write("shared", on: "a"))
    try await trio.untilKeys("c", beating: "a") { $0.contains("shared") }
    try await b.detach()
    try await c.detach()
    _ = try await trio.write("mine", on: "a")
    try await trio.crash("a")
    try await c.promote()
    try await b.follow("c")
    _ = try await trio.facts("c", beating: "c") { $0.attached == ["b"] && $0.acknowledges }
    try #require(try await trio.write("theirs", on: "c"))

    try await a.rejoin("c")
    _ = try await trio.facts("a", beating: "c") { $0.role == .standby && $0.following == "c" && $0.isStreaming }
    try await trio.untilKeys("a", beating: "c") { $0 == ["shared", "theirs"] }
    let kept = try KeptCopies(of: trio.dataDirectory(of: "a"), limit: 3).all()
    #expect(kept.count == 1, "evidence comes first")
    _ = try await trio.facts("c", beating: "c") { Set($0.attached) == ["a", "b"] }
    // And again, as after a crash in the middle: it is a follower already, and nothing is kept twice.
    try await a.rejoin("c")
    try await trio.untilKeys("a", beating: "c") { $0 == ["shared", "theirs"] }
    #expect(try KeptCopies(of: trio.dataDirectory(of: "a"), limit: 3).all() == kept)
    // It counts as any other.
    try await b.detach()
    #expect(try await trio.write("again", on: "c"))
  }

  private func lonePromotionIsUndone<Trio: ReplicatedTrio>(_ trio: Trio) async throws {
    let (a, b, c) = (trio.engine("a"), trio.engine("b"), trio.engine("c"))
    try #require(try await trio.write("shared", on: "a"))
    try await trio.untilKeys("b", beating: "a") { $0.contains("shared") }
    try await trio.untilKeys("c", beating: "a") { $0.contains("shared") }
    _ = try await trio.facts("b", beating: "a") { $0.isStreaming && $0.position != nil }
    _ = try await trio.facts("c", beating: "a") { $0.isStreaming && $0.position != nil }
    // Nothing is written meanwhile: both begin a history of their own at the same place.
    try await b.detach()
    try await c.detach()
    try await b.promote()
    _ = try await trio.write("lone", on: "b")
    try await b.stop(inOrder: false)
    try await c.promote()
    try await a.rejoin("c")
    _ = try await trio.facts("c", beating: "c") { $0.attached == ["a"] && $0.acknowledges }
    for number in 0..<3 { #expect(try await trio.write("followed-\(number)", on: "c")) }

    try await b.rejoin("c")
    _ = try await trio.facts("b", beating: "c") { $0.role == .standby && $0.following == "c" && $0.isStreaming }
    try await trio.untilKeys("b", beating: "c") { $0 == ["shared", "followed-0", "followed-1", "followed-2"] }
    #expect(try !KeptCopies(of: trio.dataDirectory(of: "b"), limit: 3).all().isEmpty)
    _ = try await trio.facts("c", beating: "c") { Set($0.attached) == ["a", "b"] }
    try await trio.engine("a").detach()
    #expect(try await trio.write("both", on: "c"))
  }

  private func cascadesDontCount<Trio: ReplicatedTrio>(_ trio: Trio) async throws {
    let (b, c) = (trio.engine("b"), trio.engine("c"))
    try #require(try await trio.write("direct", on: "a"))
    _ = try await trio.facts("b", beating: "a") { $0.isStreaming && $0.position != nil }
    try await c.follow("b")
    let facts = try await trio.facts("c", beating: "a") { $0.following == "b" && $0.isStreaming }
    #expect(facts.role == .standby)
    _ = try await trio.facts("a", beating: "a") { $0.attached == ["b"] }
    #expect(try await trio.write("through", on: "a"))
    try await trio.untilKeys("c", beating: "a") { $0 == ["direct", "through"] }
    try await b.detach()
    #expect(try await !trio.write("nobody", on: "a"), "the other doesn't hear of it")
  }

  private func holds<Trio: ReplicatedTrio>(_ trio: Trio) async throws {
    let (a, b, c) = (trio.engine("a"), trio.engine("b"), trio.engine("c"))
    let facts = try await trio.facts("a", beating: "a") { $0.attached.count == 2 && $0.acknowledges }
    #expect(!facts.isHeld)
    #expect(try await trio.write("before", on: "a"))
    try await b.detach()
    try await c.detach()
    #expect(try await trio.write("unconfirmed", on: "a"), "loss is bounded, not excluded")
    try await a.hold(true)
    #expect(try await a.facts().isHeld)
    #expect(try await !trio.write("held", on: "a"))
    // As after a failover that was called off: it serves on, and nobody's word has come meanwhile.
    try await a.promote()
    #expect(try await a.facts().isHeld)
    #expect(try await !trio.write("still-held", on: "a"))
    try await a.hold(false)
    #expect(try await !a.facts().isHeld)
    #expect(try await trio.write("released", on: "a"))
  }
}

extension ReplicatedTrio {
  /// Facts as soon as `condition` holds of them, with a primary's signs of life as its agent would give them.
  package func facts(
    _ member: MemberName, beating primary: MemberName?, until condition: (EngineFacts) -> Bool
  ) async throws -> EngineFacts {
    var last: EngineFacts?
    for _ in 0..<1200 {
      if let primary { try? await engine(primary).beat() }
      last = try? await engine(member).facts()
      if let last, condition(last) { return last }
      try await SystemTime().sleep(for: .milliseconds(50))
    }
    throw CommandRun.Failed(description: "\(member) doesn't come to that: \(String(describing: last))")
  }

  package func untilKeys(
    _ member: MemberName, beating primary: MemberName, _ condition: (Set<String>) -> Bool
  ) async throws {
    var last: Set<String>?
    for _ in 0..<1200 {
      try? await engine(primary).beat()
      last = try? await keys(on: member)
      if let last, condition(last) { return }
      try await SystemTime().sleep(for: .milliseconds(50))
    }
    throw CommandRun.Failed(description: "\(member) has \(last.map { "\($0.sorted())" } ?? "no answer")")
  }
}
