import AsyncHTTPClient
import Core
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL

/// Sends requests over HTTP/1.1; what stores and services on the network are reached through.
///
/// Redirects are not followed: whoever asks signs or authenticates for one server. Connections are shared by all clients
/// of the process and kept for a minute.
package struct WebClient: Sendable {
  private let tls: TLSConfiguration?

  /// Blocks while the files of `trust` are read.
  package init(_ trust: WebTrust = WebTrust()) throws(WebFailure) { tls = try trust.configuration() }

  /// Never shut down: it lives as long as the process.
  private static let shared: HTTPClient = {
    var configuration = HTTPClient.Configuration()
    configuration.redirectConfiguration = .disallow
    configuration.httpVersion = .http1Only
    configuration.timeout.connect = .seconds(20)
    // Ends a body that stalls; a server that must think about what it got has this long, too.
    configuration.timeout.read = .seconds(60)
    configuration.connectionPool.idleTimeout = .seconds(60)
    configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = 16
    // Whoever calls decides whether and when to try again.
    configuration.connectionPool.retryConnectionEstablishment = false
    return HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
  }()

  /// - Returns: Any response, of whatever status, whose body came whole.
  package func send(_ request: WebRequest) async throws(WebFailure) -> WebResponse {
    var outgoing = HTTPClientRequest(url: request.url)
    outgoing.method = HTTPMethod(rawValue: request.method.rawValue.uppercased())
    for (name, value) in request.headers { outgoing.headers.add(name: name, value: value) }
    if let body = request.body { outgoing.body = .bytes(ByteBuffer(bytes: body)) }
    outgoing.tlsConfiguration = tls
    let prepared = outgoing
    do {
      // The library's own limit ends with the response's head: a body may stall for ever.
      return try await SystemTime().withTimeLimit(request.timeLimit) { try await exchange(prepared, request) }
    } catch {
      throw WebFailure(error, request)
    }
  }

  private func exchange(_ outgoing: HTTPClientRequest, _ request: WebRequest) async throws -> WebResponse {
    let deadline = NIODeadline.now() + .nanoseconds(request.timeLimit.wholeNanoseconds)
    let response = try await Self.shared.execute(outgoing, deadline: deadline)
    var headers: [String: String] = [:]
    for (name, value) in response.headers { headers[name.lowercased()] = value }
    // What a failed request gives back is for people, and short.
    let isFailure = !(200..<300).contains(response.status.code)
    let limit = isFailure ? max(65_536, request.responseLimitBytes) : request.responseLimitBytes
    let announced = request.method == .head ? nil : headers["content-length"].flatMap { Int($0) }
    if let announced, announced > limit { throw WebFailure.tooLarge(limitBytes: limit) }
    var body: [UInt8] = []
    // A server may announce much and send nothing.
    body.reserveCapacity(min(announced ?? 0, 64 << 20))
    for try await buffer in response.body {
      guard body.count + buffer.readableBytes <= limit else { throw WebFailure.tooLarge(limitBytes: limit) }
      body.append(contentsOf: buffer.readableBytesView)
    }
    // A cancelled stream may end as a whole one does.
    try Task.checkCancellation()
    if let announced, body.count != announced { throw WebFailure.connection("the answer ended before it was complete") }
    return WebResponse(status: Int(response.status.code), headers: headers, body: body)
  }
}

extension WebFailure {
  init(_ error: any Error, _ request: WebRequest) {
    switch error {
    case let failure as WebFailure: self = failure
    case is CancellationError: self = .cancelled
    case is TimeLimitExceeded: self = .timeLimit(request.timeLimit)
    case let failure as HTTPClientError:
      switch failure {
      case .cancelled: self = Task.isCancelled ? .cancelled : .connection("the connection was closed")
      case .deadlineExceeded, .readTimeout, .writeTimeout: self = .timeLimit(request.timeLimit)
      case .connectTimeout, .getConnectionFromPoolTimeout, .tlsHandshakeTimeout:
        self = .connection("no connection within the time limit")
      case .invalidURL, .emptyScheme, .emptyHost: self = .address("the address is not usable")
      case .remoteConnectionClosed:
        self = .connection("the server closed the connection before its answer was complete")
      default: self = .connection("\(failure)")
      }
    case let failure as NIOSSLError:
      switch failure {
      case .handshakeFailed(let reason): self = .trust("TLS: \(reason)")
      case .uncleanShutdown: self = .connection("the connection ended without a TLS goodbye")
      default: self = .trust("TLS: \(failure)")
      }
    case is NIOSSLExtraError: self = .trust("the server's certificate is for another name")
    case let failure as NIOConnectionError:
      let reasons = failure.connectionErrors.map { "\($0.error)" }
      self = .connection(reasons.first ?? "\(failure.dnsAError ?? failure.dnsAAAAError ?? failure)")
    default: self = .connection("\(error)")
    }
  }
}
