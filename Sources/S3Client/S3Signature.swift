import Core
import Crypto
import Foundation

/// Who signs: a key pair, and a token if it is a temporary one.
package struct S3Credential: Sendable {
  package var accessKey: String
  package var secretKey: Secret
  package var sessionToken: Secret?
  /// `nil`: for good.
  package var expires: Timestamp?

  package init(accessKey: String, secretKey: Secret, sessionToken: Secret? = nil, expires: Timestamp? = nil) {
    (self.accessKey, self.secretKey, self.sessionToken, self.expires) = (accessKey, secretKey, sessionToken, expires)
  }
}

/// A request as it is signed. Source: Amazon, "AWS Signature Version 4 for API requests".
package struct S3Signature {
  package var method: String
  package var host: String
  /// Percent-encoded once, as it is sent.
  package var path: String
  /// Names and values, not encoded.
  package var query: [(name: String, value: String)]
  /// Names in lowercase. `host`, the date, the payload's hash and the token are added.
  package var headers: [(name: String, value: String)]
  /// Lowercase hexadecimal SHA-256 of the body.
  package var payloadHash: String

  package init(
    method: String, host: String, path: String, query: [(name: String, value: String)],
    headers: [(name: String, value: String)], payloadHash: String
  ) {
    (self.method, self.host, self.path, self.query) = (method, host, path, query)
    (self.headers, self.payloadHash) = (headers, payloadHash)
  }

  package static let emptyHash = Digest.of([UInt8]()).hex

  /// - Returns: Every header to be sent, the `authorization` among them, `host` not.
  package func signed(
    by credential: S3Credential, region: String, service: String = "s3", at time: Timestamp
  ) -> [(name: String, value: String)] {
    let instant = Self.instant(time)
    let date = String(instant.prefix(8))
    var sent = headers + [("x-amz-content-sha256", payloadHash), ("x-amz-date", instant)]
    if let token = credential.sessionToken { sent.append(("x-amz-security-token", token.revealed())) }
    let canonical = (sent + [("host", host)]).sorted { $0.name < $1.name }
    let names = canonical.map(\.name).joined(separator: ";")
    let request = [
      method, path, Self.text(query), canonical.map { "\($0.name):\(Self.trimmed($0.value))\n" }.joined(), names,
      payloadHash,
    ].joined(separator: "\n")
    let scope = "\(date)/\(region)/\(service)/aws4_request"
    let toSign = "AWS4-HMAC-SHA256\n\(instant)\n\(scope)\n\(Digest.of(request).hex)"
    var key = credential.secretKey.withBytes { SymmetricKey(data: Array("AWS4".utf8) + $0) }
    for part in [date, region, service, "aws4_request"] {
      key = SymmetricKey(data: HMAC<SHA256>.authenticationCode(for: Array(part.utf8), using: key))
    }
    let signature = Hex.encode(HMAC<SHA256>.authenticationCode(for: Array(toSign.utf8), using: key))
    sent.append(
      (
        "authorization",
        "AWS4-HMAC-SHA256 Credential=\(credential.accessKey)/\(scope),SignedHeaders=\(names),Signature=\(signature)"
      ))
    return sent
  }

  /// `20261121T080000Z`.
  package static func instant(_ time: Timestamp) -> String {
    let text = Timestamp(seconds: time.nanoseconds / 1_000_000_000).description
    return text.filter { $0 != "-" && $0 != ":" }
  }

  /// A query as it is sent and signed: sorted, encoded.
  package static func text(_ query: [(name: String, value: String)]) -> String {
    query.map { (encoded($0.name), encoded($0.value)) }.sorted { $0 < $1 }.map { "\($0.0)=\($0.1)" }
      .joined(separator: "&")
  }

  package static func encoded(_ text: String, keepingSlashes: Bool = false) -> String {
    var result: [UInt8] = []
    for byte in text.utf8 {
      switch byte {
      case 48...57, 65...90, 97...122, 45, 46, 95, 126: result.append(byte)
      case 47 where keepingSlashes: result.append(byte)
      default:
        result.append(37)
        result += Hex.encode([byte]).uppercased().utf8
      }
    }
    return String(decoding: result, as: UTF8.self)
  }

  private static func trimmed(_ value: String) -> String {
    value.split(separator: " ", omittingEmptySubsequences: true).joined(separator: " ")
  }
}
