import Core
import Crypto
import Foundation
import Web

/// Sends signed requests to one bucket.
///
/// Every body is sent with its SHA-256, which the server checks.
///
/// Source: Amazon, "S3 API Reference".
package struct S3Connection: Sendable {
  package let address: S3Address
  /// For messages: where this is.
  package let location: String
  private let client: WebClient
  private let credentials: S3Credentials
  private let time: any Timekeeper
  /// For a request without its bytes.
  private let timeLimit: Duration
  /// How long nothing may move.
  private let stallLimit: Duration

  package init(
    _ address: S3Address, client: WebClient, credentials: S3Credentials, time: any Timekeeper, timeLimit: Duration,
    stallLimit: Duration
  ) {
    (self.address, location, self.client) = (address, address.description, client)
    (self.credentials, self.time) = (credentials, time)
    (self.timeLimit, self.stallLimit) = (timeLimit, stallLimit)
  }

  /// The same server's other bucket.
  package func to(bucket: String) -> S3Connection {
    var address = address
    (address.bucket, address.prefix) = (bucket, "")
    return S3Connection(
      address, client: client, credentials: credentials, time: time, timeLimit: timeLimit, stallLimit: stallLimit)
  }

  /// - Parameters:
  ///   - key: Whole, the address's prefix included; empty for the bucket itself.
  ///   - payloadHash: Of the body, where it is known already.
  ///   - limitBytes: Of the answer's body.
  package func send(
    _ method: WebRequest.Method, key: String, query: [(name: String, value: String)] = [],
    headers: [(name: String, value: String)] = [], body: [UInt8]? = nil, payloadHash: String? = nil,
    limitBytes: Int = 1 << 20
  ) async throws(S3Failure) -> WebResponse {
    let path = address.path(key)
    let text = S3Signature.text(query)
    let hash =
      payloadHash ?? body.map { $0.isEmpty ? S3Signature.emptyHash : Digest.of($0).hex } ?? S3Signature.emptyHash
    let signature = S3Signature(
      method: method.rawValue.uppercased(), host: address.host, path: path, query: query, headers: headers,
      payloadHash: hash)
    var isSecondTry = false
    while true {
      let credential = try await credentials.current()
      var request = WebRequest(method, "\(address.scheme)://\(address.host)\(path)\(text.isEmpty ? "" : "?\(text)")")
      request.headers = signature.signed(by: credential, region: address.region, at: time.now())
      request.body = body
      request.responseLimitBytes = limitBytes
      let expected = max(body?.count ?? 0, method == .get ? min(limitBytes, 64 << 20) : 0)
      request.timeLimit = timeLimit + .seconds(expected >> 15)
      request.stallLimit = stallLimit
      let response: WebResponse
      do throws(WebFailure) { response = try await client.send(request) } catch {
        switch error {
        case .cancelled: throw .cancelled
        case .address(let reason): throw .location("\(location): \(reason)")
        case .trust(let reason): throw .permission("\(location): \(reason)")
        default: throw .unavailable("\(location): \(error)")
        }
      }
      // A temporary key may be withdrawn before its time.
      guard !isSecondTry, response.status == 400 || response.status == 403,
        ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"].contains(Self.code(response))
      else { return response }
      isSecondTry = true
      await credentials.forget()
    }
  }

  /// As `Content-MD5` says it, where S3 wants that.
  package static func md5(_ bytes: [UInt8]) -> String { Data(Insecure.MD5.hash(data: bytes)).base64EncodedString() }

  /// What a server calls its refusal.
  package static func code(_ response: WebResponse) -> String? {
    guard !response.body.isEmpty, response.body.count <= 65_536, let xml = try? S3XML.parse(response.body),
      xml.name == "Error", let code = xml["Code"]?.text
    else { return nil }
    return code.utf8.allSatisfy { $0 > 32 && $0 < 127 } ? String(code.prefix(80)) : nil
  }
}
