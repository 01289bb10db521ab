import Catalog
import Core
import DriverKit
import Reconciliation
import TestSupport
import Testing

private func proposal(
  _ rule: ReconciliationRule, left: [Row], right: [Row], driver: DriverName = "sqlite",
  columns: [String] = ["id", "value"]
) throws -> Proposal {
  let (report, found) = try compared(rule, left: left, right: right, columns: columns)
  let whole = ReconciliationReport(
    id: "reconcile-1", at: Timestamp(nanoseconds: 0), source: ReconciliationReport.live, catalogDigest: "", window: nil,
    rules: [report], findings: found)
  return try Proposal(whole, rules: [rule.name: rule], drivers: ["a": driver, "b": driver])
}

private func tables(_ truth: ReconciliationRule.Truth = .left) -> ReconciliationRule {
  var rule = ReconciliationRule(
    name: "rule", left: .init(store: "a", query: "left"), right: .init(store: "b", query: "right"), key: ["id"])
  (rule.left.table, rule.right.table, rule.truth) = ("left", "right", truth)
  return rule
}

private func statements(_ proposal: Proposal) -> [String] {
  proposal.corrections.compactMap { if case .change(.statement(let text)) = $0.action { text } else { nil } }
}

@Suite("proposing corrections") struct ProposalTests {
  @Test func `each kind gets a guarded statement on the side that is wrong`() throws {
    let found = try proposal(
      tables(), left: [["1", "x"], ["2", "y"]], right: [["2", "z"], ["3", nil], ["4", "w"], ["4", "w"]])
    #expect(
      statements(found) == [
        #"INSERT INTO "right" ("id", "value") SELECT '1', 'x' WHERE NOT EXISTS (SELECT 1 FROM "right" WHERE "id" = '1')"#,
        #"UPDATE "right" SET "value" = 'y' WHERE "id" = '2' AND CAST("id" AS TEXT) IS '2' AND CAST("value" AS TEXT) IS 'z'"#,
        #"DELETE FROM "right" WHERE "id" = '3' AND CAST("id" AS TEXT) IS '3' AND "value" IS NULL"#,
        #"DELETE FROM "right" WHERE rowid IN (SELECT rowid FROM "right" WHERE "id" = '4' AND CAST("id" AS TEXT) IS '4'"#
          + #" AND CAST("value" AS TEXT) IS 'w' ORDER BY rowid LIMIT -1 OFFSET 1)"#,
      ])
    #expect(Set(found.corrections.map(\.store)) == ["b"])
    // It belongs to nothing as well, and is to be one row first.
    #expect(found.unproposed.map(\.about.kind) == [.orphan])
  }

  @Test func `nobody's word counts, nothing is proposed`() throws {
    let found = try proposal(tables(.none), left: [["1", "x"]], right: [])
    #expect(found.corrections.isEmpty && found.unproposed.count == 1)
  }

  @Test func `bytes that are no text are never named in a correction`() throws {
    let found = try proposal(tables(), left: [["a\u{FFFD}", "x"]], right: [["b", "\u{FFFD}"]])
    #expect(found.corrections.isEmpty && found.unproposed.count == 2)
  }

  @Test func `literals end where they should, whatever the session's settings`() {
    let hostile = "x'); DROP TABLE t; -- \\' \n\u{1}é"
    #expect(SQLDialect.postgreSQL.literal(hostile) == #"E'x''); DROP TABLE t; -- \\'' \x0a\x01é'"#)
    let hex = Hex.encode(Array(hostile.utf8))
    #expect(SQLDialect.mariaDB.literal(hostile) == "_utf8mb4 X'\(hex)'")
    #expect(SQLDialect.sqlite.literal(hostile) == "CAST(X'\(hex)' AS TEXT)")
    #expect(SQLDialect.sqlite.literal("a\\b'c") == #"'a\b''c'"#)
    #expect(SQLDialect.postgreSQL.literal("a\u{0}b") == nil)
    #expect(SQLDialect.mariaDB.literal(nil) == "NULL")
    #expect(SQLDialect.mariaDB.name("a`b") == "`a``b`")
    #expect(SQLDialect.postgreSQL.table("s.t\"x") == "\"s\".\"t\"\"x\"")
  }

  @Test func `a program gets the key as one word, and the finding as JSON`() throws {
    var rule = tables()
    rule.compensations = [.missing: Command(["program", "--key={id}", "{value}"])]
    let found = try proposal(rule, left: [["$(rm -rf /) '", "a b"]], right: [])
    guard case .run(let command, let input)? = found.corrections.first?.action else {
      Issue.record("no program")
      return
    }
    #expect(command.words == ["program", "--key=$(rm -rf /) '", "a b"])
    #expect(try CanonicalJSON.decode(Discrepancy.self, from: Array(input.utf8)).key == ["$(rm -rf /) '"])
    rule.compensations = [.missing: Command(["program", "{nobody}"])]
    #expect(try proposal(rule, left: [["1", "x"]], right: []).corrections.isEmpty, "a column that isn't there")
  }

  @Test func `keys of a cache are set, changed and removed under what was seen`() throws {
    var rule = tables()
    (rule.right.table, rule.right.entry, rule.right.value) = (nil, "k:{id}", "value")
    let found = try proposal(
      rule, left: [["1", "x"], ["2", "y"]], right: [["2", "z"], ["3", "w"]], driver: "redis")
    #expect(
      found.corrections.map(\.action) == [
        .change(.commands(expecting: [ExpectedAnswer(["GET", "k:1"], nil)], run: [["SET", "k:1", "x"]])),
        .change(.commands(expecting: [ExpectedAnswer(["GET", "k:2"], "z")], run: [["SET", "k:2", "y", "KEEPTTL"]])),
        .change(
          .commands(
            expecting: [ExpectedAnswer(["EXISTS", "k:3"], "1"), ExpectedAnswer(["GET", "k:3"], "w")],
            run: [["DEL", "k:3"]])),
      ])
  }

  @Test func `consent is to every byte of it`() throws {
    let found = try proposal(tables(), left: [["1", "x"]], right: [])
    let other = try proposal(tables(), left: [["1", "y"]], right: [])
    #expect(try found.digest() == proposal(tables(), left: [["1", "x"]], right: []).digest())
    #expect(try found.digest() != other.digest())
    let scripts = try Scripts.files(of: found)
    #expect(scripts.map(\.name) == ["b.sql"])
    #expect(scripts[0].text.contains(try found.digest().hex))
  }

  @Test func `no line of a script is a stranger's`() throws {
    let key = "1\nDELETE FROM t;\r\n-- x"
    let script = try Scripts.files(of: try proposal(tables(), left: [[key, "x"]], right: [], driver: "postgresql"))[0]
    let lines = script.text.split(separator: "\n")
    #expect(lines.allSatisfy { $0.hasPrefix("--") || $0.hasPrefix("INSERT INTO") }, "\(script.text)")
  }
}
