import AsyncHTTPClient
import Catalog
import Core
import IO
import Load
import NIOCore
import NIOHTTP1
import StateKit
import Validation

/// Goes through workflows: asked for by a person, or as a check of a service that has come back.
package struct LoadRuns: Sendable {
  /// What a person wants other than the workflow says.
  package struct Request: Sendable {
    package var workflow: WorkflowName
    package var rate: LoadWorkflow.Rate?
    package var duration: Duration?
    package var iterations: Int?
    package var users: Int?
    package var seed: UInt64?
    /// What it leaves behind is welcome.
    package var hasConsent = false

    package init(_ workflow: WorkflowName) { self.workflow = workflow }
  }

  private let workflows: [LoadWorkflow]
  private let host: Machine

  package init(_ catalog: Catalog, host: Machine) { self.init(workflows: catalog.workflows, host: host) }

  package init(workflows: [LoadWorkflow], host: Machine) { (self.workflows, self.host) = (workflows, host) }

  /// - Throws: ``LoadError/consent(_:)`` for one that writes, unless somebody agreed.
  package func run(
    _ request: Request, progress: @escaping @Sendable (_ counted: Int64, _ failed: Int64) -> Void = { _, _ in }
  ) async throws -> LoadReport {
    guard var workflow = workflows.first(where: { $0.name == request.workflow }) else {
      throw LoadError.noSuchWorkflow(request.workflow.text)
    }
    guard workflow.effects == .reads || request.hasConsent else { throw LoadError.consent(workflow.name) }
    if let rate = request.rate { workflow.load.rate = rate }
    if let users = request.users { workflow.load.users = users }
    if request.duration != nil || request.iterations != nil {
      (workflow.load.duration, workflow.load.iterations) = (request.duration, request.iterations)
    }
    return try await run(workflow, seed: request.seed ?? host.randomness.next() >> 11, progress)
  }

  private func run(
    _ workflow: LoadWorkflow, seed: UInt64, _ progress: @escaping @Sendable (Int64, Int64) -> Void
  ) async throws -> LoadReport {
    var secrets: [String: Secret] = [:]
    for (name, reference) in workflow.secrets { secrets[name] = try await host.secrets.resolve(reference) }
    var data: [[String: JSONValue]] = []
    if let path = workflow.data { data = try await host.pool.run { try LoadData.read(path) } }
    let resolver = host.secrets
    let (rows, keys) = (data, secrets)
    return try await LoadClient.lent(users: workflow.load.users) { client in
      let ports = LoadPorts(
        time: host.time, send: { try await client.send($0) },
        execute: { command in
          let answer = try await Runtime.execute(command, resolver)
          return LoadAnswer(status: answer.status, body: answer.output)
        })
      return try await LoadRunner(workflow, ports, data: rows, secrets: keys, seed: seed).run(progress: progress)
    }
  }
}

extension LoadReport {
  var answer: WorkflowAnswer { WorkflowAnswer(examined: counted, broken: violations, summary: summary) }
}

/// Rows for templates.
enum LoadData {
  private static let limitBytes = 64 << 20

  /// Blocks.
  static func read(_ path: String) throws -> [[String: JSONValue]] {
    let bytes = try Files.read(path, limitBytes: limitBytes)
    var rows: [[String: JSONValue]] = []
    for (index, line) in bytes.split(separator: 10, omittingEmptySubsequences: false).enumerated() {
      if line.allSatisfy({ $0 <= 32 }) { continue }
      guard let value = try? CanonicalJSON.decode(JSONValue.self, from: line), let members = value.object else {
        throw LoadError.badData(path, line: index + 1, why: "this is not a JSON object")
      }
      rows.append(members)
    }
    guard !rows.isEmpty else { throw LoadError.badData(path, line: 1, why: "it holds nothing") }
    return rows
  }
}

/// Sends requests of many users at once, each over a connection of its own if it comes to that: whoever measures a server must not
/// queue before it.
private struct LoadClient: Sendable {
  private static let answerLimitBytes = 4 << 20

  let client: HTTPClient

  static func lent<T: Sendable>(
    users: Int, _ body: @Sendable (LoadClient) async throws -> T
  ) async throws -> T {
    var configuration = HTTPClient.Configuration()
    configuration.redirectConfiguration = .disallow
    configuration.httpVersion = .http1Only
    configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = max(1, users)
    configuration.connectionPool.retryConnectionEstablishment = false
    let client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
    let result: Result<T, any Error>
    do { result = .success(try await body(LoadClient(client: client))) } catch { result = .failure(error) }
    try? await client.shutdown()
    return try result.get()
  }

  func send(_ request: LoadRequest) async throws -> LoadAnswer {
    var outgoing = HTTPClientRequest(url: request.url)
    outgoing.method = HTTPMethod(rawValue: request.method)
    outgoing.headers.add(name: "user-agent", value: "salvor")
    for (name, value) in request.headers { outgoing.headers.replaceOrAdd(name: name, value: value) }
    if let body = request.body { outgoing.body = .bytes(ByteBuffer(bytes: body)) }
    do {
      let response = try await client.execute(outgoing, timeout: .nanoseconds(request.timeout.wholeNanoseconds))
      var headers: [String: String] = [:]
      for (name, value) in response.headers { headers[name.lowercased()] = value }
      let body = try await response.body.collect(upTo: Self.answerLimitBytes)
      return LoadAnswer(status: Int(response.status.code), headers: headers, body: String(buffer: body))
    } catch is CancellationError {
      throw CancellationError()
    } catch {
      if Task.isCancelled { throw CancellationError() }
      throw SendFailure(error)
    }
  }
}

/// Why there was no answer, without the address.
private struct SendFailure: Failure {
  let report: Report

  init(_ error: any Error) {
    let why =
      switch error {
      case let error as HTTPClientError where error == .deadlineExceeded: "no answer in time"
      case let error as HTTPClientError where error == .remoteConnectionClosed: "the connection was closed"
      case is NIOTooManyBytesError: "the answer is too long"
      // The library's text names hosts and ports at length.
      case _ where "\(error)".contains("Connection refused"): "connection refused"
      case _ where "\(type(of: error))" == "NIOConnectionError": "no connection"
      default: String("\(error)".prefix(200))
      }
    report = Report("LOAD-301", why, retry: .afterBackoff)
  }
}
