import Core
import Foundation
import IO
import Web

/// Where credentials come from, in the order Amazon's own tools look: variables, a web identity, the shared file, the
/// machine's role. Temporary ones are had anew five minutes before they end.
package actor S3Credentials {
  private let environment: [String: String]
  private let region: String
  private let client: WebClient
  private let time: any Timekeeper
  private let pool: BlockingPool
  private let supplied: (@Sendable () async throws(S3Failure) -> S3Credential)?
  private var known: S3Credential?

  /// One that somebody else keeps; asked again when the server calls it outdated.
  package init(
    client: WebClient, time: any Timekeeper, pool: BlockingPool,
    supplied: @escaping @Sendable () async throws(S3Failure) -> S3Credential
  ) {
    (environment, region, self.client) = ([:], "", client)
    (self.time, self.pool, self.supplied) = (time, pool, supplied)
  }

  package init(
    environment: [String: String], region: String, client: WebClient, time: any Timekeeper, pool: BlockingPool
  ) {
    (self.environment, self.region, self.client) = (environment, region, client)
    (self.time, self.pool) = (time, pool)
    supplied = nil
  }

  package func current() async throws(S3Failure) -> S3Credential {
    if let known, known.expires.map({ time.now() + .seconds(300) < $0 }) ?? true { return known }
    let found: S3Credential
    if let supplied { found = try await supplied() } else { found = try await look() }
    known = found
    return found
  }

  /// The server calls them outdated: the next call looks again.
  package func forget() { known = nil }

  private func text(_ name: String) -> String? { environment[name].flatMap { $0.isEmpty ? nil : $0 } }

  private func look() async throws(S3Failure) -> S3Credential {
    if let id = text("AWS_ACCESS_KEY_ID"), let secret = text("AWS_SECRET_ACCESS_KEY") {
      return S3Credential(
        accessKey: id, secretKey: Secret(secret), sessionToken: text("AWS_SESSION_TOKEN").map { Secret($0) })
    }
    if let file = text("AWS_WEB_IDENTITY_TOKEN_FILE"), let role = text("AWS_ROLE_ARN") {
      return try await webIdentity(file, role)
    }
    if let found = try await sharedFile() { return found }
    if text("AWS_EC2_METADATA_DISABLED")?.lowercased() != "true", let found = try await machineRole() { return found }
    throw .permission(
      "no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write them into ~/.aws/credentials")
  }

  // MARK: The shared file

  private func sharedFile() async throws(S3Failure) -> S3Credential? {
    // Without a home there is no file that could be meant.
    guard let path = text("AWS_SHARED_CREDENTIALS_FILE") ?? text("HOME").map({ "\($0)/.aws/credentials" }) else {
      return nil
    }
    let profile = text("AWS_PROFILE") ?? "default"
    let bytes = try await pool.run { () throws(S3Failure) -> [UInt8]? in
      do throws(SystemFailure) { return try Files.read(path, limitBytes: 1 << 20) } catch {
        if error.number == ENOENT || error.number == ENOTDIR { return nil }
        throw .permission("the file of credentials \(path): \(error.message)")
      }
    }
    guard let bytes else { return nil }
    let values = Self.profile(profile, in: String(decoding: bytes, as: UTF8.self))
    guard let id = values["aws_access_key_id"], let secret = values["aws_secret_access_key"] else {
      guard text("AWS_PROFILE") != nil else { return nil }
      throw .permission("\(path) has no keys for the profile \(profile)")
    }
    return S3Credential(
      accessKey: id, secretKey: Secret(secret), sessionToken: values["aws_session_token"].map { Secret($0) })
  }

  package static func profile(_ name: String, in text: String) -> [String: String] {
    var (section, values) = ("", [String: String]())
    for line in text.split(whereSeparator: \.isNewline) {
      let line = line.trimmingCharacters(in: .whitespaces)
      if line.hasPrefix("#") || line.hasPrefix(";") { continue }
      if line.hasPrefix("["), line.hasSuffix("]") {
        section = line.dropFirst().dropLast().trimmingCharacters(in: .whitespaces)
      } else if section == name, let equals = line.firstIndex(of: "=") {
        let value = line[line.index(after: equals)...].trimmingCharacters(in: .whitespaces)
        if !value.isEmpty { values[line[..<equals].trimmingCharacters(in: .whitespaces)] = value }
      }
    }
    return values
  }

  // MARK: Temporary ones

  /// Source: Amazon, "AssumeRoleWithWebIdentity".
  private func webIdentity(_ file: String, _ role: String) async throws(S3Failure) -> S3Credential {
    let token = try await pool.run { () throws(S3Failure) -> String in
      do throws(SystemFailure) {
        return String(decoding: try Files.read(file, limitBytes: 1 << 16), as: UTF8.self)
      } catch {
        throw .permission("the web identity's token \(file): \(error.message)")
      }
    }.trimmingCharacters(in: .whitespacesAndNewlines)
    let base = text("AWS_ENDPOINT_URL_STS") ?? "https://sts.\(region).amazonaws.com"
    var request = WebRequest(.post, base.hasSuffix("/") ? base : base + "/")
    request.headers = [("Content-Type", "application/x-www-form-urlencoded")]
    let session = text("AWS_ROLE_SESSION_NAME") ?? "salvor"
    request.body = Array(
      S3Signature.text([
        ("Action", "AssumeRoleWithWebIdentity"), ("Version", "2011-06-15"), ("RoleArn", role),
        ("RoleSessionName", session), ("WebIdentityToken", token),
      ]).utf8)
    request.timeLimit = .seconds(20)
    let response = try await answer(request, "the token service")
    guard response.status == 200 else {
      let reason = (try? S3XML.parse(response.body))?["Error"]?["Code"]?.text ?? "status \(response.status)"
      if response.status >= 500 { throw .unavailable("the token service fails: \(reason)") }
      throw .permission("the token service refused the web identity: \(reason)")
    }
    guard let answer = try? S3XML.parse(response.body),
      let fields = answer["AssumeRoleWithWebIdentityResult"]?["Credentials"],
      let found = Self.temporary(
        fields["AccessKeyId"]?.text, fields["SecretAccessKey"]?.text, fields["SessionToken"]?.text,
        fields["Expiration"]?.text)
    else { throw .unavailable("the token service's answer can't be understood") }
    return found
  }

  /// Source: Amazon, "Use IMDSv2".
  ///
  /// - Returns: `nil` where there is no such service, or the machine has no role.
  private func machineRole() async throws(S3Failure) -> S3Credential? {
    let base = text("AWS_EC2_METADATA_SERVICE_ENDPOINT") ?? "http://169.254.169.254"
    let root = base.hasSuffix("/") ? String(base.dropLast()) : base
    var request = WebRequest(.put, "\(root)/latest/api/token")
    request.headers = [("X-aws-ec2-metadata-token-ttl-seconds", "21600")]
    request.body = []
    request.timeLimit = .seconds(2)
    request.responseLimitBytes = 1 << 16
    let token: WebResponse
    do throws(WebFailure) { token = try await client.send(request) } catch {
      if error == .cancelled { throw .cancelled }
      return nil
    }
    guard token.status == 200 else { return nil }
    let place = "\(root)/latest/meta-data/iam/security-credentials/"
    request = WebRequest(.get, place)
    request.headers = [("X-aws-ec2-metadata-token", String(decoding: token.body, as: UTF8.self))]
    request.timeLimit = .seconds(5)
    let listed = try await answer(request, "the machine's metadata service")
    let role = String(decoding: listed.body, as: UTF8.self).split(whereSeparator: \.isNewline).first.map(String.init)
    guard listed.status == 200, let role, role.utf8.allSatisfy({ $0 > 32 && $0 < 127 && $0 != 47 }) else { return nil }
    request.url = place + S3Signature.encoded(role)
    let response = try await answer(request, "the machine's metadata service")
    struct Answer: Decodable {
      var AccessKeyId: String?
      var SecretAccessKey: String?
      var Token: String?
      var Expiration: String?
    }
    guard response.status == 200,
      let answer = try? JSONDecoder().decode(Answer.self, from: Data(response.body)),
      let found = Self.temporary(answer.AccessKeyId, answer.SecretAccessKey, answer.Token, answer.Expiration)
    else { throw .unavailable("the machine's metadata service gave no credentials for its role") }
    return found
  }

  private static func temporary(_ id: String?, _ secret: String?, _ token: String?, _ expires: String?) -> S3Credential?
  {
    guard let id, let secret, let token, !id.isEmpty, !secret.isEmpty, let end = expires.flatMap({ Timestamp($0) })
    else {
      return nil
    }
    return S3Credential(accessKey: id, secretKey: Secret(secret), sessionToken: Secret(token), expires: end)
  }

  private func answer(_ request: WebRequest, _ who: String) async throws(S3Failure) -> WebResponse {
    do throws(WebFailure) { return try await client.send(request) } catch {
      if error == .cancelled { throw .cancelled }
      throw .unavailable("\(who): \(error)")
    }
  }
}

#if canImport(Glibc)
  import Glibc
#endif
