import Core
import Foundation

/// Where objects are: a server, a bucket, what names begin with.
package struct S3Address: Sendable, Equatable {
  /// How a request names the bucket: in its path, or in the server's name.
  package enum Lookup: String, Sendable, CaseIterable {
    case auto, path, host

    fileprivate func usesPath(endpoint: String, bucket: String) -> Bool {
      switch self {
      case .path: true
      case .host: false
      // Amazon's certificates are for names with one more label.
      case .auto: !endpoint.hasSuffix(".amazonaws.com") || bucket.contains(".")
      }
    }
  }

  /// `http` or `https`.
  package var scheme: String
  /// With the port, if it isn't the scheme's own.
  package var endpoint: String
  package var bucket: String
  /// Empty, or ends with a slash.
  package var prefix: String
  package var region: String
  package var usesPath: Bool

  /// - Parameter location: `https://host:port/bucket/prefix`, `host/bucket/prefix` where the host has a dot or a port, or
  ///   `bucket/prefix` with the server from `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, or Amazon's.
  package init(_ location: String, environment: [String: String]) throws(S3Failure) {
    func text(_ name: String) -> String? { environment[name].flatMap { $0.isEmpty ? nil : $0 } }
    region = text("AWS_REGION") ?? text("AWS_DEFAULT_REGION") ?? "us-east-1"
    var rest = Substring(location.hasPrefix("//") ? String(location.dropFirst(2)) : location)
    var server: Substring?
    scheme = "https"
    for known in ["http", "https"] where rest.hasPrefix("\(known)://") {
      scheme = known
      rest = rest.dropFirst(known.count + 3)
      server = rest.prefix { $0 != "/" }
    }
    let first = rest.prefix { $0 != "/" }
    if server == nil, first.contains(".") || first.contains(":") { server = first }
    if let server {
      endpoint = String(server)
      rest = rest.dropFirst(server.count).drop { $0 == "/" }
    } else if let url = text("AWS_ENDPOINT_URL_S3") ?? text("AWS_ENDPOINT_URL") {
      guard let parts = URLComponents(string: url), let host = parts.host, let named = parts.scheme,
        ["http", "https"].contains(named), parts.path.isEmpty || parts.path == "/", parts.user == nil
      else { throw .location("the endpoint in AWS_ENDPOINT_URL is not an address such as https://host:port") }
      (scheme, endpoint) = (named, host + (parts.port.map { ":\($0)" } ?? ""))
    } else {
      endpoint = "s3.\(region).amazonaws.com"
    }
    let parts = rest.split(separator: "/", omittingEmptySubsequences: true).map(String.init)
    guard let bucket = parts.first, Self.isBucket(bucket), Self.isServer(endpoint),
      !parts.contains(where: { $0 == "." || $0 == ".." }),
      location.unicodeScalars.allSatisfy({ $0.value > 32 && $0.value != 127 && $0 != "?" && $0 != "#" })
    else {
      throw .location("a repository in a bucket is written s3:https://host:port/bucket/prefix or s3:bucket/prefix")
    }
    self.bucket = bucket
    prefix = parts.dropFirst().map { $0 + "/" }.joined()
    let lookup = text("SALVOR_S3_LOOKUP") ?? Lookup.auto.rawValue
    guard let lookup = Lookup(rawValue: lookup) else { throw .location("SALVOR_S3_LOOKUP is path, host or auto") }
    usesPath = lookup.usesPath(endpoint: endpoint, bucket: bucket)
  }

  /// - Parameters:
  ///   - endpoint: A name or an address, with the port if it isn't the scheme's own.
  ///   - prefix: What every key begins with; as it is, slash or not.
  package init(
    scheme: String, endpoint: String, bucket: String, prefix: String, region: String, lookup: Lookup = .auto
  ) {
    (self.scheme, self.endpoint, self.bucket, self.prefix) = (scheme, endpoint, bucket, prefix)
    self.region = region
    usesPath = lookup.usesPath(endpoint: endpoint, bucket: bucket)
  }

  package var host: String { usesPath ? endpoint : "\(bucket).\(endpoint)" }

  /// The path of a request, percent-encoded; `key` empty for the bucket itself.
  package func path(_ key: String) -> String {
    let encoded = S3Signature.encoded(key, keepingSlashes: true)
    return usesPath ? key.isEmpty ? "/\(bucket)" : "/\(bucket)/\(encoded)" : "/\(encoded)"
  }

  package var description: String { "s3:\(scheme)://\(endpoint)/\(bucket)/\(prefix)" }

  package static func isBucket(_ text: String) -> Bool {
    (3...63).contains(text.utf8.count)
      && text.utf8.allSatisfy { byte in
        switch byte {
        case 48...57, 65...90, 97...122, 45, 46, 95: true
        default: false
        }
      }
  }

  package static func isServer(_ text: String) -> Bool {
    !text.isEmpty
      && text.utf8.allSatisfy { byte in
        switch byte {
        case 48...58, 65...90, 97...122, 45, 46, 91, 93: true
        default: false
        }
      }
  }
}
