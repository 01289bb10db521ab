import Catalog
import Core
import IO
import Load
import Runtime
import TestSupport
import Testing

/// Workflows against a server that does what the test says.
@Suite("Load", .serialized, .timeLimit(.minutes(10))) struct RunnerTests {
  /// Runs the only workflow of a catalog, as `salvor load run` does.
  private func run(
    _ workflow: LoadWorkflow, seed: UInt64 = 1, consent: Bool = false, environment: [String: String] = [:]
  ) async throws -> LoadReport {
    let directory = try TemporaryDirectory("load")
    let host = Machine(environment: environment, name: "test", stateDirectory: directory.file("state"))
    var request = LoadRuns.Request(workflow.name)
    (request.seed, request.hasConsent) = (seed, consent)
    return try await LoadRuns(workflows: [workflow], host: host).run(request)
  }

  private func step(_ url: String, _ more: String = "") -> String {
    "[{name: one, http: {url: \"\(url)/{{number}}\"}\(more.isEmpty ? "" : ", " + more)}]"
  }

  @Test func `errors are counted exactly, each by its reason`() async throws {
    try await ScriptedServer.with { request in
      var answer = ScriptedServer.Answer(body: "{\"n\": \(request.number), \"ok\": \(request.number % 10 != 3)}")
      if request.number % 10 == 7 { answer.status = 503 }
      return answer
    } _: { server, url in
      let more = "json: {/ok: true}"
      let report = try await run(try workflow(steps: step(url, more), load: "{users: 1, iterations: 100}"))
      #expect(report.passed == 80 && report.failed == 20 && server.requests.count == 100)
      #expect(
        report.failures.map { "\($0.count) × \($0.step): \($0.why)" } == [
          "10 × one: '/ok' is 'false' instead of 'true'", "10 × one: status 503",
        ], "\(report.failures)")
      #expect(!report.isPassed && report.failedShare == 0.2)
      #expect(report.violations.first?.hasPrefix("20 of 100 failed (20 %) instead of at most 0 %") == true)
      let lenient = try workflow(steps: step(url, more), load: "{users: 1, iterations: 100}", expect: "{errors: 20%}")
      #expect(try await run(lenient).isPassed)
      let strict = try workflow(steps: step(url, more), load: "{users: 1, iterations: 100}", expect: "{errors: 19.9%}")
      #expect(try await run(strict).isPassed == false)
    }
  }

  @Test func `planted latencies are found at their percentiles`() async throws {
    try await ScriptedServer.with { request in
      // One in ten takes 300 ms, one in fifty 900.
      ScriptedServer.Answer(
        after: .milliseconds(request.number % 50 == 49 ? 900 : request.number % 10 == 9 ? 300 : 0))
    } _: { _, url in
      let load = "{users: 10, iterations: 100}"
      let report = try await run(try workflow(steps: step(url), load: load, expect: "{p95: 200ms, max: 100ms}"))
      let latency = try #require(report.latency)
      #expect(latency.p95 >= 297_000_000 && latency.p99 >= 891_000_000 && latency.max >= 900_000_000, "\(latency)")
      #expect(latency.p50 < latency.p95 && latency.p95 < latency.p99, "\(latency)")
      #expect(report.violations.map { String($0.prefix(3)) } == ["p95", "max"], "\(report.violations)")
    }
  }

  @Test func `a stall is seen by all who were due in it, where users don't wait for each other`() async throws {
    // Nobody is answered from 0.5 s to 2.5 s after the first request.
    @Sendable func stalling(_ request: ScriptedServer.Request) -> ScriptedServer.Answer {
      let (from, until) = (Duration.milliseconds(500), Duration.milliseconds(2500))
      return ScriptedServer.Answer(after: (from..<until).contains(request.at) ? until - request.at : .zero)
    }
    let open = try await ScriptedServer.with(stalling) { _, url in
      // Fewer users than are due in the stall: most of them can't even be sent.
      try await run(try workflow(steps: step(url), load: "{rate: 50/s, users: 8, for: 4s}"))
    }
    let closed = try await ScriptedServer.with(stalling) { _, url in
      try await run(try workflow(steps: step(url), load: "{users: 1, for: 4s}"))
    }
    let (openly, closedly) = (try #require(open.latency), try #require(closed.latency))
    #expect(open.counted == 200 && open.failed == 0)
    // A hundred of two hundred were due in it; the last of them waited for nothing, the first for two seconds.
    #expect(openly.p99 >= 1_800_000_000 && openly.p90 >= 1_300_000_000, "\(openly)")
    #expect(openly.p50 > closedly.p50 && closedly.p90 < openly.p90, "one user saw the stall once: \(closedly)")
    #expect(closedly.max >= 1_500_000_000)
    #expect(open.late > 80, "\(open.late)")
  }

  @Test func `what one step answers the next sends, with secrets, data and headers`() async throws {
    let directory = try TemporaryDirectory("load")
    try Files.replace(
      directory.file("rows.jsonl"), with: Array("{\"to\": \"x\\\"y\"}\n\n{\"to\": \"z\"}\n".utf8))
    try await ScriptedServer.with { request in
      request.path == "/login"
        ? .init(body: "{\"session\": {\"id\": \"s/\(request.number)\"}}", headers: ["x-kind": "fine"])
        : .init(status: 201)
    } _: { server, url in
      let steps = """
        [{name: login, http: {method: POST, url: "\(url)/login", headers: {authorization: "Bearer {{secret.token}}"}},
        capture: {session: /session/id}, headers: {X-Kind: {matches: "^fi"}}},
        {name: act, http: {url: "\(url)/act/{{session}}", json: '{"to": "{{data.to}}"}'}, status: 201}]
        """
      let more = "secrets: {token: env:TOKEN}\n  data: \(directory.file("rows.jsonl"))"
      let report = try await run(
        try workflow(steps: steps, load: "{users: 1, iterations: 3}", more: more), environment: ["TOKEN": "t0ps3cret"])
      #expect(report.isPassed && report.steps.map(\.passed) == [3, 3], "\(report)")
      let requests = server.requests
      #expect(requests[0].headers["authorization"] == ["Bearer t0ps3cret"])
      #expect(requests[1].path == "/act/s%2F0" && requests[1].method == "POST")
      #expect(
        requests.filter { $0.path != "/login" }.map(\.body) == [
          #"{"to": "x\"y"}"#, #"{"to": "z"}"#, #"{"to": "x\"y"}"#,
        ])
      #expect(requests[1].headers["content-type"] == ["application/json"])
      #expect(!(try CanonicalJSON.text(report)).contains("t0ps3cret"))
    }
  }

  @Test func `a server that repeats a secret does not bring it into the report`() async throws {
    try await ScriptedServer.with { request in
      .init(body: "you said \(request.headers["x-token"].first ?? "")")
    } _: { _, url in
      let steps = "[{name: one, http: {url: \"\(url)/\", headers: {x-token: \"{{secret.token}}\"}}, equals: fine}]"
      let report = try await run(
        try workflow(steps: steps, more: "secrets: {token: env:TOKEN}"), environment: ["TOKEN": "t0ps3cret"])
      #expect(report.failures.first?.why == "the answer is 'you said ***' instead of 'fine'", "\(report.failures)")
    }
  }

  @Test func `the same seed sends the same, whoever is faster`() async throws {
    func paths(_ seed: UInt64, users: Int) async throws -> [String] {
      try await ScriptedServer.with { _ in
        .init()
      } _: { server, url in
        let steps = "[{name: one, http: \"\(url)/{{number}}/{{int 1 1000}}/{{hex 6}}\"}]"
        _ = try await run(try workflow(steps: steps, load: "{users: \(users), iterations: 40}"), seed: seed)
        return server.requests.map(\.path).sorted()
      }
    }
    let first = try await paths(7, users: 1)
    #expect(try await paths(7, users: 8) == first)
    #expect(try await paths(8, users: 8) != first)
  }

  @Test func `the hopeless is stopped, and nobody who writes is let in unasked`() async throws {
    try await ScriptedServer.with { _ in
      .init(status: 500)
    } _: { server, url in
      let report = try await run(try workflow(steps: step(url), load: "{users: 2, iterations: 5000}"))
      #expect(report.isStoppedEarly && report.counted < 60 && !report.isPassed, "\(report.counted)")
      let before = server.requests.count
      await #expect(throws: LoadError.self) { _ = try await run(try workflow(steps: step(url), effects: "writes")) }
      #expect(server.requests.count == before, "nothing was sent")
      _ = try await run(try workflow(steps: step(url), effects: "writes"), consent: true)
      #expect(server.requests.count == before + 1)
    }
  }

  @Test func `hung up, silent, refused: each is a failure with its reason`() async throws {
    try await ScriptedServer.with { request in
      request.number == 0 ? .init(hangsUp: true) : .init(after: .seconds(60))
    } _: { _, url in
      let steps = "[{name: one, http: \"\(url)/\", timeout: 300ms}]"
      let report = try await run(try workflow(steps: steps, load: "{users: 1, iterations: 2}"))
      #expect(Set(report.failures.map(\.why)).count == 2 && report.failed == 2, "\(report.failures)")
      #expect(report.failures.contains { $0.why == "no answer within 300 ms" || $0.why == "no answer in time" })
    }
    let refused = try await run(
      try workflow(steps: "[{name: one, http: \"http://127.0.0.1:\(try freePort())/\"}]"))
    #expect(refused.failures.map(\.why) == ["connection refused"], "\(refused.failures)")
  }

  @Test func `the warm-up doesn't count, and nothing but a warm-up is no pass`() async throws {
    // Which request arrives first is for the scheduler to say: so all of one kind.
    try await ScriptedServer.with { _ in
      .init(status: 200)
    } _: { _, url in
      let report = try await run(
        try workflow(steps: step(url), load: "{rate: 20/s, iterations: 20, for: 5s, warmUp: 250ms}"))
      #expect(report.isPassed && report.uncounted == 5 && report.passed == 15, "\(report)")
    }
    try await ScriptedServer.with { _ in
      .init(status: 500)
    } _: { _, url in
      let nothing = try await run(
        try workflow(steps: step(url), load: "{rate: 20/s, iterations: 2, warmUp: 10s}"))
      #expect(nothing.uncounted == 2 && nothing.failed == 0, "\(nothing)")
      #expect(!nothing.isPassed && !nothing.isMeasured && nothing.summary == "nothing was measured")
    }
  }

  @Test func `commands are steps too`() async throws {
    let steps = """
      [{name: say, exec: [echo, '{"n": {{int 5 5}}}'], capture: {n: /n}, json: {/n: {matches: "^[0-9]$"}}},
      {name: repeat, exec: [printf, "%s", "{{n}}!"], equals: "5!"}, {name: fail, exec: ["false"], status: 1}]
      """
    let report = try await run(try workflow(steps: steps, load: "{iterations: 2}"))
    #expect(report.isPassed && report.steps.map(\.passed) == [2, 2, 2], "\(report)")
  }
}
