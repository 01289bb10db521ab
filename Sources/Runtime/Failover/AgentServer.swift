import Core
import Failover
import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import StateKit

/// Answers other agents, operators and proxies over HTTP.
///
/// `GET /primary` is for proxies and says 200 or 503 to anybody; all else needs the agents' secret.
package struct AgentServer: Sendable {
  private let agent: FailoverAgent
  private let secret: Secret
  private let host: String
  private let port: Int
  private let identity: AgentIdentity?
  private let time: any Timekeeper

  /// - Parameters:
  ///   - identity: With certificates, it serves in TLS; otherwise without.
  ///   - isOpen: Serves without TLS also where other machines reach it.
  /// - Throws: ``AgentTrustFailure/openToAll(_:)``.
  package init(
    _ agent: FailoverAgent, secret: Secret, host: String, port: Int, identity: AgentIdentity? = nil,
    isOpen: Bool = false, time: any Timekeeper = SystemTime()
  ) throws(AgentTrustFailure) {
    (self.agent, self.secret, self.host, self.port) = (agent, secret, host, port)
    (self.identity, self.time) = (identity?.isServer == true ? identity : nil, time)
    let isLocal = host == "::1" || host == "localhost" || host.hasPrefix("127.")
    guard isLocal || isOpen || self.identity != nil else { throw .openToAll("\(host):\(port)") }
  }

  package func run(ready: @escaping @Sendable (Int) async -> Void = { _ in }) async throws {
    // Longer than clients keep a connection they don't use: a request must not meet a closing one.
    let http = HTTP1Channel.Configuration(idleTimeout: .seconds(150))
    let server = HTTPServerBuilder { [identity] responder in
      let base = HTTP1Channel(responder: responder, configuration: http)
      return identity.map { IdentifiedChannel(base: base, identity: $0) } ?? base
    }
    var logger = Logger(label: "salvor.agent", factory: { _ in SwiftLogNoOpLogHandler() })
    logger.logLevel = .critical
    let application = Application(
      responder: AgentResponder(agent: agent, secret: secret, time: time), server: server,
      configuration: ApplicationConfiguration(
        address: .hostname(host, port: port), serverName: "salvor", backlog: 64,
        availableConnectionsDelegate: MaximumAvailableConnections(256)),
      onServerRunning: { channel in await ready(channel.localAddress?.port ?? port) }, logger: logger)
    do {
      try await application.run()
    } catch let error as IOError {
      throw FailoverFailure.listen("\(host):\(port)", "errno \(error.errnoCode)")
    }
    try Task.checkCancellation()
  }
}

private struct AgentResponder: HTTPResponder {
  typealias Context = BasicRequestContext

  let agent: FailoverAgent
  let secret: Secret
  let time: any Timekeeper

  func respond(to request: Request, context: Context) async throws -> Response {
    let path = request.head.path ?? "/"
    if path == "/primary" { return text(await agent.serves ? .ok : .serviceUnavailable, "") }
    guard let header = request.headers[.authorization], header.hasPrefix("Bearer "),
      Secret(String(header.dropFirst(7))) == secret
    else { return text(.unauthorized, "the agents' secret is needed") }
    switch (request.method, path) {
    case (.get, "/v1/report"): return try json(await agent.report())
    case (.get, "/v1/facts"): return try json(await agent.status())
    case (.get, "/v1/standing"): return try json(await agent.standing)
    case (.post, "/v1/command"):
      let sent = request.body
      guard let body = try? await time.withTimeLimit(.seconds(10), { try await sent.collect(upTo: 65_536) }) else {
        return text(.badRequest, "this is too much, or too slow")
      }
      guard let action = try? CanonicalJSON.decode(FailoverAction.self, from: body.readableBytesView) else {
        return text(.badRequest, "this is no command")
      }
      return try json(await agent.obey(action))
    case (.post, "/v1/practise"):
      let sent = request.body
      guard let body = try? await time.withTimeLimit(.seconds(10), { try await sent.collect(upTo: 4096) }),
        let asked = try? CanonicalJSON.decode(PractisedCrash.self, from: body.readableBytesView)
      else { return text(.badRequest, "this is no practice") }
      if let why = await agent.crash(asPractised: asked.epoch) { return text(.conflict, why.description) }
      return text(.ok, "")
    default: return text(.notFound, "there is nothing here")
    }
  }

  private func json(_ value: some Encodable) throws -> Response {
    Response(
      status: .ok, headers: [.contentType: "application/json"],
      body: .init(byteBuffer: ByteBuffer(bytes: try CanonicalJSON.encode(value))))
  }

  private func text(_ status: HTTPResponse.Status, _ text: String) -> Response {
    Response(
      status: status, headers: [.contentType: "text/plain; charset=utf-8"],
      body: .init(byteBuffer: ByteBuffer(string: text)))
  }
}

/// Why nothing can be said or done about a failover.
package enum FailoverFailure: Failure {
  case listen(String, String)
  case badPolicy(String, String)
  case badLog(String, String)
  case replaysDifferently(String, Int)
  case unknownMember(String)
  case noAnswer(String)
  case unknownFailover(String)
  case unknownPolicy(String, known: [String])
  case noRecord(String)
  case notPractised(String, String)
  case killNotAllowed(String)
  case neverDue(String)

  package var report: Report {
    switch self {
    case .listen(let address, let why):
      Report("FAILOVER-101", "can't listen on \(address): \(why)", retry: .afterBackoff)
        .remedy("choose another address with --listen, or end what listens there")
    case .badPolicy(let path, let why):
      Report("FAILOVER-102", "\(path) is no failover policy: \(why)").remedy("see docs/operating/failover.md")
    case .badLog(let path, let why):
      Report("FAILOVER-103", "\(path) is no record of decisions: \(why)", retry: .never)
        .remedy("give a file that an agent has written")
    case .replaysDifferently(let path, let line):
      Report("FAILOVER-104", "line \(line) of \(path) comes to another decision than was recorded", retry: .never)
        .remedy("use the version of salvor that wrote it; if that is this one, the file was changed")
    case .unknownMember(let name):
      Report("FAILOVER-105", "the policy has no member or witness '\(name)'").remedy("name one that it lists")
    case .noAnswer(let what):
      Report("FAILOVER-106", "no agent answers: \(what)", retry: .afterBackoff)
        .remedy("see whether agents run, and whether the secret is theirs")
    case .unknownFailover(let id):
      Report("FAILOVER-107", "the record of decisions has nothing about '\(id)'")
        .remedy("without an id, `salvor failover explain` lists what it has")
    case .unknownPolicy(let name, let known):
      Report("FAILOVER-108", "the catalog has no failover policy '\(name)'")
        .remedy(
          known.isEmpty
            ? "add a document of kind FailoverPolicy, or give a file" : "there is \(known.joined(separator: ", "))")
    case .noRecord(let directory):
      Report("FAILOVER-109", "there is no record of decisions in \(directory)")
        .remedy("name the directory that agents write to with --directory, or the files themselves")
    case .notPractised(let name, let why):
      Report("FAILOVER-120", "the agent of \(name) doesn't end its engine for practice: \(why)")
        .remedy("nothing was moved; see `salvor failover status`, and what the agent's own policy says of practice")
    case .killNotAllowed(let name):
      Report("FAILOVER-121", "policy '\(name)' doesn't say that its primary may be killed for practice")
        .remedy("add `practice: {kind: failover}` to it, for the agents too; or practise a switchover")
    case .neverDue(let name):
      Report("FAILOVER-122", "policy '\(name)' says nothing of when it is practised")
        .remedy("add `practice: {schedule: every 7d}` to it, or leave --due out")
    }
  }
}
