import Catalog
import Core
import DriverKit
import DriverSQLite
import GRDBSQLite
import IO
import TestSupport
import Testing
import Validation

@Suite("validators of a service")
struct ValidatorTests {
  private func verdict(
    _ question: Validator.Question, _ expectation: Validator.Expectation, rows: [[String?]] = [],
    command: CommandAnswer? = nil, page: PageAnswer? = nil
  ) async -> Verdict {
    let validator = Validator(name: "check", question: question, expectation: expectation, timeout: .seconds(10))
    let report = await runner(a: ListedAnswers(["q": rows]), command: command, page: page).validate(
      validator, of: "one")
    #expect(report.kind == .validator && report.subject == "one" && report.name == "check")
    return report.verdict
  }

  @Test(
    arguments: [
      ([["1"]], .equals("1"), .passed), ([["2"]], .equals("1"), .failed), ([], .equals("1"), .failed),
      ([[nil]], .equals("NULL"), .failed), ([["1"], ["1"]], .equals("1"), .failed),
      ([["x"], ["y"]], .rows(2), .passed), ([["x"]], .rows(2), .failed), ([], .rows(0), .passed),
      ([], .empty, .passed), ([["x"]], .empty, .failed), ([[nil]], .empty, .failed),
      ([["a", "b42"]], .matches("b[0-9]+$"), .passed), ([["a"]], .matches("^b"), .failed), ([], .matches("x"), .failed),
      ([["x"]], .matches("("), .couldNotCheck), ([["x"]], .status(0), .couldNotCheck),
    ] as [([[String?]], Validator.Expectation, Verdict)])
  func `queries`(_ rows: [[String?]], _ expectation: Validator.Expectation, _ expected: Verdict) async {
    #expect(await verdict(.sql(store: "a", query: "q"), expectation, rows: rows) == expected)
  }

  @Test func `a query that fails is not an empty one`() async {
    #expect(await verdict(.sql(store: "a", query: "other"), .empty) == .couldNotCheck)
    #expect(await verdict(.sql(store: "none", query: "q"), .empty) == .couldNotCheck)
  }

  @Test(
    arguments: [
      (0, " 7\n", .equals("7"), .passed), (0, "8", .equals("7"), .failed), (1, "7", .equals("7"), .failed),
      (0, "\n", .empty, .passed), (0, "x", .empty, .failed), (2, "", .empty, .failed),
      (0, "", .status(0), .passed), (3, "", .status(3), .passed), (1, "", .status(0), .failed),
      (0, "all well", .matches("w.ll"), .passed), (1, "all well", .matches("w.ll"), .failed),
      (0, "x", .rows(1), .couldNotCheck),
    ] as [(Int, String, Validator.Expectation, Verdict)])
  func `commands`(_ status: Int, _ output: String, _ expectation: Validator.Expectation, _ expected: Verdict) async {
    let answer = CommandAnswer(status: status, output: output)
    #expect(await verdict(.exec(Command(["true"])), expectation, command: answer) == expected)
  }

  @Test(
    arguments: [
      (200, "{\"ok\":true}", .matches("\"ok\":true"), .passed),
      (503, "{\"ok\":true}", .matches("\"ok\":true"), .failed),
      (204, "", .empty, .passed), (404, "", .status(404), .passed), (200, "", .status(404), .failed),
      (200, "pong", .equals("pong"), .passed),
    ] as [(Int, String, Validator.Expectation, Verdict)])
  func `pages`(_ status: Int, _ body: String, _ expectation: Validator.Expectation, _ expected: Verdict) async {
    let answer = PageAnswer(status: status, body: body)
    #expect(await verdict(.http(url: "http://x"), expectation, page: answer) == expected)
  }

  @Test func `nobody answering is not an answer`() async {
    #expect(await verdict(.http(url: "http://x"), .status(503)) == .couldNotCheck)
    #expect(await verdict(.exec(Command(["true"])), .empty) == .couldNotCheck)
  }

  @Test func `more output than can be searched is refused`() async {
    let answer = CommandAnswer(status: 0, output: String(repeating: "x", count: (1 << 20) + 1))
    #expect(await verdict(.exec(Command(["true"])), .matches("x"), command: answer) == .couldNotCheck)
  }

  @Test func `reports keep everything as JSON`() async throws {
    let a = ListedAnswers(["from": [["1"], ["2"]]])
    let b = ListedAnswers(["to": [["2"]]])
    let failed = await runner(a: a, b: b).check(try references())
    let unknown = await runner(a: a).check(try references())
    for report in [failed, unknown] {
      #expect(try CanonicalJSON.decode(CheckReport.self, from: CanonicalJSON.encode(report)) == report)
    }
    #expect(failed.detail["violations"]?.array?.first?["count"]?.integer == 1)
    #expect(failed.detail["violations"]?.array?.first?["examples"]?.array == ["1"])
    #expect(unknown.detail["reason"]?["code"]?.string == "DRIVER-503")
    #expect(unknown.summary.hasPrefix("could not check: "))
  }

  @Test func `examples are cut to a length that fits a report`() {
    let violation = Violation(.orphan, count: 1, "of x", examples: [String(repeating: "é", count: 300)])
    #expect(violation.examples.map(\.count) == [200])
  }

  @Test func `a real SQLite file is asked through its driver`() async throws {
    let directory = try TemporaryDirectory("validation")
    let path = directory.file("shop.db")
    var handle: OpaquePointer?
    try #require(sqlite3_open(path, &handle) == SQLITE_OK)
    defer { sqlite3_close_v2(handle) }
    let script = """
      PRAGMA journal_mode = WAL;
      CREATE TABLE customer(id TEXT PRIMARY KEY);
      CREATE TABLE bill(id INTEGER PRIMARY KEY, customer TEXT);
      INSERT INTO customer VALUES ('ann'), ('bob');
      INSERT INTO bill(customer) VALUES ('ann'), ('eve'), (NULL), ('bob'), ('eve');
      """
    try #require(sqlite3_exec(handle, script, nil, nil, nil) == SQLITE_OK)
    let environment = DriverEnvironment(
      time: SystemTime(), randomness: SystemRandomness(), pool: .shared,
      resolve: { _ throws(AnyFailure) in throw AnyFailure(DriverError.unsupported("secrets")) })
    let driver = try SQLiteDriverFactory.make(
      StoreConfiguration(name: "a", options: ["path": .string(path)]), in: environment)
    let checks = CheckRunner(
      CheckPorts(
        time: SystemTime(), driver: { _ in driver }, execute: { _ in CommandAnswer(status: 0, output: "") },
        get: { _, _ in PageAnswer(status: 200, body: "") }))
    let rule = try invariant(
      "references: {from: {store: a, query: SELECT customer FROM bill}, to: {store: b, query: SELECT id FROM customer}}"
    )
    let report = await checks.check(rule)
    #expect(
      report.outcome
        == .failed([Violation(.brokenLink, count: 1, "of a lead nowhere in b", examples: ["eve"])]))
    let validator = Validator(
      name: "count", question: .sql(store: "a", query: "SELECT count(*) FROM bill"), expectation: .equals("5"))
    #expect(await checks.validate(validator, of: "one").verdict == .passed)
    let wrong = Validator(name: "count", question: .sql(store: "a", query: "SELECT nothing"), expectation: .empty)
    #expect(await checks.validate(wrong, of: "one").verdict == .couldNotCheck)
  }
}

@Suite("digests of content")
struct DigestComparisonTests {
  private func digest(_ parts: [String: (String, Int64)], scheme: String = "rows-v1") -> ContentDigest {
    ContentDigest(scheme: scheme, parts: parts.mapValues { .init(digest: $0.0, count: $0.1) })
  }

  private func compare(_ captured: ContentDigest?, _ restored: ContentDigest?) -> CheckReport {
    CheckReport.comparing("a", captured: captured, restored: restored, at: Timestamp(seconds: 1))
  }

  @Test func `the same content passes`() {
    let content = digest(["t": ("x", 3), "u": ("y", 4)])
    let report = compare(content, content)
    #expect(report.outcome == .passed("2 parts with 7 entries, the same as captured"))
    #expect(report.examined == 7)
  }

  @Test func `every part that differs is named`() {
    let report = compare(
      digest(["gone": ("x", 3), "less": ("y", 4), "other": ("z", 5), "same": ("s", 1)]),
      digest(["new": ("x", 2), "less": ("y", 3), "other": ("w", 5), "same": ("s", 1)]))
    #expect(
      report.outcome
        == .failed([
          Violation(
            .changed, count: 4, "parts are not as captured",
            examples: [
              "gone: gone, with 3 entries", "less: 4 entries captured, 3 restored", "new: new, with 2 entries",
              "other: 5 entries, with other content",
            ])
        ]))
  }

  @Test func `without digests, or with unlike ones, nothing is claimed`() {
    let content = digest(["t": ("x", 3)])
    for report in [
      compare(nil, content), compare(content, nil), compare(nil, nil),
      compare(content, digest(["t": ("x", 3)], scheme: "v2")),
    ] { #expect(report.verdict == .couldNotCheck) }
  }
}
