import Core
import Web

/// Flags of a service that speaks OFREP.
///
/// Source: OpenFeature Remote Evaluation Protocol, `POST /ofrep/v1/evaluate/flags/{key}` and `/ofrep/v1/evaluate/flags`.
package struct FlagService: FlagSource {
  private let base: String
  private let web: any WebTransport
  /// Reads the token that is shown; `nil` if none is needed.
  private let token: (@Sendable () async throws -> Secret)?
  private let timeLimit: Duration

  package init(
    _ base: String, web: any WebTransport, token: (@Sendable () async throws -> Secret)? = nil,
    timeLimit: Duration = .seconds(2)
  ) {
    self.base = base.hasSuffix("/") ? String(base.dropLast()) : base
    (self.web, self.token, self.timeLimit) = (web, token, timeLimit)
  }

  package func answer(_ key: FlagKey, _ context: [String: String]) async -> FlagAnswer {
    let response: WebResponse
    do throws(FlagError) { response = try await post("/\(Self.escaped(key))", context) } catch {
      return .failure(key, .notReady, error.report.summary)
    }
    let value = try? CanonicalJSON.decode(JSONValue.self, from: response.body)
    switch response.status {
    case 200:
      guard let value, let answer = Self.answer(value, asked: key) else {
        return .failure(key, .parse, "the answer is no evaluation of it")
      }
      return answer
    case 404: return Self.failure(key, value, .notFound)
    case 400: return Self.failure(key, value, .general)
    case 401, 403: return .failure(key, .general, "the service doesn't let us: it answers \(response.status)")
    default: return Self.failure(key, value, .general, "it answers \(response.status)")
    }
  }

  package func all(_ context: [String: String]) async throws(FlagError) -> [FlagAnswer] {
    let response = try await post("", context)
    guard response.status == 200, let value = try? CanonicalJSON.decode(JSONValue.self, from: response.body),
      let flags = value["flags"]?.array
    else { throw .unavailable(base, "it answers \(response.status): \(response.excerpt)") }
    return flags.compactMap { flag in
      guard let key = flag["key"]?.string.flatMap({ FlagKey($0) }) else { return nil }
      if flag["errorCode"] != nil { return Self.failure(key, flag, .general) }
      return Self.answer(flag, asked: key) ?? .failure(key, .parse, "its evaluation makes no sense")
    }.sorted { $0.key < $1.key }
  }

  private static func answer(_ value: JSONValue, asked key: FlagKey) -> FlagAnswer? {
    guard let found = value["key"]?.string, found == key.text else { return nil }
    let reason = value["reason"]?.string.map { FlagReason(rawValue: $0) ?? .unknown } ?? .unknown
    if reason == .error { return .failure(key, .general, "the service says ERROR") }
    let given = value["value"] ?? .null
    // Without a value the caller's default is meant.
    if given == .null { return FlagAnswer(key: key, value: .null, reason: reason == .disabled ? .disabled : .fallback) }
    return FlagAnswer(key: key, value: given, reason: reason, variant: value["variant"]?.string)
  }

  private static func failure(
    _ key: FlagKey, _ value: JSONValue?, _ code: FlagErrorCode, _ otherwise: String = "the service gives no reason"
  ) -> FlagAnswer {
    let said = value?["errorCode"]?.string.flatMap { FlagErrorCode(rawValue: $0) } ?? code
    return .failure(key, said, value?["errorDetails"]?.string.map { String($0.prefix(300)) } ?? otherwise)
  }

  private func post(_ path: String, _ context: [String: String]) async throws(FlagError) -> WebResponse {
    var request = WebRequest(.post, "\(base)/ofrep/v1/evaluate/flags\(path)")
    request.headers = [("content-type", "application/json"), ("accept", "application/json")]
    (request.timeLimit, request.stallLimit, request.responseLimitBytes) = (timeLimit, timeLimit, 4 << 20)
    do {
      if let token { request.headers.append(("authorization", "Bearer \(try await token().revealed())")) }
      request.body = try CanonicalJSON.encode(["context": context])
      return try await web.send(request)
    } catch let error as WebFailure {
      throw .unavailable(base, "\(error)")
    } catch { throw .unavailable(base, AnyFailure(error).report.summary) }
  }

  private static func escaped(_ key: FlagKey) -> String {
    key.text.replacing("/", with: "%2F").replacing(":", with: "%3A")
  }
}
