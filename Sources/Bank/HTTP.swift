import Core
import Foundation
import Hummingbird
import Logging
import NIOCore

/// A value as a JSON response.
func json(_ value: some Encodable, status: HTTPResponse.Status = .ok) throws -> Response {
  Response(
    status: status, headers: [.contentType: "application/json"],
    body: ResponseBody(byteBuffer: ByteBuffer(bytes: try CanonicalJSON.encode(value))))
}

/// The answer to what needs none.
func nothing() -> Response { Response(status: .noContent) }

extension BankError: HTTPResponseError {
  var status: HTTPResponse.Status {
    switch self {
    case .storeAway, .peerAway, .notReady: .serviceUnavailable
    case .refused: .conflict
    case .notFound: .notFound
    case .storeRefused, .configuration: .internalServerError
    }
  }

  func response(from request: Request, context: some RequestContext) throws -> Response {
    try json(ErrorBody(error: report), status: status)
  }
}

typealias Routes = Router<BasicRequestContext>

extension Request {
  /// The body as a value; bodies of this bank are small.
  func value<T: Decodable>(_ type: T.Type) async throws -> T {
    let buffer = try await body.collect(upTo: 1 << 16)
    do {
      return try JSONDecoder().decode(type, from: Data(buffer.readableBytesView))
    } catch {
      throw BankError.refused("the body is not what this call takes: \(error)")
    }
  }
}

/// Serves `routes` on loopback until SIGTERM or SIGINT; then takes no more requests, finishes those it has, and returns.
func serve(_ service: Service, on port: Int, _ routes: Routes) async throws {
  var logger = Logger(label: "salvor-bank.\(service.rawValue)")
  logger.logLevel = .warning
  let application = Application(
    router: routes,
    configuration: ApplicationConfiguration(address: .hostname("127.0.0.1", port: port), serverName: service.rawValue),
    logger: logger)
  try await application.runService()
}
