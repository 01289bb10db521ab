import Core
import Testing

@testable import Catalog

@Suite("Routes and rollouts in the catalog")
struct TrafficCatalogTests {
  private static let plain = """
    apiVersion: salvor.dev/v1
    kind: Service
    metadata: {name: shop}
    spec: {owner: shop-team, objectives: {rto: 5m}}
    ---
    apiVersion: salvor.dev/v1
    kind: TrafficRoute
    metadata: {name: bank-sql}
    spec:
      pgbouncer:
        {address: "127.0.0.1:6432", user: salvor, password: env:PW, database: bank, file: /etc/b.ini, parameters: x=1}
      backends: {a: "10.0.0.1:5432", b: "10.0.0.2:5432"}
      failover: bank
      patience: 9s
    ---
    apiVersion: salvor.dev/v1
    kind: TrafficRoute
    metadata: {name: web}
    spec: {haproxy: {socket: /run/admin.sock, backend: shop, stateFile: /var/state}, backends: {blue: x, green: y}}
    ---
    apiVersion: salvor.dev/v1
    kind: TrafficRoute
    metadata: {name: nginx}
    spec:
      nginx: {upstream: shop, file: /etc/s.conf, echo: "http://127.0.0.1:81/x", pidFile: /run/n.pid, test: nginx -t}
      backends: {blue: "h:1", green: "h:2"}
    ---
    apiVersion: salvor.dev/v1
    kind: TrafficRoute
    metadata: {name: envoy}
    spec: {envoy: {cluster: c, file: /etc/e.json, admin: "http://127.0.0.1:9901/"}, backends: {blue: "h:1", green: "h:2"}}
    ---
    apiVersion: salvor.dev/v1
    kind: TrafficRoute
    metadata: {name: own}
    spec: {exec: [/bin/router, "--x"], backends: {blue: "1", green: "2"}}
    ---
    apiVersion: salvor.dev/v1
    kind: Rollout
    metadata: {name: shop}
    spec:
      route: web
      from: blue
      to: green
      ready: [{http: "http://green/health"}]
      warm: {requests: ["http://green/"], times: 3}
      prime: [prime, it]
      steps: [10, 100]
      dwell: 5s
      interval: 2s
      watch: {errors: 1%, latency: 300ms, requests: 7}
      queries: [{name: p99, prometheus: "http://p:9090", query: q, most: 0.3}]
      patience: 40s
      keep: 0s
      flags: {source: /etc/flags.json, allow: go, record: [a, b], credential: env:T}
    """

  private func resolve(_ text: String) -> Resolution {
    Catalog.resolve([SourceFile(path: "c.yaml", text: text)], drivers: [:])
  }

  @Test func `all of it is read, kept, and digested as any JSON would be`() throws {
    let catalog = try resolve(Self.plain).get()
    #expect(catalog.canonicalBytes == (try CanonicalJSON.encode(catalog)))
    #expect(try CanonicalJSON.decode(Catalog.self, from: catalog.canonicalBytes) == catalog)
    let sql = try #require(catalog.route("bank-sql"))
    guard case .pgbouncer(let pgbouncer) = sql.router else {
      Issue.record("no PgBouncer")
      return
    }
    #expect(pgbouncer.host == "127.0.0.1" && pgbouncer.port == 6432 && pgbouncer.parameters == "x=1")
    #expect(sql.failover == "bank" && sql.patience == .seconds(9) && sql.backends["b"] == "10.0.0.2:5432")
    guard case .envoy(let envoy) = catalog.route("envoy")?.router else {
      Issue.record("no Envoy")
      return
    }
    #expect(envoy.admin == "http://127.0.0.1:9901")
    let rollout = try #require(catalog.rollout("shop"))
    #expect(rollout.steps == [10, 100] && rollout.dwell == .seconds(5) && rollout.keep == .zero)
    #expect(rollout.watch == .init(errorsPerMillion: 10_000, latency: .milliseconds(300), requests: 7))
    #expect(rollout.flags?.allow == "go" && rollout.flags?.record == ["a", "b"])
    #expect(rollout.ready.count == 1 && rollout.warm?.times == 3 && rollout.queries.first?.most?.value == 0.3)
  }

  @Test(arguments: [
    ("backend: shop, stateFile", "stateFile", DiagnosticCode.missing),
    ("backends: {blue: x, green: y}", "backends: {blue: x}", .missing),
    ("backends: {blue: \"h:1\", green: \"h:2\"}", "backends: {blue: h, green: \"h:2\"}", .badValue),
    ("exec: [/bin/router, \"--x\"]", "exec: {command: x, user: me}", .badValue),
    ("route: web", "route: wep", .dangling), ("to: green", "to: gren", .dangling), ("to: green", "to: blue", .badValue),
    ("steps: [10, 100]", "steps: [10, 50]", .badValue), ("steps: [10, 100]", "steps: [50, 10, 100]", .badValue),
    ("ready: [{http: \"http://green/health\"}]", "ready: []", .missing),
    ("ready: [{http: \"http://green/health\"}]", "ready: [{sql: SELECT 1}]", .badValue),
    ("route: web", "route: bank-sql", .dangling),
    (", most: 0.3", "", .missing), ("warm: {requests", "wrm: {requests", .unknownField),
  ])
  func `what can't be meant is told`(_ from: String, _ to: String, _ code: DiagnosticCode) {
    #expect(Self.plain.contains(from))
    let resolution = resolve(Self.plain.replacing(from, with: to))
    #expect(
      resolution.diagnostics.contains { $0.code == code.rawValue }, "\(from) -> \(to): \(resolution.diagnostics)")
  }
}
