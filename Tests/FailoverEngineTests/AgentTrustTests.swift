import Catalog
import Core
import Failover
import IO
import Runtime
import StateKit
import TestSupport
import Testing
import Web

/// An agent's door, in this process, on a free port, while `body` runs.
private func withDoor<T: Sendable>(
  _ files: AgentCertificates, _ body: @escaping @Sendable (Int) async throws -> T
) async throws -> T {
  let directory = try TemporaryDirectory("agent")
  let host = Machine(environment: [:], name: "test", stateDirectory: directory.path)
  let policy = FailoverPolicy(
    name: "bank",
    members: [.init(name: "a", address: "127.0.0.1:1"), .init(name: "b", address: "127.0.0.1:2")],
    witnesses: [.init(name: "w")])
  let secret = Secret("agents")
  let identity = try AgentIdentity(files, time: host.time, pool: host.pool)
  let agent = try FailoverAgent(
    .init(policy: policy, name: "w", directory: directory.path, secret: secret),
    engine: try Registry.engine(
      of: "w", in: policy, MemberOptions(), host: host),
    store: try Registry.leases(at: LeasePlace(["etcd:http://127.0.0.1:1"]), for: policy, host: host), web: identity,
    host: host)
  let server = try AgentServer(agent, secret: secret, host: "127.0.0.1", port: 0, identity: identity)
  let (ports, continuation) = AsyncStream<Int>.makeStream()
  return try await withThrowingTaskGroup(of: T?.self) { group in
    group.addTask {
      defer { continuation.finish() }
      do { try await server.run { continuation.yield($0) } } catch is CancellationError {}
      return nil
    }
    group.addTask {
      try await identity.keepFresh(every: .milliseconds(50))
      return nil
    }
    group.addTask {
      for await port in ports { return try await body(port) }
      return nil
    }
    defer { group.cancelAll() }
    while let next = try await group.next() { if let next { return next } }
    throw SystemFailure("listen")
  }
}

@Suite struct AgentTrustTests {
  private func ask(
    _ url: String, _ trust: WebTrust, _ secret: String = "agents", body: [UInt8]? = nil
  ) async throws -> WebResponse {
    var request = WebRequest(body == nil ? .get : .post, url)
    request.headers = [("authorization", "Bearer \(secret)")]
    request.body = body
    request.timeLimit = .seconds(60)
    return try await WebClient(trust).send(request)
  }

  private func isRefused(_ url: String, _ trust: WebTrust) async -> Bool {
    do {
      _ = try await ask(url, trust)
      return false
    } catch { return true }
  }

  @Test(.timeLimit(.minutes(10)))
  func `an agent speaks to those whom its authority signed, and to nobody else`() async throws {
    let (own, other) = (try await Certificates(), try await Certificates())
    let files = AgentCertificates(
      certificateFile: own.server, keyFile: own.serverKey, authorityFile: own.authority)
    try await withDoor(files) { port in
      let url = "https://127.0.0.1:\(port)/v1/report"
      let known = WebTrust(authorityFile: own.authority, clientCertificateFile: own.client)
      let report = try await ask(url, known)
      #expect(report.isSuccess)
      #expect(try CanonicalJSON.decode(AgentReport.self, from: report.body).member == "w")
      #expect(try await ask(url, known, "agent").status == 401)
      #expect(try await ask(url, known, "agentss").status == 401)
      let command = "https://127.0.0.1:\(port)/v1/command"
      #expect(try await ask(command, known, body: Array(repeating: 32, count: 100_000)).status == 400)
      // No certificate, somebody else's, somebody else's name for the server, and no TLS at all.
      #expect(await isRefused(url, WebTrust(authorityFile: own.authority)))
      #expect(
        await isRefused(url, WebTrust(authorityFile: own.authority, clientCertificateFile: other.client)))
      #expect(await isRefused(url, WebTrust(authorityFile: other.authority, clientCertificateFile: own.client)))
      #expect(await isRefused("http://127.0.0.1:\(port)/v1/report", WebTrust()))
      // Nor does an agent speak to who only pretends to be one.
      let stranger = try AgentIdentity(
        AgentCertificates(certificateFile: other.server, keyFile: other.serverKey, authorityFile: other.authority),
        time: SystemTime(), pool: .shared)
      await #expect(throws: WebFailure.self) { try await stranger.send(WebRequest(.get, url)) }
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `certificates that change are taken up, and broken ones are not`() async throws {
    let (first, second) = (try await Certificates(), try await Certificates())
    let place = try TemporaryDirectory("rotated")
    let files = AgentCertificates(
      certificateFile: place.file("cert"), keyFile: place.file("key"), authorityFile: place.file("ca"))
    @Sendable func put(_ certificates: Certificates) throws {
      try Files.replace(place.file("cert"), with: Files.read(certificates.server))
      try Files.replace(place.file("key"), with: Files.read(certificates.serverKey))
      try Files.replace(place.file("ca"), with: Files.read(certificates.authority))
    }
    try put(first)
    try await withDoor(files) { port in
      let url = "https://127.0.0.1:\(port)/v1/report"
      let (old, new) = (
        WebTrust(authorityFile: first.authority, clientCertificateFile: first.client),
        WebTrust(authorityFile: second.authority, clientCertificateFile: second.client)
      )
      #expect(try await ask(url, old).isSuccess)
      // Written halfway, and a key that isn't the certificate's.
      try Files.replace(place.file("key"), with: Files.read(second.serverKey))
      try await Task.sleep(for: .milliseconds(300))
      #expect(try await ask(url, old).isSuccess)
      try put(second)
      while await isRefused(url, new) { try await Task.sleep(for: .milliseconds(20)) }
    }
  }

  @Test func `without certificates an agent listens to this machine only`() throws {
    let host = Machine(environment: [:], name: "test", stateDirectory: "/nonexistent")
    let directory = try TemporaryDirectory("agent")
    let policy = FailoverPolicy(
      name: "bank", members: [.init(name: "a", address: "127.0.0.1:1"), .init(name: "b", address: "127.0.0.1:2")])
    let agent = try FailoverAgent(
      .init(policy: policy, name: "a", directory: directory.path, secret: Secret("agents")),
      engine: try Registry.engine(
        of: "a", in: policy, MemberOptions(), host: host),
      store: try Registry.leases(at: LeasePlace(["http://127.0.0.1:1"]), for: policy, host: host),
      web: try WebClient(), host: host)
    let secret = Secret("agents")
    for address in ["0.0.0.0", "10.0.0.1", "db-a"] {
      #expect(throws: AgentTrustFailure.self) { try AgentServer(agent, secret: secret, host: address, port: 0) }
      _ = try AgentServer(agent, secret: secret, host: address, port: 0, isOpen: true)
    }
    for address in ["127.0.0.1", "localhost", "::1"] {
      _ = try AgentServer(agent, secret: secret, host: address, port: 0)
    }
  }
}
