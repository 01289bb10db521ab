import Core
import Testing

@testable import Catalog

@Suite("Workflows, metrics, gates and releases in the catalog")
struct WorkflowCatalogTests {
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
      validators: [{name: works, workflow: buy}]
      schema: [{query: SELECT v, accepts: [1, two]}]
      stores: [{name: books, none: {}}]
    ---
    apiVersion: salvor.dev/v1
    kind: Metric
    metadata: {name: takings}
    spec: {store: books, query: q, least: -1.50, most: 10, change: 0.5%, trend: {change: 20%}}
    ---
    apiVersion: salvor.dev/v1
    kind: Workflow
    metadata: {name: buy}
    spec:
      effects: writes
      data: /srv/rows.jsonl
      secrets: {token: env:TOKEN}
      steps:
        - name: log-in
          http: {url: "http://shop/login/{{int 1 9}}", headers: {Authorization: "{{secret.token}}"}}
          capture: {id: /id, all: ""}
        - {name: buy, http: {url: "http://shop/{{id}}", json: '{"x": "{{data.x}}"}'}, json: {/a: 1, /b: {matches: "^x"}}}
        - {name: look, exec: [echo, "{{all}}"], equals: "{{id}}", timeout: 1s}
      load: {rate: 90/m, for: 30s, ramp: 1s}
      expect: {p50: 10ms, p999: 1s, errors: 0.1%}
    """

  private func resolve(_ text: String) -> Resolution {
    Catalog.resolve([SourceFile(path: "c.yaml", text: text)], drivers: ["none": []])
  }

  @Test func `all of it is read, kept, and digested as any JSON would be`() throws {
    let catalog = try resolve(Self.plain).get()
    #expect(catalog.canonicalBytes == (try CanonicalJSON.encode(catalog)))
    #expect(try CanonicalJSON.decode(Catalog.self, from: catalog.canonicalBytes) == catalog)
    let workflow = try #require(catalog.workflow("buy"))
    #expect(workflow.load.rate == LoadWorkflow.Rate(count: 90, per: .seconds(60)) && workflow.load.users == 64)
    #expect(
      workflow.bounds.failedPerMillion == 1000
        && workflow.bounds.latencies == [.p50: .milliseconds(10), .p999: .seconds(1)])
    #expect(workflow.steps.map(\.captures.count) == [2, 0, 0] && workflow.steps[1].expectations.count == 2)
    guard case .http(let request) = workflow.steps[1].action else {
      Issue.record("no request")
      return
    }
    #expect(request.method == .post && request.isJSON)
    #expect(catalog.services[0].validators.map(\.question) == [.workflow("buy")])
    #expect(
      catalog.services[0].schema == [
        SchemaGate(source: StoreQuery(store: "books", query: "SELECT v"), accepts: ["1", "two"])
      ])
    #expect(catalog.metrics[0].changePerMillion == 5000 && catalog.metrics[0].trend?.points == 7)
  }

  @Test(arguments: [
    ("workflow: buy}", "workflow: by}", "did you mean 'buy'?"),
    ("{{id}}\", json", "{{ids}}\", json", "did you mean 'id'?"),
    ("http://shop/{{id}}", "http://{{id}}/", "write scheme, host and port as they are"),
    ("{{secret.token}}", "{{secret.tokens}}", "did you mean 'token'?"),
    ("data: /srv/rows.jsonl", "data: rows.jsonl", "begin it with '/'"),
    ("{{int 1 9}}", "{{int 9 1}}", "write {{name}}"),
    ("rate: 90/m", "rate: fast", "write it as 20/s"),
    ("errors: 0.1%", "errors: 0.1", "write it as 5%"),
    ("capture: {id: /id", "capture: {int: /id", "none of number, uuid"),
    ("all: \"\"}", "all: id}", "write it as /account/balance"),
    ("name: buy, http", "name: log-in, http", "rename one of them"),
    ("effects: writes\n", "\n", "add 'effects'"),
    ("workflow: buy}", "workflow: buy, equals: x}", "leave it out here"),
    ("least: -1.50", "least: 11", "swap them"), ("most: 10", "most: many", "write it as 0"),
    ("store: books, query: q", "store: book, query: q", "did you mean 'books'?"),
    ("token: env:TOKEN", "token: TOKEN", "write file:/path"),
  ])
  func `what is wrong is said, with the way out`(_ right: String, _ wrong: String, _ remedy: String) throws {
    try #require(Self.plain.contains(right))
    let resolution = resolve(Self.plain.replacing(right, with: wrong, maxReplacements: 1))
    #expect(
      resolution.errors.contains { ($0.remedy ?? "").contains(remedy) },
      "\(resolution.errors.map { "\($0.message); \($0.remedy ?? "")" })")
  }

  @Test func `a release is read against its catalog`() throws {
    let catalog = try resolve(Self.plain).get()
    func release(_ spec: String) throws -> Release {
      let head = "apiVersion: salvor.dev/v1\nkind: Release\nmetadata: {name: 1.2.3}\nspec: "
      return try Release(SourceFile(path: "release.yaml", text: head + spec), for: catalog)
    }
    let good = try release(
      "{stores: [{store: books, migrations: m, version: q, accepts: [1], checks: [{name: a, query: q, rows: 2}]}]}")
    #expect(good.name == "1.2.3" && good.stores[0].change == .scripts(directory: "m", applied: nil, record: nil))
    #expect(good.stores[0].checks[0].expectation == .rows(2) && good.stores[0].accepts == ["1"])
    for bad in [
      "{stores: [{store: book}]}", "{stores: [{store: books, migrations: ../m}]}",
      "{stores: [{store: books, migrations: /m}]}", "{stores: [{store: books, migrations: m, run: x}]}",
      "{stores: [{store: books, down: d}]}", "{stores: [{store: books, accepts: [1]}]}",
      "{stores: [{store: books}, {store: books}]}", "{stores: [], invariants: [none]}", "{}",
    ] { #expect(throws: CatalogError.self, "\(bad)") { try release(bad) } }
  }
}
