import Core
import Foundation
import ObjectStoreLocal
import TestSupport
import Testing

@testable import Vault

@Suite("Retention")
struct RetentionTests {
  private func snapshots(_ times: [String], tags: [[String]] = []) -> [StoredSnapshot] {
    times.enumerated().map { index, text in
      var snapshot = Snapshot(
        time: Timestamp(text)!, tree: Digest.of("tree"), paths: ["/data"], hostname: "test",
        tags: index < tags.count ? tags[index] : [])
      snapshot.utcOffsetSeconds = Timestamp.utcOffsetSeconds(of: text)
      return StoredSnapshot(id: Digest.of("\(index) \(text)"), snapshot: snapshot)
    }
  }

  private let now = Timestamp("2026-11-21T12:00:00Z")!

  private func kept(_ policy: RetentionPolicy, _ snapshots: [StoredSnapshot]) -> [String] {
    policy.verdicts(on: snapshots, now: now).filter(\.isKept).map {
      $0.stored.snapshot.time.text(utcOffsetSeconds: $0.stored.snapshot.utcOffsetSeconds)
    }
  }

  @Test func `a count keeps the newest of each period, and the oldest of all while it is not used up`() {
    var policy = RetentionPolicy()
    policy.counts[.daily] = .number(3)
    let made = snapshots([
      "2026-11-18T08:00:00Z", "2026-11-20T08:00:00Z", "2026-11-20T20:00:00Z", "2026-11-21T01:00:00Z",
      "2026-11-18T02:00:00Z",
    ])
    #expect(kept(policy, made) == ["2026-11-21T01:00:00Z", "2026-11-20T20:00:00Z", "2026-11-18T08:00:00Z"])
    policy.counts[.daily] = .number(4)
    #expect(kept(policy, made).last == "2026-11-18T02:00:00Z", "the oldest, for one is left")
  }

  @Test func `a day is a day on the clock of the machine that made the snapshot`() {
    var policy = RetentionPolicy()
    policy.counts[.daily] = .number(1)
    let made = snapshots(["2026-11-20T23:30:00-05:00", "2026-11-21T04:29:00Z", "2026-11-20T01:00:00-05:00"])
    // 23:30 in the west is the newest; the others lie on other local days.
    #expect(kept(policy, made) == ["2026-11-20T23:30:00-05:00"])
    policy.counts[.daily] = .number(2)
    #expect(kept(policy, made) == ["2026-11-20T23:30:00-05:00", "2026-11-21T04:29:00Z"])
  }

  @Test func `what is dated in the future pushes nothing out`() {
    var policy = RetentionPolicy()
    policy.last = .number(1)
    policy.within = CalendarDuration("7d")
    let made = snapshots([
      "2027-01-01T00:00:00Z", "2027-01-02T00:00:00Z", "2026-11-21T08:00:00Z", "2026-11-20T08:00:00Z",
      "2026-10-01T00:00:00Z",
    ])
    #expect(
      kept(policy, made) == [
        "2027-01-02T00:00:00Z", "2027-01-01T00:00:00Z", "2026-11-21T08:00:00Z", "2026-11-20T08:00:00Z",
      ])
  }

  @Test func `tags keep, and an empty list keeps what has none`() {
    var policy = RetentionPolicy()
    policy.tags = [["a", "b"]]
    let made = snapshots(
      ["2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z", "2026-11-03T00:00:00Z"], tags: [["a"], ["b", "x", "a"], []])
    #expect(kept(policy, made) == ["2026-11-02T00:00:00Z"])
    policy.tags = [[]]
    #expect(kept(policy, made) == ["2026-11-03T00:00:00Z"])
  }

  @Test(arguments: [
    ("2024-03-31", "1m", "2024-03-02"), ("2026-03-31", "1m", "2026-03-03"), ("2026-01-15", "1m", "2025-12-15"),
    ("2026-03-01", "1d", "2026-02-28"), ("2024-02-29", "1y", "2023-03-01"), ("2026-11-21", "1y2m3d", "2025-09-18"),
  ])
  func `calendar durations go back as months do`(from: String, span: String, to: String) throws {
    let snapshot = snapshots(["\(from)T10:00:00Z"])[0].snapshot
    #expect(try #require(CalendarDuration(span)).before(snapshot) == Timestamp("\(to)T10:00:00Z"))
  }

  @Test func `durations that are none are refused`() {
    for text in ["", "5", "d", "1x", "-1d", "0d", "1d2", "99999999d"] {
      #expect(CalendarDuration(text) == nil, "\(text)")
    }
    #expect(CalendarDuration("2h1y")?.description == "1y2h")
  }

  @Test func `weeks are ISO weeks`() {
    for (day, week) in [
      ("2026-01-01", (2026, 1)), ("2021-01-03", (2020, 53)), ("2024-12-30", (2025, 1)), ("2026-11-21", (2026, 47)),
    ] {
      let found = Timestamp("\(day)T00:00:00Z")!.civil(utcOffsetSeconds: 0).date.week
      #expect(found.year == week.0 && found.number == week.1, "\(day): \(found)")
    }
  }

  /// restic itself decides on the same snapshots.
  @Test func `restic keeps the same`() async throws {
    let directory = try TemporaryDirectory("retention")
    let store = LocalObjectStore(directory.file("repository"))
    let repository = try await Repository.create(store: store, password: password, settings: .quick())
    let tree = try await repository.save(.tree, HandTree.json([])).id
    let chance = SeededRandomness(seed: 11)
    var made: [StoredSnapshot] = []
    var time = Timestamp("2023-06-01T00:00:00Z")!
    for _ in 0..<120 {
      time = time + .seconds(Int64(chance.below(3) == 0 ? chance.below(40_000) : chance.below(2_000_000)))
      var snapshot = Snapshot(
        time: time, tree: tree, paths: ["/data"], hostname: "h",
        tags: ["a", "b"].filter { _ in chance.chance(0.1) })
      snapshot.utcOffsetSeconds = Int64(chance.below(5) - 2) * 3600
      made.append(StoredSnapshot(id: try await repository.save(snapshot), snapshot: snapshot))
    }
    #expect(try await repository.snapshots().map(\.snapshot) == made.map(\.snapshot), "offsets are kept")
    let restic = Restic(repository: directory.file("repository"))
    for round in 0..<12 {
      var policy = RetentionPolicy()
      var arguments: [String] = []
      func number(_ limit: Int) -> Int { chance.chance(0.5) ? 1 + chance.below(limit) : 0 }
      let last = number(5)
      policy.last = .number(last)
      if last > 0 { arguments += ["--keep-last", "\(last)"] }
      for (period, limit) in zip(RetentionPolicy.Period.allCases, [10, 30, 20, 24, 3]) {
        let count = number(limit)
        if count > 0 {
          policy.counts[period] = .number(count)
          arguments += ["--keep-\(period.rawValue)", "\(count)"]
        }
        if chance.chance(0.2) {
          let span = "\(1 + chance.below(400))d\(chance.below(23))h"
          policy.withinPeriods[period] = CalendarDuration(span)
          arguments += ["--keep-within-\(period.rawValue)", span]
        }
      }
      if chance.chance(0.3) {
        policy.tags = [["a"], ["a", "b"]]
        arguments += ["--keep-tag", "a", "--keep-tag", "a,b"]
      }
      if policy.isEmpty { continue }
      let outcome = await restic.attempt(["forget", "--dry-run", "--json"] + arguments)
      #expect(outcome.status == 0, "\(outcome.errors)")
      struct Group: Decodable {
        struct Kept: Decodable { var id: String }
        var keep: [Kept]?
      }
      let groups = try JSONDecoder().decode([Group].self, from: Data(outcome.output))
      let theirs = Set(groups.flatMap { $0.keep ?? [] }.map(\.id))
      let verdicts = policy.verdicts(on: made, now: SystemTime().now())
      let ours = Set(verdicts.filter(\.isKept).map(\.stored.id.hex))
      #expect(ours == theirs, "round \(round): \(arguments)")
    }
  }
}
