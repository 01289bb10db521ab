import Core
import Testing

@testable import Catalog

@Suite("Failover policies in the catalog")
struct FailoverCatalogTests {
  private static let plain = """
    apiVersion: salvor.dev/v1
    kind: Repository
    metadata: {name: main}
    spec: {location: local:/srv/backup, password: file:/etc/salvor/password}
    ---
    apiVersion: salvor.dev/v1
    kind: Service
    metadata: {name: shop}
    spec:
      objectives: {rpo: 15m}
      stores: [{name: books, postgresql: {}}]
    ---
    apiVersion: salvor.dev/v1
    kind: FailoverPolicy
    metadata: {name: bank}
    spec:
      store: books
      members:
        - {name: a, address: "10.0.0.1:5432", agent: "http://10.0.0.1:7500", site: east}
        - {name: b, address: "10.0.0.2:5432", agent: "http://10.0.0.2:7500", site: west, priority: 50}
      witnesses: [{name: w, agent: "http://10.0.0.3:7500"}]
      consent: auto-bounded
      lossBound: {bytes: 1048576, duration: 5s}
      signals: {suspicion: 7.5, dwell: 3s}
      budgets: {pause: 1m}
      checks:
        - {name: errors, prometheus: "http://prom:9090", query: "rate(errors[1m])", most: 0.05, weight: 60}
        - {name: io, pressure: io, most: 90, weight: 40, dwell: 20s}
        - {name: torn, run: [check-pages], most: 0, failure: corruption}
        - {name: writes, beat: true, most: 10}
      freezes:
        - {from: "2026-12-20T00:00:00Z", until: "2027-01-06T00:00:00Z"}
        - {from: fri 16:00, until: mon 08:00, zone: Europe/Berlin}
      healing: {restartFirst: 4s, overload: {failover: auto}}
      group: {followers: [cache], onFailure: go-back, patience: 20s}
      context: {file: /run/salvor/context.json, gates: [{key: deployment, allows: [none]}]}
    ---
    apiVersion: salvor.dev/v1
    kind: FailoverPolicy
    metadata: {name: cache}
    spec:
      engine: redis
      service: shop
      members: [{name: c, site: east}, {name: d, site: west}]
      witnesses: [{name: w}]
    """

  private func resolve(_ text: String) -> Resolution {
    Catalog.resolve([SourceFile(path: "c.yaml", text: text)], drivers: ["postgresql": []])
  }

  @Test func `all of it is read, kept, and digested as any JSON would be`() throws {
    let resolution = resolve(Self.plain)
    #expect(resolution.diagnostics.map(\.description) == [])
    let catalog = try resolution.get()
    #expect(catalog.canonicalBytes == (try CanonicalJSON.encode(catalog)))
    #expect(try CanonicalJSON.decode(Catalog.self, from: catalog.canonicalBytes) == catalog)
    let policy = try #require(catalog.failover("bank"))
    #expect(policy.store == "books" && policy.engine == .postgresql && policy.consent == .autoBounded)
    #expect(policy.members.map(\.place) == ["east", "west"] && policy.members[1].priority == 50)
    #expect(policy.signals.suspicionThousandths == 7500 && policy.signals.dwell == .seconds(3))
    #expect(policy.budgets.pause == .seconds(60) && policy.budgets.lease == .seconds(5))
    #expect(policy.checks.map(\.failure) == [.overload, .overload, .corruption, .overload])
    #expect(policy.checks[0].most == 50 && policy.checks[2].weight == 0)
    #expect(policy.freezes.count == 1 && policy.weeklyFreezes[0].zone == "Europe/Berlin")
    #expect(policy.healing.restartFirst == .seconds(4))
    #expect(policy.healing.response(to: .overload).failover == .auto)
    #expect(policy.healing.response(to: .corruption) == .init(restart: .off, failover: .off, restore: .propose))
    #expect(policy.group == FailoverGroup(followers: ["cache"], onFailure: .goBack, patience: .seconds(20)))
    #expect(policy.context.gates == [.init(key: "deployment", allows: ["none"])])
    #expect(catalog.failover("cache")?.consent == .propose)
  }

  @Test(arguments: [
    ("{name: b, address", "{name: a, address", "two members have one name", 20),
    ("consent: auto-bounded", "acknowledgements: 2", "2 acknowledgements can't come from 1 standby", 22),
    ("\n  lossBound: {bytes: 1048576, duration: 5s}", "", "no lossBound is given", 22),
    ("store: books", "store: book", "did you mean 'books'?", 17),
    ("store: books", "store: books\n  engine: redis", "kept by postgresql", 17),
    ("failure: corruption", "failure: corruption, weight: 100", "corruption never moves service", 29),
    ("engine: redis", "engine: mariadb\n  acknowledgements: 2", "waits for one acknowledgement", 43),
    ("pressure: io, most: 90", "pressure: io", "nothing says how much is too much", 28),
    ("followers: [cache]", "followers: [cachee]", "did you mean 'cache'?", 35),
    ("until: mon 08:00", "until: some day", "write two moments", 33),
    ("zone: Europe/Berlin", "zone: Europe Berlin", "write it as Europe/Berlin", 33),
    ("\n  witnesses: [{name: w, agent: \"http://10.0.0.3:7500\"}]", "", "2 observers are an even number", 18),
    ("{name: d, site: west}", "{name: d, site: south}", "has no member at 'west'", 35),
    ("overload: {failover: auto}", "corruption: {failover: auto}", "corruption is neither", 34),
    ("overload: {failover: auto}", "disk: {restore: auto}", "a restore is proposed", 34),
    (
      "gates: [{key: deployment, allows: [none]}]", "gates: [{key: deployment, allows: []}]", "nothing could ever pass",
      36
    ),
    ("10.0.0.2:7500", "10.0.0.1:7500", "two agents have one address", 20),
    ("prometheus: \"http://prom:9090\", ", "", "'query' is asked of nobody", 27),
  ])
  func `what is wrong is said where it stands, with a way out`(
    _ before: String, _ after: String, _ says: String, _ line: Int
  ) throws {
    #expect(Self.plain.contains(before))
    let found = resolve(Self.plain.replacing(before, with: after, maxReplacements: 1)).diagnostics
    let wanted = found.filter { $0.description.contains(says) }
    #expect(wanted.count == 1 && wanted.first?.line == line, "\(found.map(\.description))")
    #expect(wanted.first?.remedy?.isEmpty == false)
  }

  @Test func `a policy alone in a file is read by the same table`() throws {
    let text = """
      apiVersion: salvor.dev/v1
      kind: FailoverPolicy
      metadata: {name: bank}
      spec: {members: [{name: a}, {name: b}, {name: c}], acknowledgements: 2}
      """
    let policy = try FailoverPolicy(SourceFile(path: "bank.yaml", text: text))
    #expect(policy.name == "bank" && policy.acknowledgements == 2 && policy.fenceQuorum == 1)
    #expect(throws: CatalogError.self) {
      try FailoverPolicy(
        SourceFile(path: "b.yaml", text: text.replacing("acknowledgements: 2", with: "acknowledgements: 3")))
    }
    #expect(throws: CatalogError.self) { try FailoverPolicy(SourceFile(path: "b.yaml", text: text + "\n---\n" + text)) }
  }

  @Test func `a weekly freeze is in the zone's own hours, and goes over the week's end`() throws {
    let from = try #require(WeeklyFreeze.minute("fri 16:00"))
    let until = try #require(WeeklyFreeze.minute("monday 08:00"))
    let window = WeeklyFreeze(from: from, until: until, zone: "Europe/Berlin")
    // 2026-11-20 is a Friday.
    for (text, isIn) in [
      ("2026-11-20T14:59:00Z", false), ("2026-11-20T15:00:00Z", true), ("2026-11-22T12:00:00Z", true),
      ("2026-11-23T06:59:00Z", true), ("2026-11-23T07:00:00Z", false), ("1969-12-26T20:00:00Z", true),
    ] {
      #expect(window.contains(try #require(Timestamp(text)), utcOffsetSeconds: 3600) == isIn, "\(text)")
    }
    #expect(WeeklyFreeze.text(from) == "fri 16:00" && WeeklyFreeze.minute("fry 16:00") == nil)
    #expect(WeeklyFreeze.minute("sun 24:00") == 0 && WeeklyFreeze.minute("fri 16") == nil)
  }
}
