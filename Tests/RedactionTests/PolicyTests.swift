import Core
import DriverKit
import Redaction
import Testing

let policyText = """
  apiVersion: salvor.dev/v1
  kind: RedactionPolicy
  metadata: {name: development}
  spec:
    key: file:/etc/salvor/redaction.key
    domains:
      customer: integer
      email: email
      person: {as: name}
      birthday: {as: date, days: 100}
    stores:
      ledger:
        tables:
          customers:
            id: {pseudonym: customer}
            name: {pseudonym: person}
            note: null
            kind: {constant: private}
            profile: {fields: {"mail": {pseudonym: email}, "tags.[]": keep, "by.*": {hash: x}}}
            friends: {elements: {pseudonym: person}}
            log: {replace: {"[a-z]+@[a-z.]+": {pseudonym: email}}}
          orders:
            id: keep
            customer: {pseudonym: customer}
          audit: drop
        literals: [active]
        others: {"sequence s": keep}
      cache:
        keys:
          "session:{customer}:*": drop
          "customer:{customer}": {fields: {mail: {pseudonym: email}, city: keep}}
          "group:**": {elements: {pseudonym: customer}}
      files:
        paths:
          "in/{customer}.json": {fields: {id: {pseudonym: customer}}}
          "*.csv": {csv: {id: {pseudonym: customer}, "a,b": keep}}
  """

func policy(_ text: String = policyText) throws -> RedactionPolicy { try RedactionPolicy(text, file: "p.yaml") }

private let customers = TableShape(
  "customers",
  ["id", "name", "note", "kind", "profile", "friends", "log"].map { .init($0, "text", isNullable: $0 != "id") }
    + [.init("computed", "text", isGenerated: true)], keys: [["id"]])
private let orders = TableShape(
  "orders", [.init("id", "int"), .init("customer", "int")], references: [.init(["customer"], to: "customers", ["id"])])

@Suite struct PolicyTests {
  private func shape() -> StoreShape {
    var shape = StoreShape()
    shape.tables = [customers, orders, TableShape("audit", [.init("what", "text")])]
    shape.literals = [.init(place: "table customers", text: "active")]
    shape.others = ["sequence s"]
    return shape
  }

  @Test func `a policy that speaks of everything has no problem`() throws {
    #expect(try policy().problems(of: "ledger", shape()) == [])
  }

  @Test func `whatever no rule speaks of is named`() throws {
    var shape = shape()
    shape.tables[0].columns.append(.init("iban", "text"))
    shape.tables.append(TableShape("new", [.init("a", "text")]))
    shape.literals.append(.init(place: "view v", text: "Zacharias"))
    shape.others.append("large objects")
    shape.tables[0].columns[2].isNullable = false
    let problems = try policy().problems(of: "ledger", shape)
    #expect(problems.count == 5, "\(problems)")
    for word in ["customers.iban", "table new", "view v", "large objects", "customers.note can't be null"] {
      #expect(problems.contains { $0.contains(word) }, "\(word): \(problems)")
    }
    #expect(!problems.contains { $0.contains("Zacharias") })
    var keys = StoreShape()
    keys.entries = ["session:1:a", "customer:7", "other:1"]
    #expect(try policy().problems(of: "cache", keys).count == 1)
    #expect(try policy().problems(of: "elsewhere", keys).count == 1)
  }

  @Test func `ends of a reference need the same rule`() throws {
    let other = try policy(policyText.replacing("customer: {pseudonym: customer}", with: "customer: keep"))
    let problems = other.problems(of: "ledger", shape())
    #expect(
      problems.count == 1 && problems[0].contains("orders.customer") && problems[0].contains("customers.id"),
      "\(problems)")
    let dropped = try policy(policyText.replacing("audit: drop", with: "audit: drop\n        customers2: drop"))
    var shape = shape()
    shape.tables[0].name = "customers2"
    shape.tables[1].references[0].table = "customers2"
    #expect(dropped.problems(of: "ledger", shape).contains { $0.contains("rows are dropped") })
  }

  @Test(arguments: [
    ("kind: RedactionPolicy", "kind: Redaction"), ("id: keep", "id: kep"), ("id: keep", "id: decide"),
    ("pseudonym: person", "pseudonym: persn"), ("customer: integer", "customer: int"), ("stores:", "store:"),
    ("literals:", "literal:"), ("{elements: {pseudonym: person}}", "[keep]"), ("days: 100", "bits: 9"),
    ("\"customer:{customer}\"", "\"customer:{customer\""), ("\"customer:{customer}\"", "\"customer:{nobody}\""),
    ("[a-z]+@[a-z.]+", "[a-z"), ("file:/etc/salvor/redaction.key", "hunter2hunter2hunter2"),
    ("id: keep", "id: keep\n          id: null"),
  ])
  func `a word that is not understood refuses the policy`(_ from: String, _ to: String) throws {
    let text = policyText.replacing(from, with: to)
    try #require(text != policyText)
    let error = #expect(throws: RedactionError.self) { try policy(text) }
    #expect(error?.report.code == "REDACT-101" && error?.report.description.contains("hunter2") == false)
  }

  @Test func `patterns tell names apart`() throws {
    func fits(_ pattern: String, _ name: String) throws -> Bool {
      try #require(NamePattern(pattern)).fits(Array(name.utf8))
    }
    #expect(try fits("a/*.json", "a/b.json") && !fits("a/*.json", "a/b/c.json") && fits("a/**.json", "a/b/c.json"))
    #expect(try fits("s:{c}:*", "s:1:") && !fits("s:{c}:*", "s::x") && !fits("s:{c}", "s:1:2"))
    // A hostile name costs no more than its length.
    #expect(try !fits("**a**a**a**a**a**a**a**b", String(repeating: "a", count: 3000)))
    for bad in ["", "{", "{}", "a}"] { #expect(NamePattern(bad) == nil) }
  }
}

@Suite struct RedactorTests {
  private func redactor(_ store: StoreName) throws -> Redactor { Redactor(try policy(), for: store, testKey) }

  private func row(_ changes: [String: RowValue] = [:]) -> [RowValue] {
    let usual: [String: RowValue] = [
      "id": .integer(7), "name": .text("Zacharias"), "note": .text("x"), "kind": .text("y"),
      "profile": .text(#"{"mail":"z@q.test","tags":["a","b"],"by":{"x":"y"},"none":null}"#),
      "friends": .text(#"{"Ada \"x\"",NULL,Bo}"#),
      "log": .text("from z@q.test on"),
    ]
    return customers.columns.dropLast().map { changes[$0.name] ?? usual[$0.name]! }
  }

  @Test func `the same value has one pseudonym in rows, keys, hashes, JSON, CSV and names of files`() throws {
    let (ledger, cache, files) = (try redactor("ledger"), try redactor("cache"), try redactor("files"))
    guard case .integer(let id) = try ledger.row(row(), of: customers)[0] else { throw CancellationError() }
    #expect(id != 7)
    #expect(try ledger.row([.integer(1), .text("7")], of: orders) == [.integer(1), .text("\(id)")])
    #expect(try cache.plan(Array("customer:7".utf8)) == .rewrite(as: Array("customer:\(id)".utf8)))
    #expect(try cache.plan(Array("session:7:a".utf8)) == .drop)
    #expect(try cache.content(.set([Array("7".utf8)]), of: Array("group:a:b".utf8)) == .set([Array("\(id)".utf8)]))
    #expect(try files.plan(Array("in/7.json".utf8)) == .rewrite(as: Array("in/\(id).json".utf8)))
    #expect(
      try files.content(.bytes(Array(#"{"id":7}"#.utf8)), of: Array("in/7.json".utf8))
        == .bytes(Array("{\"id\":\(id)}".utf8)))
    let csv = "id,\"a,b\"\r\n7,\"x \"\"y\"\"\"\n"
    #expect(
      try files.content(.bytes(Array(csv.utf8)), of: Array("a.csv".utf8))
        == .bytes(Array("id,\"a,b\"\n\(id),\"x \"\"y\"\"\"\n".utf8)))
  }

  @Test func `values inside of values are rewritten, and the rest stays`() throws {
    let result = try redactor("ledger").row(row(), of: customers)
    let mail =
      "\(try Pseudonymizer(Domain(name: "email", shape: .email), testKey).pseudonym(of: RowText("z@q.test"), at: "").text)"
    #expect(result[2] == .null && result[3] == .text("private"))
    guard case .text(let profile) = result[4], case .text(let friends) = result[5] else { throw CancellationError() }
    #expect(
      profile.hasPrefix(#"{"mail":"\#(mail)","tags":["a","b"],"by":{"x":""#) && profile.hasSuffix(#""},"none":null}"#),
      "\(profile)")
    #expect(friends.contains(",NULL,") && !friends.contains("Ada") && !friends.contains("Bo\""), "\(friends)")
    #expect(result[6] == .text("from \(mail) on"))
  }

  @Test func `what no rule speaks of stops everything, whatever the check said`() throws {
    let ledger = try redactor("ledger")
    for profile in [#"{"iban":"x"}"#, #"{"tags":{"a":"b"}}"#, #"["x"]"#, "no json", #"{"mail":{"a":1}}"#] {
      #expect(throws: AnyFailure.self) { try ledger.row(row(["profile": .text(profile)]), of: customers) }
    }
    #expect(throws: AnyFailure.self) { try ledger.row([.null], of: TableShape("unknown", [.init("a", "text")])) }
    #expect(throws: AnyFailure.self) { try ledger.row([.null], of: TableShape("orders", [.init("new", "text")])) }
    #expect(throws: AnyFailure.self) { try redactor("cache").plan(Array("unknown".utf8)) }
    #expect(throws: AnyFailure.self) {
      try redactor("cache").content(.fields([.init(Array("phone".utf8), [])]), of: Array("customer:7".utf8))
    }
    #expect(throws: AnyFailure.self) {
      try redactor("files").content(.bytes(Array("id,new\n1,2\n".utf8)), of: Array("a.csv".utf8))
    }
    #expect(throws: AnyFailure.self) { try ledger.carries("large objects") }
  }

  @Test func `JSON is written as it was read`() throws {
    for text in [#"{"b":1.50,"a":[1e400,-0,12345678901234567890,true,null,"é\"\\\u0001"],"b":{}}"#, "[]", "3"] {
      #expect(String(decoding: try #require(JSONText(Array(text.utf8))).written, as: UTF8.self) == text)
    }
    for bad in [
      "", "{", "[1,]", "{\"a\"}", "\"a", "01x", "nul", "[1]2", #""\ud800""#, String(repeating: "[", count: 300),
    ] {
      #expect(JSONText(Array(bad.utf8)) == nil, "\(bad)")
    }
  }
}
