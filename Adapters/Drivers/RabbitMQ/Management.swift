import Core
import DriverKit
import Web

/// The management plugin's HTTP API.
struct Management: Sendable {
  private let address: String
  private let authorization: String
  private let client: WebClient
  private let peer: String

  init(host: String, port: UInt16, user: String, password: Secret, time: any Timekeeper) throws(DriverError) {
    peer = "\(host):\(port)"
    address = "http://\(host.contains(":") ? "[\(host)]" : host):\(port)/api/"
    authorization = "Basic " + Base64.encode(Array("\(user):\(password.revealed())".utf8))
    do throws(WebFailure) { client = try WebClient(time: time) } catch {
      throw .engineFailed("\(peer) can't be asked", log: error.description)
    }
  }

  /// One part of a path.
  static func encode(_ text: String) -> String {
    text.utf8.map { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
        String(UnicodeScalar(byte))
      default: "%" + Hex.encode([byte]).uppercased()
      }
    }.joined()
  }

  func get(_ path: String, _ limit: Duration = .seconds(600)) async throws(DriverError) -> JSONValue {
    let (status, value) = try await ask(.get, path, nil, limit)
    switch status {
    case 200: return value
    case 401: throw .authenticationFailed("the management plugin at \(peer)")
    case 403: throw .permissionDenied("\(path) at \(peer)", needs: "a user with the tag 'monitoring'")
    case 404: throw .queryFailed("\(peer) knows no such queue or virtual host")
    default: throw .engineFailed("\(peer) answered \(status)", log: value["reason"]?.string ?? "")
    }
  }

  func ask(
    _ method: WebRequest.Method, _ path: String, _ body: JSONValue?, _ limit: Duration = .seconds(600)
  ) async throws(DriverError) -> (status: Int, JSONValue) {
    var request = WebRequest(method, address + path)
    request.headers = [("Authorization", authorization), ("Content-Type", "application/json")]
    if let body {
      do { request.body = try CanonicalJSON.encode(body) } catch { throw DriverError(error) }
    }
    request.responseLimitBytes = 256 << 20
    (request.timeLimit, request.stallLimit) = (limit, limit)
    do throws(WebFailure) {
      let response = try await client.send(request)
      return (response.status, (try? CanonicalJSON.decode(JSONValue.self, from: response.body)) ?? .null)
    } catch {
      if error == .cancelled { throw .cancelled }
      throw .unreachable("the management plugin at \(peer): \(error.description)")
    }
  }
}
