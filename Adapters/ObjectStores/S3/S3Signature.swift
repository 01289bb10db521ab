import Core
import Crypto
import Foundation

/// Who signs: a key pair, and a token if it is a temporary one.
struct S3Credential: Sendable {
  var accessKey: String
  var secretKey: Secret
  var sessionToken: Secret?
  /// `nil`: for good.
  var expires: Timestamp?
}

/// A request as it is signed. Source: Amazon, "AWS Signature Version 4 for API requests".
struct S3Signature {
  var method: String
  var host: String
  /// Percent-encoded once, as it is sent.
  var path: String
  /// Names and values, not encoded.
  var query: [(name: String, value: String)]
  /// Names in lowercase. `host`, the date, the payload's hash and the token are added.
  var headers: [(name: String, value: String)]
  /// Lowercase hexadecimal SHA-256 of the body.
  var payloadHash: String

  static let emptyHash = Digest.of([UInt8]()).hex

  /// - Returns: Every header to be sent, the `authorization` among them, `host` not.
  func signed(
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
  static func instant(_ time: Timestamp) -> String {
    let text = Timestamp(seconds: time.nanoseconds / 1_000_000_000).description
    return text.filter { $0 != "-" && $0 != ":" }
  }

  /// A query as it is sent and signed: sorted, encoded.
  static func text(_ query: [(name: String, value: String)]) -> String {
    query.map { (encoded($0.name), encoded($0.value)) }.sorted { $0 < $1 }.map { "\($0.0)=\($0.1)" }
      .joined(separator: "&")
  }

  static func encoded(_ text: String, keepingSlashes: Bool = false) -> String {
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
