import Catalog
import Core
import DriverKit
import Testing
import Validation

@Suite("invariants across stores")
struct InvariantTests {
  private func violations(_ report: CheckReport) -> [Violation] {
    if case .failed(let violations) = report.outcome { violations } else { [] }
  }

  @Test func `references hold where every row is found`() async throws {
    let a = ListedAnswers(["from": [["1"], ["2"], ["2"]]])
    let b = ListedAnswers(["to": [["2"], ["3"], ["1"]]])
    let report = await runner(a: a, b: b).check(try references())
    #expect(report.verdict == .passed, "\(report)")
    #expect(report.subject == "a,b" && report.examined == 6)
    #expect(report.summary == "3 rows of a, each found in b")
  }

  @Test func `broken links are counted exactly, each once, with the smallest as examples`() async throws {
    let lost = (0..<25).map { number -> [String?] in ["k\(number + 10)", "x"] }
    let a = ListedAnswers(["from": lost + [["k1", "x"]] + lost])
    let b = ListedAnswers(["to": [["k1", "x"], ["k11", "y"]]])
    let report = await runner(a: a, b: b, examples: 3).check(try references())
    #expect(report.verdict == .failed)
    #expect(
      violations(report) == [
        Violation(.brokenLink, count: 25, "of a lead nowhere in b", examples: ["k10 | x", "k11 | x", "k12 | x"])
      ])
    #expect(report.summary == "25 of a lead nowhere in b, such as k10 | x · k11 | x · k12 | x")
  }

  @Test func `orphans count only where the reference is exact`() async throws {
    let a = ListedAnswers(["from": [["1"]]])
    let b = ListedAnswers(["to": [["1"], ["2"], ["3"]]])
    #expect(await runner(a: a, b: b).check(try references()).verdict == .passed)
    let report = await runner(a: a, b: b).check(try references(exact: true))
    #expect(violations(report).map(\.kind) == [.orphan])
    #expect(violations(report).map(\.count) == [2])
    #expect(violations(report).first?.examples == ["2", "3"])
  }

  @Test func `a row with a NULL refers to nothing`() async throws {
    let a = ListedAnswers(["from": [["1", nil], [nil, nil], ["1", "2"]]])
    let b = ListedAnswers(["to": [["1", "2"], [nil, "3"]]])
    #expect(await runner(a: a, b: b).check(try references(exact: true)).verdict == .passed)
  }

  @Test func `equal compares bags of rows`() async throws {
    let rule = try invariant("equal: {left: {store: a, query: q}, right: {store: b, query: q}}")
    let left = ListedAnswers(["q": [["1"], ["2"], ["2"], [nil]]])
    #expect(
      await runner(a: left, b: ListedAnswers(["q": [["2"], [nil], ["1"], ["2"]]])).check(rule).verdict == .passed)
    let report = await runner(a: left, b: ListedAnswers(["q": [["2"], ["3"], ["1"]]])).check(rule)
    #expect(
      violations(report) == [
        Violation(.missing, count: 2, "rows of a are not in b", examples: ["2", "NULL"]),
        Violation(.missing, count: 1, "rows of b are not in a", examples: ["3"]),
      ])
  }

  @Test(
    arguments: [
      ([["7"]], true), ([["8"]], false), ([[nil]], false), ([], false), ([["7"], ["7"]], false), ([["7", "7"]], false),
      ([["7.0"]], false),
    ] as [([[String?]], Bool)])
  func `constant wants one row with one value`(_ rows: [[String?]], _ holds: Bool) async throws {
    let rule = try invariant("constant: {store: a, query: q, equals: \"7\"}")
    let report = await runner(a: ListedAnswers(["q": rows])).check(rule)
    #expect(report.verdict == (holds ? .passed : .failed), "\(report.summary)")
  }

  @Test func `a warning is reported and stops nobody; not knowing stops everybody`() async throws {
    let rule = try invariant("constant: {store: a, query: q, equals: \"7\"}", severity: "warning")
    let warned = await runner(a: ListedAnswers(["q": [["8"]]])).check(rule)
    #expect(warned.verdict == .warned)
    #expect([warned].arePassed)
    let unknown = await runner().check(rule)
    #expect(unknown.verdict == .couldNotCheck)
    #expect(![warned, unknown].arePassed)
  }

  @Test func `what can't be found out is never passed`() async throws {
    let one = ListedAnswers(["from": [["1"]], "to": [["1"]]])
    func code(_ report: CheckReport) -> String {
      if case .couldNotCheck(let why) = report.outcome { why.code } else { "\(report.outcome)" }
    }
    #expect(code(await runner(a: one).check(try references())) == "DRIVER-503", "the query fails")
    #expect(code(await runner(a: one).check(try references("gone"))) == "DRIVER-201", "there is no such store")
    let many = ListedAnswers(["to": (0..<11).map { ["\($0)"] }])
    #expect(code(await runner(a: one, b: many, rowLimit: 10).check(try references())) == "CHECK-101", "cut short")
    #expect(await runner(a: one, b: many, rowLimit: 11).check(try references()).verdict == .passed)
    let wide = ListedAnswers(["to": [["1", "1"]]])
    #expect(code(await runner(a: one, b: wide).check(try references())) == "CHECK-102", "unlike columns")
    let slow = ListedAnswers(["to": [["1"]]], delay: .seconds(3600))
    let late = await runner(a: one, b: slow, timeout: .milliseconds(50)).check(try references())
    #expect(code(late) == "CORE-003", "too slow")
    #expect(late.durationNanoseconds < 1_800_000_000_000, "the answer was not waited for")
  }

  @Test func `references agree with sets on random rows`() async throws {
    for seed in 0..<100 {
      let random = SeededRandomness(seed: UInt64(seed))
      func rows() -> [[String?]] { (0..<random.below(40)).map { _ in ["\(random.below(30))"] } }
      let (from, to) = (rows(), rows())
      let report = await runner(a: ListedAnswers(["from": from]), b: ListedAnswers(["to": to])).check(
        try references(exact: true))
      let expected = [
        (Violation.Kind.brokenLink, Set(from).subtracting(to)), (.orphan, Set(to).subtracting(from)),
      ].filter { !$0.1.isEmpty }
      #expect(violations(report).map(\.kind) == expected.map(\.0), "seed \(seed)")
      #expect(violations(report).map(\.count) == expected.map { Int64($0.1.count) }, "seed \(seed)")
      #expect(
        violations(report).map(\.examples) == expected.map { Array($0.1.compactMap { $0[0] }.sorted().prefix(10)) },
        "seed \(seed)")
    }
  }

  @Test(.timeLimit(.minutes(10))) func `a hundred thousand rows are nothing special`() async throws {
    let rows = (0..<100_000).map { number -> [String?] in ["t-\(number)-abcdef", "c-\(number % 1000)"] }
    let report = await runner(
      a: ListedAnswers(["from": rows]), b: ListedAnswers(["to": rows.reversed()])
    ).check(try references(exact: true))
    #expect(report.verdict == .passed)
  }
}
