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
package struct WebClient: WebTransport {
  private let tls: TLSConfiguration?
  private let time: any Timekeeper

  /// Blocks while the files of `trust` are read.
  package init(_ trust: WebTrust = WebTrust(), time: any Timekeeper = SystemTime()) throws(WebFailure) {
    (tls, self.time) = (try trust.configuration(), time)
  }

  /// Never shut down: it lives as long as the process.
  private static let shared: HTTPClient = {
    var configuration = HTTPClient.Configuration()
    configuration.redirectConfiguration = .disallow
    configuration.httpVersion = .http1Only
    configuration.timeout.connect = .seconds(20)
    configuration.connectionPool.idleTimeout = .seconds(60)
    configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = 16
    // Whoever calls decides whether and when to try again.
    configuration.connectionPool.retryConnectionEstablishment = false
    return HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
  }()

  package func send(_ request: WebRequest) async throws(WebFailure) -> WebResponse {
    var outgoing = HTTPClientRequest(url: request.url)
    outgoing.method = HTTPMethod(rawValue: request.method.rawValue.uppercased())
    for (name, value) in request.headers { outgoing.headers.add(name: name, value: value) }
    outgoing.tlsConfiguration = tls
    let prepared = outgoing
    do {
      // The library's own limit ends with the response's head: a body may stall for ever.
      return try await WebProgress.watching(request, time) { try await exchange(prepared, request, $0) }
    } catch {
      throw WebFailure(error, request)
    }
  }

  private func exchange(
    _ outgoing: HTTPClientRequest, _ request: WebRequest, _ progress: WebProgress
  ) async throws -> WebResponse {
    var outgoing = outgoing
    if let body = request.body, body.count > WebBodyPieces.pieceBytes {
      outgoing.body = .stream(WebBodyPieces(bytes: body, progress: progress), length: .known(Int64(body.count)))
    } else if let body = request.body {
      outgoing.body = .bytes(ByteBuffer(bytes: body))
    }
    let deadline = NIODeadline.now() + .nanoseconds(request.timeLimit.wholeNanoseconds)
    let response = try await Self.shared.execute(outgoing, deadline: deadline)
    var headers: [String: String] = [:]
    for (name, value) in response.headers { headers[name.lowercased()] = value }
    var collected = try CollectedResponse(status: Int(response.status.code), headers: headers, to: request)
    progress.moved()
    for try await buffer in response.body {
      progress.moved()
      try collected.append(buffer)
    }
    // A cancelled stream may end as a whole one does.
    try Task.checkCancellation()
    return try collected.whole()
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
